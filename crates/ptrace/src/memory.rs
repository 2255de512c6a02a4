//! Guest frames: consecutive pages of one shared file.

use std::sync::atomic::{AtomicU32, Ordering};

use calypte_platform::{Frame, FrameRange, Memory, PAGE_SIZE, PlatformError};

use crate::layout::PAGE;
use crate::shared::SharedFile;

/// Frames backed at least, once any are: 32 MiB. Backing costs nothing before a frame is touched.
const FRAMES_FIRST: u32 = (32 << 20) / PAGE_SIZE as u32;
/// Frames given back to the host, rather than filled with zeros, from this number on.
const DISCARD_FRAMES_MIN: u32 = 64;

/// The frames of one machine.
#[derive(Debug)]
pub(crate) struct Frames {
    file: SharedFile,
    maximum: u32,
    /// Frames that may be used. Grows only.
    count: AtomicU32,
}

impl Frames {
    /// Room for `maximum` frames, none backed.
    pub(crate) fn new(maximum: u32) -> Result<Self, PlatformError> {
        let file = SharedFile::new(c"calypte-frames", maximum as usize * PAGE_SIZE)?;
        Ok(Self { file, maximum, count: AtomicU32::new(0) })
    }

    /// The file that holds them: frame `n` is its page `n`.
    pub(crate) fn file(&self) -> &SharedFile {
        &self.file
    }

    /// Panics unless all of `frames` are backed.
    pub(crate) fn check(&self, frames: FrameRange) {
        let count = self.count.load(Ordering::Acquire);
        let end = u64::from(frames.first.0) + u64::from(frames.count);
        assert!(end <= u64::from(count), "{frames:?} reaches past the {count} frames backed");
    }

    /// The offset of `length` bytes in a frame. Panics when they are not inside one backed frame.
    fn offset(&self, frame: Frame, offset: usize, length: usize) -> u64 {
        self.check(FrameRange::one(frame));
        assert!(offset <= PAGE_SIZE && length <= PAGE_SIZE - offset, "{length} bytes at {offset} leave the frame");
        offset_of(frame) + offset as u64
    }

    fn word(&self, frame: Frame, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4), "a 32-bit word at {offset} is not aligned");
        let pointer = self.file.pointer(self.offset(frame, offset, 4), 4);
        // SAFETY: the four bytes are inside the mapping, which lives as long as `self`, aligned (checked above, and
        // frames are page-aligned) and accessed here by atomic operations or raw copies only.
        unsafe { AtomicU32::from_ptr(pointer.cast()) }
    }
}

/// Where a frame begins in the file.
pub(crate) fn offset_of(frame: Frame) -> u64 {
    u64::from(frame.0) * PAGE
}

impl Memory for Frames {
    fn frame_count(&self) -> u32 {
        self.count.load(Ordering::Acquire)
    }

    fn grow(&self, frame_count: u32) -> Result<(), PlatformError> {
        if frame_count > self.maximum {
            return Err(PlatformError::OutOfFrames { maximum: self.maximum });
        }
        let grown = |count: u32| frame_count.max(count.saturating_mul(2)).max(FRAMES_FIRST).min(self.maximum);
        // An error means that there are enough already.
        let _ = self
            .count
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| (frame_count > count).then(|| grown(count)));
        Ok(())
    }

    fn copy_in(&self, frame: Frame, offset: usize, bytes: &[u8]) {
        self.file.write(self.offset(frame, offset, bytes.len()), bytes);
    }

    fn copy_out(&self, frame: Frame, offset: usize, buffer: &mut [u8]) {
        self.file.read(self.offset(frame, offset, buffer.len()), buffer);
    }

    fn zero(&self, frames: FrameRange) {
        self.check(frames);
        if frames.count >= DISCARD_FRAMES_MIN {
            self.discard(frames);
        } else {
            self.file.clear(offset_of(frames.first), frames.count as usize * PAGE_SIZE);
        }
    }

    fn prepare(&self, frames: FrameRange) {
        self.check(frames);
        self.file.populate(offset_of(frames.first), u64::from(frames.count) * PAGE);
    }

    fn discard(&self, frames: FrameRange) {
        self.check(frames);
        self.file.discard(offset_of(frames.first), u64::from(frames.count) * PAGE);
    }

    fn load_u32(&self, frame: Frame, offset: usize) -> u32 {
        self.word(frame, offset).load(Ordering::SeqCst)
    }

    fn compare_exchange_u32(&self, frame: Frame, offset: usize, current: u32, new: u32) -> Result<u32, u32> {
        self.word(frame, offset).compare_exchange(current, new, Ordering::SeqCst, Ordering::SeqCst)
    }
}
