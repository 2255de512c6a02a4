//! The loop of one virtual CPU: choose a thread, run it, serve what it wants.
//!
//! The kernel's lock is held except while guest code runs and while there is nothing to run.

use std::sync::Arc;
use std::time::Duration;

use calypte_platform::{Exit, PlatformError, Registers, Vcpu};
use parking_lot::MutexGuard;

use crate::call::Call;
use crate::errno::Errno;
use crate::guest::Guest;
use crate::kernel::{GuestExit, Kernel};
use crate::outcome::{Stop, Woken};
use crate::process::ProcessorTime;
use crate::quota::Quota;
use crate::sched::SLICE_NS;
use crate::table;
use crate::thread::{Fpu, ThreadState};
use crate::waits::Tid;

/// Shortest sleep of the ticker: what is overdue is being dealt with.
const TICK_NS_MIN: u64 = 100_000;
/// Events may be late by this much, as on Linux (`PR_SET_TIMERSLACK`). Without it a timer of some nanoseconds whose signal
/// is ignored would keep a virtual CPU busy while the program sleeps.
const SLACK_NS: u64 = 50_000;
/// Turns from this length on are measured in processor time, so that what the host gave to others, or held back, is nobody's.
/// It takes a system call to know, which short turns are not worth.
const LONG_TURN_NS: u64 = 1_000_000;
/// Calls that read or replace the caller's floating-point state, so that it must be saved before: `rt_sigreturn`, `clone`,
/// `fork`, `vfork`, `clone3`.
const CALLS_WITH_FPU: [u64; 5] = [15, 56, 57, 58, 435];

struct Runner<'g> {
    guest: &'g Guest,
    index: usize,
    vcpu: Box<dyn Vcpu>,
    /// The thread whose floating-point state is on the virtual CPU.
    loaded: Option<Tid>,
    /// Since when the monitor has worked for the running thread, nanoseconds of the monotonic clock.
    serving_since_ns: Option<u64>,
    /// Processor time of this host thread when that was last looked at.
    looked_at_ns: u64,
}

impl Guest {
    /// Runs guest threads on virtual CPU `index` until the guest ends. The caller lends its thread; one call for each
    /// index, each in a thread of its own.
    pub fn run_vcpu(self: &Arc<Self>, index: usize) {
        let ticker = (index == 0).then(|| {
            let guest = self.clone();
            std::thread::Builder::new().name("ticker".to_owned()).spawn(move || guest.run_ticker())
        });
        if let Err(error) = self.run_until_end(index) {
            let cause = std::error::Error::source(&error).map_or_else(String::new, |source| format!(": {source}"));
            let failure = format!("{error}{cause}");
            tracing::error!(failure, index, "virtual CPU failed");
            self.lock().failure.get_or_insert(failure);
            self.kill(GuestExit::Failed);
        }
        match ticker {
            Some(Ok(thread)) => {
                self.ticker.notify_all();
                if thread.join().is_err() {
                    tracing::error!("the ticker of a guest panicked");
                }
            }
            Some(Err(error)) => tracing::error!(%error, "no thread for the ticker: guest threads are not pre-empted"),
            None => {}
        }
    }

    /// Stops all guest threads where they are, or lets them go on. Clocks do not stop: what falls due meanwhile happens
    /// afterwards.
    pub fn set_frozen(&self, kernel: &mut Kernel, is_frozen: bool) {
        kernel.scheduler.set_frozen(is_frozen);
        if is_frozen {
            kernel.scheduler.kick_all();
            // Virtual CPUs that sleep may hold the floating-point state of a thread.
            self.work.notify_all();
        } else {
            self.work.notify_all();
            self.ticker.notify_all();
        }
    }

    fn run_until_end(&self, index: usize) -> Result<(), PlatformError> {
        let machine = self.lock().machine.clone();
        let vcpu = machine.create_vcpu()?;
        let mut kernel = self.lock_kernel();
        kernel.scheduler.attach(index, vcpu.kicker());
        let mut runner = Runner { guest: self, index, vcpu, loaded: None, serving_since_ns: None, looked_at_ns: 0 };
        while kernel.exit.is_none() {
            runner.step(&mut kernel)?;
        }
        self.report(&mut kernel);
        self.work.notify_all();
        self.ticker.notify_all();
        Ok(())
    }

    /// Lets nothing run when the guest has used up what it may of this period, and lets it go on in the next.
    fn count_processor_time(&self, kernel: &mut Kernel, now_ns: u64) {
        if kernel.scheduler.quota.as_ref().is_none_or(|quota| quota.count_at_ns() > now_ns) {
            return;
        }
        let used_ns = kernel.processor_time_ns();
        let Some(quota) = &mut kernel.scheduler.quota else { return };
        let was_used_up = quota.is_used_up();
        quota.count(now_ns, used_ns);
        let is_used_up = quota.is_used_up();
        // Where guest code runs outside this process, its time is known when it comes back.
        if is_used_up || !kernel.machine.runs_guest_in_this_process() {
            kernel.scheduler.kick_all();
        }
        if was_used_up && !is_used_up {
            self.work.notify_all();
        }
    }

    /// Takes virtual CPUs away from threads that have run for a slice while others wait, has events looked after that
    /// fall due while guest code runs, and counts processor time that is bounded. Sleeps when none of it can happen.
    fn run_ticker(&self) {
        let mut kernel = self.lock_kernel();
        while kernel.exit.is_none() {
            let until = tick_wanted(&kernel);
            kernel.scheduler.ticker_until_ns = until;
            match until {
                None => self.ticker.wait(&mut kernel),
                Some(at) => {
                    let now = kernel.clock.monotonic_ns();
                    let pause = at.saturating_sub(now).max(TICK_NS_MIN);
                    self.ticker.wait_for(&mut kernel, Duration::from_nanos(pause));
                }
            }
            let now = kernel.clock.monotonic_ns();
            if until.is_none_or(|at| at > now) {
                continue;
            }
            self.count_processor_time(&mut kernel, now);
            let is_event_due = kernel.next_event_ns().is_some_and(|at| at <= now);
            if is_event_due && kernel.scheduler.idle() > 0 {
                self.work.notify_one();
            } else if is_event_due || kernel.scheduler.has_ready() || kernel.is_processor_time_watched() {
                kernel.scheduler.kick_all();
            }
        }
    }
}

/// When the ticker has something to do. Events are its business while any virtual CPU runs guest code, which may have set
/// a timer that sleeping ones do not know of; the last one to fall asleep looks after them itself.
fn tick_wanted(kernel: &Kernel) -> Option<u64> {
    if kernel.scheduler.is_frozen() {
        return None;
    }
    let quota = kernel.scheduler.quota.as_ref();
    if let Some(quota) = quota.filter(|quota| quota.is_used_up()) {
        return Some(quota.count_at_ns());
    }
    let is_slice_due = kernel.scheduler.has_ready() || kernel.is_processor_time_watched();
    let slice = is_slice_due.then(|| kernel.clock.monotonic_ns() + SLICE_NS);
    let is_any_busy = kernel.scheduler.idle() < kernel.scheduler.vcpu_count();
    let event = if is_any_busy { kernel.next_event_ns() } else { None };
    let count = quota.filter(|_| is_any_busy).map(Quota::count_at_ns);
    slice.into_iter().chain(event).chain(count).min()
}

impl Runner<'_> {
    /// One step of whatever comes next.
    fn step(&mut self, kernel: &mut MutexGuard<'_, Kernel>) -> Result<(), PlatformError> {
        if !kernel.scheduler.may_run() {
            self.put_back(kernel)?;
            kernel.scheduler.set_idle(true);
            self.guest.work.wait(kernel);
            kernel.scheduler.set_idle(false);
            return Ok(());
        }
        let memory = kernel.machine.memory();
        kernel.clock.refresh(&*memory);
        kernel.expire();
        kernel.settle();
        let Some(tid) = self.choose(kernel) else {
            self.sleep(kernel);
            return Ok(());
        };
        let thread = kernel.threads.get_mut(&tid).expect("a running thread exists");
        if thread.is_killed {
            kernel.end_thread(tid);
            return self.leave(kernel);
        }
        let (pid, is_in_call) = (thread.pid, thread.is_in_call);
        let must_settle_call = thread.interrupted_call.is_some() || thread.saved_blocked.is_some();
        if kernel.processes[&pid].job.stopped_by.is_some() {
            kernel.threads.get_mut(&tid).expect("a running thread exists").state = ThreadState::Stopped;
            return self.leave(kernel);
        }
        if is_in_call {
            return self.serve(kernel, tid);
        }
        if must_settle_call || kernel.has_signal(tid) {
            self.save_fpu(kernel)?;
            self.settle_fpu(kernel, tid);
            kernel.deliver_signals(tid);
            return Ok(());
        }
        self.run(kernel, tid)
    }

    /// The thread to go on with.
    fn choose(&mut self, kernel: &mut Kernel) -> Option<Tid> {
        if let Some(tid) = kernel.scheduler.running(self.index) {
            return Some(tid);
        }
        let tid = kernel.scheduler.pop_ready()?;
        kernel.threads.get_mut(&tid).expect("a ready thread exists").state = ThreadState::Running(self.index);
        kernel.scheduler.set_running(self.index, Some(tid));
        self.serving_since_ns = Some(kernel.clock.monotonic_ns());
        Some(tid)
    }

    /// Sleeps until there may be a thread to run.
    fn sleep(&mut self, kernel: &mut MutexGuard<'_, Kernel>) {
        kernel.scheduler.set_idle(true);
        match kernel.next_event_ns() {
            None => self.guest.work.wait(kernel),
            Some(at) => {
                let pause = at.saturating_sub(kernel.clock.monotonic_ns()).max(SLACK_NS);
                self.guest.work.wait_for(kernel, Duration::from_nanos(pause));
            }
        }
        kernel.scheduler.set_idle(false);
    }

    /// Makes the thread's floating-point state that of the virtual CPU.
    fn load_fpu(&mut self, kernel: &mut Kernel, tid: Tid) -> Result<(), PlatformError> {
        if self.loaded == Some(tid) && kernel.threads[&tid].fpu == Fpu::Loaded {
            return Ok(());
        }
        self.save_fpu(kernel)?;
        let thread = kernel.threads.get_mut(&tid).expect("a running thread exists");
        match std::mem::replace(&mut thread.fpu, Fpu::Loaded) {
            Fpu::Initial => self.vcpu.set_fpu(&self.vcpu.initial_fpu())?,
            // What a signal handler has left may be refused; the thread's fault, not the platform's.
            Fpu::Saved(state) => {
                if let Err(error) = self.vcpu.set_fpu(&state) {
                    tracing::debug!(%error, "floating-point state refused");
                    self.vcpu.set_fpu(&self.vcpu.initial_fpu())?;
                    kernel.force_signal(tid, crate::signal::Info::from_kernel(crate::signal::Signal::SEGV));
                }
            }
            Fpu::Loaded => unreachable!("the state of a thread is on the virtual CPU that ran it last"),
        }
        self.loaded = Some(tid);
        Ok(())
    }

    /// Takes the floating-point state off the virtual CPU, to its thread.
    fn save_fpu(&mut self, kernel: &mut Kernel) -> Result<(), PlatformError> {
        if let Some(tid) = self.loaded.take()
            && let Some(thread) = kernel.threads.get_mut(&tid)
            && thread.fpu == Fpu::Loaded
        {
            thread.fpu = Fpu::Saved(self.vcpu.fpu()?);
        }
        Ok(())
    }

    /// Gives a thread that has never run its floating-point state.
    fn settle_fpu(&self, kernel: &mut Kernel, tid: Tid) {
        let thread = kernel.threads.get_mut(&tid).expect("a running thread exists");
        if thread.fpu == Fpu::Initial {
            thread.fpu = Fpu::Saved(self.vcpu.initial_fpu());
        }
    }

    /// Takes everything of the guest off the virtual CPU: the thread is the next to run, on whichever is free.
    fn put_back(&mut self, kernel: &mut Kernel) -> Result<(), PlatformError> {
        if let Some(tid) = kernel.scheduler.running(self.index) {
            let now_ns = kernel.clock.monotonic_ns();
            self.charge_serving(kernel, now_ns);
            kernel.threads.get_mut(&tid).expect("a running thread exists").state = ThreadState::Ready;
            kernel.scheduler.push_ready_first(tid);
            kernel.scheduler.set_running(self.index, None);
        }
        self.save_fpu(kernel)?;
        if kernel.is_quiet() {
            self.guest.quiet.notify_all();
        }
        Ok(())
    }

    /// Counts the time since the running thread left guest code as its system time.
    fn charge_serving(&mut self, kernel: &mut Kernel, now_ns: u64) {
        let Some(since_ns) = self.serving_since_ns.take() else { return };
        let Some(tid) = kernel.scheduler.running(self.index) else { return };
        let served_ns = now_ns.saturating_sub(since_ns);
        let Some(thread) = kernel.threads.get_mut(&tid) else { return };
        thread.time.add(ProcessorTime::system(served_ns));
        let pid = thread.pid;
        kernel.process_mut(pid).time.add(ProcessorTime::system(served_ns));
    }

    /// The thread leaves the virtual CPU. With several of them its state must not stay behind.
    fn leave(&mut self, kernel: &mut Kernel) -> Result<(), PlatformError> {
        let now_ns = kernel.clock.monotonic_ns();
        self.charge_serving(kernel, now_ns);
        kernel.scheduler.set_running(self.index, None);
        if kernel.scheduler.vcpu_count() > 1 {
            self.save_fpu(kernel)?;
        }
        Ok(())
    }

    /// Processor time of a turn that took this long. Without a virtual machine guest code runs in another process, and the
    /// turn's length has to do.
    fn used_ns(&mut self, kernel: &Kernel, passed_ns: u64) -> u64 {
        if !kernel.machine.runs_guest_in_this_process() {
            return passed_ns;
        }
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        let now_ns = time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs();
        // Short turns since the last long one are in it too, so it may be a little too much, but never more than passed.
        let since_ns = now_ns.saturating_sub(std::mem::replace(&mut self.looked_at_ns, now_ns));
        passed_ns.min(since_ns)
    }

    /// Runs user code until it needs the monitor.
    fn run(&mut self, kernel: &mut MutexGuard<'_, Kernel>, tid: Tid) -> Result<(), PlatformError> {
        self.load_fpu(kernel, tid)?;
        self.wake_helpers(kernel);
        let thread = &kernel.threads[&tid];
        let mut registers: Registers = thread.registers;
        let token = kernel.spaces.token(kernel.processes[&thread.pid].space);
        let started_ns = kernel.clock.monotonic_ns();
        self.charge_serving(kernel, started_ns);
        let vcpu = &mut self.vcpu;
        let exit = MutexGuard::unlocked(kernel, || vcpu.run(token, &mut registers))?;
        let ended_ns = kernel.clock.monotonic_ns();
        let passed_ns = ended_ns.saturating_sub(started_ns);
        let ran_ns = if passed_ns < LONG_TURN_NS { passed_ns } else { self.used_ns(kernel, passed_ns) };
        self.serving_since_ns = Some(ended_ns);
        let thread = kernel.threads.get_mut(&tid).expect("only its own virtual CPU ends a running thread");
        thread.registers = registers;
        thread.time.add(ProcessorTime::user(ran_ns));
        let (pid, is_killed) = (thread.pid, thread.is_killed);
        kernel.process_mut(pid).time.add(ProcessorTime::user(ran_ns));
        kernel.charge_processor_time(pid);
        kernel.statistics.count_exit(ran_ns, matches!(exit, Exit::PageFault { .. }));
        if let Some(profile) = &mut kernel.profile {
            profile.add_exit(&exit, registers.rax);
        }
        if is_killed {
            return Ok(());
        }
        match exit {
            Exit::SystemCall => kernel.threads.get_mut(&tid).expect("it still exists").is_in_call = true,
            Exit::PageFault { address, access } => {
                let served_ns = kernel.time_for_profile(|kernel| kernel.page_fault(tid, address, access)).1;
                if let Some(profile) = &mut kernel.profile {
                    profile.add_page_fault(served_ns);
                }
            }
            Exit::Exception { vector, error_code } => kernel.signal_exception(tid, vector, error_code),
            Exit::Preempted => {
                if kernel.scheduler.has_ready() {
                    self.requeue(kernel, tid)?;
                }
            }
        }
        Ok(())
    }

    /// Puts the thread at the end of the run queue.
    fn requeue(&mut self, kernel: &mut Kernel, tid: Tid) -> Result<(), PlatformError> {
        kernel.threads.get_mut(&tid).expect("a running thread exists").state = ThreadState::Ready;
        kernel.scheduler.push_ready(tid);
        self.leave(kernel)
    }

    /// Before guest code runs: other virtual CPUs and the ticker must know what they are needed for.
    fn wake_helpers(&self, kernel: &Kernel) {
        if kernel.scheduler.has_ready() && kernel.scheduler.idle() > 0 {
            self.guest.work.notify_one();
        }
        if let Some(wanted) = tick_wanted(kernel)
            && kernel.scheduler.ticker_until_ns.is_none_or(|until| wanted < until)
        {
            self.guest.ticker.notify_one();
        }
    }

    /// Serves the system call that the thread is in.
    fn serve(&mut self, kernel: &mut Kernel, tid: Tid) -> Result<(), PlatformError> {
        let thread = &kernel.threads[&tid];
        // Afterwards the thread may be gone.
        let (number, pid) = (thread.registers.rax, thread.pid);
        if CALLS_WITH_FPU.contains(&number) {
            self.save_fpu(kernel)?;
            self.settle_fpu(kernel, tid);
        }
        let (result, served_ns) = kernel.time_for_profile(|kernel| dispatch(kernel, tid, number));
        if let Some(profile) = &mut kernel.profile {
            profile.add_call(number, served_ns);
        }
        kernel.spaces.carry_out_cuts(&mut kernel.frames);
        if kernel.spaces.take_out_of_memory() {
            kernel.kill_for_memory(pid);
            return Ok(());
        }
        self.guest.report(kernel);
        if kernel.exit.is_some() {
            return Ok(());
        }
        match result {
            Served::Done => {
                if kernel.scheduler.take_yield() && kernel.scheduler.has_ready() {
                    let tid = kernel.scheduler.running(self.index).expect("the caller still runs");
                    self.requeue(kernel, tid)?;
                }
            }
            Served::Parked | Served::Gone => self.leave(kernel)?,
        }
        Ok(())
    }
}

enum Served {
    /// The thread can go on.
    Done,
    /// The thread waits.
    Parked,
    /// The thread has ended.
    Gone,
}

fn dispatch(kernel: &mut Kernel, tid: Tid, number: u64) -> Served {
    let thread = kernel.threads.get_mut(&tid).expect("a running thread exists");
    let registers = thread.registers;
    let woken = thread.woken.take();
    let resumed_deadline_ns = thread.wait_deadline_ns.take();
    let pid = thread.pid;
    let args = [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9];
    kernel.caller = tid;
    let mut call = Call { kernel, tid, pid, args, woken, resumed_deadline_ns };
    let result = match table::find(number) {
        Some(entry) => {
            let result = (entry.handler)(&mut call);
            tracing::trace!(tid, call = entry.name, args = ?args.map(|arg| format!("{arg:#x}")), ?result);
            result
        }
        None => Err(unknown(call.kernel, number)),
    };
    let Some(thread) = kernel.threads.get_mut(&tid) else { return Served::Gone };
    match result {
        Ok(value) => finish(thread, value),
        Err(Stop::Errno(errno)) => {
            if errno == Errno::EINTR && woken == Some(Woken::Signal) {
                thread.interrupted_call = Some(number);
                thread.interrupted_deadline_ns = resumed_deadline_ns;
            }
            finish(thread, (-i64::from(errno.0)).cast_unsigned());
        }
        Err(Stop::Replaced) => {
            thread.is_in_call = false;
            thread.progress = 0;
        }
        Err(Stop::Block(wait)) => {
            thread.state = ThreadState::Parked;
            thread.wait_deadline_ns = wait.deadline_ns;
            kernel.waits.park(tid, wait);
            // A signal that came before the wait would otherwise be slept over.
            if woken != Some(Woken::Signal) && kernel.has_signal(tid) {
                kernel.waits.wake(tid, Woken::Signal);
            }
            return Served::Parked;
        }
    }
    Served::Done
}

fn finish(thread: &mut crate::thread::Thread, value: u64) {
    thread.registers.rax = value;
    thread.is_in_call = false;
    thread.progress = 0;
}

fn unknown(kernel: &mut Kernel, number: u64) -> Stop {
    let refused = table::refused::find(number);
    if kernel.unknown_calls.len() < table::NUMBERS && kernel.unknown_calls.insert(number) {
        let (name, errno, why) = (refused.name, refused.errno.name(), refused.why);
        match name {
            // Every program tries it, and none needs it.
            "rseq" => tracing::debug!(number, name, errno, why, "system call not offered"),
            _ => tracing::info!(number, name, errno, why, "system call not offered"),
        }
    }
    Stop::Errno(refused.errno)
}
