//! Processes: `execve`, `exit_group`, `wait4`, and who is who.

use crate::call::Call;
use crate::errno::Errno;
use crate::exec;
use crate::kernel::GuestExit;
use crate::outcome::{Stop, SysResult, Wait, WaitKey};
use crate::process::Process;
use crate::signal::AlternateStack;
use crate::sys::entry;
use crate::table::SystemCall;
use crate::thread::{Fpu, ThreadState};

/// The family's calls.
pub const CALLS: &[SystemCall] = &[
    entry(39, "getpid", getpid),
    entry(59, "execve", execve),
    entry(61, "wait4", wait4),
    entry(109, "setpgid", setpgid),
    entry(110, "getppid", getppid),
    entry(111, "getpgrp", getpgrp),
    entry(112, "setsid", setsid),
    entry(121, "getpgid", getpgid),
    entry(124, "getsid", getsid),
    entry(231, "exit_group", exit_group),
    entry(247, "waitid", waitid),
];

fn getpid(call: &mut Call<'_>) -> SysResult {
    Ok(u64::from(call.pid))
}

fn getppid(call: &mut Call<'_>) -> SysResult {
    Ok(u64::from(call.process().parent))
}

/// The process that an argument names, 0 for the caller.
fn named<'c>(call: &'c mut Call<'_>, index: usize) -> Result<&'c mut Process, Errno> {
    let pid = match call.int(index) {
        0 => call.pid,
        other => u32::try_from(other).map_err(|_| Errno::ESRCH)?,
    };
    call.kernel.processes.get_mut(&pid).ok_or(Errno::ESRCH)
}

fn getpgrp(call: &mut Call<'_>) -> SysResult {
    Ok(u64::from(call.process().group))
}

fn getpgid(call: &mut Call<'_>) -> SysResult {
    Ok(u64::from(named(call, 0)?.group))
}

fn getsid(call: &mut Call<'_>) -> SysResult {
    Ok(u64::from(named(call, 0)?.session))
}

fn setpgid(call: &mut Call<'_>) -> SysResult {
    let group = call.int(1);
    if group < 0 {
        return Err(Errno::EINVAL.into());
    }
    let process = named(call, 0)?;
    // The first process leads its session, and a leader's group is fixed.
    let is_own = group == 0 || group.cast_unsigned() == process.pid;
    if process.session == process.pid || !is_own {
        return Err(Errno::EPERM.into());
    }
    process.group = process.pid;
    Ok(0)
}

fn setsid(call: &mut Call<'_>) -> SysResult {
    let process = call.process();
    if process.group == process.pid {
        return Err(Errno::EPERM.into());
    }
    process.session = process.pid;
    process.group = process.pid;
    Ok(u64::from(process.pid))
}

fn exit_group(call: &mut Call<'_>) -> SysResult {
    let status = call.args[0] as u8;
    call.kernel.end_process(call.pid, GuestExit::Status(status));
    Err(Stop::Replaced)
}

/// There are no child processes yet.
fn wait4(call: &mut Call<'_>) -> SysResult {
    const OPTIONS_KNOWN: u32 = 0xe000_000b;
    if call.args[2] as u32 & !OPTIONS_KNOWN != 0 {
        return Err(Errno::EINVAL.into());
    }
    Err(Errno::ECHILD.into())
}

fn waitid(_call: &mut Call<'_>) -> SysResult {
    Err(Errno::ECHILD.into())
}

fn execve(call: &mut Call<'_>) -> SysResult {
    let [path_address, arguments_address, environment_address, ..] = call.args;
    let path = call.read_path(path_address)?;
    let mut budget = exec::STRINGS_BYTES_MAX;
    let mut arguments = read_strings(call, arguments_address, &mut budget)?;
    let environment = read_strings(call, environment_address, &mut budget)?;
    if arguments.is_empty() {
        arguments.push(Vec::new()); // As Linux since 5.18: there is always a name.
    }
    let loaded = exec::load(call.kernel, call.pid, &path, arguments, &environment)?;
    if !call.kernel.end_other_threads(call.tid) {
        call.kernel.spaces.release(loaded.space, &mut call.kernel.frames);
        return Err(Stop::Block(Wait::on(WaitKey::Exit(call.pid))));
    }
    let now_ns = call.kernel.clock.monotonic_ns();
    let process = call.process();
    let old_space = std::mem::replace(&mut process.space, loaded.space);
    process.program = loaded.facts;
    process.reset_handlers();
    process.timers.delete_all();
    process.settings.is_dumpable = true;
    process.settings.keeps_capabilities = false;
    process.started_ns = now_ns;
    process.files.close_on_exec();
    call.kernel.network.settle_closed();
    call.kernel.spaces.release(old_space, &mut call.kernel.frames);

    // Whichever thread called, the process goes on as its first thread.
    let mut thread = call.kernel.threads.remove(&call.tid).expect("the caller exists");
    thread.registers = loaded.registers;
    thread.fpu = Fpu::Initial;
    thread.is_in_call = false;
    thread.clear_child_tid = 0;
    thread.robust_list = 0;
    thread.alternate_stack = AlternateStack::DISABLED;
    thread.saved_blocked = None;
    thread.set_name(&loaded.name);
    if call.tid == call.pid {
        call.kernel.threads.insert(call.pid, thread);
    } else {
        thread.state = ThreadState::Ready;
        call.kernel.start_thread(call.pid, thread);
    }
    Err(Stop::Replaced)
}

/// Reads a vector of strings that ends with a null pointer; a null vector is an empty one.
fn read_strings(call: &mut Call<'_>, address: u64, budget: &mut usize) -> Result<Vec<Vec<u8>>, Errno> {
    let mut strings = Vec::new();
    if address == 0 {
        return Ok(strings);
    }
    loop {
        let at = address.checked_add(strings.len() as u64 * 8).ok_or(Errno::EFAULT)?;
        let pointer: u64 = call.read(at)?;
        if pointer == 0 {
            return Ok(strings);
        }
        let limit = exec::STRING_BYTES_MAX.min(*budget);
        let text = call.kernel.read_user_string(call.pid, pointer, limit)?.ok_or(Errno::E2BIG)?;
        *budget = budget.checked_sub(text.len() + 1 + size_of::<u64>()).ok_or(Errno::E2BIG)?;
        strings.push(text);
    }
}
