//! The thread that writes all logs.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::{LogKey, SEGMENT_BYTES_MAX, SEGMENTS_KEPT, Watchers, queued_cost, segment};

/// Log files open at the same time.
const OPEN_FILES_MAX: usize = 64;
/// Lines are gathered for this long before they are written: one wake-up of this thread, and one write, for all of them.
const GATHER: Duration = Duration::from_millis(5);
/// A failing disk is reported at most this often.
const REPORT_INTERVAL: Duration = Duration::from_secs(30);

/// What the thread is asked to do.
#[derive(Debug)]
pub(super) enum Request {
    /// Append lines to a log.
    Append { key: Arc<LogKey>, lines: Vec<u8> },
    /// Answer when everything before is written.
    Flush(oneshot::Sender<()>),
}

/// The newest segment of a log, open for appending.
struct OpenSegment {
    file: File,
    start: u64,
    length: u64,
}

pub(super) struct Writer {
    root: Arc<Path>,
    queued_bytes: Arc<AtomicU64>,
    dropped_bytes: Arc<AtomicU64>,
    watchers: Watchers,
    open: HashMap<Arc<LogKey>, OpenSegment>,
    reported_at: Option<Instant>,
    dropped_bytes_reported: u64,
}

impl Writer {
    pub(super) fn new(
        root: Arc<Path>,
        queued_bytes: Arc<AtomicU64>,
        dropped_bytes: Arc<AtomicU64>,
        watchers: Watchers,
    ) -> Self {
        Self {
            root,
            queued_bytes,
            dropped_bytes,
            watchers,
            open: HashMap::new(),
            reported_at: None,
            dropped_bytes_reported: 0,
        }
    }

    /// Runs until nobody can send any more.
    pub(super) fn run(mut self, requests: &mpsc::Receiver<Request>) {
        let mut gathered: HashMap<Arc<LogKey>, Vec<u8>> = HashMap::new();
        let mut flushes = Vec::new();
        while let Ok(first) = requests.recv() {
            if matches!(first, Request::Append { .. }) {
                std::thread::sleep(GATHER);
            }
            for request in std::iter::once(first).chain(requests.try_iter()) {
                match request {
                    Request::Append { key, lines } => {
                        self.queued_bytes.fetch_sub(queued_cost(&lines), Ordering::Relaxed);
                        gathered.entry(key).or_default().extend_from_slice(&lines);
                    }
                    Request::Flush(done) => flushes.push(done),
                }
            }
            for (key, lines) in gathered.drain() {
                self.append(&key, &lines);
            }
            for done in flushes.drain(..) {
                // Whoever asked may have gone.
                let _ = done.send(());
            }
            self.report_dropped();
        }
    }

    fn append(&mut self, key: &Arc<LogKey>, lines: &[u8]) {
        match self.write(key, lines) {
            Ok(end) => self.notify(key, end),
            Err(error) => {
                // Opened anew the next time: the reason may have gone by then.
                self.open.remove(key);
                self.dropped_bytes.fetch_add(lines.len() as u64, Ordering::Relaxed);
                if self.may_report() {
                    let directory = key.directory(&self.root);
                    tracing::error!(?error, ?directory, "a log cannot be written: its lines are dropped");
                }
            }
        }
    }

    /// Returns the position behind the lines.
    fn write(&mut self, key: &Arc<LogKey>, lines: &[u8]) -> io::Result<u64> {
        if !self.open.contains_key(key) && self.open.len() >= OPEN_FILES_MAX {
            self.open.clear();
        }
        let directory = key.directory(&self.root);
        let full = self.open.get(key).filter(|segment| segment.length >= SEGMENT_BYTES_MAX);
        if let Some(next) = full.map(|segment| segment.start + segment.length) {
            self.open.remove(key);
            self.open.insert(key.clone(), create(&directory, next)?);
            remove_old(&directory)?;
        }
        let segment = match self.open.get_mut(key) {
            Some(segment) => segment,
            None => self.open.entry(key.clone()).or_insert(open_newest(&directory)?),
        };
        segment.file.write_all(lines)?;
        segment.length += lines.len() as u64;
        Ok(segment.start + segment.length)
    }

    fn notify(&self, key: &LogKey, end: u64) {
        let mut watchers = self.watchers.lock().expect("no panic while it is held");
        if let Some(watcher) = watchers.get(key) {
            if watcher.receiver_count() == 0 {
                watchers.remove(key);
            } else {
                watcher.send_replace(end);
            }
        }
    }

    fn report_dropped(&mut self) {
        let dropped_bytes = self.dropped_bytes.load(Ordering::Relaxed);
        if dropped_bytes > self.dropped_bytes_reported && self.may_report() {
            let since_last_report = dropped_bytes - self.dropped_bytes_reported;
            tracing::warn!(dropped_bytes = since_last_report, "log lines were dropped: the disk fails or is too slow");
            self.dropped_bytes_reported = dropped_bytes;
        }
    }

    fn may_report(&mut self) -> bool {
        let now = Instant::now();
        let is_due = self.reported_at.is_none_or(|at| now.duration_since(at) >= REPORT_INTERVAL);
        if is_due {
            self.reported_at = Some(now);
        }
        is_due
    }
}

/// The newest segment of a log, or its first.
fn open_newest(directory: &Path) -> io::Result<OpenSegment> {
    fs::create_dir_all(directory)?;
    let Some(newest) = segment::list(directory)?.pop() else { return create(directory, 0) };
    let file = OpenOptions::new().append(true).open(&newest.path)?;
    Ok(OpenSegment { file, start: newest.start, length: newest.length })
}

fn create(directory: &Path, start: u64) -> io::Result<OpenSegment> {
    let file = OpenOptions::new().append(true).create(true).open(segment::path(directory, start))?;
    Ok(OpenSegment { file, start, length: 0 })
}

fn remove_old(directory: &Path) -> io::Result<()> {
    let segments = segment::list(directory)?;
    let surplus = segments.len().saturating_sub(SEGMENTS_KEPT);
    segments.iter().take(surplus).try_for_each(|segment| fs::remove_file(&segment.path))
}
