//! Memory: `mmap(2)` and its family. The work is done in [`crate::mm`]; see also [`super::advice`].

use calypte_platform::{PAGE_SIZE, Protection};

use crate::call::Call;
use crate::errno::Errno;
use crate::file::Mapping;
use crate::frames::Frames;
use crate::fs;
use crate::fs::tmp::Content;
use crate::limits::{Resource, UNLIMITED};
use crate::mm::{MapRequest, Placement, RemapRequest, Source, Space};
use crate::outcome::SysResult;
use crate::sys::entry;
use crate::table::SystemCall;

/// The family's calls.
pub const CALLS: &[SystemCall] = &[
    entry(9, "mmap", mmap).supports(
        "all flags but `MAP_HUGETLB` (`ENOMEM`) and `MAP_SYNC` (`EOPNOTSUPP`); host files may not be mapped both shared and \
         writable (`EACCES`)",
    ),
    entry(10, "mprotect", mprotect).supports("no `PROT_GROWSUP`; write and execute imply read"),
    entry(11, "munmap", munmap),
    entry(12, "brk", brk),
    entry(25, "mremap", mremap),
    entry(26, "msync", msync),
    entry(27, "mincore", mincore).supports(
        "pages that have content are there; more than 4 GiB of addresses are EAGAIN",
    ),
];

const PROT_KNOWN: u64 = 0x0f; // with PROT_SEM
const PROT_ACCESS: u64 = 7;
const PROT_GROWS_DOWN: u64 = 0x0100_0000;
const MAP_SHARED: u64 = 1;
const MAP_PRIVATE: u64 = 2;
const MAP_SHARED_VALIDATE: u64 = 3;
const MAP_TYPE: u64 = 0xf;
const MAP_FIXED: u64 = 0x10;
const MAP_ANONYMOUS: u64 = 0x20;
const MAP_32BIT: u64 = 0x40;
const MAP_GROWSDOWN: u64 = 0x100;
const MAP_LOCKED: u64 = 0x2000;
const MAP_NORESERVE: u64 = 0x4000;
const MAP_POPULATE: u64 = 0x8000;
const MAP_NONBLOCK: u64 = 0x1_0000;
/// Flags that `MAP_SHARED_VALIDATE` knows, besides those of the type: all that Linux lists, less `MAP_SYNC`.
const MAP_KNOWN: u64 = 0x1f_f973 & !MAP_SYNC;
/// Where areas end that are asked for with `MAP_32BIT`.
const TOP_32BIT: u64 = 0x8000_0000;
const MAP_HUGETLB: u64 = 0x4_0000;
const MAP_SYNC: u64 = 0x8_0000;
const MAP_FIXED_NOREPLACE: u64 = 0x10_0000;
const O_ACCMODE: u32 = 3;
const O_RDONLY: u32 = 0;
const O_WRONLY: u32 = 1;
/// Most pages that one `mincore` looks at: 4 GiB of addresses.
const MINCORE_PAGES_MAX: u64 = 1 << 20;

/// The caller's address space and the frames.
pub(super) fn memory<'c>(call: &'c mut Call<'_>) -> (&'c mut Space, &'c mut Frames) {
    let id = call.process().space;
    (call.kernel.spaces.space(id), &mut call.kernel.frames)
}

fn protection(bits: u64) -> Protection {
    let mut protection = Protection::empty();
    // The processor cannot express write or execute without read.
    protection.set(Protection::READ, bits & PROT_ACCESS != 0);
    protection.set(Protection::WRITE, bits & 2 != 0);
    protection.set(Protection::EXECUTE, bits & 4 != 0);
    protection
}

fn mmap(call: &mut Call<'_>) -> SysResult {
    let [address, length, prot, flags, _, offset] = call.args;
    let kind = flags & MAP_TYPE;
    if !offset.is_multiple_of(PAGE_SIZE as u64) {
        return Err(Errno::EINVAL.into());
    }
    if flags & MAP_ANONYMOUS == 0 {
        let fd = call.int(4);
        call.process().files.get(fd)?;
    }
    let is_validated = kind == MAP_SHARED_VALIDATE && flags & MAP_ANONYMOUS == 0;
    if length == 0 || !is_validated && !matches!(kind, MAP_SHARED | MAP_PRIVATE) {
        return Err(Errno::EINVAL.into());
    }
    if flags & MAP_HUGETLB != 0 {
        return Err(Errno::ENOMEM.into()); // As on Linux without a pool of huge pages.
    }
    if is_validated && flags & !MAP_KNOWN != 0 {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let protection = protection(prot);
    check_room(call, length, protection, flags)?;
    let is_locked = flags & MAP_LOCKED != 0 || memory(call).0.locks_future();
    if flags & MAP_LOCKED != 0 {
        locked_limit(call)?;
    }
    if is_locked && locked_room(call).unwrap_or(0) < length {
        return Err(Errno::EAGAIN.into());
    }
    let placement = if flags & MAP_FIXED_NOREPLACE != 0 {
        Placement::FixedNoReplace
    } else if flags & MAP_FIXED != 0 {
        Placement::Fixed
    } else {
        Placement::Hint
    };
    let is_shared = kind != MAP_PRIVATE;
    if is_shared && flags & MAP_GROWSDOWN != 0 {
        return Err(Errno::EINVAL.into());
    }
    let (source, may_write) = if flags & MAP_ANONYMOUS != 0 {
        (anonymous_source(call, is_shared, length)?, true)
    } else {
        file_source(call, protection, is_shared, length, offset)?
    };
    let request = MapRequest {
        address,
        length,
        placement,
        protection,
        is_shared,
        may_write,
        source,
        populate: flags & (MAP_POPULATE | MAP_NONBLOCK) == MAP_POPULATE,
        grows_down: flags & MAP_GROWSDOWN != 0,
        is_locked,
        top: if flags & MAP_32BIT != 0 { TOP_32BIT } else { u64::MAX },
        name: "",
    };
    let (space, frames) = memory(call);
    Ok(space.map(frames, request)?)
}

/// Zeros: shared ones are those of a file without a name, so that processes made by `fork` see the same.
fn anonymous_source(call: &mut Call<'_>, is_shared: bool, length: u64) -> Result<Source, Errno> {
    if !is_shared {
        return Ok(Source::Anonymous);
    }
    let owner = fs::open::owner(call.kernel, call.pid)?;
    let inode = call.kernel.files.scratch().clone().create_regular(0o777, owner).map_err(|_| Errno::ENOMEM)?;
    let size = length.checked_next_multiple_of(PAGE_SIZE as u64).ok_or(Errno::ENOMEM)?;
    if let Content::Regular(pages) = &mut inode.state().content {
        pages.truncate(&mut call.kernel.frames, size).map_err(|_| Errno::ENOMEM)?;
    }
    Ok(Source::File { mapping: Mapping::of_tmp(inode, b"/dev/zero (deleted)".as_slice().into()), offset: 0 })
}

/// How many bytes the process may lock. Root may lock all there is; who may lock nothing is told so.
pub(super) fn locked_limit(call: &mut Call<'_>) -> Result<u64, Errno> {
    let process = call.process();
    if process.credentials.uid_effective == 0 {
        return Ok(u64::MAX);
    }
    match process.limits.get(Resource::LockedMemory).soft {
        0 => Err(Errno::EPERM),
        limit => Ok(limit),
    }
}

/// How many more bytes the process may lock.
pub(super) fn locked_room(call: &mut Call<'_>) -> Result<u64, Errno> {
    let limit = locked_limit(call)?;
    Ok(limit.saturating_sub(memory(call).0.locked_bytes(0, u64::MAX)))
}

/// Refuses what cannot be meant: more private memory at once than there is (as `vm.overcommit_memory` 0 does), and more
/// addresses than `RLIMIT_AS`.
fn check_room(call: &mut Call<'_>, length: u64, protection: Protection, flags: u64) -> Result<(), Errno> {
    let is_counted =
        protection.contains(Protection::WRITE) && flags & MAP_NORESERVE == 0 && flags & MAP_TYPE == MAP_PRIVATE;
    let frames = &call.kernel.frames;
    let memory_bytes = u64::from(frames.limit(crate::frames::Charge::Memory)) * PAGE_SIZE as u64;
    if is_counted && length > memory_bytes {
        return Err(Errno::ENOMEM);
    }
    let limit = call.process().limits.get(Resource::AddressSpace).soft;
    if limit != UNLIMITED && memory(call).0.size().saturating_add(length) > limit {
        return Err(Errno::ENOMEM);
    }
    let limit = call.process().limits.get(Resource::Data).soft;
    let is_data = protection.contains(Protection::WRITE) && flags & MAP_TYPE == MAP_PRIVATE;
    if is_data && limit != UNLIMITED && memory(call).0.data_size().saturating_add(length) > limit {
        return Err(Errno::ENOMEM);
    }
    Ok(())
}

fn file_source(
    call: &mut Call<'_>,
    protection: Protection,
    is_shared: bool,
    length: u64,
    offset: u64,
) -> Result<(Source, bool), Errno> {
    let fd = call.int(4);
    if offset.checked_add(length).is_none_or(|end| i64::try_from(end).is_err()) {
        return Err(Errno::EOVERFLOW);
    }
    let file = call.process().files.get(fd)?;
    let access = file.flags() & O_ACCMODE;
    let mut may_write = !is_shared || access != O_RDONLY;
    if access == O_WRONLY || (protection.contains(Protection::WRITE) && !may_write) {
        return Err(Errno::EACCES);
    }
    let mut mapping = file.mapping()?;
    if mapping.is_zero() {
        return Ok((anonymous_source(call, is_shared, length)?, true));
    }
    if is_shared && may_write {
        mapping = mapping.into_shared(protection.contains(Protection::WRITE))?;
        may_write = mapping.may_be_written();
    }
    Ok((Source::File { mapping, offset }, may_write))
}

fn munmap(call: &mut Call<'_>) -> SysResult {
    let [address, length, ..] = call.args;
    let (space, frames) = memory(call);
    space.unmap(frames, address, length)?;
    Ok(0)
}

fn mprotect(call: &mut Call<'_>) -> SysResult {
    let [address, length, prot, ..] = call.args;
    if prot & !(PROT_KNOWN | PROT_GROWS_DOWN) != 0 || !address.is_multiple_of(PAGE_SIZE as u64) {
        return Err(Errno::EINVAL.into());
    }
    let (space, frames) = memory(call);
    let start = if prot & PROT_GROWS_DOWN != 0 && length > 0 { space.start_of_growing(address)? } else { address };
    space.protect(frames, start, length.saturating_add(address - start), protection(prot))?;
    Ok(0)
}

fn brk(call: &mut Call<'_>) -> SysResult {
    let wanted = call.args[0];
    let bytes_max = call.process().limits.get(Resource::Data).soft;
    let current = memory(call).0.break_end();
    if check_room(call, wanted.saturating_sub(current), Protection::WRITE, MAP_PRIVATE).is_err() {
        return Ok(current);
    }
    let (space, frames) = memory(call);
    Ok(space.set_break_end(frames, wanted, bytes_max))
}

fn mremap(call: &mut Call<'_>) -> SysResult {
    const MAY_MOVE: u64 = 1;
    const FIXED: u64 = 2;
    const DONT_UNMAP: u64 = 4;
    let [old, old_length, new_length, flags, new, _] = call.args;
    let has = |flag: u64| flags & flag != 0;
    if flags & !(MAY_MOVE | FIXED | DONT_UNMAP) != 0 || has(FIXED | DONT_UNMAP) && !has(MAY_MOVE) {
        return Err(Errno::EINVAL.into());
    }
    let growth = if has(DONT_UNMAP) { new_length } else { new_length.saturating_sub(old_length) };
    check_room(call, growth, Protection::WRITE, MAP_PRIVATE)?;
    let old_end = old.saturating_add(old_length);
    if growth > 0 && memory(call).0.locked_bytes(old, old_end) > 0 && locked_room(call).unwrap_or(0) < growth {
        return Err(Errno::EAGAIN.into());
    }
    let request = RemapRequest {
        old,
        old_length,
        new_length,
        may_move: has(MAY_MOVE),
        target: has(FIXED | DONT_UNMAP).then_some(new),
        is_fixed: has(FIXED),
        keeps_old: has(DONT_UNMAP),
    };
    let (space, frames) = memory(call);
    Ok(space.remap(frames, &request)?)
}

fn msync(call: &mut Call<'_>) -> SysResult {
    const ASYNC: u64 = 1;
    const INVALIDATE: u64 = 2;
    const SYNC: u64 = 4;
    let [address, length, flags, ..] = call.args;
    if flags & !(ASYNC | INVALIDATE | SYNC) != 0 || flags & (ASYNC | SYNC) == ASYNC | SYNC {
        return Err(Errno::EINVAL.into());
    }
    // Shared pages are the file's own pages: there is nothing to write back.
    let space = memory(call).0;
    space.check_mapped(address, length)?;
    if flags & INVALIDATE != 0 && space.locked_bytes(address, address.saturating_add(length)) > 0 {
        return Err(Errno::EBUSY.into());
    }
    Ok(0)
}

fn mincore(call: &mut Call<'_>) -> SysResult {
    let [address, length, result, ..] = call.args;
    if !address.is_multiple_of(PAGE_SIZE as u64) {
        return Err(Errno::EINVAL.into());
    }
    let pages = length.div_ceil(PAGE_SIZE as u64);
    if pages > MINCORE_PAGES_MAX {
        return Err(Errno::EAGAIN.into());
    }
    let (space, _) = memory(call);
    space.check_mapped(address, length)?;
    let resident = space.residency(address, pages);
    call.write_bytes(result, &resident)?;
    Ok(0)
}
