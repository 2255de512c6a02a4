//! What a mapped file looks like to the memory manager.

pub(crate) mod saved;

use std::sync::Arc;

use calypte_platform::{Frame, PAGE_SIZE};

use crate::errno::Errno;
use crate::frames::{ContentId, Frames};
use crate::fs::host::HostFile;
use crate::fs::pages::Pages;
use crate::fs::tmp::{Content, TmpInode};

/// A file as `mmap` keeps it, independent of its descriptors.
#[derive(Debug, Clone)]
pub struct Mapping {
    source: Source,
    path: Arc<[u8]>,
    device: u64,
    inode: u64,
    /// Counts it among the mappings through which a file in memory may be written.
    writer: Option<Arc<()>>,
}

#[derive(Debug, Clone)]
enum Source {
    Host(Arc<HostFile>),
    Tmp(Arc<TmpInode>),
    Zero,
}

impl Mapping {
    /// Of a file of the host.
    pub fn of_host(file: Arc<HostFile>, path: Arc<[u8]>, device: u64, inode: u64) -> Self {
        Self { source: Source::Host(file), path, device, inode, writer: None }
    }

    /// Of a file in guest memory.
    pub fn of_tmp(inode: Arc<TmpInode>, path: Arc<[u8]>) -> Self {
        let metadata = inode.metadata();
        Self { source: Source::Tmp(inode), path, device: metadata.device, inode: metadata.inode, writer: None }
    }

    /// Of `/dev/zero`: to be treated as anonymous memory.
    pub fn of_zeros(path: Arc<[u8]>) -> Self {
        Self { source: Source::Zero, path, device: 0, inode: 0, writer: None }
    }

    /// The mapping made shared, of a file opened for writing. `EPERM` if the file is sealed against writing and
    /// `is_writable`.
    pub fn into_shared(mut self, is_writable: bool) -> Result<Self, Errno> {
        if let Source::Tmp(inode) = &self.source {
            match inode.writer() {
                Ok(writer) => self.writer = Some(writer),
                Err(errno) if is_writable => return Err(errno),
                Err(_) => {}
            }
        }
        Ok(self)
    }

    /// Whether a shared mapping may ever become writable: not of a file that was sealed when it was mapped.
    pub fn may_be_written(&self) -> bool {
        !matches!(self.source, Source::Tmp(_)) || self.writer.is_some()
    }

    /// Whether it is a mapping of `/dev/zero`.
    pub fn is_zero(&self) -> bool {
        matches!(self.source, Source::Zero)
    }

    /// Reads pages from the one of a number on, as many as `buffer` holds: how many of their bytes are before the end of
    /// the file. Bytes of `buffer` beyond are undefined.
    pub fn read_pages(&self, index: u64, frames: &Frames, buffer: &mut [u8]) -> Result<usize, Errno> {
        let offset = index.checked_mul(PAGE_SIZE as u64).ok_or(Errno::EOVERFLOW)?;
        match &self.source {
            Source::Host(file) => file.read_at(offset, buffer),
            Source::Tmp(inode) => match &inode.state().content {
                Content::Regular(pages) => pages.read(frames, offset, buffer),
                _ => Err(Errno::ENODEV),
            },
            Source::Zero => {
                buffer.fill(0);
                Ok(buffer.len())
            }
        }
    }

    /// Whether the file's pages are to be guest frames: [`Mapping::frame`] gives them. Not those of a file that is still
    /// the host's, if nobody writes through this mapping: it need not cost the guest a copy in its memory.
    pub fn is_in_memory(&self) -> bool {
        self.with_pages(|pages| pages.note_mapped(self.writer.is_some())).unwrap_or(false)
    }

    /// The guest frame that is the page of a number of a file in guest memory, `None` for a hole unless it `is_filled`; the
    /// file keeps its own reference and the caller adds one. `ENXIO` beyond the end.
    pub fn frame(&self, index: u64, frames: &mut Frames, is_filled: bool) -> Result<Option<Frame>, Errno> {
        self.with_pages(|pages| pages.map_frame(frames, index, is_filled))?
    }

    /// The identity of the content of a file in guest memory.
    pub fn content(&self) -> Option<ContentId> {
        self.with_pages(|pages| pages.id()).ok()
    }

    /// Whether a page would be there without being read: always for files of the host, which has a cache of its own.
    pub fn is_resident(&self, index: u64) -> bool {
        self.with_pages(|pages| pages.is_resident(index)).unwrap_or(true)
    }

    /// `MADV_REMOVE`: makes a range of a file in guest memory a hole.
    pub fn punch_hole(&self, frames: &mut Frames, offset: u64, length: u64) -> Result<(), Errno> {
        self.with_pages(|pages| pages.punch_hole(frames, offset, length))?
    }

    fn with_pages<T>(&self, work: impl FnOnce(&mut Pages) -> T) -> Result<T, Errno> {
        match &self.source {
            Source::Tmp(inode) => match &mut inode.state().content {
                Content::Regular(pages) => Ok(work(pages)),
                _ => Err(Errno::ENODEV),
            },
            Source::Host(_) | Source::Zero => Err(Errno::EOPNOTSUPP),
        }
    }

    /// The absolute path, as `/proc/self/maps` shows it.
    pub fn path(&self) -> &[u8] {
        &self.path
    }

    /// Device and file number, as `/proc/self/maps` shows them.
    pub fn device_and_inode(&self) -> (u64, u64) {
        (self.device, self.inode)
    }
}
