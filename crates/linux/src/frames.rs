//! Which frames of guest memory are in use, by how many users, and against which limit they count.

pub(crate) mod saved;

use serde::{Deserialize, Serialize};
use std::sync::Arc;

use calypte_platform::{Frame, FrameRange, Memory, PAGE_SIZE};
use parking_lot::Mutex;

use crate::errno::Errno;

/// The limit that a frame counts against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Charge {
    /// The environment's memory size: anonymous memory, private copies of files, buffers.
    Memory,
    /// The size of `/tmp`, in the guest's memory but with a quota of its own.
    Tmp,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    references: u32,
    charge: Charge,
}

/// The frame allocator. A frame has one user when allocated; [`Frames::share`] adds one, [`Frames::release`] takes one
/// away and frees the frame with the last.
pub struct Frames {
    memory: Arc<dyn Memory>,
    entries: Vec<Option<Entry>>,
    free: Vec<Frame>,
    used: [u32; 2],
    limit: [u32; 2],
    peak: u32,
    dropped: DroppedFrames,
}

/// What files in guest memory leave for later, where the allocator and the address spaces are out of reach: frames of the
/// dropped (the last descriptor of a removed file), released when the allocator is used next, and what has been cut off
/// mapped files, taken from their mappings before guest code runs on.
#[derive(Debug, Clone, Default)]
pub struct DroppedFrames(Arc<Mutex<Dropped>>);

#[derive(Debug, Default)]
struct Dropped {
    frames: Vec<Frame>,
    cuts: Vec<Cut>,
    last_content: u64,
}

/// The identity of the content of a file in guest memory, unique within one guest for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ContentId(pub u64);

/// Pages that a file no longer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// The file.
    pub content: ContentId,
    /// First page, and one past the last.
    pub pages: (u64, u64),
    /// Whether private copies go too: after truncation, not for a hole.
    pub has_copies: bool,
}

impl DroppedFrames {
    /// Leaves frames to be released.
    pub fn extend(&self, frames: impl IntoIterator<Item = Frame>) {
        self.0.lock().frames.extend(frames);
    }

    /// An identity for the content of a new file.
    pub fn new_content(&self) -> ContentId {
        let mut dropped = self.0.lock();
        dropped.last_content += 1;
        ContentId(dropped.last_content)
    }

    /// Leaves a cut to be carried out.
    pub fn cut(&self, cut: Cut) {
        self.0.lock().cuts.push(cut);
    }

    /// The cuts since the last call.
    pub fn take_cuts(&self) -> Vec<Cut> {
        std::mem::take(&mut self.0.lock().cuts)
    }
}

impl Frames {
    /// An allocator over `memory` with a limit in frames for each charge.
    pub fn new(memory: Arc<dyn Memory>, memory_frames_max: u32, tmp_frames_max: u32) -> Self {
        Self {
            memory,
            entries: Vec::new(),
            free: Vec::new(),
            used: [0; 2],
            limit: [memory_frames_max, tmp_frames_max],
            peak: 0,
            dropped: DroppedFrames::default(),
        }
    }

    /// Where owners that are dropped leave their frames.
    pub fn dropped(&self) -> &DroppedFrames {
        &self.dropped
    }

    /// Releases what [`Frames::dropped`] holds.
    pub fn reclaim(&mut self) {
        let frames = std::mem::take(&mut self.dropped.0.lock().frames);
        for frame in frames {
            self.release(frame);
        }
    }

    /// A frame of zeros. `ENOMEM` when the memory limit is reached, `ENOSPC` when that of `/tmp` is.
    pub fn allocate(&mut self, charge: Charge) -> Result<Frame, Errno> {
        Ok(self.allocate_run(1, charge)?.first)
    }

    /// Between one and `count` consecutive frames of zeros: as many as are at hand without searching.
    pub fn allocate_run(&mut self, count: u32, charge: Charge) -> Result<FrameRange, Errno> {
        self.reclaim();
        let room = self.limit[charge as usize] - self.used[charge as usize];
        let wanted = count.min(room);
        if wanted == 0 {
            return Err(match charge {
                Charge::Memory => Errno::ENOMEM,
                Charge::Tmp => Errno::ENOSPC,
            });
        }
        let range = self.take_free(wanted).map_or_else(|| self.take_new(wanted), Ok)?;
        if range.count > 1 {
            self.memory.prepare(range);
        }
        for frame in range.iter() {
            self.entries[frame.0 as usize] = Some(Entry { references: 1, charge });
        }
        self.used[charge as usize] += range.count;
        self.peak = self.peak.max(self.used[Charge::Memory as usize]);
        Ok(range)
    }

    /// The free frames at the top of the stack that happen to be consecutive. Freed frames are stacked in descending
    /// order, so that a freed run comes back as a run.
    fn take_free(&mut self, wanted: u32) -> Option<FrameRange> {
        let first = self.free.pop()?;
        let mut range = FrameRange::one(first);
        while range.count < wanted && self.free.last() == Some(&Frame(first.0 + range.count)) {
            self.free.pop();
            range.count += 1;
        }
        self.memory.zero(range);
        Some(range)
    }

    fn take_new(&mut self, wanted: u32) -> Result<FrameRange, Errno> {
        let first = u32::try_from(self.entries.len()).map_err(|_| Errno::ENOMEM)?;
        let end = first.checked_add(wanted).ok_or(Errno::ENOMEM)?;
        if end > self.memory.frame_count() {
            self.memory.grow(end).map_err(|error| {
                tracing::warn!(%error, "guest memory cannot grow");
                Errno::ENOMEM
            })?;
        }
        self.entries.resize(end as usize, None);
        Ok(FrameRange { first: Frame(first), count: wanted })
    }

    /// Adds a user to a frame.
    pub fn share(&mut self, frame: Frame) {
        self.entry(frame).references += 1;
    }

    /// How many users a frame has.
    pub fn references(&self, frame: Frame) -> u32 {
        self.entries[frame.0 as usize].map_or(0, |entry| entry.references)
    }

    /// What an allocated frame counts against.
    pub fn charge(&self, frame: Frame) -> Charge {
        self.entries[frame.0 as usize].expect("only allocated frames are passed around").charge
    }

    /// Takes a user away. The frame must not be mapped for it any more.
    pub fn release(&mut self, frame: Frame) {
        let entry = self.entry(frame);
        entry.references -= 1;
        if entry.references == 0 {
            let charge = entry.charge;
            self.entries[frame.0 as usize] = None;
            self.used[charge as usize] -= 1;
            self.free.push(frame);
        }
    }

    /// Takes a user away from each frame of a run, so that the run can be allocated as one again.
    pub fn release_run(&mut self, range: FrameRange) {
        for frame in (range.first.0..range.first.0 + range.count).rev() {
            self.release(Frame(frame));
        }
    }

    fn entry(&mut self, frame: Frame) -> &mut Entry {
        self.entries[frame.0 as usize].as_mut().expect("only allocated frames are passed around")
    }

    /// The content of frames.
    pub fn memory(&self) -> &dyn Memory {
        &*self.memory
    }

    /// Frames in use for a charge.
    pub fn used(&self, charge: Charge) -> u32 {
        self.used[charge as usize]
    }

    /// The limit of a charge, in frames.
    pub fn limit(&self, charge: Charge) -> u32 {
        self.limit[charge as usize]
    }

    /// Most memory ever in use, in bytes, `/tmp` not counted.
    pub fn peak_bytes(&self) -> u64 {
        u64::from(self.peak) * PAGE_SIZE as u64
    }
}
