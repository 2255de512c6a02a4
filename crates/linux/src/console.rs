//! The guest's standard streams: what it prints waits here, bounded and in order, until the monitor takes it away; what
//! it reads was put here by the monitor.

pub(crate) mod saved;

use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::collections::VecDeque;

use crate::notifier::{Beacon, Notifier};

/// Most bytes of output that wait for the monitor; a writer blocks beyond.
pub const OUTPUT_BYTES_MAX: usize = 256 * 1024;
/// Most bytes of input that wait for the guest; [`Console::input_room`] says what more the monitor may put in.
pub const INPUT_BYTES_MAX: usize = 256 * 1024;

/// Which stream a piece of output was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stream {
    /// Descriptor 1 at the start.
    Output,
    /// Descriptor 2 at the start.
    Error,
}

/// The two directions.
#[derive(Debug)]
pub struct Console {
    beacon: Beacon,
    output: VecDeque<(Stream, Vec<u8>)>,
    output_bytes: usize,
    input: VecDeque<u8>,
    is_input_closed: bool,
    /// Whether the guest has looked for input and found none. A cell, because looking does not change the input.
    is_input_wanted: Cell<bool>,
}

impl Console {
    /// An empty console whose input is still open.
    pub fn new(notifier: &Notifier) -> Self {
        let beacon = Beacon::new(notifier);
        Self {
            beacon,
            output: VecDeque::new(),
            output_bytes: 0,
            input: VecDeque::new(),
            is_input_closed: false,
            is_input_wanted: Cell::new(false),
        }
    }

    /// Rings when output is taken away and when input arrives or ends.
    pub fn beacon(&self) -> &Beacon {
        &self.beacon
    }

    /// Bytes that a writer may add now.
    pub fn output_room(&self) -> usize {
        OUTPUT_BYTES_MAX - self.output_bytes
    }

    /// Adds output; takes as much as there is room for and says how much that was.
    pub fn write(&mut self, stream: Stream, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(self.output_room());
        let bytes = &bytes[..taken];
        match self.output.back_mut() {
            Some((last, pending)) if *last == stream => pending.extend_from_slice(bytes),
            _ if taken > 0 => self.output.push_back((stream, bytes.to_vec())),
            _ => {}
        }
        self.output_bytes += taken;
        taken
    }

    /// The monitor takes all output away.
    pub fn take_output(&mut self) -> Vec<(Stream, Vec<u8>)> {
        if self.output_bytes > 0 {
            self.beacon.ring();
        }
        self.output_bytes = 0;
        std::mem::take(&mut self.output).into()
    }

    /// Whether output waits.
    pub fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// Bytes of input that the monitor may put in now.
    pub fn input_room(&self) -> usize {
        INPUT_BYTES_MAX - self.input.len()
    }

    /// The monitor adds input, at most [`Console::input_room`] bytes.
    pub fn push_input(&mut self, bytes: &[u8]) {
        debug_assert!(bytes.len() <= self.input_room());
        self.input.extend(bytes);
        self.is_input_wanted.set(false);
        self.beacon.ring();
    }

    /// No more input will come.
    pub fn close_input(&mut self) {
        self.is_input_closed = true;
        self.is_input_wanted.set(false);
        self.beacon.ring();
    }

    /// Takes up to `length` bytes of input. `None`: nothing now, more may come. Empty: end of input.
    pub fn read(&mut self, length: usize) -> Option<Vec<u8>> {
        if !self.is_readable() {
            return None;
        }
        let taken = length.min(self.input.len());
        Some(self.input.drain(..taken).collect())
    }

    /// Bytes that can be read now.
    pub fn input_length(&self) -> usize {
        self.input.len()
    }

    /// Whether a read would not block. If it would, input is wanted from now on.
    pub fn is_readable(&self) -> bool {
        let is_readable = !self.input.is_empty() || self.is_input_closed;
        if !is_readable {
            self.is_input_wanted.set(true);
        }
        is_readable
    }

    /// Whether the guest has looked for input in vain since the last [`Console::push_input`]: what reads the host's
    /// input should do so only then, and leave it to others otherwise.
    pub fn is_input_wanted(&self) -> bool {
        self.is_input_wanted.get()
    }
}
