//! The frame on which a signal handler runs, and the way back (`sigreturn(2)`, `arch/x86/include/uapi/asm/sigcontext.h`).

use calypte_platform::{FpuState, Registers};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::errno::Errno;
use crate::kernel::Kernel;
use crate::process::Pid;
use crate::signal::{
    Action, AlternateStack, FLAG_NO_DEFER, FLAG_ON_STACK, FLAG_RESTART, FLAG_RESTORER, Info, SignalSet, is_restartable,
};
use crate::thread::Fpu;
use crate::waits::Tid;

/// Bytes below the stack pointer that belong to the interrupted function (System V ABI).
const RED_ZONE: u64 = 128;
/// `FP_XSTATE_MAGIC1`, `FP_XSTATE_MAGIC2`.
const XSTATE_MAGIC: [u32; 2] = [0x4650_5853, 0x4650_5845];
/// Where in the `FXSAVE` area software may keep something.
const SOFTWARE_OFFSET: usize = 464;
const FXSAVE_BYTES: usize = 512;
const XSAVE_HEADER_BYTES: usize = 64;
const MXCSR_OFFSET: usize = 24;
/// Bits of MXCSR that may be set on every processor with `DAZ`.
const MXCSR_MASK: u32 = 0xffff;
/// Flags that user code may set for itself: CF PF AF ZF SF TF DF OF RF AC.
const RFLAGS_MASK: u64 = 0x0005_0dd5;
/// Always one, and interrupts on.
const RFLAGS_FIXED: u64 = 0x202;
/// `UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS`.
const CONTEXT_FLAGS: u64 = 7;
const SEGMENT_CODE: u16 = 0x33;
const SEGMENT_STACK: u16 = 0x2b;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone)]
#[repr(C)]
struct Frame {
    return_address: u64,
    context_flags: u64,
    context_link: u64,
    stack: AlternateStack,
    registers: SavedRegisters,
    mask: SignalSet,
    info: SignalInfo,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Default)]
#[repr(C)]
struct SavedRegisters {
    general: [u64; 18],
    segments: [u16; 4],
    error_code: u64,
    trap_number: u64,
    old_mask: u64,
    fault_address: u64,
    fpu_address: u64,
    reserved: [u64; 8],
}

/// `siginfo_t`.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone)]
#[repr(C)]
pub(crate) struct SignalInfo {
    signal: i32,
    errno: i32,
    code: i32,
    padding: i32,
    fields: [u64; 4],
    rest: [u64; 10],
}

const _: () = assert!(size_of::<Frame>() == 440 && size_of::<SignalInfo>() == 128);

impl From<Info> for SignalInfo {
    fn from(info: Info) -> Self {
        Self {
            signal: i32::from(info.signal.number()),
            errno: 0,
            code: info.code,
            padding: 0,
            fields: info.fields,
            rest: [0; 10],
        }
    }
}

impl From<&Registers> for SavedRegisters {
    fn from(r: &Registers) -> Self {
        Self {
            general: [
                r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15, r.rdi, r.rsi, r.rbp, r.rbx, r.rdx, r.rax, r.rcx,
                r.rsp, r.rip, r.rflags,
            ],
            segments: [SEGMENT_CODE, 0, 0, SEGMENT_STACK],
            ..Self::default()
        }
    }
}

impl SavedRegisters {
    fn restore(&self, r: &mut Registers) {
        [
            r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15, r.rdi, r.rsi, r.rbp, r.rbx, r.rdx, r.rax, r.rcx,
            r.rsp, r.rip, r.rflags,
        ] = self.general;
        r.rflags = (r.rflags & RFLAGS_MASK) | RFLAGS_FIXED;
    }
}

/// Puts a frame on the thread's stack and points the thread at the handler. `EFAULT` if the stack has no room.
pub(crate) fn push(kernel: &mut Kernel, tid: Tid, info: Info, action: Action) -> Result<(), Errno> {
    let thread = kernel.threads.get_mut(&tid).ok_or(Errno::ESRCH)?;
    let pid = thread.pid;
    if action.flags & FLAG_RESTORER == 0 {
        return Err(Errno::EFAULT); // As Linux on x86-64: there is no other way back.
    }
    // What waits with a time limit is not made again: it would wait for the whole time.
    let had_deadline = thread.interrupted_deadline_ns.take().is_some();
    if let Some(number) = thread.interrupted_call.take()
        && action.flags & FLAG_RESTART != 0
        && is_restartable(number)
        && !had_deadline
    {
        thread.restart_call(number);
    }
    let Fpu::Saved(fpu) = thread.fpu.clone() else { unreachable!("the caller has saved it") };
    let mut registers = thread.registers;
    let mut top = registers.rsp.wrapping_sub(RED_ZONE);
    if action.flags & FLAG_ON_STACK != 0
        && thread.alternate_stack.is_enabled()
        && !thread.alternate_stack.holds(registers.rsp)
    {
        top = thread.alternate_stack.address.wrapping_add(thread.alternate_stack.size);
    }
    let image = fpu_image(&fpu);
    let fpu_address = top.wrapping_sub(image.len() as u64) / 64 * 64;
    let address = (fpu_address.wrapping_sub(size_of::<Frame>() as u64) / 16 * 16).wrapping_sub(8);
    let mask = thread.saved_blocked.take().unwrap_or(thread.blocked);
    let frame = Frame {
        return_address: action.restorer,
        context_flags: CONTEXT_FLAGS,
        context_link: 0,
        stack: thread.alternate_stack,
        registers: SavedRegisters {
            old_mask: mask.0,
            error_code: thread.last_fault.error_code,
            trap_number: u64::from(thread.last_fault.vector),
            fault_address: thread.last_fault.address,
            fpu_address,
            ..SavedRegisters::from(&registers)
        },
        mask,
        info: info.into(),
    };
    if thread.alternate_stack.flags & AlternateStack::AUTO_DISARM != 0 {
        thread.alternate_stack = AlternateStack::DISABLED;
    }
    thread.blocked = SignalSet(thread.blocked.0 | action.mask.0).as_mask();
    if action.flags & FLAG_NO_DEFER == 0 {
        thread.blocked = thread.blocked.with(info.signal);
    }
    kernel.write_user(pid, fpu_address, &image)?;
    kernel.write_user(pid, address, frame.as_bytes())?;
    registers.rsp = address;
    registers.rip = action.handler;
    registers.rdi = u64::from(info.signal.number());
    registers.rsi = address + std::mem::offset_of!(Frame, info) as u64;
    registers.rdx = address + std::mem::offset_of!(Frame, context_flags) as u64;
    registers.rax = 0;
    registers.rflags = (registers.rflags & RFLAGS_MASK & !0x0500) | RFLAGS_FIXED; // DF and TF clear
    let thread = kernel.threads.get_mut(&tid).ok_or(Errno::ESRCH)?;
    thread.registers = registers;
    thread.is_in_call = false;
    Ok(())
}

/// The floating-point state as programs find it behind `uc_mcontext.fpstate`.
fn fpu_image(fpu: &FpuState) -> Vec<u8> {
    let size = fpu.0.len() as u32;
    let mut image = fpu.0.to_vec();
    let features = image[FXSAVE_BYTES..FXSAVE_BYTES + 8].to_vec();
    let software = &mut image[SOFTWARE_OFFSET..FXSAVE_BYTES];
    software.fill(0);
    software[0..4].copy_from_slice(&XSTATE_MAGIC[0].to_le_bytes());
    software[4..8].copy_from_slice(&(size + 4).to_le_bytes());
    software[8..16].copy_from_slice(&features);
    software[8] |= 3;
    software[16..20].copy_from_slice(&size.to_le_bytes());
    image.extend(XSTATE_MAGIC[1].to_le_bytes());
    image
}

/// `rt_sigreturn`: takes the frame that the stack pointer is at off again. `EFAULT` if it cannot be read.
pub(crate) fn pop(kernel: &mut Kernel, tid: Tid) -> Result<(), Errno> {
    let thread = kernel.threads.get(&tid).ok_or(Errno::ESRCH)?;
    let Fpu::Saved(current) = &thread.fpu else { unreachable!("the caller has saved it") };
    let (pid, size) = (thread.pid, current.0.len());
    let mut bytes = [0; size_of::<Frame>()];
    kernel.read_user(pid, thread.registers.rsp.wrapping_sub(8), &mut bytes)?;
    let frame = Frame::read_from_bytes(&bytes).map_err(|_| Errno::EFAULT)?;
    let fpu = match frame.registers.fpu_address {
        0 => None,
        address => Some(read_fpu(kernel, pid, address, size)?),
    };
    let thread = kernel.threads.get_mut(&tid).ok_or(Errno::ESRCH)?;
    if let Some(fpu) = fpu {
        thread.fpu = Fpu::Saved(fpu);
    }
    frame.registers.restore(&mut thread.registers);
    thread.blocked = frame.mask.as_mask();
    thread.is_in_call = false;
    thread.alternate_stack = AlternateStack { flags: frame.stack.flags & !AlternateStack::IN_USE, ..frame.stack };
    Ok(())
}

/// Reads floating-point state that the program may have changed. `EFAULT` for what the processor would refuse, as far as
/// that is the same everywhere; the virtual CPU checks the rest.
fn read_fpu(kernel: &mut Kernel, pid: Pid, address: u64, size: usize) -> Result<FpuState, Errno> {
    let mut image = vec![0; size];
    kernel.read_user(pid, address, &mut image)?;
    let mxcsr = image[MXCSR_OFFSET..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
    let (_, reserved) = image[FXSAVE_BYTES..FXSAVE_BYTES + XSAVE_HEADER_BYTES].split_at(size_of::<u64>());
    if mxcsr & !MXCSR_MASK != 0 || reserved.iter().any(|byte| *byte != 0) {
        return Err(Errno::EFAULT);
    }
    image[SOFTWARE_OFFSET..FXSAVE_BYTES].fill(0);
    Ok(FpuState(image.into_boxed_slice()))
}
