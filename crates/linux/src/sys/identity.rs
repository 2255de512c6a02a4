//! Users, groups and capabilities of a process (`credentials(7)`). The guest's root may change itself into anybody; it is
//! nobody outside the guest.

use zerocopy::IntoBytes;

use crate::call::Call;
use crate::credentials::{Credentials, GROUPS_MAX};
use crate::errno::Errno;
use crate::outcome::SysResult;
use crate::sys::entry;
use crate::table::SystemCall;

/// The family's calls.
pub const CALLS: &[SystemCall] = &[
    entry(102, "getuid", getuid),
    entry(104, "getgid", getgid),
    entry(105, "setuid", setuid),
    entry(106, "setgid", setgid),
    entry(107, "geteuid", geteuid),
    entry(108, "getegid", getegid),
    entry(113, "setreuid", setreuid),
    entry(114, "setregid", setregid),
    entry(115, "getgroups", getgroups),
    entry(116, "setgroups", setgroups).supports("at most 64 groups (EINVAL)"),
    entry(117, "setresuid", setresuid),
    entry(118, "getresuid", getresuid),
    entry(119, "setresgid", setresgid),
    entry(120, "getresgid", getresgid),
    entry(122, "setfsuid", setfsuid),
    entry(123, "setfsgid", setfsgid),
    entry(125, "capget", capget).supports("no process has capabilities: all sets are empty"),
    entry(126, "capset", capset).supports("empty sets of the caller; others are EPERM"),
];

/// "Leave it as it is."
const UNCHANGED: u32 = u32::MAX;

fn getuid(call: &mut Call<'_>) -> SysResult {
    Ok(u64::from(call.process().credentials.uid))
}

fn geteuid(call: &mut Call<'_>) -> SysResult {
    Ok(u64::from(call.process().credentials.uid_effective))
}

fn getgid(call: &mut Call<'_>) -> SysResult {
    Ok(u64::from(call.process().credentials.gid))
}

fn getegid(call: &mut Call<'_>) -> SysResult {
    Ok(u64::from(call.process().credentials.gid_effective))
}

/// The three ids of one kind: real, effective, saved.
type Ids = [u32; 3];

fn user_ids(credentials: &Credentials) -> Ids {
    [credentials.uid, credentials.uid_effective, credentials.uid_saved]
}

fn group_ids(credentials: &Credentials) -> Ids {
    [credentials.gid, credentials.gid_effective, credentials.gid_saved]
}

/// Anybody but root may only take an id out of those that he has.
fn check(wanted: u32, allowed: &[u32], is_root: bool) -> Result<(), Errno> {
    if is_root || wanted == UNCHANGED || allowed.contains(&wanted) { Ok(()) } else { Err(Errno::EPERM) }
}

fn or(wanted: u32, current: u32) -> u32 {
    if wanted == UNCHANGED { current } else { wanted }
}

/// The ids after `setuid(2)`: root gives up all three, others change the effective one.
fn with_one(ids: Ids, wanted: u32, is_root: bool) -> Result<Ids, Errno> {
    if wanted == UNCHANGED {
        return Err(Errno::EINVAL);
    }
    check(wanted, &[ids[0], ids[2]], is_root)?;
    Ok(if is_root { [wanted; 3] } else { [ids[0], wanted, ids[2]] })
}

/// The ids after `setreuid(2)`. The saved id follows the effective one when the real id is set, or the effective one to
/// something else than the real id was.
fn with_two(ids: Ids, [real, effective]: [u32; 2], is_root: bool) -> Result<Ids, Errno> {
    check(real, &ids[..2], is_root)?;
    check(effective, &ids, is_root)?;
    let is_saved = real != UNCHANGED || effective != UNCHANGED && effective != ids[0];
    let effective = or(effective, ids[1]);
    Ok([or(real, ids[0]), effective, if is_saved { effective } else { ids[2] }])
}

/// The ids after `setresuid(2)`.
fn with_three(ids: Ids, wanted: Ids, is_root: bool) -> Result<Ids, Errno> {
    wanted.iter().try_for_each(|id| check(*id, &ids, is_root))?;
    Ok(std::array::from_fn(|index| or(wanted[index], ids[index])))
}

/// Changes the credentials; who becomes somebody else keeps no wish about its parent's end, and nobody may look into it.
fn set(call: &mut Call<'_>, change: impl FnOnce(&mut Credentials, bool) -> Result<(), Errno>) -> SysResult {
    let process = call.process();
    let before = process.credentials.clone();
    change(&mut process.credentials, before.uid_effective == 0)?;
    let seen = |credentials: &Credentials| {
        [credentials.uid_effective, credentials.uid_file, credentials.gid_effective, credentials.gid_file]
    };
    if seen(&before) != seen(&process.credentials) {
        process.settings.is_dumpable = false;
        process.settings.parent_death_signal = 0;
    }
    Ok(0)
}

fn set_users(call: &mut Call<'_>, change: impl FnOnce(Ids, bool) -> Result<Ids, Errno>) -> SysResult {
    set(call, |credentials, is_root| {
        let ids = change(user_ids(credentials), is_root)?;
        [credentials.uid, credentials.uid_effective, credentials.uid_saved] = ids;
        credentials.uid_file = credentials.uid_effective;
        Ok(())
    })
}

fn set_groups_of(call: &mut Call<'_>, change: impl FnOnce(Ids, bool) -> Result<Ids, Errno>) -> SysResult {
    set(call, |credentials, is_root| {
        let ids = change(group_ids(credentials), is_root)?;
        [credentials.gid, credentials.gid_effective, credentials.gid_saved] = ids;
        credentials.gid_file = credentials.gid_effective;
        Ok(())
    })
}

fn setuid(call: &mut Call<'_>) -> SysResult {
    let id = call.args[0] as u32;
    set_users(call, |ids, is_root| with_one(ids, id, is_root))
}

fn setgid(call: &mut Call<'_>) -> SysResult {
    let id = call.args[0] as u32;
    set_groups_of(call, |ids, is_root| with_one(ids, id, is_root))
}

fn setreuid(call: &mut Call<'_>) -> SysResult {
    let wanted = [call.args[0] as u32, call.args[1] as u32];
    set_users(call, |ids, is_root| with_two(ids, wanted, is_root))
}

fn setregid(call: &mut Call<'_>) -> SysResult {
    let wanted = [call.args[0] as u32, call.args[1] as u32];
    set_groups_of(call, |ids, is_root| with_two(ids, wanted, is_root))
}

fn setresuid(call: &mut Call<'_>) -> SysResult {
    let wanted = [call.args[0] as u32, call.args[1] as u32, call.args[2] as u32];
    set_users(call, |ids, is_root| with_three(ids, wanted, is_root))
}

fn setresgid(call: &mut Call<'_>) -> SysResult {
    let wanted = [call.args[0] as u32, call.args[1] as u32, call.args[2] as u32];
    set_groups_of(call, |ids, is_root| with_three(ids, wanted, is_root))
}

fn write_ids(call: &mut Call<'_>, ids: Ids) -> SysResult {
    for (index, id) in ids.iter().enumerate() {
        call.write(call.args[index], id)?;
    }
    Ok(0)
}

fn getresuid(call: &mut Call<'_>) -> SysResult {
    let ids = user_ids(&call.process().credentials);
    write_ids(call, ids)
}

fn getresgid(call: &mut Call<'_>) -> SysResult {
    let ids = group_ids(&call.process().credentials);
    write_ids(call, ids)
}

/// What `setfsuid(2)` makes of the id for files: what may not be is left as it is.
fn file_id(current: u32, allowed: Ids, is_root: bool, wanted: u32) -> u32 {
    let is_allowed = is_root || wanted == current || allowed.contains(&wanted);
    if wanted != UNCHANGED && is_allowed { wanted } else { current }
}

/// `setfsuid(2)` and `setfsgid(2)` give the id before, whether or not it has changed.
fn setfsuid(call: &mut Call<'_>) -> SysResult {
    let wanted = call.args[0] as u32;
    let before = call.process().credentials.uid_file;
    set(call, |credentials, is_root| {
        credentials.uid_file = file_id(before, user_ids(credentials), is_root, wanted);
        Ok(())
    })?;
    Ok(before.into())
}

fn setfsgid(call: &mut Call<'_>) -> SysResult {
    let wanted = call.args[0] as u32;
    let before = call.process().credentials.gid_file;
    set(call, |credentials, is_root| {
        credentials.gid_file = file_id(before, group_ids(credentials), is_root, wanted);
        Ok(())
    })?;
    Ok(before.into())
}

fn getgroups(call: &mut Call<'_>) -> SysResult {
    let room = call.int(0);
    let groups = call.process().credentials.groups.clone();
    let count = i32::try_from(groups.len()).unwrap_or(i32::MAX);
    if room < 0 || (room > 0 && room < count) {
        return Err(Errno::EINVAL.into());
    }
    if room > 0 {
        call.write_bytes(call.args[1], groups.as_bytes())?;
    }
    Ok(groups.len() as u64)
}

fn setgroups(call: &mut Call<'_>) -> SysResult {
    let count = usize::try_from(call.int(0)).ok().filter(|count| *count <= GROUPS_MAX).ok_or(Errno::EINVAL)?;
    if call.process().credentials.uid_effective != 0 {
        return Err(Errno::EPERM.into());
    }
    let bytes = call.read_bytes(call.args[1], count * size_of::<u32>())?;
    let groups = bytes.chunks_exact(4).map(|id| u32::from_le_bytes(id.try_into().expect("four bytes"))).collect();
    call.process().credentials.groups = groups;
    Ok(0)
}

const CAPABILITY_VERSION_3: u32 = 0x2008_0522;
const CAPABILITY_VERSIONS: [u32; 3] = [0x1998_0330, 0x2007_1026, CAPABILITY_VERSION_3];

/// No process has capabilities, root's rights in the guest's own files apart.
fn capget(call: &mut Call<'_>) -> SysResult {
    let [header_address, data_address, ..] = call.args;
    let [version, pid]: [u32; 2] = call.read(header_address)?;
    if !CAPABILITY_VERSIONS.contains(&version) {
        call.write(header_address, &CAPABILITY_VERSION_3)?;
        return if data_address == 0 { Ok(0) } else { Err(Errno::EINVAL.into()) };
    }
    if pid.cast_signed() < 0 {
        return Err(Errno::EINVAL.into());
    }
    if pid != 0 && !call.kernel.threads.contains_key(&pid) {
        return Err(Errno::ESRCH.into());
    }
    if data_address != 0 {
        let words = if version == CAPABILITY_VERSIONS[0] { 3 } else { 6 };
        call.write_bytes(data_address, &vec![0; words * size_of::<u32>()])?;
    }
    Ok(0)
}

fn capset(call: &mut Call<'_>) -> SysResult {
    let [header_address, data_address, ..] = call.args;
    let [version, tid]: [u32; 2] = call.read(header_address)?;
    if !CAPABILITY_VERSIONS.contains(&version) {
        call.write(header_address, &CAPABILITY_VERSION_3)?;
        return Err(Errno::EINVAL.into());
    }
    let words = if version == CAPABILITY_VERSIONS[0] { 3 } else { 6 };
    if tid != 0 && tid != call.tid {
        return Err(Errno::EPERM.into());
    }
    let data = call.read_bytes(data_address, words * size_of::<u32>())?;
    if data.iter().any(|byte| *byte != 0) { Err(Errno::EPERM.into()) } else { Ok(0) }
}
