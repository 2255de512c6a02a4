//! The limit on what a guest's files and sockets hold on the monitor's heap: bytes that wait in pipes and sockets, and
//! whatever else there can be as much of as the guest likes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::errno::Errno;

/// Most bytes of all buffers and reservations together, [`GUARANTEED_BYTES`] of each buffer not counted.
pub const BUFFERED_BYTES_MAX: usize = 32 * 1024 * 1024;
/// What each buffer may hold whatever the others do, so that everybody makes progress. Also `PIPE_BUF`, the most that is
/// written to a pipe in one piece.
pub const GUARANTEED_BYTES: usize = 4096;

/// The limit, shared by all buffers of a guest.
#[derive(Debug, Clone, Default)]
pub struct Buffers(Arc<AtomicUsize>);

impl Buffers {
    /// Bytes that the limit still allows.
    pub fn room(&self) -> usize {
        BUFFERED_BYTES_MAX.saturating_sub(self.0.load(Ordering::Relaxed))
    }

    /// Counts bytes that are kept elsewhere for as long as the reservation lives. `ENOMEM` if the limit forbids it.
    pub fn reserve(&self, bytes: usize) -> Result<Reservation, Errno> {
        if bytes > self.room() {
            return Err(Errno::ENOMEM);
        }
        Ok(self.take(bytes))
    }

    /// As [`Buffers::reserve`], whatever the limit says: for what is bounded elsewhere.
    pub fn take(&self, bytes: usize) -> Reservation {
        self.0.fetch_add(bytes, Ordering::Relaxed);
        Reservation { budget: self.clone(), bytes }
    }
}

/// Bytes that are counted against the limit.
#[derive(Debug)]
pub struct Reservation {
    budget: Buffers,
    bytes: usize,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Bytes that wait to be read.
#[derive(Debug)]
pub struct Buffer {
    bytes: VecDeque<u8>,
    capacity: usize,
    budget: Buffers,
}

impl Buffer {
    /// An empty buffer for up to `capacity` bytes.
    pub fn new(budget: &Buffers, capacity: usize) -> Self {
        Self { bytes: VecDeque::new(), capacity, budget: budget.clone() }
    }

    /// Bytes that wait.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Most bytes it takes.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Changes the most it takes; what waits stays.
    pub fn set_capacity(&mut self, capacity: usize) {
        self.capacity = capacity;
    }

    /// Bytes that it would take now.
    pub fn room(&self) -> usize {
        let guaranteed = GUARANTEED_BYTES.saturating_sub(self.bytes.len());
        let budgeted = self.budget.room() + guaranteed;
        self.capacity.saturating_sub(self.bytes.len()).min(budgeted)
    }

    /// Bytes that the common limit still allows, whatever this buffer may hold.
    pub fn room_of_budget(&self) -> usize {
        self.budget.room()
    }

    /// Takes as many bytes as there is room for; how many that was.
    pub fn push(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(self.room());
        self.push_all(&bytes[..taken]);
        taken
    }

    /// Takes bytes whatever the limits say: for what the monitor itself sends.
    pub fn push_all(&mut self, bytes: &[u8]) {
        let before = charged(self.bytes.len());
        self.bytes.extend(bytes);
        self.budget.0.fetch_add(charged(self.bytes.len()) - before, Ordering::Relaxed);
    }

    /// Copies up to `length` bytes and leaves them.
    pub fn peek(&self, length: usize) -> Vec<u8> {
        self.bytes.iter().copied().take(length).collect()
    }

    /// Takes up to `length` bytes out.
    pub fn pop(&mut self, length: usize) -> Vec<u8> {
        let before = charged(self.bytes.len());
        let length = length.min(self.bytes.len());
        let taken = self.bytes.drain(..length).collect();
        self.budget.0.fetch_sub(before - charged(self.bytes.len()), Ordering::Relaxed);
        if self.bytes.is_empty() {
            self.bytes = VecDeque::new();
        }
        taken
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.budget.0.fetch_sub(charged(self.bytes.len()), Ordering::Relaxed);
    }
}

/// What a buffer of this length counts against the common limit.
fn charged(length: usize) -> usize {
    length.saturating_sub(GUARANTEED_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_budget_leaves_every_buffer_its_guaranteed_bytes() {
        let budget = Buffers::default();
        let mut greedy = Buffer::new(&budget, usize::MAX);
        assert_eq!(greedy.push(&vec![0; BUFFERED_BYTES_MAX * 2]), BUFFERED_BYTES_MAX + GUARANTEED_BYTES);
        let mut modest = Buffer::new(&budget, 65536);
        assert_eq!(modest.push(&vec![1; 65536]), GUARANTEED_BYTES);
        drop(greedy);
        assert_eq!(modest.push(&vec![1; 65536]), 65536 - GUARANTEED_BYTES);
        assert_eq!(modest.pop(65536).len(), 65536);
        assert_eq!(budget.0.load(Ordering::Relaxed), 0);
    }
}
