//! The log of every function: files below `<data>/logs/<account>/<function>/`, written by one thread off the path of
//! invocations, read by tail and by follow.
//!
//! A log is an endless stream of lines of which the newest two segments exist. A segment is a file named
//! after the position of its first byte in the stream (20 digits), so a position means the same before and after a
//! rotation and a restart. Nothing that goes wrong here fails an invocation: what cannot be written is dropped, counted
//! and reported.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};

use calypte_types::{AccountId, FunctionName};
use tokio::sync::{oneshot, watch};

mod segment;
mod writer;

use writer::{Request, Writer};

/// A segment that has this length is followed by a new one, in bytes.
const SEGMENT_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Segments of one log that are kept.
const SEGMENTS_KEPT: usize = 2;
/// Lines that may wait for the disk, of all functions together, in bytes.
const QUEUED_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// What each entry of the queue counts for besides its lines, in bytes.
const ENTRY_BYTES: u64 = 64;
/// Most that a follower gets at once, in bytes.
const CHUNK_BYTES_MAX: usize = 256 * 1024;

/// Which log.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct LogKey {
    account: AccountId,
    function: FunctionName,
}

impl LogKey {
    /// Both parts are checked identifiers without `/` and `.`, so they are safe as names.
    fn directory(&self, root: &Path) -> PathBuf {
        root.join(self.account.as_str()).join(self.function.as_str())
    }
}

/// What lines count for while they wait.
fn queued_cost(lines: &[u8]) -> u64 {
    lines.len() as u64 + ENTRY_BYTES
}

/// The end of each log that somebody follows.
type Watchers = Arc<Mutex<HashMap<LogKey, watch::Sender<u64>>>>;

/// The logs of a node. Clones are the same logs.
#[derive(Debug, Clone)]
pub struct Logs {
    root: Arc<Path>,
    requests: mpsc::Sender<Request>,
    queued_bytes: Arc<AtomicU64>,
    dropped_bytes: Arc<AtomicU64>,
    watchers: Watchers,
}

/// Where one function's lines go.
#[derive(Debug, Clone)]
pub struct LogSink {
    key: Arc<LogKey>,
    logs: Logs,
}

/// The last lines of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogTail {
    /// Whole lines, each with its time before it.
    pub lines: Vec<u8>,
    /// The position behind them: where to follow from.
    pub end: u64,
}

/// Reads a log as it grows.
#[derive(Debug)]
pub struct LogFollower {
    directory: PathBuf,
    position: u64,
    end: watch::Receiver<u64>,
}

impl Logs {
    /// Logs below `root`, which is made when the first line is written.
    pub fn open(root: PathBuf) -> io::Result<Self> {
        let (requests, receiver) = mpsc::channel();
        let root: Arc<Path> = root.into();
        let logs = Self {
            root: root.clone(),
            requests,
            queued_bytes: Arc::default(),
            dropped_bytes: Arc::default(),
            watchers: Watchers::default(),
        };
        let writer = Writer::new(root, logs.queued_bytes.clone(), logs.dropped_bytes.clone(), logs.watchers.clone());
        std::thread::Builder::new().name("log-writer".into()).spawn(move || writer.run(&receiver))?;
        Ok(logs)
    }

    /// Where a function's lines go.
    pub fn sink(&self, account: &AccountId, function: &FunctionName) -> LogSink {
        LogSink { key: Arc::new(LogKey { account: account.clone(), function: function.clone() }), logs: self.clone() }
    }

    /// The last `lines` lines of a function's log, everything that was appended before included.
    pub async fn tail(&self, account: &AccountId, function: &FunctionName, lines: usize) -> io::Result<LogTail> {
        self.flush().await;
        let directory = LogKey { account: account.clone(), function: function.clone() }.directory(&self.root);
        let read = move || segment::tail(&directory, lines).map(|(lines, end)| LogTail { lines, end });
        tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?
    }

    /// Follows a function's log from a position: that of [`LogTail::end`], or 0 for all that there is.
    pub fn follow(&self, account: &AccountId, function: &FunctionName, position: u64) -> LogFollower {
        let key = LogKey { account: account.clone(), function: function.clone() };
        let directory = key.directory(&self.root);
        let mut watchers = self.watchers.lock().expect("no panic while it is held");
        let end = watchers.entry(key).or_insert_with(|| watch::channel(0).0).subscribe();
        LogFollower { directory, position, end }
    }

    /// Returns when everything that was appended before is in the files, or given up.
    pub async fn flush(&self) {
        let (done, is_done) = oneshot::channel();
        if self.requests.send(Request::Flush(done)).is_ok() {
            let _ = is_done.await;
        }
    }
}

impl LogSink {
    /// Appends whole lines. Never waits; never fails as far as the caller can see.
    pub(crate) fn append(&self, lines: Vec<u8>) {
        let (length, cost) = (lines.len() as u64, queued_cost(&lines));
        let queued = self.logs.queued_bytes.fetch_add(cost, Ordering::Relaxed);
        let is_accepted = queued + cost <= QUEUED_BYTES_MAX
            && self.logs.requests.send(Request::Append { key: self.key.clone(), lines }).is_ok();
        if !is_accepted {
            self.logs.queued_bytes.fetch_sub(cost, Ordering::Relaxed);
            self.logs.dropped_bytes.fetch_add(length, Ordering::Relaxed);
        }
    }
}

impl LogFollower {
    /// The next lines, at most 256 KiB; waits until there are some. `None` when the worker has ended.
    pub async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            self.end.borrow_and_update();
            let (directory, position) = (self.directory.clone(), self.position);
            let read = move || segment::read(&directory, position, CHUNK_BYTES_MAX);
            let (bytes, position) = tokio::task::spawn_blocking(read).await.map_err(io::Error::other)??;
            self.position = position;
            if !bytes.is_empty() {
                return Ok(Some(bytes));
            }
            if self.end.changed().await.is_err() {
                return Ok(None);
            }
        }
    }
}

#[cfg(test)]
mod tests;
