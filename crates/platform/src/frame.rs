//! Frames of guest memory and how pages may use them.

/// Bytes of a page and of a frame.
pub const PAGE_SIZE: usize = 4096;

/// The number of one 4 KiB frame of guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frame(pub u32);

/// Consecutive frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameRange {
    /// The first one.
    pub first: Frame,
    /// How many.
    pub count: u32,
}

impl FrameRange {
    /// The range of one frame.
    pub fn one(frame: Frame) -> Self {
        Self { first: frame, count: 1 }
    }

    /// Its frames in order.
    pub fn iter(self) -> impl Iterator<Item = Frame> {
        (self.first.0..self.first.0 + self.count).map(Frame)
    }
}

/// Most parts of one [`crate::Memory::read_file`] (`IOV_MAX`).
pub const FILE_PARTS_MAX: usize = 1024;

/// Consecutive bytes of consecutive frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FramePart {
    /// The frame that they begin in.
    pub frame: Frame,
    /// Where they begin in it.
    pub offset: usize,
    /// How many bytes.
    pub length: usize,
}

impl FramePart {
    /// The frames that it touches.
    pub fn frames(self) -> FrameRange {
        FrameRange { first: self.frame, count: (self.offset + self.length).div_ceil(PAGE_SIZE) as u32 }
    }

    /// Its bytes, cut where a frame ends: the frame, where they begin in it, and which bytes of the part they are.
    pub fn pieces(self) -> impl Iterator<Item = (Frame, usize, std::ops::Range<usize>)> {
        self.frames().iter().enumerate().map(move |(index, frame)| {
            let start = (index * PAGE_SIZE).saturating_sub(self.offset);
            let end = ((index + 1) * PAGE_SIZE - self.offset).min(self.length);
            (frame, if index == 0 { self.offset } else { 0 }, start..end)
        })
    }
}

/// Whole pages of a file, for consecutive frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FilePages {
    /// The frames.
    pub frames: FrameRange,
    /// Where their pages begin in the file: bytes, a multiple of [`PAGE_SIZE`].
    pub position: u64,
}

bitflags::bitflags! {
    /// What user code may do with a page. Empty: mapped frames stay reserved but every access faults.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Protection: u8 {
        /// Data may be read. (x86 cannot express write or execute without it.)
        const READ = 1;
        /// Data may be written.
        const WRITE = 2;
        /// Instructions may be fetched.
        const EXECUTE = 4;
    }
}
