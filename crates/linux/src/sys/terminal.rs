//! Terminals as system calls see them: reading from them, and the requests of `ioctl_tty(2)`.

use std::sync::Arc;

use zerocopy::IntoBytes;

use crate::call::Call;
use crate::errno::Errno;
use crate::file::{Body, OpenFile, READABLE, WRITABLE};
use crate::fs::Location;
use crate::fs::devpts::Pts;
use crate::fs::node::Node;
use crate::fs::open::O_ACCMODE;
use crate::outcome::{Stop, SysResult, Wait, WaitKey};
use crate::process::Pid;
use crate::signal::Signal;
use crate::sys::access::count;
use crate::sys::vector::{BYTES_MAX, Vector};
use crate::tty::discipline::Discipline;
use crate::tty::termios::{TERMIOS_BYTES, TERMIOS2_BYTES, Termios};
use crate::tty::{Side, TerminalEnd};

/// The unit of `VTIME`, nanoseconds.
const TENTH_NS: u64 = 100_000_000;

const TCGETS: u32 = 0x5401;
const TCSETS: u32 = 0x5402;
const TCSETSW: u32 = 0x5403;
const TCSETSF: u32 = 0x5404;
const TCSBRK: u32 = 0x5409;
const TCXONC: u32 = 0x540a;
const TCFLSH: u32 = 0x540b;
const TIOCSCTTY: u32 = 0x540e;
const TIOCGPGRP: u32 = 0x540f;
const TIOCSPGRP: u32 = 0x5410;
const TIOCOUTQ: u32 = 0x5411;
const TIOCSTI: u32 = 0x5412;
const TIOCGWINSZ: u32 = 0x5413;
const TIOCSWINSZ: u32 = 0x5414;
const FIONREAD: u32 = 0x541b;
const TIOCPKT: u32 = 0x5420;
const TIOCNOTTY: u32 = 0x5422;
const TIOCGETD: u32 = 0x5424;
const TCSBRKP: u32 = 0x5425;
const TIOCGSID: u32 = 0x5429;
const TCGETS2: u32 = 0x802c_542a;
const TCSETS2: u32 = 0x402c_542b;
const TCSETSW2: u32 = 0x402c_542c;
const TCSETSF2: u32 = 0x402c_542d;
const TIOCGPTN: u32 = 0x8004_5430;
const TIOCSPTLCK: u32 = 0x4004_5431;
const TIOCGPTLCK: u32 = 0x8004_5439;
const TIOCGPTPEER: u32 = 0x5441;

/// What the entry of `ioctl` says.
pub(super) const SUPPORTED: &str = "FIOCLEX, FIONCLEX, FIONBIO, FIOASYNC, FIONREAD, SIOCGIF of lo and eth0; of terminals \
    TCGETS and TCSETS with their variants, TCSBRK, TCSBRKP, TCXONC, TCFLSH, TIOCSCTTY, TIOCNOTTY, TIOCGPGRP, TIOCSPGRP, \
    TIOCGSID, TIOCGWINSZ, TIOCSWINSZ, TIOCOUTQ, TIOCGETD, TIOCGPTN, TIOCSPTLCK, TIOCGPTLCK, TIOCGPTPEER; TIOCPKT is EINVAL, \
    TIOCSTI is EIO, others are ENOTTY";

/// Reads from a terminal into parts of guest memory, as its settings say (`termios(3)`, "Canonical and noncanonical mode").
pub(super) fn read(call: &mut Call<'_>, file: &OpenFile, end: &TerminalEnd, vector: &Vector) -> SysResult {
    if !file.is_readable() {
        return Err(Errno::EBADF.into());
    }
    call.check_foreground(end, Signal::TTIN)?;
    let length = vector.length().min(BYTES_MAX);
    let termios = end.with(|discipline| *discipline.termios());
    let is_raw = end.side() == Side::Slave && !end.is_hung_up() && !termios.is_canonical() && length > 0;
    let is_over = call.has_timed_out() || call.is_interrupted() || file.is_nonblocking();
    if is_raw {
        let (minimum, tenths) = (termios.minimum(), termios.time_tenths());
        let waiting = end.length();
        let is_enough = waiting >= minimum.clamp(1, length);
        if !is_enough && minimum == 0 && (tenths == 0 || call.has_timed_out()) {
            return Ok(0);
        }
        if !is_enough && !is_over {
            // With a minimum the time runs from byte to byte, without one from the call.
            let deadline_ns = match (minimum, waiting) {
                (0, _) => call.deadline(Some(tenths * TENTH_NS)),
                (_, 0) => None,
                _ if tenths == 0 => None,
                _ => Some(call.kernel.clock.monotonic_ns().saturating_add(tenths * TENTH_NS)),
            };
            return Err(Stop::Block(Wait { keys: vec![WaitKey::Object(end.beacon().object())], deadline_ns }));
        }
    }
    let result = end.read(length);
    let bytes = call.or_wait(file, result, file.is_nonblocking(), None)?;
    vector.scatter(call, 0, &bytes)?;
    count(bytes.len())
}

/// Serves a request. `ENOTTY` if it is none about terminals.
pub(super) fn request(call: &mut Call<'_>, file: &OpenFile, end: &TerminalEnd, request: u32) -> SysResult {
    let argument = call.args[2];
    if end.is_hung_up() {
        return Err(if request == TIOCSPGRP { Errno::ENOTTY } else { Errno::EIO }.into());
    }
    match request {
        TCGETS | TCGETS2 => {
            let termios = end.with(|discipline| *discipline.termios());
            let bytes = if request == TCGETS { TERMIOS_BYTES } else { TERMIOS2_BYTES };
            call.write_bytes(argument, &termios.as_bytes()[..bytes])?;
        }
        TCSETS | TCSETSW | TCSETSF | TCSETS2 | TCSETSW2 | TCSETSF2 => set_termios(call, end, request, argument)?,
        TCXONC => {
            call.check_foreground(end, Signal::TTOU)?;
            match call.int(2) {
                libc::TCOOFF => end.change(|discipline| discipline.set_stopped(true)),
                libc::TCOON => end.change(|discipline| discipline.set_stopped(false)),
                libc::TCIOFF | libc::TCION => {}
                _ => return Err(Errno::EINVAL.into()),
            }
        }
        TCFLSH => {
            call.check_foreground(end, Signal::TTOU)?;
            flush(end, call.int(2))?;
        }
        TCSBRK | TCSBRKP => call.check_foreground(end, Signal::TTOU)?,
        TIOCGWINSZ => call.write(argument, &end.window())?,
        TIOCSWINSZ => {
            let window = call.read::<[u16; 4]>(argument)?;
            if end.set_window(window) {
                call.kernel.signal_foreground(end.terminal(), Signal::WINCH);
            }
        }
        FIONREAD => call.write(argument, &(end.length() as i32))?,
        TIOCOUTQ | TIOCGETD => call.write(argument, &0_i32)?,
        TIOCSTI => return Err(Errno::EIO.into()),
        TIOCPKT if end.side() == Side::Master => return Err(Errno::EINVAL.into()),
        TIOCSCTTY => take_control(call, file, end)?,
        TIOCNOTTY => {
            if end.side() == Side::Master || !call.kernel.is_controlled_by(call.pid, end.terminal()) {
                return Err(Errno::ENOTTY.into());
            }
            call.kernel.leave_terminal(call.pid, false);
        }
        TIOCGPGRP => {
            check_own(call, end)?;
            let group = end.terminal().foreground().unwrap_or(0);
            call.write(argument, &group)?;
        }
        TIOCSPGRP => set_foreground(call, end, argument)?,
        TIOCGSID => {
            check_own(call, end)?;
            let session = end.terminal().session().ok_or(Errno::ENOTTY)?;
            call.write(argument, &session)?;
        }
        _ if end.side() == Side::Master => return master_request(call, end, request),
        _ => return Err(Errno::ENOTTY.into()),
    }
    Ok(0)
}

fn master_request(call: &mut Call<'_>, end: &TerminalEnd, request: u32) -> SysResult {
    let argument = call.args[2];
    match request {
        TIOCGPTN => call.write(argument, &end.terminal().index())?,
        TIOCSPTLCK => {
            let is_locked = call.read::<i32>(argument)? != 0;
            end.set_locked(is_locked);
        }
        TIOCGPTLCK => call.write(argument, &i32::from(end.is_locked()))?,
        TIOCGPTPEER => return open_peer(call, end),
        _ => return Err(Errno::ENOTTY.into()),
    }
    Ok(0)
}

/// Opens the slave, whatever its name is where the caller is.
fn open_peer(call: &mut Call<'_>, end: &TerminalEnd) -> SysResult {
    let flags = call.int(2);
    let access = match flags & O_ACCMODE {
        libc::O_RDONLY => READABLE,
        libc::O_WRONLY => WRITABLE,
        libc::O_RDWR => READABLE | WRITABLE,
        _ => return Err(Errno::EINVAL.into()),
    };
    let index = end.terminal().index();
    let body = Body::Terminal(end.open_slave()?);
    let path: Arc<[u8]> = format!("/dev/pts/{index}").into_bytes().into();
    let location = Location::from(Node::Pts(Pts::Slave(index)));
    let file = OpenFile::new(body, Some(location), path, access, flags as u32);
    if flags & libc::O_NOCTTY == 0 && access & READABLE != 0 {
        call.kernel.acquire_terminal(call.pid, end.terminal());
    }
    Ok(call.install(file, flags & libc::O_CLOEXEC != 0)? as u64)
}

fn set_termios(call: &mut Call<'_>, end: &TerminalEnd, request: u32, argument: u64) -> Result<(), Stop> {
    call.check_foreground(end, Signal::TTOU)?;
    let length = if matches!(request, TCSETS | TCSETSW | TCSETSF) { TERMIOS_BYTES } else { TERMIOS2_BYTES };
    let bytes = call.read_bytes(argument, length)?;
    let is_flushing = matches!(request, TCSETSF | TCSETSF2);
    end.change(|discipline| {
        let mut termios: Termios = *discipline.termios();
        termios.as_mut_bytes()[..length].copy_from_slice(&bytes);
        if is_flushing {
            discipline.flush_input();
        }
        discipline.set_termios(termios);
    });
    Ok(())
}

/// `TCFLSH`. What has been written is already with the master, so only the end's own input can be thrown away.
fn flush(end: &TerminalEnd, what: i32) -> Result<(), Errno> {
    match (what, end.side()) {
        (libc::TCIFLUSH | libc::TCIOFLUSH, Side::Slave) => end.change(Discipline::flush_input),
        (libc::TCIFLUSH | libc::TCIOFLUSH, Side::Master) => end.change(Discipline::flush_output),
        (libc::TCOFLUSH, _) => {}
        _ => return Err(Errno::EINVAL),
    }
    Ok(())
}

/// `TIOCSCTTY`: the terminal becomes that of the caller's session; root may take it from another.
fn take_control(call: &mut Call<'_>, file: &OpenFile, end: &TerminalEnd) -> Result<(), Errno> {
    let terminal = end.terminal();
    let pid = call.pid;
    let is_root = call.process().credentials.is_file_root();
    let process = call.process();
    let is_leader = process.session == pid;
    if is_leader && terminal.session() == Some(pid) {
        return Ok(());
    }
    if end.side() == Side::Master || !is_leader || process.terminal.is_some() || !file.is_readable() && !is_root {
        return Err(Errno::EPERM);
    }
    if terminal.session().is_some() {
        if call.args[2] != 1 || !is_root {
            return Err(Errno::EPERM);
        }
        call.kernel.release_terminal(terminal);
    }
    call.kernel.acquire_terminal(pid, terminal);
    Ok(())
}

/// What a slave tells only those whose controlling terminal it is, and the master always.
fn check_own(call: &Call<'_>, end: &TerminalEnd) -> Result<(), Errno> {
    let is_own = end.side() == Side::Master || call.kernel.is_controlled_by(call.pid, end.terminal());
    if is_own { Ok(()) } else { Err(Errno::ENOTTY) }
}

/// `TIOCSPGRP`.
fn set_foreground(call: &mut Call<'_>, end: &TerminalEnd, argument: u64) -> Result<(), Stop> {
    let terminal = end.terminal().clone();
    let is_own = call.kernel.is_controlled_by(call.pid, &terminal);
    if is_own {
        call.check_group(&terminal, end, Signal::TTOU).map_err(|stop| match stop {
            Stop::Errno(Errno::EIO) => Stop::Errno(Errno::ENOTTY),
            stop => stop,
        })?;
    }
    let session = call.process().session;
    if !is_own || terminal.session() != Some(session) {
        return Err(Errno::ENOTTY.into());
    }
    let group = Pid::try_from(call.read::<i32>(argument)?).map_err(|_| Errno::EINVAL)?;
    let mut members = call.kernel.processes.values().filter(|process| process.group == group);
    let member = members.next().ok_or(Errno::ESRCH)?;
    if member.session != session {
        return Err(Errno::EPERM.into());
    }
    terminal.set_foreground(group);
    Ok(())
}
