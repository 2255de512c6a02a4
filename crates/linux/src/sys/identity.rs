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
    entry(116, "setgroups", setgroups),
    entry(117, "setresuid", setresuid),
    entry(118, "getresuid", getresuid),
    entry(119, "setresgid", setresgid),
    entry(120, "getresgid", getresgid),
    entry(122, "setfsuid", setfsuid),
    entry(123, "setfsgid", setfsgid),
    entry(125, "capget", capget),
    entry(126, "capset", capset),
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

/// The ids after a change, which anybody but root may only make among the ids they have.
fn changed(current: Ids, wanted: Ids, is_root: bool) -> Result<Ids, Errno> {
    if !is_root && wanted.iter().any(|id| *id != UNCHANGED && !current.contains(id)) {
        return Err(Errno::EPERM);
    }
    Ok(std::array::from_fn(|index| if wanted[index] == UNCHANGED { current[index] } else { wanted[index] }))
}

fn set_users(call: &mut Call<'_>, wanted: Ids) -> SysResult {
    let credentials = &mut call.process().credentials;
    let ids = changed(user_ids(credentials), wanted, credentials.uid_effective == 0)?;
    [credentials.uid, credentials.uid_effective, credentials.uid_saved] = ids;
    credentials.uid_file = credentials.uid_effective;
    Ok(0)
}

fn set_groups_of(call: &mut Call<'_>, wanted: Ids) -> SysResult {
    let credentials = &mut call.process().credentials;
    let ids = changed(group_ids(credentials), wanted, credentials.uid_effective == 0)?;
    [credentials.gid, credentials.gid_effective, credentials.gid_saved] = ids;
    credentials.gid_file = credentials.gid_effective;
    Ok(0)
}

fn setuid(call: &mut Call<'_>) -> SysResult {
    let id = call.args[0] as u32;
    if id == UNCHANGED {
        return Err(Errno::EINVAL.into());
    }
    let is_root = call.process().credentials.uid_effective == 0;
    set_users(call, if is_root { [id; 3] } else { [UNCHANGED, id, UNCHANGED] })
}

fn setgid(call: &mut Call<'_>) -> SysResult {
    let id = call.args[0] as u32;
    if id == UNCHANGED {
        return Err(Errno::EINVAL.into());
    }
    let is_root = call.process().credentials.uid_effective == 0;
    set_groups_of(call, if is_root { [id; 3] } else { [UNCHANGED, id, UNCHANGED] })
}

fn setreuid(call: &mut Call<'_>) -> SysResult {
    let [real, effective] = [call.args[0] as u32, call.args[1] as u32];
    // The saved id follows the effective one when either is set (`setreuid(2)`).
    set_users(call, [real, effective, effective])
}

fn setregid(call: &mut Call<'_>) -> SysResult {
    let [real, effective] = [call.args[0] as u32, call.args[1] as u32];
    set_groups_of(call, [real, effective, effective])
}

fn setresuid(call: &mut Call<'_>) -> SysResult {
    let wanted = [call.args[0] as u32, call.args[1] as u32, call.args[2] as u32];
    set_users(call, wanted)
}

fn setresgid(call: &mut Call<'_>) -> SysResult {
    let wanted = [call.args[0] as u32, call.args[1] as u32, call.args[2] as u32];
    set_groups_of(call, wanted)
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

/// `setfsuid(2)` and `setfsgid(2)` give the id before, whether or not it has changed.
fn set_file_id(current: &mut u32, allowed: Ids, is_root: bool, wanted: u32) -> SysResult {
    let before = *current;
    if wanted != UNCHANGED && (is_root || wanted == before || allowed.contains(&wanted)) {
        *current = wanted;
    }
    Ok(before.into())
}

fn setfsuid(call: &mut Call<'_>) -> SysResult {
    let wanted = call.args[0] as u32;
    let credentials = &mut call.process().credentials;
    let (ids, is_root) = (user_ids(credentials), credentials.uid_effective == 0);
    set_file_id(&mut credentials.uid_file, ids, is_root, wanted)
}

fn setfsgid(call: &mut Call<'_>) -> SysResult {
    let wanted = call.args[0] as u32;
    let credentials = &mut call.process().credentials;
    let (ids, is_root) = (group_ids(credentials), credentials.uid_effective == 0);
    set_file_id(&mut credentials.gid_file, ids, is_root, wanted)
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
    let [version, _]: [u32; 2] = call.read(header_address)?;
    if !CAPABILITY_VERSIONS.contains(&version) {
        call.write(header_address, &CAPABILITY_VERSION_3)?;
        return Err(Errno::EINVAL.into());
    }
    let words = if version == CAPABILITY_VERSIONS[0] { 3 } else { 6 };
    let data = call.read_bytes(data_address, words * size_of::<u32>())?;
    if data.iter().any(|byte| *byte != 0) { Err(Errno::EPERM.into()) } else { Ok(0) }
}
