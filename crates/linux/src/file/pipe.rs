//! Pipes and FIFOs: `pipe(7)`.

pub(crate) mod saved;

use std::sync::Arc;

use parking_lot::Mutex;

use crate::errno::Errno;
use crate::file::buffers::{Buffer, Buffers, GUARANTEED_BYTES};
use crate::file::readiness;
use crate::notifier::{Beacon, Notifier};
use crate::outcome::WaitKey;

/// Bytes that a pipe holds unless told otherwise.
pub const CAPACITY_DEFAULT: usize = 64 * 1024;
/// Most bytes that `F_SETPIPE_SZ` allows (`/proc/sys/fs/pipe-max-size`).
pub const CAPACITY_MAX: usize = 1024 * 1024;

/// A pipe.
#[derive(Debug)]
pub struct Pipe {
    state: Mutex<State>,
    read_side: Beacon,
    write_side: Beacon,
}

#[derive(Debug)]
struct State {
    buffer: Buffer,
    readers: usize,
    writers: usize,
    /// How often it was opened for reading, for writing: who opens a FIFO waits for the other side to be opened.
    opened: [u64; 2],
}

/// One open end, or both (a FIFO opened for reading and writing).
#[derive(Debug)]
pub struct PipeEnd {
    pipe: Arc<Pipe>,
    can_read: bool,
    can_write: bool,
    /// [`State::opened`] when this end was opened.
    opened_before: [u64; 2],
}

impl Pipe {
    /// A pipe that nobody has open.
    pub fn new(notifier: &Notifier, budget: &Buffers) -> Arc<Self> {
        let state = State { buffer: Buffer::new(budget, CAPACITY_DEFAULT), readers: 0, writers: 0, opened: [0; 2] };
        Arc::new(Self { state: Mutex::new(state), read_side: Beacon::new(notifier), write_side: Beacon::new(notifier) })
    }

    /// Opens a pipe without a name through another of its ends: it waits for nobody, whoever has gone by now.
    pub fn reopen(self: &Arc<Self>, can_read: bool, can_write: bool) -> PipeEnd {
        let mut end = self.open(can_read, can_write);
        end.opened_before = [0; 2];
        end
    }

    /// Opens it.
    pub fn open(self: &Arc<Self>, can_read: bool, can_write: bool) -> PipeEnd {
        let opened_before = {
            let mut state = self.state.lock();
            let before = state.opened;
            state.readers += usize::from(can_read);
            state.writers += usize::from(can_write);
            state.opened[0] += u64::from(can_read);
            state.opened[1] += u64::from(can_write);
            before
        };
        self.ring();
        PipeEnd { pipe: self.clone(), can_read, can_write, opened_before }
    }

    /// A number that no other object has.
    pub fn identity(&self) -> u64 {
        self.read_side.object().0
    }

    /// Whether anybody could read.
    pub fn has_reader(&self) -> bool {
        self.state.lock().readers > 0
    }

    /// What rings when either side is opened.
    pub fn open_keys(&self) -> [WaitKey; 2] {
        [&self.read_side, &self.write_side].map(|side| WaitKey::Object(side.object()))
    }

    fn ring(&self) {
        self.read_side.ring();
        self.write_side.ring();
    }
}

impl PipeEnd {
    /// The pipe.
    pub fn pipe(&self) -> &Arc<Pipe> {
        &self.pipe
    }

    /// Reads what is there, at most `length` bytes; nothing at the end. `EAGAIN` if more may come.
    pub fn read(&self, length: usize) -> Result<Vec<u8>, Errno> {
        if length == 0 {
            return Ok(Vec::new());
        }
        let bytes = {
            let mut state = self.pipe.state.lock();
            if state.buffer.is_empty() && state.writers > 0 {
                return Err(Errno::EAGAIN);
            }
            state.buffer.pop(length)
        };
        if !bytes.is_empty() {
            self.pipe.write_side.ring();
        }
        Ok(bytes)
    }

    /// Writes as much as there is room for: up to `PIPE_BUF` bytes all or nothing. `EAGAIN` if nothing fits, `EPIPE` if
    /// nobody will read.
    pub fn write(&self, bytes: &[u8]) -> Result<usize, Errno> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let taken = {
            let mut state = self.pipe.state.lock();
            if state.readers == 0 {
                return Err(Errno::EPIPE);
            }
            let room = state.buffer.room();
            if room == 0 || bytes.len() <= GUARANTEED_BYTES && room < bytes.len() {
                return Err(Errno::EAGAIN);
            }
            state.buffer.push(bytes)
        };
        self.pipe.read_side.ring();
        Ok(taken)
    }

    /// Whether the other side of a FIFO is open, or was since this end was opened: `open(2)` waits for it.
    pub fn has_met_partner(&self) -> bool {
        let state = self.pipe.state.lock();
        let met = |side: usize, count: usize| count > 0 || state.opened[side] != self.opened_before[side];
        (!self.can_read || self.can_write || met(1, state.writers))
            && (!self.can_write || self.can_read || met(0, state.readers))
    }

    /// Copies up to `length` bytes that wait and leaves them; nothing at the end. `EAGAIN` if more may come.
    pub fn peek(&self, length: usize) -> Result<Vec<u8>, Errno> {
        let state = self.pipe.state.lock();
        if state.buffer.is_empty() && state.writers > 0 {
            return Err(Errno::EAGAIN);
        }
        Ok(state.buffer.peek(length))
    }

    /// Takes away bytes that [`PipeEnd::peek`] has given.
    pub fn consume(&self, length: usize) {
        self.pipe.state.lock().buffer.pop(length);
        self.pipe.write_side.ring();
    }

    /// Writes as much as there is room for, even of little.
    pub fn write_some(&self, bytes: &[u8]) -> Result<usize, Errno> {
        let room = self.room()?;
        let taken = self.pipe.state.lock().buffer.push(&bytes[..bytes.len().min(room)]);
        self.pipe.read_side.ring();
        Ok(taken)
    }

    /// Bytes that fit now. `EAGAIN` if none does, `EPIPE` if nobody will read.
    pub fn room(&self) -> Result<usize, Errno> {
        let state = self.pipe.state.lock();
        match state.buffer.room() {
            _ if state.readers == 0 => Err(Errno::EPIPE),
            0 => Err(Errno::EAGAIN),
            room => Ok(room),
        }
    }

    /// What can be done now.
    pub fn readiness(&self) -> u32 {
        let state = self.pipe.state.lock();
        // A FIFO opened before any writer was is not hung up yet.
        let is_ended = state.writers == 0 && state.opened[1] != self.opened_before[1];
        let is_broken = state.readers == 0;
        let is_readable = self.can_read && !state.buffer.is_empty();
        let is_writable = self.can_write && (is_broken || state.buffer.room() >= GUARANTEED_BYTES);
        let hang_up = if self.can_read && is_ended { readiness::HANG_UP } else { 0 };
        let error = if self.can_write && is_broken { readiness::ERROR } else { 0 };
        readiness::from(is_readable, is_writable) | hang_up | error
    }

    /// The bells to wait for.
    pub fn beacons(&self) -> impl Iterator<Item = &Beacon> {
        let read_side = self.can_read.then_some(&self.pipe.read_side);
        let write_side = self.can_write.then_some(&self.pipe.write_side);
        read_side.into_iter().chain(write_side)
    }

    /// Bytes that wait (`FIONREAD`).
    pub fn length(&self) -> usize {
        self.pipe.state.lock().buffer.len()
    }

    /// Bytes that fit (`F_GETPIPE_SZ`).
    pub fn capacity(&self) -> usize {
        self.pipe.state.lock().buffer.capacity()
    }

    /// `F_SETPIPE_SZ`: the capacity that it got.
    pub fn set_capacity(&self, wanted: usize) -> Result<usize, Errno> {
        let capacity = wanted.max(GUARANTEED_BYTES).checked_next_power_of_two().ok_or(Errno::EINVAL)?;
        if capacity > CAPACITY_MAX {
            return Err(Errno::EPERM);
        }
        let mut state = self.pipe.state.lock();
        if capacity < state.buffer.len() {
            return Err(Errno::EBUSY);
        }
        state.buffer.set_capacity(capacity);
        drop(state);
        self.pipe.write_side.ring();
        Ok(capacity)
    }
}

impl Drop for PipeEnd {
    fn drop(&mut self) {
        {
            let mut state = self.pipe.state.lock();
            state.readers -= usize::from(self.can_read);
            state.writers -= usize::from(self.can_write);
            if state.readers == 0 && state.writers == 0 {
                let length = state.buffer.len();
                state.buffer.pop(length);
            }
        }
        self.pipe.ring();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends() -> (PipeEnd, PipeEnd) {
        let pipe = Pipe::new(&Notifier::default(), &Buffers::default());
        (pipe.open(true, false), pipe.open(false, true))
    }

    #[test]
    fn bytes_come_out_in_order_and_then_the_end() {
        let (reader, writer) = ends();
        assert_eq!(reader.read(10), Err(Errno::EAGAIN));
        assert_eq!(writer.write(b"hello"), Ok(5));
        assert_eq!(reader.read(2), Ok(b"he".to_vec()));
        drop(writer);
        assert_eq!(reader.readiness() & (readiness::IN | readiness::HANG_UP), readiness::IN | readiness::HANG_UP);
        assert_eq!(reader.read(10), Ok(b"llo".to_vec()));
        assert_eq!(reader.read(10), Ok(vec![]));
    }

    #[test]
    fn small_writes_are_not_split() {
        let (reader, writer) = ends();
        assert_eq!(writer.write(&vec![0; CAPACITY_DEFAULT - 100]), Ok(CAPACITY_DEFAULT - 100));
        assert_eq!(writer.write(&[1; 101]), Err(Errno::EAGAIN));
        assert_eq!(writer.write(&[1; GUARANTEED_BYTES + 1]), Ok(100));
        assert_eq!(writer.readiness() & readiness::OUT, 0);
        reader.read(GUARANTEED_BYTES).unwrap();
        assert_eq!(writer.readiness() & readiness::OUT, readiness::OUT);
    }

    #[test]
    fn a_pipe_without_readers_is_broken() {
        let (reader, writer) = ends();
        drop(reader);
        assert_eq!(writer.write(b"x"), Err(Errno::EPIPE));
        assert_eq!(writer.readiness() & readiness::ERROR, readiness::ERROR);
    }

    #[test]
    fn a_fifo_is_not_hung_up_before_its_first_writer() {
        let fifo = Pipe::new(&Notifier::default(), &Buffers::default());
        let reader = fifo.open(true, false);
        assert!(!reader.has_met_partner());
        assert_eq!(reader.read(1), Ok(vec![]));
        assert_eq!(reader.readiness() & readiness::HANG_UP, 0);
        drop(fifo.open(false, true));
        assert!(reader.has_met_partner());
        assert_eq!(reader.readiness() & readiness::HANG_UP, readiness::HANG_UP);
        let writer = fifo.open(false, true);
        assert!(writer.has_met_partner());
        assert_eq!(reader.readiness() & readiness::HANG_UP, 0);
    }

    #[test]
    fn a_pipe_that_is_opened_again_waits_for_nobody() {
        let (reader, writer) = ends();
        drop(writer);
        let again = reader.pipe().reopen(true, false);
        assert!(again.has_met_partner());
        assert_eq!(again.readiness() & readiness::HANG_UP, readiness::HANG_UP);
    }

    #[test]
    fn what_is_peeked_stays_until_consumed() {
        let (reader, writer) = ends();
        assert_eq!(reader.peek(5), Err(Errno::EAGAIN));
        writer.write(b"hello").unwrap();
        assert_eq!(reader.peek(2), Ok(b"he".to_vec()));
        reader.consume(1);
        assert_eq!(reader.read(10), Ok(b"ello".to_vec()));
        assert_eq!(writer.room(), Ok(CAPACITY_DEFAULT));
        drop(reader);
        assert_eq!(writer.room(), Err(Errno::EPIPE));
    }

    #[test]
    fn every_change_rings_the_other_side() {
        let notifier = Notifier::default();
        let pipe = Pipe::new(&notifier, &Buffers::default());
        let (reader, writer) = (pipe.open(true, false), pipe.open(false, true));
        let rung = |side: &Beacon| notifier.take_rung().contains(&side.object());
        notifier.take_rung();
        writer.write(b"x").unwrap();
        assert!(rung(&pipe.read_side));
        reader.read(1).unwrap();
        assert!(rung(&pipe.write_side));
        drop(writer);
        assert!(rung(&pipe.read_side));
    }

    #[test]
    fn the_capacity_is_a_power_of_two_within_limits() {
        let (reader, writer) = ends();
        assert_eq!(reader.set_capacity(1), Ok(4096));
        assert_eq!(reader.set_capacity(5000), Ok(8192));
        assert_eq!(reader.set_capacity(CAPACITY_MAX + 1), Err(Errno::EPERM));
        writer.write(&[0; 8000]).unwrap();
        assert_eq!(reader.set_capacity(4096), Err(Errno::EBUSY));
    }
}
