//! `epoll(7)`.

use std::collections::BTreeSet;

use crate::call::Call;
use crate::errno::Errno;
use crate::file::epoll::Epoll;
use crate::file::{Body, OpenFile, READABLE};
use crate::outcome::{Stop, SysResult, Wait};
use crate::sys::entry;
use crate::sys::poll::{replace_mask, timeout_ms, timeout_spec};
use crate::table::SystemCall;

const WAITING: &str = "at most 4096 events a call";

/// The calls of this family.
pub const CALLS: &[SystemCall] = &[
    entry(213, "epoll_create", epoll_create),
    entry(232, "epoll_wait", epoll_wait).supports(WAITING),
    entry(233, "epoll_ctl", epoll_ctl).supports("EPOLLEXCLUSIVE wakes everybody; at most 8 instances in one, 3 deep"),
    entry(281, "epoll_pwait", epoll_pwait).supports(WAITING),
    entry(291, "epoll_create1", epoll_create1),
    entry(441, "epoll_pwait2", epoll_pwait2).supports(WAITING),
];

/// Bytes of `struct epoll_event`, which is packed on x86-64.
const EVENT_BYTES: usize = 12;
/// Most events of one wait (`EP_MAX_EVENTS` is larger; more are left for the next call).
const EVENTS_MAX: i32 = 4096;
/// Largest number of events that a caller may name.
const EVENTS_ARGUMENT_MAX: i32 = i32::MAX / EVENT_BYTES as i32;

fn create(call: &mut Call<'_>, is_closed_on_exec: bool) -> SysResult {
    let epoll = Epoll::new(call.kernel.waits.notifier(), call.kernel.files.buffers());
    let file = OpenFile::anonymous(Body::Epoll(epoll), "anon_inode:[eventpoll]", READABLE, 0);
    Ok(call.install(file, is_closed_on_exec)? as u64)
}

fn epoll_create(call: &mut Call<'_>) -> SysResult {
    if call.int(0) <= 0 {
        return Err(Errno::EINVAL.into());
    }
    create(call, false)
}

fn epoll_create1(call: &mut Call<'_>) -> SysResult {
    match call.int(0) {
        0 => create(call, false),
        libc::EPOLL_CLOEXEC => create(call, true),
        _ => Err(Errno::EINVAL.into()),
    }
}

fn epoll_ctl(call: &mut Call<'_>) -> SysResult {
    let (instance, file) = (call.file(0)?, call.usable_file(2)?);
    let Body::Epoll(epoll) = &instance.body else { return Err(Errno::EINVAL.into()) };
    if std::sync::Arc::ptr_eq(&instance, &file) {
        return Err(Errno::EINVAL.into());
    }
    let fd = call.int(2);
    if call.int(1) == libc::EPOLL_CTL_DEL {
        epoll.delete(fd, &file)?;
        return Ok(0);
    }
    let bytes = call.read::<[u8; EVENT_BYTES]>(call.args[3])?;
    let (events, data) = bytes.split_at(4);
    let events = u32::from_ne_bytes(events.try_into().map_err(|_| Errno::EFAULT)?);
    let data = u64::from_ne_bytes(data.try_into().map_err(|_| Errno::EFAULT)?);
    match call.int(1) {
        libc::EPOLL_CTL_ADD => epoll.add(fd, &file, events, data)?,
        libc::EPOLL_CTL_MOD => epoll.modify(fd, &file, events, data)?,
        _ => return Err(Errno::EINVAL.into()),
    }
    Ok(0)
}

/// Waits for events; `timeout_ns` of `None` is for ever.
fn wait(call: &mut Call<'_>, timeout_ns: Option<u64>) -> SysResult {
    let instance = call.file(0)?;
    let Body::Epoll(epoll) = &instance.body else { return Err(Errno::EINVAL.into()) };
    let count_max = call.int(2);
    if count_max <= 0 || count_max > EVENTS_ARGUMENT_MAX {
        return Err(Errno::EINVAL.into());
    }
    let events = epoll.take_events(call.kernel, count_max.min(EVENTS_MAX) as usize);
    if !events.is_empty() {
        let mut bytes = Vec::with_capacity(events.len() * EVENT_BYTES);
        for event in &events {
            bytes.extend_from_slice(&event.events.to_ne_bytes());
            bytes.extend_from_slice(&event.data.to_ne_bytes());
        }
        call.write_bytes(call.args[1], &bytes)?;
        return Ok(events.len() as u64);
    }
    if timeout_ns == Some(0) || call.has_timed_out() {
        return Ok(0);
    }
    if call.is_interrupted() {
        return Err(Errno::EINTR.into());
    }
    let mut keys = BTreeSet::new();
    epoll.wait_keys(call.kernel, &mut keys, 0);
    Err(Stop::Block(Wait { keys: keys.into_iter().collect(), deadline_ns: call.deadline(timeout_ns) }))
}

fn epoll_wait(call: &mut Call<'_>) -> SysResult {
    wait(call, timeout_ms(call.int(3)))
}

fn epoll_pwait(call: &mut Call<'_>) -> SysResult {
    replace_mask(call, call.args[4], call.args[5])?;
    wait(call, timeout_ms(call.int(3)))
}

fn epoll_pwait2(call: &mut Call<'_>) -> SysResult {
    replace_mask(call, call.args[4], call.args[5])?;
    let timeout_ns = timeout_spec(call, call.args[3])?;
    wait(call, timeout_ns)
}
