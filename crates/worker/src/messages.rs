//! What monitors, the zygote and egress say to people: lines on their standard error, which is a pipe that ends here, and
//! go to the server's log with the name of the process.
//!
//! Nothing in them is trusted: a monitor that was taken over must be able to fill neither the log nor this process's time,
//! nor to speak to the terminal that the log is shown on. So lines are bounded in length and rate, control characters are
//! replaced, and the pipe is read at a rate too. It never blocks who writes: what does not fit is lost.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::Interest;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tracing::Level;

use crate::polled_fd::polled;
use crate::transcript::RateLimit;

/// Target of these lines in the log. They have been filtered where they were written.
pub const TARGET: &str = "calypte_inner";

/// A longer line is broken, in bytes.
const LINE_BYTES_MAX: usize = 4096;
/// What a process may say in the long run, in bytes per second, and at once, in bytes.
const BYTES_PER_S: u64 = 16 * 1024;
const BURST_BYTES: u64 = 256 * 1024;
/// What is read at a time, in bytes, and how long nothing is read afterwards.
const READ_BYTES: usize = 16 * 1024;
const READ_PAUSE: Duration = Duration::from_millis(20);

/// The two ends of a pipe: where it is read, and what becomes the standard error of another process.
pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?)
}

/// Passes on what a process says, until nobody can say anything more.
pub(crate) fn pass_on(process: String, reader: OwnedFd) -> io::Result<JoinHandle<()>> {
    let reader = polled(reader, Interest::READABLE)?;
    Ok(tokio::spawn(async move {
        let mut lines = Lines::new(Instant::now());
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let read = reader.async_io(Interest::READABLE, |pipe| Ok(rustix::io::read(pipe, &mut buffer[..])?));
            match read.await {
                Ok(0) => break,
                Ok(length) => lines.push(&buffer[..length], Instant::now(), &mut |line| log(&process, line)),
                Err(error) => {
                    tracing::warn!(process, %error, "what a process says cannot be read any more");
                    break;
                }
            }
            sleep(READ_PAUSE).await;
        }
        lines.end(&mut |line| log(&process, line));
    }))
}

/// The level that `tracing` has written before a line, and the rest. What has none (a panic) is an error.
fn level(line: &str) -> (Level, &str) {
    let line = line.trim_start();
    let levels = [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE];
    let found =
        levels.into_iter().find_map(|level| Some((level, line.strip_prefix(level.as_str())?.strip_prefix(' ')?)));
    found.unwrap_or((Level::ERROR, line))
}

fn log(process: &str, line: &str) {
    match level(line) {
        (Level::ERROR, text) => tracing::error!(target: TARGET, process, "{text}"),
        (Level::WARN, text) => tracing::warn!(target: TARGET, process, "{text}"),
        (Level::INFO, text) => tracing::info!(target: TARGET, process, "{text}"),
        (Level::DEBUG, text) => tracing::debug!(target: TARGET, process, "{text}"),
        (_, text) => tracing::trace!(target: TARGET, process, "{text}"),
    }
}

/// Bytes on their way to lines. Pure.
#[derive(Debug)]
struct Lines {
    rate: RateLimit,
    /// What came after the last line break.
    partial: Vec<u8>,
    dropped_bytes: u64,
}

impl Lines {
    fn new(now: Instant) -> Self {
        Self { rate: RateLimit::new(BYTES_PER_S, BURST_BYTES, now), partial: Vec::new(), dropped_bytes: 0 }
    }

    fn push(&mut self, bytes: &[u8], now: Instant, log: &mut impl FnMut(&str)) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            for part in piece.chunks(LINE_BYTES_MAX) {
                self.partial.extend_from_slice(part);
                if part.ends_with(b"\n") || self.partial.len() >= LINE_BYTES_MAX {
                    self.line(now, log);
                }
            }
        }
    }

    /// What is left when nothing more will come.
    fn end(&mut self, log: &mut impl FnMut(&str)) {
        self.line(Instant::now(), log);
        self.note_dropped(log);
    }

    fn line(&mut self, now: Instant, log: &mut impl FnMut(&str)) {
        let bytes = std::mem::take(&mut self.partial);
        let text = printable(&bytes);
        if text.is_empty() {
            return;
        }
        if self.rate.take(bytes.len() as u64, now) {
            self.note_dropped(log);
            log(&text);
        } else {
            self.dropped_bytes = self.dropped_bytes.saturating_add(bytes.len() as u64);
        }
    }

    fn note_dropped(&mut self, log: &mut impl FnMut(&str)) {
        if self.dropped_bytes > 0 {
            let dropped = std::mem::take(&mut self.dropped_bytes);
            log(&format!("WARN {dropped} bytes of messages were dropped: the process writes faster than is kept"));
        }
    }
}

/// A text without control characters, which terminals act upon.
fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.trim_end().chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(parts: &[&[u8]]) -> Vec<String> {
        let (mut lines, mut all) = (Lines::new(Instant::now()), Vec::new());
        let mut log = |line: &str| all.push(line.to_owned());
        for part in parts {
            lines.push(part, Instant::now(), &mut log);
        }
        lines.end(&mut log);
        all
    }

    #[test]
    fn bytes_split_anywhere_become_whole_lines() {
        let text = b" WARN one\n\n\ntwo\nERROR three";
        let expected = [" WARN one", "two", "ERROR three"];
        for step in 1..=text.len() {
            assert_eq!(lines(&text.chunks(step).collect::<Vec<_>>()), expected, "{step}");
        }
    }

    #[test]
    fn nothing_speaks_to_a_terminal_or_forges_a_line() {
        assert_eq!(
            lines(&[b"\x1b]0;title\x07\x1b[2J\rcalypte: all is well\n"]),
            ["\u{fffd}]0;title\u{fffd}\u{fffd}[2J\u{fffd}calypte: all is well"]
        );
        assert_eq!(lines(&[b"\xff\xfe\xc2\x9b"]), ["\u{fffd}\u{fffd}\u{fffd}"]);
    }

    #[test]
    fn floods_and_long_lines_are_bounded() {
        let all = lines(&[&vec![b'x'; 10 * LINE_BYTES_MAX]]);
        assert_eq!(all.iter().map(String::len).collect::<Vec<_>>(), [LINE_BYTES_MAX; 10]);
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        let all = lines(&vec![&line[..]; 1000]);
        // A slow machine earns some bytes more meanwhile.
        assert!((256..300).contains(&(all.len() - 1)), "{}", all.len());
        let note = all.last().unwrap();
        assert!(note.contains("bytes of messages were dropped"), "{note}");
    }

    #[test]
    fn levels_are_those_that_were_written() {
        for (line, expected) in [
            (" WARN slow", (Level::WARN, "slow")),
            ("DEBUG x=1", (Level::DEBUG, "x=1")),
            ("WARNING: x", (Level::ERROR, "WARNING: x")),
            ("thread 'main' panicked", (Level::ERROR, "thread 'main' panicked")),
        ] {
            assert_eq!(level(line), expected);
        }
    }
}
