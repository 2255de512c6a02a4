//! Having a stub make system calls for us.

use std::io;

use calypte_platform::{PlatformError, Registers};

use crate::control::{Call, Control, loop_address};
use crate::layout::{CALLS, CODE};
use crate::seed::EXCEPTION_SIGNALS;
use crate::tracee::{HostRegisters, Stop, Tracee, to_host};

/// Flags of our own code: the reserved one and interrupts.
pub(crate) const PLAIN_FLAGS: u64 = 0x202;

/// Has a stub make calls. The inner result is that of the first call that failed.
pub(crate) fn make_calls(
    stub: &Tracee,
    control: &Control,
    selectors: &HostRegisters,
    calls: &[Call],
) -> Result<io::Result<()>, PlatformError> {
    make_calls_at(CODE, stub, control, selectors, calls)
}

/// As [`make_calls`], in a stub that has the shared pages from `base` on.
pub(crate) fn make_calls_at(
    base: u64,
    stub: &Tracee,
    control: &Control,
    selectors: &HostRegisters,
    calls: &[Call],
) -> Result<io::Result<()>, PlatformError> {
    prepare_calls_at(base, stub, control, selectors, calls)?;
    run_to_breakpoint(stub, 0)?;
    let registers = stub.registers()?;
    let errno = registers.rax.wrapping_neg() as i32;
    Ok(if registers.r13 == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(errno)) })
}

/// Makes a stub be about to make calls.
pub(crate) fn prepare_calls_at(
    base: u64,
    stub: &Tracee,
    control: &Control,
    selectors: &HostRegisters,
    calls: &[Call],
) -> Result<(), PlatformError> {
    control.write_calls(calls);
    let registers = Registers {
        rip: loop_address() - CODE + base,
        r12: CALLS - CODE + base,
        r13: calls.len() as u64,
        rflags: PLAIN_FLAGS,
        ..Registers::default()
    };
    stub.set_registers(&to_host(&registers, selectors), false)
}

/// Lets a stub run our code to the breakpoint at its end, after delivery of a signal unless that is zero.
pub(crate) fn run_to_breakpoint(stub: &Tracee, signal: i32) -> Result<(), PlatformError> {
    let mut signal = signal;
    loop {
        stub.resume(signal)?;
        signal = 0;
        match stub.wait()? {
            Stop::Signal(libc::SIGTRAP) => return Ok(()),
            Stop::Signal(other) if !EXCEPTION_SIGNALS.contains(&other) => {}
            stop => return Err(PlatformError::VcpuFailed(format!("our own code in a stub stopped for {stop:?}"))),
        }
    }
}
