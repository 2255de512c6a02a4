//! A virtual CPU: into user mode and back.
//!
//! General and special registers travel in the run page (`KVM_CAP_SYNC_REGS`), so that a system call costs one ioctl.
//! Special registers are written only when something in them has to change, because that is expensive; they are read at
//! every exit, because user code may change its segment bases by itself.
//!
//! How a host leaves user mode differs. With hardware virtualisation the stub and the exception handlers run at
//! privilege level 0 and `rip` is at their `out`; with KVM's software variant the stub runs at level 3 and `rip` is
//! after it. Each thread is kept as a plain user context, so that it can move anywhere, and entered as such. Only where
//! a virtual CPU still stands in the stub at level 0 and its `sysretq` leads to just the wanted context, which is
//! the common case of an answered system call, it returns by that and the special registers need no change.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use calypte_platform::{Exit, FpuState, Kicker, PlatformError, Registers, SpaceToken, Vcpu};
use kvm_bindings::{
    KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, Msrs, Xsave, kvm_device_attr, kvm_msr_entry, kvm_sregs, kvm_vcpu_events,
    kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::{SyncReg, VcpuExit, VcpuFd};

use crate::kick::KickState;
use crate::layout::{STAR, STUB, STUB_RETURN, SYSCALL_FLAG_MASK, SYSTEM_END};
use crate::machine::{Features, KvmMachine};
use crate::mapping::{host_error, ioctl_error};
use crate::user_context::{
    Origin, access_of, from_kvm, is_enterable, is_reached_by_sysret, is_same_context, is_same_memory, to_kvm,
    user_flags, user_sregs,
};

/// Vector of the breakpoint exception.
const BREAKPOINT: u8 = 3;
/// Vector of the general protection fault.
const PROTECTION_FAULT: u8 = 13;
/// Vector of the page fault.
const PAGE_FAULT: u8 = 14;

/// How often in a row a run may meet a flush of translations in progress. Each time it waits for the end of that flush,
/// so the limit only stops a host that answers `EFAULT` for another reason.
const FLUSH_RETRIES_MAX: u32 = 1000;

/// Bytes at the start of the XSAVE area that are laid out as by `FXSAVE`.
const FXSAVE_BYTES: usize = 512;
/// Offset of the bit map of state components in use, in the XSAVE header.
const XSTATE_BV: usize = FXSAVE_BYTES;

/// A [`Vcpu`] on KVM.
#[derive(Debug)]
pub(crate) struct KvmVcpu {
    fd: VcpuFd,
    machine: Arc<KvmMachine>,
    index: u32,
    kick: Arc<KickState>,
    /// Special registers of user mode, without an address space.
    user: kvm_sregs,
    /// The run page holds the virtual CPU's special registers.
    is_synced: bool,
    /// It stands in the system call stub at privilege level 0.
    is_in_stub: bool,
}

/// Why `KVM_RUN` returned.
enum Stop {
    /// An access to an I/O port.
    Port { port: u16, is_write: bool },
    /// A signal, or `immediate_exit`.
    Interrupted,
}

impl KvmVcpu {
    /// Virtual CPU number `index`, run by the calling thread.
    pub(crate) fn new(machine: Arc<KvmMachine>, index: u32) -> Result<Self, PlatformError> {
        let mut fd = machine.vm.create_vcpu(u64::from(index)).map_err(ioctl_error("KVM_CREATE_VCPU"))?;
        set_up(&fd, &machine.features)?;
        let initial = fd.get_sregs().map_err(ioctl_error("KVM_GET_SREGS"))?;
        fd.set_sync_valid_reg(SyncReg::Register);
        fd.set_sync_valid_reg(SyncReg::SystemRegister);
        let immediate_exit: *mut u8 = &raw mut fd.get_kvm_run().immediate_exit;
        // SAFETY: the run page stays mapped as long as `fd`, and `drop` retires the state before that ends. The kernel and
        // this crate treat the byte as atomic.
        let kick = unsafe { KickState::new(immediate_exit.cast::<AtomicU8>()) };
        let kick = Arc::new(kick.map_err(|source| host_error("preparation of the kick signal", source))?);
        machine.vcpus.add(Arc::clone(&kick));
        let user = user_sregs(initial, index, machine.features.has_fsgsbase);
        Ok(Self { fd, machine, index, kick, user, is_synced: false, is_in_stub: false })
    }

    fn immediate_exit(&mut self) -> &AtomicU8 {
        let field: *mut u8 = &raw mut self.fd.get_kvm_run().immediate_exit;
        // SAFETY: a byte in the run page, which lives as long as `self.fd`; other threads access it atomically.
        unsafe { AtomicU8::from_ptr(field) }
    }

    /// Whether a kick has come; see [`crate::kick`] for the order.
    fn take_kick(&mut self) -> bool {
        self.immediate_exit().store(0, Ordering::SeqCst);
        self.kick.take_kick()
    }

    /// Puts a user context into the run page.
    fn load(&mut self, space: SpaceToken, registers: &Registers) {
        let mut wanted = self.user;
        wanted.cr3 = space.0;
        wanted.fs.base = registers.fs_base;
        wanted.gs.base = registers.gs_base;
        let mut regs = to_kvm(registers);
        let synced = self.fd.sync_regs_mut();
        if self.is_in_stub && is_same_memory(&synced.sregs, &wanted) && is_reached_by_sysret(registers) {
            regs.rip = STUB_RETURN;
        } else if !self.is_synced || !is_same_context(&synced.sregs, &wanted) {
            synced.sregs = wanted;
            self.fd.set_sync_dirty_reg(SyncReg::SystemRegister);
            self.is_synced = true;
        }
        self.fd.sync_regs_mut().regs = regs;
        self.fd.set_sync_dirty_reg(SyncReg::Register);
        self.is_in_stub = false;
    }

    fn registers(&mut self) -> Registers {
        let synced = self.fd.sync_regs_mut();
        from_kvm(&synced.regs, &synced.sregs)
    }

    /// Lets the virtual CPU go on until it needs anything from us.
    fn enter(&mut self) -> Result<Stop, PlatformError> {
        for _ in 0..FLUSH_RETRIES_MAX {
            self.kick.cross();
            let result = self.fd.run();
            self.kick.cross();
            let reason = match result {
                Ok(VcpuExit::IoOut(port, _)) => return Ok(Stop::Port { port, is_write: true }),
                Ok(VcpuExit::IoIn(port, _)) => return Ok(Stop::Port { port, is_write: false }),
                Ok(VcpuExit::Intr) => return Ok(Stop::Interrupted),
                Err(error) if [libc::EINTR, libc::EAGAIN].contains(&error.errno()) => return Ok(Stop::Interrupted),
                // It met a page whose translations are being flushed.
                Ok(VcpuExit::MemoryFault { .. }) => {
                    self.machine.frames.wait_for_flush();
                    continue;
                }
                Err(error) if error.errno() == libc::EFAULT => {
                    self.machine.frames.wait_for_flush();
                    continue;
                }
                Ok(exit) => format!("{exit:?}"),
                Err(error) => format!("KVM_RUN failed: {error}"),
            };
            return Err(self.failure(&reason));
        }
        Err(self.failure("KVM_RUN keeps failing: bad address"))
    }

    fn failure(&mut self, reason: &str) -> PlatformError {
        let synced = self.fd.sync_regs_mut();
        let (regs, sregs) = (&synced.regs, &synced.sregs);
        PlatformError::VcpuFailed(format!(
            "{reason} (rip {:#x}, cs {:#x}, rsp {:#x}, rflags {:#x}, cr2 {:#x}, cr3 {:#x}, rax {:#x})",
            regs.rip, sregs.cs.selector, regs.rsp, regs.rflags, sregs.cr2, sregs.cr3, regs.rax
        ))
    }

    /// Whether the virtual CPU is on its way from user code to an exit: in the stub or a handler, or with an exception
    /// that waits to be delivered. It must arrive there before another thread can be put on it.
    fn is_between(&mut self) -> Result<bool, PlatformError> {
        let synced = self.fd.sync_regs_mut();
        if synced.sregs.cs.dpl != 3 || synced.regs.rip < SYSTEM_END {
            return Ok(true);
        }
        let events = self.fd.get_vcpu_events().map_err(ioctl_error("KVM_GET_VCPU_EVENTS"))?;
        let exception = events.exception;
        // KVM does not report a breakpoint as waiting, since the instruction would raise it again. But where it has moved
        // `rip` on already, the instruction does not; the number tells, because `forget_breakpoint` clears it.
        Ok(exception.injected != 0 || exception.pending != 0 || exception.nr == BREAKPOINT)
    }

    /// Removes the number of a delivered breakpoint from the record of events, for [`KvmVcpu::is_between`].
    fn forget_breakpoint(&self) -> Result<(), PlatformError> {
        self.fd.set_vcpu_events(&kvm_vcpu_events::default()).map_err(ioctl_error("KVM_SET_VCPU_EVENTS"))
    }

    /// Turns a port access into the exit it stands for.
    fn exit_of(&mut self, port: u16, is_write: bool, registers: &mut Registers) -> Result<Exit, PlatformError> {
        let synced = self.fd.sync_regs_mut();
        let (level, address) = (synced.sregs.cs.dpl, synced.sregs.cr2);
        *registers = self.registers();
        match Origin::of(port, is_write, registers.rip, level) {
            Origin::SystemCall => {
                self.is_in_stub = level == 0;
                registers.rip = registers.rcx;
                registers.rflags = user_flags(registers.r11);
                Ok(Exit::SystemCall)
            }
            Origin::Exception(vector) => {
                let frame = self.machine.system.exception_frame(self.index, vector);
                if frame.cs & 3 != 3 {
                    return Err(self.failure(&format!("exception {vector} in the system pages: {frame:x?}")));
                }
                registers.rip = frame.rip;
                registers.rsp = frame.rsp;
                registers.rflags = user_flags(frame.rflags);
                if vector == BREAKPOINT {
                    self.forget_breakpoint()?;
                }
                Ok(if vector == PAGE_FAULT {
                    Exit::PageFault { address, access: access_of(frame.error_code) }
                } else {
                    Exit::Exception { vector, error_code: frame.error_code }
                })
            }
            Origin::UserCode => {
                self.finish_port_access()?;
                Ok(Exit::Exception { vector: PROTECTION_FAULT, error_code: 0 })
            }
        }
    }

    /// Lets KVM complete an access that user code made, without running on: what it changes (`rip`, for reads `rax`) must
    /// not reach the context that is entered next. The flag may swallow that of a kick, whose other half stays set.
    fn finish_port_access(&mut self) -> Result<(), PlatformError> {
        self.immediate_exit().store(1, Ordering::SeqCst);
        match self.enter()? {
            Stop::Interrupted => Ok(()),
            Stop::Port { port, .. } => Err(self.failure(&format!("a second access to port {port:#x}"))),
        }
    }
}

impl Vcpu for KvmVcpu {
    fn run(&mut self, space: SpaceToken, registers: &mut Registers) -> Result<Exit, PlatformError> {
        if self.take_kick() {
            return Ok(Exit::Preempted);
        }
        if !is_enterable(registers) {
            return Ok(Exit::Exception { vector: PROTECTION_FAULT, error_code: 0 });
        }
        self.load(space, registers);
        let mut is_kicked = false;
        loop {
            match self.enter()? {
                Stop::Interrupted => {
                    is_kicked |= self.take_kick();
                    if is_kicked && !self.is_between()? {
                        *registers = self.registers();
                        return Ok(Exit::Preempted);
                    }
                }
                Stop::Port { port, is_write } => {
                    if is_kicked {
                        self.kick.raise_kick();
                    }
                    return self.exit_of(port, is_write, registers);
                }
            }
        }
    }

    fn fpu(&mut self) -> Result<FpuState, PlatformError> {
        let mut state = new_xsave(&self.machine.features);
        if self.machine.features.has_xsave2 {
            // SAFETY: `state` has the size that KVM_CAP_XSAVE2 asks for; this process enables no further state.
            unsafe { self.fd.get_xsave2(&mut state) }.map_err(ioctl_error("KVM_GET_XSAVE2"))?;
        } else {
            let xsave = self.fd.get_xsave().map_err(ioctl_error("KVM_GET_XSAVE"))?;
            // SAFETY: the flexible array at the end is empty, so the struct is its fixed part.
            unsafe { state.as_mut_fam_struct() }.xsave = xsave;
        }
        Ok(FpuState(state_bytes(&state)))
    }

    fn set_fpu(&mut self, state: &FpuState) -> Result<(), PlatformError> {
        let features = &self.machine.features;
        if state.0.len() != features.xsave_bytes {
            let message = format!("{} bytes of state given, {} expected", state.0.len(), features.xsave_bytes);
            return Err(host_error("KVM_SET_XSAVE", io::Error::new(io::ErrorKind::InvalidInput, message)));
        }
        let mut xsave = new_xsave(features);
        let (fixed, extra) = state.0.as_chunks::<4>().0.split_at(size_of::<kvm_xsave>() / 4);
        // SAFETY: only plain words of the fixed part are written; the length of the flexible array is not touched.
        let region = unsafe { &mut xsave.as_mut_fam_struct().xsave.region };
        for (word, bytes) in region.iter_mut().zip(fixed) {
            *word = u32::from_ne_bytes(*bytes);
        }
        for (word, bytes) in xsave.as_mut_slice().iter_mut().zip(extra) {
            *word = u32::from_ne_bytes(*bytes);
        }
        // SAFETY: `xsave` has the size that KVM_CAP_XSAVE2 asks for; this process enables no further state.
        unsafe { self.fd.set_xsave2(&xsave) }.map_err(ioctl_error("KVM_SET_XSAVE"))
    }

    fn initial_fpu(&self) -> FpuState {
        let mut bytes = vec![0; self.machine.features.xsave_bytes].into_boxed_slice();
        bytes[0..2].copy_from_slice(&0x37f_u16.to_le_bytes());
        bytes[24..28].copy_from_slice(&0x1f80_u32.to_le_bytes());
        bytes[XSTATE_BV] = 3;
        FpuState(bytes)
    }

    fn kicker(&self) -> Arc<dyn Kicker> {
        Arc::clone(&self.kick) as Arc<dyn Kicker>
    }
}

impl Drop for KvmVcpu {
    fn drop(&mut self) {
        self.kick.retire();
    }
}

/// What does not change while a virtual CPU lives.
fn set_up(fd: &VcpuFd, features: &Features) -> Result<(), PlatformError> {
    const MSR_STAR: u32 = 0xc000_0081;
    const MSR_LSTAR: u32 = 0xc000_0082;
    const MSR_SYSCALL_MASK: u32 = 0xc000_0084;
    fd.set_cpuid2(&features.cpuid).map_err(ioctl_error("KVM_SET_CPUID2"))?;
    let entries = [(MSR_STAR, STAR), (MSR_LSTAR, STUB), (MSR_SYSCALL_MASK, SYSCALL_FLAG_MASK)];
    let entries = entries.map(|(index, data)| kvm_msr_entry { index, data, ..Default::default() });
    let msrs = Msrs::from_entries(&entries).expect("three entries fit");
    let set = fd.set_msrs(&msrs).map_err(ioctl_error("KVM_SET_MSRS"))?;
    if set != entries.len() {
        let source = io::Error::other(format!("register {:#x} was refused", entries[set].index));
        return Err(host_error("KVM_SET_MSRS", source));
    }
    let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..Default::default() };
    xcrs.xcrs[0].value = features.xcr0;
    fd.set_xcrs(&xcrs).map_err(ioctl_error("KVM_SET_XCRS"))?;
    set_host_clock(fd)
}

/// Lets the guest's time stamp counter be the host's, so that the monitor can compute clocks for the guest's vDSO.
fn set_host_clock(fd: &VcpuFd) -> Result<(), PlatformError> {
    const MSR_TSC: u32 = 0x10;
    /// `_IOW(KVMIO, 0xe1, struct kvm_device_attr)`; kvm-ioctls offers it on other architectures only.
    const KVM_SET_DEVICE_ATTR: libc::Ioctl = 0x4018_aee1;
    let offset = 0_u64;
    let attribute = kvm_device_attr {
        group: KVM_VCPU_TSC_CTRL,
        attr: u64::from(KVM_VCPU_TSC_OFFSET),
        addr: &raw const offset as u64,
        flags: 0,
    };
    // SAFETY: `attribute` and the eight bytes it points to live through the call, which only reads them.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), KVM_SET_DEVICE_ATTR, &raw const attribute) };
    if result == 0 {
        return Ok(());
    }
    // Kernels before 5.16: as close as the time between these two instructions.
    // SAFETY: every 64-bit x86 processor has the instruction.
    let now = unsafe { std::arch::x86_64::_rdtsc() };
    let msrs = Msrs::from_entries(&[kvm_msr_entry { index: MSR_TSC, data: now, ..Default::default() }]);
    fd.set_msrs(&msrs.expect("one entry fits")).map_err(ioctl_error("KVM_SET_MSRS"))?;
    Ok(())
}

/// An empty XSAVE area of the size this machine's virtual CPUs have.
fn new_xsave(features: &Features) -> Xsave {
    let extra_words = (features.xsave_bytes - size_of::<kvm_xsave>()).div_ceil(4);
    Xsave::new(extra_words).expect("an XSAVE area has a moderate size")
}

fn state_bytes(xsave: &Xsave) -> Box<[u8]> {
    let fixed = &xsave.as_fam_struct_ref().xsave.region;
    fixed.iter().chain(xsave.as_slice()).flat_map(|word| word.to_ne_bytes()).collect()
}
