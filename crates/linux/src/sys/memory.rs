//! Memory: `mmap(2)` and its family. The work is done in [`crate::mm`].

use calypte_platform::{PAGE_SIZE, Protection};

use crate::call::Call;
use crate::errno::Errno;
use crate::frames::Frames;
use crate::limits::Resource;
use crate::mm::{MapRequest, Placement, Source, Space};
use crate::outcome::SysResult;
use crate::sys::entry;
use crate::table::SystemCall;

/// The family's calls.
pub const CALLS: &[SystemCall] = &[
    entry(9, "mmap", mmap),
    entry(10, "mprotect", mprotect),
    entry(11, "munmap", munmap),
    entry(12, "brk", brk),
    entry(25, "mremap", mremap),
    entry(26, "msync", msync),
    entry(27, "mincore", mincore),
    entry(28, "madvise", madvise),
    entry(149, "mlock", mlock),
    entry(150, "munlock", munlock),
    entry(151, "mlockall", mlockall),
    entry(152, "munlockall", munlockall),
    entry(324, "membarrier", membarrier),
    entry(325, "mlock2", mlock),
];

const PROT_KNOWN: u64 = 0x0f; // with PROT_SEM
const PROT_GROWS_DOWN: u64 = 0x0100_0000;
const MAP_SHARED: u64 = 1;
const MAP_PRIVATE: u64 = 2;
const MAP_SHARED_VALIDATE: u64 = 3;
const MAP_TYPE: u64 = 0xf;
const MAP_FIXED: u64 = 0x10;
const MAP_ANONYMOUS: u64 = 0x20;
const MAP_NORESERVE: u64 = 0x4000;
const MAP_POPULATE: u64 = 0x8000;
const MAP_HUGETLB: u64 = 0x4_0000;
const MAP_SYNC: u64 = 0x8_0000;
const MAP_FIXED_NOREPLACE: u64 = 0x10_0000;
const O_ACCMODE: u32 = 3;
const O_RDONLY: u32 = 0;
const O_WRONLY: u32 = 1;
/// Most pages that one `mincore` looks at: 4 GiB of addresses.
const MINCORE_PAGES_MAX: u64 = 1 << 20;

/// The caller's address space and the frames.
fn memory<'c>(call: &'c mut Call<'_>) -> (&'c mut Space, &'c mut Frames) {
    let id = call.process().space;
    (call.kernel.spaces.space(id), &mut call.kernel.frames)
}

fn protection(bits: u64) -> Result<Protection, Errno> {
    if bits & !(PROT_KNOWN | PROT_GROWS_DOWN) != 0 {
        return Err(Errno::EINVAL);
    }
    let mut protection = Protection::empty();
    // The processor cannot express write or execute without read.
    protection.set(Protection::READ, bits & 7 != 0);
    protection.set(Protection::WRITE, bits & 2 != 0);
    protection.set(Protection::EXECUTE, bits & 4 != 0);
    Ok(protection)
}

fn mmap(call: &mut Call<'_>) -> SysResult {
    let [address, length, prot, flags, _, offset] = call.args;
    let kind = flags & MAP_TYPE;
    if length == 0 || !offset.is_multiple_of(PAGE_SIZE as u64) {
        return Err(Errno::EINVAL.into());
    }
    if !matches!(kind, MAP_SHARED | MAP_PRIVATE | MAP_SHARED_VALIDATE) {
        return Err(Errno::EINVAL.into());
    }
    if flags & MAP_HUGETLB != 0 {
        return Err(Errno::ENOMEM.into()); // As on Linux without a pool of huge pages.
    }
    if kind == MAP_SHARED_VALIDATE && flags & MAP_SYNC != 0 {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let protection = protection(prot & !8)?;
    check_room(call, length, protection, flags)?;
    let placement = if flags & MAP_FIXED_NOREPLACE != 0 {
        Placement::FixedNoReplace
    } else if flags & MAP_FIXED != 0 {
        Placement::Fixed
    } else {
        Placement::Hint
    };
    let is_shared = kind != MAP_PRIVATE;
    let (source, may_write) = if flags & MAP_ANONYMOUS != 0 {
        (Source::Anonymous, true)
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
        populate: flags & MAP_POPULATE != 0,
        name: "",
    };
    let (space, frames) = memory(call);
    Ok(space.map(frames, request)?)
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
    if limit != crate::limits::UNLIMITED && memory(call).0.size().saturating_add(length) > limit {
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
    if is_shared && may_write {
        mapping = mapping.into_shared(protection.contains(Protection::WRITE))?;
        may_write = mapping.may_be_written();
    }
    let source = if mapping.is_zero() { Source::Anonymous } else { Source::File { mapping, offset } };
    Ok((source, may_write))
}

fn munmap(call: &mut Call<'_>) -> SysResult {
    let [address, length, ..] = call.args;
    let (space, frames) = memory(call);
    space.unmap(frames, address, length)?;
    Ok(0)
}

fn mprotect(call: &mut Call<'_>) -> SysResult {
    let [address, length, prot, ..] = call.args;
    let protection = protection(prot & !8)?;
    memory(call).0.protect(address, length, protection)?;
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
    let [old, old_length, new_length, flags, new, _] = call.args;
    if flags & !(MAY_MOVE | FIXED) != 0 || flags & (MAY_MOVE | FIXED) == FIXED {
        return Err(Errno::EINVAL.into());
    }
    let growth = new_length.saturating_sub(old_length);
    check_room(call, growth, Protection::WRITE, MAP_PRIVATE)?;
    let fixed = (flags & FIXED != 0).then_some(new);
    let (space, frames) = memory(call);
    Ok(space.remap(frames, old, old_length, new_length, flags & MAY_MOVE != 0, fixed)?)
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
    memory(call).0.check_mapped(address, length)?;
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

fn madvise(call: &mut Call<'_>) -> SysResult {
    const WILLNEED: i32 = 3;
    const DONTNEED: i32 = 4;
    const FREE: i32 = 8;
    const POPULATE: [i32; 2] = [22, 23];
    /// Normal, random, sequential; fork and dump behaviour; huge pages, merging; cold, page-out.
    const WITHOUT_EFFECT: [i32; 13] = [0, 1, 2, 10, 11, 12, 13, 14, 15, 16, 17, 20, 21];
    let [address, length, ..] = call.args;
    let advice = call.int(2);
    let (space, frames) = memory(call);
    match advice {
        DONTNEED | FREE => space.discard(frames, address, length)?,
        // A hint only: pages come when they are used.
        WILLNEED => space.check_mapped(address, length)?,
        advice if POPULATE.contains(&advice) => space.populate(frames, address, length)?,
        advice if WITHOUT_EFFECT.contains(&advice) => space.check_mapped(address, length)?,
        _ => return Err(Errno::EINVAL.into()),
    }
    Ok(0)
}

fn mlock(call: &mut Call<'_>) -> SysResult {
    let [address, length, ..] = call.args;
    let start = address / PAGE_SIZE as u64 * PAGE_SIZE as u64;
    let length = length.saturating_add(address - start);
    if length > call.process().limits.get(Resource::LockedMemory).soft {
        return Err(Errno::ENOMEM.into());
    }
    // Guest memory is never paged out by the guest: locking is populating.
    let (space, frames) = memory(call);
    space.populate(frames, start, length)?;
    Ok(0)
}

fn munlock(call: &mut Call<'_>) -> SysResult {
    let [address, length, ..] = call.args;
    let start = address / PAGE_SIZE as u64 * PAGE_SIZE as u64;
    memory(call).0.check_mapped(start, length.saturating_add(address - start))?;
    Ok(0)
}

fn mlockall(call: &mut Call<'_>) -> SysResult {
    const KNOWN: u64 = 7;
    const ON_FAULT: u64 = 4;
    match call.args[0] {
        0 | ON_FAULT => Err(Errno::EINVAL.into()),
        flags if flags & !KNOWN != 0 => Err(Errno::EINVAL.into()),
        _ => Ok(0),
    }
}

fn munlockall(_call: &mut Call<'_>) -> SysResult {
    Ok(0)
}

/// Offered where it is trivial, with one virtual CPU: no other thread runs, and switching threads is a barrier.
fn membarrier(call: &mut Call<'_>) -> SysResult {
    const QUERY: i32 = 0;
    /// Global, expedited and instruction barriers with their registrations.
    const COMMANDS: u64 = 0x7f;
    let supported = if call.kernel.scheduler.vcpu_count() == 1 { COMMANDS } else { 0 };
    let command = call.int(0);
    if call.args[1] != 0 {
        return Err(Errno::EINVAL.into());
    }
    if command == QUERY {
        return Ok(supported);
    }
    let is_supported = command.count_ones() == 1 && u64::from(command.cast_unsigned()) & supported != 0;
    if is_supported { Ok(0) } else { Err(Errno::EINVAL.into()) }
}
