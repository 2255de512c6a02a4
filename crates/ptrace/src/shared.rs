//! Memory that the monitor shares with stubs: an anonymous file and the monitor's view of it.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use calypte_platform::PlatformError;

use crate::host::{checked, host_error};

/// An anonymous file, mapped in full.
///
/// A guest reads and writes some of these bytes at any time. That is not a data race in Rust's sense as long as no
/// reference to them exists: all access goes through raw pointers ([`SharedFile::pointer`]), whole words through atomics.
#[derive(Debug)]
pub(crate) struct SharedFile {
    file: OwnedFd,
    start: *mut u8,
    length: usize,
}

// SAFETY: the mapping is plain memory that lives until drop; methods that take offsets check them, and users of the raw
// pointers follow the rule in the type's documentation.
unsafe impl Send for SharedFile {}
// SAFETY: as above; system calls on the file may be made from any thread.
unsafe impl Sync for SharedFile {}

impl SharedFile {
    /// A file of `length` zero bytes, without any memory behind them yet.
    pub(crate) fn new(name: &CStr, length: usize) -> Result<Self, PlatformError> {
        // SAFETY: `name` is a C string; the call creates a file descriptor.
        let fd = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) };
        checked("memfd_create", fd.into())?;
        // SAFETY: just created and owned by nobody else.
        let file = unsafe { OwnedFd::from_raw_fd(fd) };
        let too_large = |_| host_error("size of guest memory", io::Error::from_raw_os_error(libc::EFBIG));
        let size = libc::off_t::try_from(length).map_err(too_large)?;
        // SAFETY: no memory is involved.
        checked("ftruncate", unsafe { libc::ftruncate(fd, size) }.into())?;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice affects no existing memory. (A length of zero is
        // refused; callers have at least one page.)
        let start = unsafe { libc::mmap(ptr::null_mut(), length.max(1), protection, flags, fd, 0) };
        if start == libc::MAP_FAILED {
            return Err(host_error("mmap of guest memory", io::Error::last_os_error()));
        }
        Ok(Self { file, start: start.cast(), length: length.max(1) })
    }

    /// The file.
    pub(crate) fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// The address of `offset`, valid for `length` bytes. Panics when the range leaves the file.
    pub(crate) fn pointer(&self, offset: u64, length: usize) -> *mut u8 {
        let offset = usize::try_from(offset).ok().filter(|&offset| offset <= self.length);
        let offset = offset.filter(|&offset| length <= self.length - offset).expect("range inside the shared file");
        // SAFETY: `offset` is at most the length of the mapping (checked above).
        unsafe { self.start.add(offset) }
    }

    /// Copies bytes into the file.
    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) {
        let target = self.pointer(offset, bytes.len());
        // SAFETY: `target` is valid for the length (checked) and cannot overlap `bytes`: no reference into the mapping exists.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len()) };
    }

    /// Copies bytes from the file.
    pub(crate) fn read(&self, offset: u64, buffer: &mut [u8]) {
        let source = self.pointer(offset, buffer.len());
        // SAFETY: as in `write`, the other way; the bytes are plain bytes, whatever a guest has there.
        unsafe { ptr::copy_nonoverlapping(source, buffer.as_mut_ptr(), buffer.len()) };
    }

    /// Fills a range with zeros.
    pub(crate) fn clear(&self, offset: u64, length: usize) {
        let target = self.pointer(offset, length);
        // SAFETY: `target` is valid for `length` bytes (checked) and no reference into the mapping exists.
        unsafe { ptr::write_bytes(target, 0, length) };
    }

    /// Gives the memory behind a range of whole pages back to the host; it reads as zero afterwards.
    pub(crate) fn discard(&self, offset: u64, length: u64) {
        let _inside = self.pointer(offset, usize::try_from(length).expect("64-bit host"));
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        // SAFETY: the range is inside our own file (checked above), to which no references exist.
        let result = unsafe { libc::fallocate(self.fd(), mode, offset.cast_signed(), length.cast_signed()) };
        assert_eq!(result, 0, "fallocate of guest memory: {}", io::Error::last_os_error());
    }

    /// Puts host memory behind a range of whole pages at once; where the host cannot, pages come when they are touched.
    pub(crate) fn populate(&self, offset: u64, length: u64) {
        let bytes = usize::try_from(length).expect("64-bit host");
        let address = self.pointer(offset, bytes);
        // SAFETY: the range is inside our mapping; its content stays as it is.
        let _ = unsafe { libc::madvise(address.cast(), bytes, libc::MADV_POPULATE_WRITE) };
    }
}

impl Drop for SharedFile {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and whoever could use a pointer into it holds a reference to `self`.
        unsafe { libc::munmap(self.start.cast(), self.length) };
    }
}
