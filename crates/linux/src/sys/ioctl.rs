//! `ioctl(2)`: the requests that apply to every descriptor. Those of terminals are in [`super::terminal`].

use crate::call::Call;
use crate::errno::Errno;
use crate::file::{Body, OpenFile};
use crate::outcome::SysResult;
use crate::sys::{entry, interface, terminal};
use crate::table::SystemCall;

/// The calls of this family.
pub const CALLS: &[SystemCall] = &[entry(16, "ioctl", ioctl).supports(terminal::SUPPORTED)];

/// Sets close-on-exec (`asm-generic/ioctls.h`, as the next ones).
const FIOCLEX: u32 = 0x5451;
/// Clears close-on-exec.
const FIONCLEX: u32 = 0x5450;
/// Sets or clears `O_NONBLOCK`.
const FIONBIO: u32 = 0x5421;
/// Sets or clears `O_ASYNC`.
const FIOASYNC: u32 = 0x5452;
/// Tells whether the next byte of TCP is the urgent one (`asm-generic/sockios.h`).
const SIOCATMARK: u32 = 0x8905;
/// Tells how many bytes wait to be read.
const FIONREAD: u32 = 0x541b;

/// Bytes that wait to be read (`FIONREAD`), if the object can say.
fn waiting_bytes(call: &Call<'_>, file: &OpenFile) -> Result<u64, Errno> {
    match &file.body {
        Body::Host(host) => Ok(host.size()?.saturating_sub(file.offset())),
        Body::Tmp(inode) => Ok(inode.metadata().size.saturating_sub(file.offset())),
        Body::Pipe(end) => Ok(end.length() as u64),
        Body::Inotify(inotify) => Ok(inotify.length() as u64),
        Body::ConsoleInput => Ok(call.kernel.console.input_length() as u64),
        Body::Socket(socket) => Ok(socket.readable_bytes() as u64),
        _ => Err(Errno::ENOTTY),
    }
}

fn ioctl(call: &mut Call<'_>) -> SysResult {
    let file = call.usable_file(0)?;
    let fd = call.int(0);
    let argument = call.args[2];
    match call.args[1] as u32 {
        FIOCLEX => call.process().files.set_closed_on_exec(fd, true)?,
        FIONCLEX => call.process().files.set_closed_on_exec(fd, false)?,
        FIONBIO => {
            let is_nonblocking = call.read::<i32>(argument)? != 0;
            file.set_nonblocking(is_nonblocking);
        }
        FIOASYNC => {
            let is_asynchronous = call.read::<i32>(argument)? != 0;
            call.kernel.set_asynchronous(&file, is_asynchronous)?;
        }
        request if let Body::Terminal(end) = &file.body => return terminal::request(call, &file, end, request),
        FIONREAD => {
            let waiting = waiting_bytes(call, &file)?;
            call.write(argument, &i32::try_from(waiting).unwrap_or(i32::MAX))?;
        }
        SIOCATMARK if file.socket().is_ok_and(|socket| socket.is_at_mark().is_ok()) => {
            let is_at_mark = file.socket()?.is_at_mark()?;
            call.write(argument, &i32::from(is_at_mark))?;
        }
        request if file.socket().is_ok() => interface::request(call, request, argument)?,
        _ => return Err(Errno::ENOTTY.into()),
    }
    Ok(0)
}
