//! Another program in the same process: `execve(2)`, `execveat(2)`.

use crate::call::Call;
use crate::errno::Errno;
use crate::exec::{self, Loaded, Origin};
use crate::fs;
use crate::outcome::{Stop, SysResult, Wait, WaitKey};
use crate::process::Ending;
use crate::signal::{AlternateStack, Signal};
use crate::sys::{entry, futex};
use crate::table::SystemCall;
use crate::thread::{Fpu, ThreadState};

const PROGRAMS: &str = "ELF for x86-64 and scripts (`#!`); set-user-ID and set-group-ID bits have no effect, as after \
     PR_SET_NO_NEW_PRIVS; strings of up to 2 MiB together, 128 KiB each (E2BIG)";

/// The family's calls.
pub const CALLS: &[SystemCall] =
    &[entry(59, "execve", execve).supports(PROGRAMS), entry(322, "execveat", execveat).supports(PROGRAMS)];

/// [`Call::progress`] of a call that has begun to end the other threads: there is no way back.
const IS_DECIDED: usize = 1;

fn execve(call: &mut Call<'_>) -> SysResult {
    let [path_address, arguments, environment, ..] = call.args;
    let result = call.read_path(path_address).and_then(|path| exec::open(call.kernel, call.pid, &path));
    run(call, result, arguments, environment)
}

fn execveat(call: &mut Call<'_>) -> SysResult {
    let [_, _, arguments, environment, ..] = call.args;
    let result = open_at(call);
    run(call, result, arguments, environment)
}

fn open_at(call: &mut Call<'_>) -> Result<Origin, Errno> {
    let flags = call.int(4);
    if flags & !(libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW) != 0 {
        return Err(Errno::EINVAL);
    }
    let fd = call.int(0);
    let path = call.read_path(call.args[1])?;
    let is_named = fd == libc::AT_FDCWD || path.first() == Some(&b'/');
    if is_named && flags == 0 {
        return exec::open(call.kernel, call.pid, &path);
    }
    let location = if path.is_empty() {
        if flags & libc::AT_EMPTY_PATH == 0 {
            return Err(Errno::ENOENT);
        }
        call.location_of(fd)?
    } else {
        let follow = flags & libc::AT_SYMLINK_NOFOLLOW;
        let found = call.locate(fd, &path, follow)?;
        if found.metadata(call.kernel)?.kind() == libc::S_IFLNK {
            return Err(Errno::ELOOP);
        }
        found
    };
    let file = fs::executable(call.kernel, call.pid, &location)?;
    // The interpreter of a script is told a way through the descriptor, which must then still be there.
    let name = match (is_named, path.is_empty()) {
        (true, _) => path,
        (false, true) => format!("/dev/fd/{fd}").into_bytes(),
        (false, false) => [format!("/dev/fd/{fd}/").as_bytes(), &path].concat(),
    };
    let is_reachable = is_named || !call.process().files.is_closed_on_exec(fd)?;
    Ok(Origin { file, name, is_reachable })
}

/// Loads the program and lets the process go on as it. When that fails, nothing has changed, unless the other threads are
/// ended already: then the process ends too.
fn run(call: &mut Call<'_>, origin: Result<Origin, Errno>, arguments: u64, environment: u64) -> SysResult {
    let is_decided = call.progress() == IS_DECIDED;
    let loaded = match origin.and_then(|origin| load(call, origin, arguments, environment)) {
        Ok(loaded) => loaded,
        Err(errno) => {
            if is_decided {
                call.kernel.end_process(call.pid, Ending::Signal(Signal::KILL));
            }
            return Err(errno.into());
        }
    };
    if !call.kernel.end_other_threads(call.tid) {
        call.kernel.spaces.release(loaded.space, &mut call.kernel.frames);
        return Err(call.block_with_progress(Wait::on(WaitKey::Exit(call.pid)), IS_DECIDED));
    }
    replace_program(call, loaded);
    Err(Stop::Replaced)
}

fn load(call: &mut Call<'_>, origin: Origin, arguments: u64, environment: u64) -> Result<Loaded, Errno> {
    let mut budget = exec::STRINGS_BYTES_MAX;
    let mut arguments = read_strings(call, arguments, &mut budget)?;
    let environment = read_strings(call, environment, &mut budget)?;
    if arguments.is_empty() {
        arguments.push(Vec::new()); // As Linux since 5.18: there is always a name.
    }
    exec::load(call.kernel, call.pid, origin, arguments, &environment)
}

fn replace_program(call: &mut Call<'_>, loaded: Loaded) {
    let (pid, tid) = (call.pid, call.tid);
    let (robust_list, clear_child_tid) = (call.thread().robust_list, call.thread().clear_child_tid);
    futex::leave_robust_list(call.kernel, pid, tid, robust_list);
    futex::clear_and_wake(call.kernel, pid, clear_child_tid);
    let process = call.process();
    let old_space = std::mem::replace(&mut process.space, loaded.space);
    process.program = loaded.facts.into();
    process.reset_handlers();
    process.timers.delete_all();
    process.settings.is_dumpable = true;
    process.settings.keeps_capabilities = false;
    process.credentials.settle();
    process.exit_signal = Some(Signal::CHLD);
    process.has_called_exec = true;
    process.first_thread_status = None;
    process.files.close_on_exec();
    call.kernel.network.settle_closed();
    call.kernel.spaces.release(old_space, &mut call.kernel.frames);
    call.kernel.release_parent(pid);

    // Whichever thread called, the process goes on as its first thread.
    let mut thread = call.kernel.threads.remove(&tid).expect("the caller exists");
    thread.registers = loaded.registers;
    thread.fpu = Fpu::Initial;
    thread.is_in_call = false;
    thread.progress = 0;
    thread.clear_child_tid = 0;
    thread.robust_list = 0;
    thread.alternate_stack = AlternateStack::DISABLED;
    thread.saved_blocked = None;
    thread.set_name(&loaded.name);
    if tid == pid {
        call.kernel.threads.insert(pid, thread);
    } else {
        thread.state = ThreadState::Ready;
        call.kernel.start_thread(pid, thread);
    }
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
