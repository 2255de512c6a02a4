//! What one environment writes to its function's log: whole lines, within a rate, and the end of each invocation's part.

use std::time::{Duration, Instant};

use calypte_types::limits::LOG_TAIL_BYTES;

use crate::logs::LogSink;
use crate::timestamp;

/// A longer line is broken, in bytes.
const LINE_BYTES_MAX: usize = 256 * 1024;
/// What a line counts for besides its own bytes (its time in the log), in bytes.
const LINE_OVERHEAD_BYTES: u64 = 32;
/// Output is handled in parts of this length, so that a burst that is half over the limit is half kept, in bytes.
const PART_BYTES: usize = 4 * 1024;

/// Bytes per second with a burst. Pure: the time comes from the caller.
#[derive(Debug)]
pub(crate) struct RateLimit {
    bytes_per_s: u64,
    burst: u64,
    available: u64,
    updated_at: Instant,
}

impl RateLimit {
    pub(crate) fn new(bytes_per_s: u64, burst: u64, now: Instant) -> Self {
        Self { bytes_per_s, burst, available: burst, updated_at: now }
    }

    /// Whether `bytes` more are within the rate; if so they are taken from it.
    pub(crate) fn take(&mut self, bytes: u64, now: Instant) -> bool {
        let elapsed_us = u64::try_from(now.duration_since(self.updated_at).as_micros()).unwrap_or(u64::MAX);
        let gained = elapsed_us.saturating_mul(self.bytes_per_s) / 1_000_000;
        if gained > 0 {
            self.available = self.available.saturating_add(gained).min(self.burst);
            self.updated_at = now;
        }
        let is_within = bytes <= self.available;
        if is_within {
            self.available -= bytes;
        }
        is_within
    }
}

/// The log as one environment writes it.
#[derive(Debug)]
pub(crate) struct Transcript {
    sink: LogSink,
    rate: RateLimit,
    /// Output after the last line break.
    partial: Vec<u8>,
    /// Complete lines on their way to the sink.
    batch: Vec<u8>,
    /// The last lines of the present invocation, without times.
    tail: Vec<u8>,
    dropped_bytes: u64,
}

impl Transcript {
    pub(crate) fn new(sink: LogSink, rate: RateLimit) -> Self {
        Self { sink, rate, partial: Vec::new(), batch: Vec::new(), tail: Vec::new(), dropped_bytes: 0 }
    }

    /// Output of the program, split anywhere.
    pub(crate) fn output(&mut self, bytes: &[u8], dropped_before: u64, now: Instant) {
        self.dropped_bytes = self.dropped_bytes.saturating_add(dropped_before);
        let time = timestamp::now();
        for part in bytes.chunks(PART_BYTES) {
            let line_count = part.iter().filter(|byte| **byte == b'\n').count() as u64;
            if !self.rate.take(part.len() as u64 + line_count * LINE_OVERHEAD_BYTES, now) {
                self.dropped_bytes = self.dropped_bytes.saturating_add(part.len() as u64);
                continue;
            }
            self.note_dropped(&time);
            for piece in part.split_inclusive(|byte| *byte == b'\n') {
                self.partial.extend_from_slice(piece);
                if piece.ends_with(b"\n") || self.partial.len() >= LINE_BYTES_MAX {
                    self.end_line(&time);
                }
            }
        }
    }

    /// A line of the platform's. What the program has printed before is ended by a line break.
    pub(crate) fn line(&mut self, text: &str) {
        let time = timestamp::now();
        if !self.partial.is_empty() {
            self.end_line(&time);
        }
        self.note_dropped(&time);
        self.partial.extend_from_slice(text.as_bytes());
        self.end_line(&time);
    }

    /// Hands complete lines to the log's writer.
    pub(crate) fn flush(&mut self) {
        if !self.batch.is_empty() {
            self.sink.append(std::mem::take(&mut self.batch));
        }
    }

    /// The last lines since the last call, at most [`LOG_TAIL_BYTES`].
    pub(crate) fn take_tail(&mut self) -> Vec<u8> {
        let mut tail = std::mem::take(&mut self.tail);
        tail.drain(..tail.len().saturating_sub(LOG_TAIL_BYTES));
        tail
    }

    fn note_dropped(&mut self, time: &str) {
        if self.dropped_bytes == 0 {
            return;
        }
        let dropped = std::mem::take(&mut self.dropped_bytes);
        if !self.partial.is_empty() {
            self.end_line(time);
        }
        let note = format!("[calypte] {dropped} bytes of output were dropped: the program prints faster than is kept");
        self.partial.extend_from_slice(note.as_bytes());
        self.end_line(time);
    }

    /// Moves the partial line to the batch and to the tail.
    fn end_line(&mut self, time: &str) {
        if self.partial.last() != Some(&b'\n') {
            self.partial.push(b'\n');
        }
        self.batch.extend_from_slice(time.as_bytes());
        self.batch.push(b' ');
        self.batch.extend_from_slice(&self.partial);
        self.tail.extend_from_slice(&self.partial);
        if self.tail.len() > 4 * LOG_TAIL_BYTES {
            self.tail.drain(..self.tail.len() - LOG_TAIL_BYTES);
        }
        self.partial.clear();
    }
}

impl Drop for Transcript {
    fn drop(&mut self) {
        if !self.partial.is_empty() || self.dropped_bytes > 0 {
            let time = timestamp::now();
            if !self.partial.is_empty() {
                self.end_line(&time);
            }
            self.note_dropped(&time);
        }
        self.flush();
    }
}

/// A duration as Lambda's lines show it: milliseconds with two digits.
fn milliseconds(duration: Duration) -> String {
    format!("{:.2} ms", duration.as_secs_f64() * 1000.0)
}

/// How an invocation failed, as its `REPORT` line says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Status {
    Timeout,
    Error { error_type: String },
}

/// The figures of a `REPORT` line.
#[derive(Debug, Clone)]
pub(crate) struct ReportLine<'a> {
    pub(crate) request_id: &'a str,
    pub(crate) report: &'a crate::invocation::Report,
    pub(crate) memory_mib: u32,
    pub(crate) status: Option<&'a Status>,
}

impl std::fmt::Display for ReportLine<'_> {
    /// As Lambda writes it, and the rung. Initialisation is billed, as Lambda does since August 2025, and restoring is.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let report = self.report;
        let start = report.init_duration.or(report.restore_duration).unwrap_or_default();
        let billed = report.duration + start;
        let billed_ms = billed.as_micros().div_ceil(1000);
        let used_mib = report.memory_peak_bytes.div_ceil(1024 * 1024);
        write!(f, "REPORT RequestId: {}\tDuration: {}\t", self.request_id, milliseconds(report.duration))?;
        write!(f, "Billed Duration: {billed_ms} ms\tMemory Size: {} MB\t", self.memory_mib)?;
        write!(f, "Max Memory Used: {used_mib} MB")?;
        if let Some(init) = report.init_duration {
            write!(f, "\tInit Duration: {}", milliseconds(init))?;
        }
        if let Some(restore) = report.restore_duration {
            write!(f, "\tRestore Duration: {}", milliseconds(restore))?;
        }
        write!(f, "\tPlacement: {}", report.rung.as_str())?;
        match self.status {
            None => Ok(()),
            Some(Status::Timeout) => f.write_str("\tStatus: timeout"),
            Some(Status::Error { error_type }) => write!(f, "\tStatus: error\tError Type: {error_type}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invocation::{PlacementRung, Report};
    use crate::logs::Logs;

    fn transcript(folder: &std::path::Path, bytes_per_s: u64, burst: u64, now: Instant) -> (Transcript, Logs) {
        let logs = Logs::open(folder.to_owned()).unwrap();
        let sink = logs.sink(&"000000000001".parse().unwrap(), &"hello".parse().unwrap());
        (Transcript::new(sink, RateLimit::new(bytes_per_s, burst, now)), logs)
    }

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).unwrap()
    }

    #[tokio::test]
    async fn output_split_anywhere_becomes_whole_lines() {
        let folder = tempfile::tempdir().unwrap();
        let now = Instant::now();
        let (mut transcript, logs) = transcript(folder.path(), 1000, 100_000, now);
        transcript.output(b"init\n", 0, now);
        transcript.line("START");
        for byte in b"one\ntwo\n\nlast" {
            transcript.output(&[*byte], 0, now);
        }
        transcript.line("END");
        assert_eq!(text(transcript.take_tail()), "init\nSTART\none\ntwo\n\nlast\nEND\n");
        assert_eq!(text(transcript.take_tail()), "");
        transcript.output(b"unfinished", 0, now);
        drop(transcript);
        let account = "000000000001".parse().unwrap();
        let lines = text(logs.tail(&account, &"hello".parse().unwrap(), 100).await.unwrap().lines);
        let without_time: Vec<&str> = lines.lines().map(|line| &line[25..]).collect();
        assert_eq!(without_time, ["init", "START", "one", "two", "", "last", "END", "unfinished"]);
    }

    #[test]
    fn a_flood_is_dropped_and_counted() {
        let folder = tempfile::tempdir().unwrap();
        let start = Instant::now();
        let (mut transcript, _logs) = transcript(folder.path(), 1000, 10_000, start);
        let line = [&[b'x'; 999][..], b"\n"].concat();
        for _ in 0..1000 {
            transcript.output(&line, 0, start);
        }
        transcript.output(b"later\n", 7, start + Duration::from_secs(1));
        let tail = text(transcript.take_tail());
        let dropped = 991 * 1000 + 7;
        assert!(tail.ends_with(&format!(
            "[calypte] {dropped} bytes of output were dropped: the program prints faster than is kept\nlater\n"
        )));
        assert!(tail.len() <= LOG_TAIL_BYTES);
    }

    #[test]
    fn a_line_without_end_is_broken() {
        let folder = tempfile::tempdir().unwrap();
        let start = Instant::now();
        let (mut transcript, _logs) = transcript(folder.path(), 1000, 100_000_000, start);
        for _ in 0..1000 {
            transcript.output(&[b'x'; 4096], 0, start);
            assert!(transcript.partial.len() < LINE_BYTES_MAX && transcript.tail.len() <= 2 * LINE_BYTES_MAX);
        }
    }

    #[test]
    fn the_report_has_lambdas_form() {
        let mut report = Report {
            duration: Duration::from_micros(1230),
            init_duration: None,
            restore_duration: None,
            memory_peak_bytes: 40 * 1024 * 1024 - 1,
            rung: PlacementRung::Reuse,
        };
        let line =
            |report: &Report, status| ReportLine { request_id: "id", report, memory_mib: 128, status }.to_string();
        assert_eq!(
            line(&report, None),
            "REPORT RequestId: id\tDuration: 1.23 ms\tBilled Duration: 2 ms\tMemory Size: 128 MB\tMax Memory Used: 40 MB\t\
             Placement: reuse"
        );
        report.init_duration = Some(Duration::from_micros(55_100));
        report.rung = PlacementRung::Boot;
        assert_eq!(
            line(&report, Some(&Status::Error { error_type: "Runtime.ExitError".into() })),
            "REPORT RequestId: id\tDuration: 1.23 ms\tBilled Duration: 57 ms\tMemory Size: 128 MB\tMax Memory Used: 40 MB\t\
             Init Duration: 55.10 ms\tPlacement: boot\tStatus: error\tError Type: Runtime.ExitError"
        );
    }
}
