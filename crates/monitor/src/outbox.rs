//! Messages on their way to the worker.
//!
//! A message is written at once by the thread that sends it, as far as the socket takes it: on the path of a response
//! that saves waking another thread. What the socket does not take waits here for the writer thread ([`Outbox::write`]).

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use calypte_wire::frame;
use calypte_wire::monitor::ToWorker;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SendFlags, send};

/// Waiting bytes beyond which output of the program stays in its console, so that the program blocks.
pub(crate) const BACKLOG_BYTES_MAX: usize = 128 * 1024;

/// The sending side of a monitor's socket.
#[derive(Debug)]
pub(crate) struct Outbox {
    socket: OwnedFd,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<u8>,
    /// Bytes of `waiting` that are written already.
    written: usize,
    is_broken: bool,
}

impl State {
    fn backlog(&self) -> usize {
        self.waiting.len() - self.written
    }
}

impl Outbox {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self { socket, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Sends messages in order. Never blocks on the worker.
    pub(crate) fn send(&self, messages: &[ToWorker]) {
        let bytes = encode(messages);
        let mut state = self.lock();
        self.push(&mut state, &bytes);
        if state.backlog() > 0 {
            self.changed.notify_all();
        }
    }

    /// As [`Outbox::send`], for a thread that may hold the lock as it panics: gives up instead of waiting for it. Whether
    /// the message was sent.
    pub(crate) fn try_send(&self, message: &ToWorker) -> bool {
        let Ok(mut state) = self.state.try_lock() else { return false };
        self.push(&mut state, &encode(std::slice::from_ref(message)));
        true
    }

    fn push(&self, state: &mut State, bytes: &[u8]) {
        let written = if state.backlog() == 0 { self.write_some(state, bytes) } else { 0 };
        if state.backlog() == 0 {
            state.waiting.clear();
            state.written = 0;
        }
        state.waiting.extend_from_slice(&bytes[written..]);
    }

    /// Whether the worker keeps up well enough for more output of the program.
    pub(crate) fn has_room(&self) -> bool {
        self.lock().backlog() < BACKLOG_BYTES_MAX
    }

    /// Writes what waits, until the worker has gone. `after_write` is called without locks whenever something has been
    /// written.
    pub(crate) fn write(&self, mut after_write: impl FnMut()) -> io::Error {
        loop {
            let mut state = self.lock();
            while state.backlog() == 0 && !state.is_broken {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.is_broken {
                return io::ErrorKind::BrokenPipe.into();
            }
            drop(state);
            if let Err(error) = self.wait_writable(None) {
                return error.into();
            }
            self.write_waiting();
            after_write();
        }
    }

    /// Writes what waits, for at most `patience`; whether all of it was written.
    pub(crate) fn flush(&self, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        loop {
            self.write_waiting();
            let (backlog, is_broken) = {
                let state = self.lock();
                (state.backlog(), state.is_broken)
            };
            let left = end.saturating_duration_since(Instant::now());
            if backlog == 0 || is_broken || left.is_zero() {
                return backlog == 0;
            }
            if self.wait_writable(Some(left)).is_err() {
                return false;
            }
        }
    }

    fn write_waiting(&self) {
        let mut state = self.lock();
        let waiting = std::mem::take(&mut state.waiting);
        let written = state.written;
        state.written = 0;
        let written = written + self.write_some(&mut state, &waiting[written..]);
        if written < waiting.len() {
            state.waiting = waiting;
            state.written = written;
        }
    }

    /// Writes as much as the socket takes now.
    fn write_some(&self, state: &mut State, bytes: &[u8]) -> usize {
        let mut written = 0;
        while written < bytes.len() && !state.is_broken {
            match send(&self.socket, &bytes[written..], SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(count) => written += count,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(_) => {
                    state.is_broken = true;
                    self.changed.notify_all();
                }
            }
        }
        written
    }

    fn wait_writable(&self, patience: Option<Duration>) -> rustix::io::Result<()> {
        let timeout = patience.map(|patience| Timespec {
            tv_sec: i64::try_from(patience.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: patience.subsec_nanos().into(),
        });
        match poll(&mut [PollFd::new(&self.socket, PollFlags::OUT)], timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn encode(messages: &[ToWorker]) -> Vec<u8> {
    match messages {
        [message] => frame::encode(message),
        _ => messages.iter().flat_map(frame::encode).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;

    use calypte_wire::frame::Decoder;
    use calypte_wire::monitor::TO_WORKER_BYTES_MAX;

    use super::*;

    fn log(length: usize) -> ToWorker {
        ToWorker::Log { bytes: vec![b'x'; length], dropped_bytes: 0 }
    }

    fn receive(stream: &mut UnixStream, count: usize) -> Vec<ToWorker> {
        let mut decoder = Decoder::new(TO_WORKER_BYTES_MAX);
        let mut messages = Vec::new();
        let mut buffer = vec![0; 64 * 1024];
        while messages.len() < count {
            let length = stream.read(&mut buffer).unwrap();
            assert!(length > 0, "the stream ended early");
            decoder.push(&buffer[..length]);
            while let Some(message) = decoder.next().unwrap() {
                messages.push(message);
            }
        }
        messages
    }

    #[test]
    fn a_slow_worker_gets_everything_in_order() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let outbox = Arc::new(Outbox::new(ours.into()));
        let messages: Vec<_> = (0..8).map(|index| log(index * 50_000)).collect();
        for message in &messages {
            outbox.send(std::slice::from_ref(message));
        }
        assert!(!outbox.has_room());
        let writer = std::thread::spawn({
            let outbox = Arc::clone(&outbox);
            move || outbox.write(|| {})
        });
        assert_eq!(receive(&mut theirs, messages.len()), messages);
        assert!(outbox.flush(Duration::from_secs(10)));
        drop(theirs);
        outbox.send(&[log(1)]);
        assert_eq!(writer.join().unwrap().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn flushing_waits_no_longer_than_it_may() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let outbox = Outbox::new(ours.into());
        outbox.send(&[log(1_000_000)]);
        assert!(!outbox.flush(Duration::from_millis(10)));
        drop(theirs);
        assert!(!outbox.flush(Duration::from_secs(10)));
    }
}
