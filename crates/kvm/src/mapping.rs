//! Host memory that backs guest memory, and the flush of translations that depends on it.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use calypte_platform::PlatformError;

use crate::layout::PAGE;

/// A private mapping, reserved in full and made accessible from its start on as it is needed. It is anonymous but for what
/// [`HostMapping::map_file`] puts into it.
///
/// The guest reads and writes these bytes at any time. That is not a data race in Rust's sense as long as no reference
/// to them exists: all access goes through raw pointers ([`HostMapping::pointer`]), whole words through atomics.
#[derive(Debug)]
pub(crate) struct HostMapping {
    start: *mut u8,
    length: usize,
    /// Pages of files may be mapped up to here; see [`HostMapping::map_file`].
    files_end: AtomicU64,
    /// Held while pages have a reduced host protection; see [`HostMapping::flush_translations`].
    flushing: Mutex<()>,
}

// SAFETY: the mapping is plain memory that lives until drop; methods that take offsets check them, and users of the raw
// pointers follow the rule in the type's documentation.
unsafe impl Send for HostMapping {}
// SAFETY: as above; system calls on the range may be made from any thread.
unsafe impl Sync for HostMapping {}

/// Host alignment of a mapping, so that guest and host huge pages can line up.
const ALIGNMENT: usize = 2 << 20;
/// From so many bytes populated at once on, the host may use huge pages: less is asked for by programs that stay small.
const HUGE_BYTES_MIN: u64 = 512 << 10;

impl HostMapping {
    /// Reserves `length` bytes of address space without any memory behind them.
    pub(crate) fn reserve(length: u64) -> Result<Self, PlatformError> {
        let too_large = || host_error("mmap of guest memory", io::Error::from_raw_os_error(libc::ENOMEM));
        let length = usize::try_from(length).map_err(|_| too_large())?;
        let padded = length.checked_add(ALIGNMENT).ok_or_else(too_large)?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice affects no existing memory.
        let base = unsafe { libc::mmap(ptr::null_mut(), padded, libc::PROT_NONE, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(host_error("mmap of guest memory", io::Error::last_os_error()));
        }
        let lead = base.align_offset(ALIGNMENT);
        let start = base.wrapping_byte_add(lead);
        let end = start.wrapping_byte_add(length);
        for (address, size) in [(base, lead), (end, padded - lead - length)] {
            if size > 0 {
                // SAFETY: the range is the unused head or tail of the mapping just made; nothing points into it.
                unsafe { libc::munmap(address, size) };
            }
        }
        Ok(Self { start: start.cast(), length, files_end: AtomicU64::new(0), flushing: Mutex::new(()) })
    }

    /// The host address of `offset`, valid for `length` bytes. Panics when the range leaves the mapping.
    pub(crate) fn pointer(&self, offset: u64, length: usize) -> *mut u8 {
        let offset = usize::try_from(offset).ok().filter(|&offset| offset <= self.length);
        let offset = offset.filter(|&offset| length <= self.length - offset).expect("range inside the host mapping");
        // SAFETY: `offset` is at most the length of the mapping (checked above).
        unsafe { self.start.add(offset) }
    }

    /// Makes a range accessible; it reads as zero until written.
    pub(crate) fn enable(&self, offset: u64, length: u64) -> Result<(), PlatformError> {
        self.set_protection(offset, length, libc::PROT_READ | libc::PROT_WRITE)
            .map_err(|source| host_error("mprotect of guest memory", source))
    }

    /// Puts pages of a file into an accessible range, which nobody has written: private, so that writing leaves the file as
    /// it is. The file must not become shorter again.
    pub(crate) fn map_file(&self, offset: u64, length: u64, file: BorrowedFd<'_>, position: u64) -> io::Result<()> {
        let file_length = u64::try_from(rustix::fs::fstat(file)?.st_size).unwrap_or(0);
        if position.checked_add(length).is_none_or(|end| end > file_length) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let position = libc::off_t::try_from(position).map_err(|_| io::ErrorKind::InvalidInput)?;
        let bytes = byte_count(length);
        let address = self.pointer(offset, bytes);
        self.files_end.fetch_max(offset + length, Ordering::AcqRel);
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_FIXED);
        // SAFETY: the range is inside our own mapping, in which no references exist; it stays readable and writable. The file
        // is long enough (checked above) and, as the caller says, stays so.
        let result = unsafe { libc::mmap(address.cast(), bytes, protection, flags, file.as_raw_fd(), position) };
        if result == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Gives the memory behind a range of whole pages back to the host; it reads as zero afterwards.
    pub(crate) fn discard(&self, offset: u64, length: u64) {
        let bytes = byte_count(length);
        let address = self.pointer(offset, bytes);
        if offset < self.files_end.load(Ordering::Acquire) {
            // Pages of a file would come back. Mapping other ones would take a mapping of the host's for each range, of which
            // there may not be many.
            // SAFETY: the range is inside our own mapping, is writable, and no references into it exist.
            unsafe { ptr::write_bytes(address, 0, bytes) };
            return;
        }
        // SAFETY: the range is inside our private anonymous mapping, in which no references exist.
        let result = unsafe { libc::madvise(address.cast(), bytes, libc::MADV_DONTNEED) };
        assert_eq!(result, 0, "madvise of guest memory: {}", io::Error::last_os_error());
    }

    /// Puts host memory behind a range of whole pages at once. One fault of the host for each page is saved, and where KVM
    /// shadows the guest's page tables it follows several entries at a fault if there is memory behind them: a first touch
    /// costs a fifth.
    pub(crate) fn populate(&self, offset: u64, length: u64) {
        if length >= HUGE_BYTES_MIN {
            self.allow_huge_pages(offset, length);
        }
        self.populate_pages(offset, length);
    }

    /// As [`HostMapping::populate`], in small pages.
    pub(crate) fn populate_pages(&self, offset: u64, length: u64) {
        let bytes = byte_count(length);
        let address = self.pointer(offset, bytes);
        // SAFETY: the range is inside our private anonymous mapping; its content stays as it is.
        // The call is new in Linux 5.14 and may lack memory: without it pages come when they are touched.
        let _ = unsafe { libc::madvise(address.cast(), bytes, libc::MADV_POPULATE_WRITE) };
    }

    /// Maps pages of files that will only be read, as [`HostMapping::populate`] does for those that will be written.
    pub(crate) fn read_ahead(&self, offset: u64, length: u64) {
        let bytes = byte_count(length);
        let address = self.pointer(offset, bytes);
        // SAFETY: the range is inside our private mapping; its content stays as it is. As above, without it pages come later.
        let _ = unsafe { libc::madvise(address.cast(), bytes, libc::MADV_POPULATE_READ) };
    }

    /// Which pages, from the first on as far as pages of files are mapped, have been used: whether each is in this process's
    /// page tables (`Documentation/admin-guide/mm/pagemap.rst` of Linux). `pagemap` is `/proc/self/pagemap`.
    pub(crate) fn present_file_pages(&self, pagemap: &File) -> io::Result<Vec<bool>> {
        /// Bytes of an entry.
        const ENTRY: u64 = 8;
        const IS_PRESENT: u64 = 1 << 63;
        let first = self.start as u64 / PAGE;
        let mut bytes = vec![0; byte_count(self.files_end.load(Ordering::Acquire) / PAGE * ENTRY)];
        pagemap.read_exact_at(&mut bytes, first * ENTRY)?;
        let (entries, _) = bytes.as_chunks::<{ ENTRY as usize }>();
        Ok(entries.iter().map(|entry| u64::from_ne_bytes(*entry) & IS_PRESENT != 0).collect())
    }

    /// Lets the host back the huge pages around a range as such, also where only a part of one is asked for: a program that
    /// grows so fast will want the rest next.
    fn allow_huge_pages(&self, offset: u64, length: u64) {
        let start = offset / ALIGNMENT as u64 * ALIGNMENT as u64;
        let end = (offset + length).next_multiple_of(ALIGNMENT as u64).min(self.length as u64);
        let bytes = byte_count(end - start);
        let address = self.pointer(start, bytes);
        // SAFETY: the range is inside our private anonymous mapping; its content stays as it is. A host without huge pages
        // refuses, which changes nothing.
        let _ = unsafe { libc::madvise(address.cast(), bytes, libc::MADV_HUGEPAGE) };
    }

    /// Makes KVM forget every translation to the pages of a range.
    ///
    /// KVM builds shadow pages and TLB entries from the guest's page tables but does not see our writes to them. It does
    /// follow changes of the *host's* mapping: `mprotect` runs the MMU notifier, which drops what KVM has derived for
    /// these pages on every virtual CPU before it returns. So the protection is changed and changed back. For the
    /// moment between, the pages stay writable (the monitor's own copies go on) but not readable, and a virtual CPU
    /// that touches them gets `EFAULT`, waits ([`HostMapping::wait_for_flush`]) and retries.
    pub(crate) fn flush_translations(&self, offset: u64, length: u64) {
        let _guard = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        let flushed = self.set_protection(offset, length, libc::PROT_WRITE);
        let restored = self.set_protection(offset, length, libc::PROT_READ | libc::PROT_WRITE);
        // Splitting the mapping needs kernel memory. A guest must not go on with translations that should be gone, so
        // a host without any is the end of this machine.
        for result in [flushed, restored] {
            result.unwrap_or_else(|error| panic!("cannot flush translations of guest memory: {error}"));
        }
    }

    /// Returns when no flush is in progress.
    pub(crate) fn wait_for_flush(&self) {
        drop(self.flushing.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn set_protection(&self, offset: u64, length: u64, protection: libc::c_int) -> io::Result<()> {
        debug_assert!(offset.is_multiple_of(PAGE) && length.is_multiple_of(PAGE));
        let bytes = byte_count(length);
        let address = self.pointer(offset, bytes);
        // SAFETY: the range is inside our own mapping, and code that copies to or from it through raw pointers only
        // reaches ranges that stay writable (see `flush_translations`).
        if unsafe { libc::mprotect(address.cast(), bytes, protection) } == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }
}

impl Drop for HostMapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and whoever could use a pointer into it holds a reference to `self`; KVM holds
        // its own reference to the address space and faults on the hole.
        unsafe { libc::munmap(self.start.cast(), self.length) };
    }
}

fn byte_count(length: u64) -> usize {
    usize::try_from(length).expect("64-bit host")
}

/// [`PlatformError::Host`] for an operation.
pub(crate) fn host_error(operation: &'static str, source: io::Error) -> PlatformError {
    PlatformError::Host { operation, source }
}

/// [`PlatformError::Host`] for an ioctl.
pub(crate) fn ioctl_error(operation: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> PlatformError {
    move |error| host_error(operation, error.into())
}
