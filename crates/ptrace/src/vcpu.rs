//! A virtual CPU: user code in a stub process, from one stop to the next.
//!
//! What an exception was is not told to tracers: neither the vector nor how an address was touched. The kernel does tell
//! signal handlers. So where it matters the signal is delivered, on a stack shared with us, to a handler that stops at
//! once; then the registers from before are put back. Where it can be told without, as for most writes to read-only pages,
//! that is left out.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use calypte_platform::{Access, Exit, FpuState, Kicker, PlatformError, Protection, Registers, SpaceToken, Vcpu};

use crate::calls::{PLAIN_FLAGS, make_calls, prepare_calls_at, run_to_breakpoint};
use crate::control::{BREAKPOINT, Call, Control};
use crate::filter::CLONE_FLAGS;
use crate::host::host_error;
use crate::kick::KickState;
use crate::layout::{CODE, RESERVED_END};
use crate::memory::Frames;
use crate::processor::Processor;
use crate::record::Run;
use crate::seed::{self, EXCEPTION_SIGNALS};
use crate::space::{Finding, SharedSpace, Spaces, Stub, map_call, unmap_call};
use crate::tracee::{HostRegisters, SignalInfo, Stop, Tracee, from_host, to_host};

/// Vector of the page fault.
const PAGE_FAULT: u64 = 14;
/// Exit for what user code on this platform must not do although the host lets it.
const PROTECTION_FAULT: Exit = Exit::Exception { vector: 13, error_code: 0 };
/// Codes of `SIGSEGV` for page faults (`sigaction(2)`): nothing mapped, not allowed.
const SEGV_MAPERR: i32 = 1;
const SEGV_ACCERR: i32 = 2;
/// The page in the upper half of addresses in which old programs find system calls. The kernel emulates it, which is refused
/// to stubs: they have no executable page there.
const VSYSCALL: std::ops::Range<u64> = 0xffff_ffff_ff60_0000..0xffff_ffff_ff60_1000;
/// Longest instruction, bytes.
const INSTRUCTION_BYTES_MAX: u64 = 15;
/// How often in a row one address may be mapped in a stub before that is taken for a fault of the host.
const REPEATS_MAX: u32 = 100;

/// Bytes at the start of the XSAVE area that are laid out as by `FXSAVE`.
const FXSAVE_BYTES: usize = 512;

/// A stub and what is known of it.
#[derive(Debug)]
struct Place {
    space: Arc<SharedSpace>,
    stub: Arc<Stub>,
    /// Its segment bases.
    bases: (u64, u64),
    processor: Processor,
}

/// Where the floating-point and vector state is.
#[derive(Debug)]
enum Fpu {
    /// Here.
    Held(Box<[u8]>),
    /// In the stub of this address space.
    In(u64),
}

/// A [`Vcpu`] on ptrace. Belongs to the thread that made it.
pub(crate) struct PtraceVcpu {
    control: Control,
    seed: Tracee,
    spaces: Arc<Spaces>,
    places: BTreeMap<u64, Place>,
    /// The address space of the last run.
    current: u64,
    /// Registers of a stub; the selectors are of interest.
    selectors: HostRegisters,
    fpu: Fpu,
    fpu_bytes: usize,
    /// The instruction and the address for which a page was last mapped by [`PtraceVcpu::map_in_stub`], and how often in a
    /// row it was these.
    last_mapped: (u64, u64),
    repeats: u32,
    kick: Arc<KickState>,
}

/// Marks a stub as left, whatever happens.
struct Entered<'s>(&'s Stub);

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

impl PtraceVcpu {
    /// A virtual CPU for the calling thread.
    pub(crate) fn new(frames: &Frames, spaces: Arc<Spaces>) -> Result<Self, PlatformError> {
        let control = Control::new()?;
        let seed = seed::create(&control, frames)?;
        let selectors = seed.registers()?;
        let fpu_bytes = seed.fpu(None)?.len();
        let fpu = Fpu::Held(initial_fpu(fpu_bytes));
        let kick = Arc::new(KickState::default());
        let vcpu = Self {
            control,
            seed,
            spaces,
            places: BTreeMap::new(),
            current: 0,
            selectors,
            fpu,
            fpu_bytes,
            last_mapped: (0, 0),
            repeats: 0,
            kick,
        };
        // Nothing of the monitor may be where user code will be.
        vcpu.seed.set_fpu(&initial_fpu(fpu_bytes))?;
        Ok(vcpu)
    }

    /// Has a stub make calls. The inner result is that of the first call that failed.
    fn call(&self, stub: &Tracee, calls: &[Call]) -> Result<std::io::Result<()>, PlatformError> {
        make_calls(stub, &self.control, &self.selectors, calls)
    }

    /// A stub with nothing mapped.
    fn create_stub(&self) -> Result<Tracee, PlatformError> {
        let arguments = [CLONE_FLAGS as u64, 0, 0, 0, 0, 0];
        let call = Call { number: libc::SYS_clone, arguments };
        prepare_calls_at(CODE, &self.seed, &self.control, &self.selectors, &[call])?;
        let child = loop {
            self.seed.resume(0)?;
            match self.seed.wait()? {
                Stop::Child => break self.seed.new_child()?,
                Stop::Signal(libc::SIGTRAP) => {
                    let errno = self.seed.registers()?.rax.wrapping_neg() as i32;
                    return Err(host_error("clone of a stub process", std::io::Error::from_raw_os_error(errno)));
                }
                Stop::Signal(_) | Stop::SystemCall => {}
            }
        };
        let stop = child.wait()?;
        if stop != Stop::Signal(libc::SIGSTOP) {
            return Err(PlatformError::VcpuFailed(format!("a new stub process stopped for {stop:?}")));
        }
        run_to_breakpoint(&self.seed, 0)?;
        Ok(child)
    }

    /// Makes `space` the current one.
    fn enter_space(&mut self, space: SpaceToken) -> Result<(), PlatformError> {
        if self.current == space.0 {
            return Ok(());
        }
        if !self.places.contains_key(&space.0) {
            self.places.retain(|_, place| !place.space.is_ended());
            let spaces = self.spaces.lock().unwrap_or_else(PoisonError::into_inner);
            let shared = spaces.get(&space.0).cloned().expect("a run takes place in an address space that there is");
            drop(spaces);
            let stub = Arc::new(Stub::new(self.create_stub()?));
            shared.follow(Arc::clone(&stub));
            let place = Place { space: shared, stub, bases: (0, 0), processor: Processor::default() };
            self.places.insert(space.0, place);
        }
        self.current = space.0;
        self.kick.set_target(Some(Arc::clone(&self.places[&space.0].stub)));
        Ok(())
    }

    fn place(&self) -> &Place {
        &self.places[&self.current]
    }

    fn place_mut(&mut self) -> &mut Place {
        self.places.get_mut(&self.current).expect("the current place exists")
    }

    /// Brings the stub up to date and marks it as entered.
    fn update_stub(&self) -> Result<(), PlatformError> {
        let Place { space, stub, .. } = self.place();
        loop {
            let calls = space.enter_or_calls(stub);
            if calls.is_empty() {
                return Ok(());
            }
            match self.call(&stub.tracee, &calls)? {
                Ok(()) => {}
                // The host allows a process so many areas (`vm.max_map_count`) and no more. Begin again with none.
                Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => self.empty_stub()?,
                Err(error) => return Err(host_error("mmap in a stub", error)),
            }
        }
    }

    fn empty_stub(&self) -> Result<(), PlatformError> {
        let Place { space, stub, .. } = self.place();
        let unmapped = self.call(&stub.tracee, &[unmap_call(0..CODE)])?;
        unmapped.map_err(|error| host_error("munmap in a stub", error))?;
        space.forget_mappings(stub);
        Ok(())
    }

    /// Maps a run that the record has in the stub, for an instruction that touches an address.
    fn map_in_stub(&mut self, run: &Run, wanted: (u64, u64)) -> Result<(), PlatformError> {
        self.repeats = if self.last_mapped == wanted { self.repeats + 1 } else { 0 };
        self.last_mapped = wanted;
        if self.repeats > REPEATS_MAX {
            let (rip, address) = wanted;
            return Err(PlatformError::VcpuFailed(format!("no progress at {rip:#x} with the page of {address:#x}")));
        }
        for _ in 0..2 {
            match self.call(&self.place().stub.tracee, &[map_call(run)])? {
                Ok(()) => return Ok(()),
                Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => self.empty_stub()?,
                Err(error) => return Err(host_error("mmap in a stub", error)),
            }
        }
        Err(host_error("mmap in a stub", std::io::Error::from_raw_os_error(libc::ENOMEM)))
    }

    /// Puts the floating-point state where the next run needs it.
    fn load_fpu(&mut self) -> Result<(), PlatformError> {
        if matches!(self.fpu, Fpu::In(space) if space == self.current) {
            return Ok(());
        }
        let state = self.fpu()?;
        self.place().stub.tracee.set_fpu(&state.0)?;
        self.fpu = Fpu::In(self.current);
        Ok(())
    }

    /// Lets user code run until the stub stops. The stub has been entered. It is left in 64-bit code, whatever code it was
    /// in when it stopped.
    fn run_user_code(&mut self, registers: &Registers) -> Result<(Stop, HostRegisters), PlatformError> {
        let host = to_host(registers, &self.selectors);
        let place = self.place_mut();
        let bases = (registers.fs_base, registers.gs_base);
        let tracee = &place.stub.tracee;
        tracee.set_registers(&host, bases != place.bases)?;
        place.processor.follow(tracee);
        let started = Instant::now();
        tracee.resume_user_code()?;
        let stop = tracee.wait()?;
        place.processor.note(started.elapsed());
        let host = tracee.registers()?;
        place.bases = (host.fs_base, host.gs_base);
        if host.cs != self.selectors.cs {
            let registers = Registers { fs_base: 0, gs_base: 0, ..from_host(&host) };
            let reset = to_host(&registers, &self.selectors);
            self.place().stub.tracee.reset_registers(&reset)?;
            self.place_mut().bases = (0, 0);
        }
        Ok((stop, host))
    }

    /// The exit for a signal of an exception, or none if user code may go on.
    fn exception(&mut self, signal: i32, host: &HostRegisters) -> Result<Option<Exit>, PlatformError> {
        let info = self.place().stub.tracee.signal_info()?;
        if info.code <= 0 {
            return Ok(None); // Sent by somebody.
        }
        if signal == libc::SIGSEGV && [SEGV_MAPERR, SEGV_ACCERR].contains(&info.code) {
            match self.judge(info, host.rip)? {
                Judgement::Retry => return Ok(None),
                Judgement::Access(access) => return Ok(Some(Exit::PageFault { address: info.address, access })),
                Judgement::Unknown => {}
            }
        }
        if VSYSCALL.contains(&host.rip) {
            return Ok(Some(Exit::PageFault { address: host.rip, access: Access::Execute }));
        }
        self.describe(signal, host).map(Some)
    }

    /// What can be said about a page fault from the record alone.
    fn judge(&mut self, info: SignalInfo, rip: u64) -> Result<Judgement, PlatformError> {
        let SignalInfo { code, address } = info;
        let Place { space, stub, .. } = self.place();
        let run = match space.find(stub, address) {
            Finding::Stale => return Ok(Judgement::Retry),
            // Instructions are fetched before their operands.
            Finding::Unmapped if address == rip => return Ok(Judgement::Access(Access::Execute)),
            Finding::Unmapped => return Ok(Judgement::Unknown),
            Finding::Mapped(run) => run,
        };
        if !run.protection.is_empty() && code == SEGV_MAPERR {
            self.map_in_stub(&run, (rip, address))?;
            return Ok(Judgement::Retry);
        }
        if !run.protection.contains(Protection::EXECUTE) && address == rip {
            return Ok(Judgement::Access(Access::Execute));
        }
        // The end of an instruction may be on another page than its beginning.
        let may_be_fetch =
            !run.protection.contains(Protection::EXECUTE) && address.wrapping_sub(rip) < INSTRUCTION_BYTES_MAX;
        let may_be_read = !run.protection.contains(Protection::READ);
        let may_be_write = !run.protection.contains(Protection::WRITE);
        Ok(match (may_be_read, may_be_write, may_be_fetch) {
            (false, true, false) => Judgement::Access(Access::Write),
            _ => Judgement::Unknown,
        })
    }

    /// Has the kernel tell all about an exception, by delivering its signal.
    fn describe(&mut self, signal: i32, host: &HostRegisters) -> Result<Exit, PlatformError> {
        // Delivery resets the floating-point state.
        self.fpu = Fpu::Held(self.fpu()?.0);
        let stub = Arc::clone(&self.place().stub);
        // A stack pointer that is not on the signal stack, so that the kernel begins at its top.
        let safe = HostRegisters { rip: BREAKPOINT, rsp: 0, eflags: PLAIN_FLAGS, orig_rax: u64::MAX, ..*host };
        let safe = HostRegisters { cs: self.selectors.cs, ss: self.selectors.ss, ..safe };
        stub.tracee.set_registers(&safe, false)?;
        run_to_breakpoint(&stub.tracee, signal)?;
        let stack_pointer = stub.tracee.registers()?.rsp;
        let frame = self
            .control
            .take_frame(stack_pointer)
            .ok_or_else(|| PlatformError::VcpuFailed(format!("signal {signal} was described at {stack_pointer:#x}")))?;
        if signal == libc::SIGBUS && frame.vector == PAGE_FAULT {
            return Err(PlatformError::VcpuFailed("the host has no memory for a page of the guest".to_owned()));
        }
        Ok(match u8::try_from(frame.vector) {
            Ok(vector) if frame.vector != PAGE_FAULT => Exit::Exception { vector, error_code: frame.error_code },
            _ => Exit::PageFault { address: frame.address, access: access_of(frame.error_code) },
        })
    }
}

/// See [`PtraceVcpu::judge`].
enum Judgement {
    /// User code may go on.
    Retry,
    /// It is a fault, of this kind.
    Access(Access),
    /// It cannot be told.
    Unknown,
}

/// The access that a page fault's error code describes (Intel SDM volume 3, section 4.7).
fn access_of(error_code: u64) -> Access {
    const WRITE: u64 = 1 << 1;
    const FETCH: u64 = 1 << 4;
    if error_code & FETCH != 0 {
        Access::Execute
    } else if error_code & WRITE != 0 {
        Access::Write
    } else {
        Access::Read
    }
}

/// Whether the host would let a program have these registers. Where it would not, user code gets a protection fault,
/// which is what loading such a value does on hardware.
fn is_enterable(registers: &Registers, bases: (u64, u64)) -> bool {
    let is_canonical = ((registers.rip as i64) << 16 >> 16) as u64 == registers.rip;
    let are_low = registers.fs_base < RESERVED_END && registers.gs_base < RESERVED_END;
    is_canonical && (are_low || (registers.fs_base, registers.gs_base) == bases)
}

/// The exit for a stop at a system call.
fn system_call(host: &HostRegisters, registers: &mut Registers) -> Exit {
    /// Bytes of `int 0x80`, and the error code of a protection fault by it: gate 0x80 of the interrupt table.
    const INT_BYTES: u64 = 2;
    const INT_ERROR_CODE: u64 = 0x80 << 3 | 2;
    registers.rax = host.orig_rax;
    // `syscall` leaves its return address and the flags there; `int 0x80`, for 32-bit programs, does not.
    if host.rcx == host.rip && host.r11 == host.eflags {
        return Exit::SystemCall;
    }
    registers.rip = host.rip.wrapping_sub(INT_BYTES);
    Exit::Exception { vector: 13, error_code: INT_ERROR_CODE }
}

/// The exit for a call of the vsyscall page, which the kernel has refused and returned from.
fn vsyscall(info: SignalInfo, registers: &mut Registers) -> Exit {
    registers.rip = info.address;
    registers.rsp = registers.rsp.wrapping_sub(8);
    Exit::PageFault { address: info.address, access: Access::Execute }
}

/// The state of a program that has just been started, `bytes` long.
fn initial_fpu(bytes: usize) -> Box<[u8]> {
    /// x87 control word, where MXCSR is, and its value.
    const CONTROL: u16 = 0x37f;
    const MXCSR_OFFSET: usize = 24;
    const MXCSR: u32 = 0x1f80;
    let mut state = vec![0; bytes].into_boxed_slice();
    state[..2].copy_from_slice(&CONTROL.to_le_bytes());
    state[MXCSR_OFFSET..MXCSR_OFFSET + 4].copy_from_slice(&MXCSR.to_le_bytes());
    // Of the header: x87 and SSE are in use.
    state[FXSAVE_BYTES] = 3;
    state
}

impl Vcpu for PtraceVcpu {
    fn run(&mut self, space: SpaceToken, registers: &mut Registers) -> Result<Exit, PlatformError> {
        self.enter_space(space)?;
        (self.last_mapped, self.repeats) = ((0, 0), 0);
        loop {
            self.update_stub()?;
            let stub = Arc::clone(&self.place().stub);
            let entered = Entered(&stub);
            if self.kick.take_kick() {
                return Ok(Exit::Preempted);
            }
            if !is_enterable(registers, self.place().bases) {
                return Ok(PROTECTION_FAULT);
            }
            self.load_fpu()?;
            let (stop, host) = self.run_user_code(registers)?;
            drop(entered);
            *registers = from_host(&host);
            let exit = match stop {
                // It has gone to a segment of 32-bit code, and is back from it.
                _ if host.cs != self.selectors.cs => Some(PROTECTION_FAULT),
                Stop::SystemCall => Some(system_call(&host, registers)),
                Stop::Signal(libc::SIGSYS) => Some(vsyscall(stub.tracee.signal_info()?, registers)),
                Stop::Signal(signal) if EXCEPTION_SIGNALS.contains(&signal) => self.exception(signal, &host)?,
                // Somebody wants it to stop, or the signal is none of its business.
                Stop::Signal(_) => None,
                Stop::Child => return Err(PlatformError::VcpuFailed("user code has made a process".to_owned())),
            };
            if let Some(exit) = exit {
                return Ok(exit);
            }
        }
    }

    fn fpu(&mut self) -> Result<FpuState, PlatformError> {
        Ok(FpuState(match &self.fpu {
            Fpu::Held(state) => state.clone(),
            Fpu::In(space) => match self.places.get(space).filter(|place| !place.space.is_ended()) {
                Some(place) => place.stub.tracee.fpu(Some(self.fpu_bytes))?,
                // It went with the process whose it was.
                None => initial_fpu(self.fpu_bytes),
            },
        }))
    }

    fn set_fpu(&mut self, state: &FpuState) -> Result<(), PlatformError> {
        if state.0.len() != self.fpu_bytes {
            let message = format!("{} bytes of state given, {} expected", state.0.len(), self.fpu_bytes);
            let source = std::io::Error::new(std::io::ErrorKind::InvalidInput, message);
            return Err(host_error("PTRACE_SETREGSET", source));
        }
        match self.places.get(&self.current).filter(|place| !place.space.is_ended()) {
            Some(place) => {
                place.stub.tracee.set_fpu(&state.0)?;
                self.fpu = Fpu::In(self.current);
            }
            None => {
                // The kernel refuses a bad state here, where the caller can tell whose it is.
                self.seed.set_fpu(&state.0)?;
                self.fpu = Fpu::Held(state.0.clone());
            }
        }
        Ok(())
    }

    fn initial_fpu(&self) -> FpuState {
        FpuState(initial_fpu(self.fpu_bytes))
    }

    fn kicker(&self) -> Arc<dyn Kicker> {
        Arc::clone(&self.kick) as Arc<dyn Kicker>
    }
}

impl Drop for PtraceVcpu {
    fn drop(&mut self) {
        self.kick.set_target(None);
        for place in self.places.values() {
            place.space.unfollow(&place.stub);
            place.stub.tracee.end();
        }
    }
}
