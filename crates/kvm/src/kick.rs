//! Ending a run of a virtual CPU from another thread.
//!
//! `KVM_RUN` returns `EINTR` when a signal arrives, or at once when `immediate_exit` in the run page is set. A signal alone
//! could arrive just before the ioctl and be lost, so both are used, in this order:
//!
//! ```text
//!  other thread                         virtual CPU's thread
//!  kicked = true (only for kicks)       KVM_RUN → EINTR
//!  immediate_exit = 1                   immediate_exit = 0
//!  signal                               was kicked? then Pre-empted, else run again
//! ```
//!
//! Whatever the interleaving, a kick is either taken or leaves `kicked` set for the next run to see, and a cleared
//! `immediate_exit` is always followed by a look at `kicked`.

use std::io;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, Once, PoisonError};

use calypte_platform::Kicker;

/// The signal that interrupts `KVM_RUN`. Its handler does nothing; the process must leave it to this crate.
const KICK_SIGNAL: libc::c_int = libc::SIGUSR1;

/// Where a living virtual CPU is.
#[derive(Debug)]
struct Target {
    immediate_exit: *const AtomicU8,
    thread: libc::pid_t,
}

// SAFETY: the pointer is to an atomic byte in the run page, which stays mapped while the target is registered.
unsafe impl Send for Target {}

/// Shared between a virtual CPU and those who interrupt it.
#[derive(Debug)]
pub(crate) struct KickState {
    /// None once the virtual CPU is gone: its thread id may then belong to somebody else.
    target: Mutex<Option<Target>>,
    kicked: AtomicBool,
    /// Odd while the virtual CPU is inside `KVM_RUN`.
    entries: AtomicU64,
}

impl KickState {
    /// The state of a virtual CPU whose thread is the calling one.
    ///
    /// # Safety
    ///
    /// `immediate_exit` must point to that field of the virtual CPU's run page and stay valid until
    /// [`KickState::retire`].
    pub(crate) unsafe fn new(immediate_exit: *const AtomicU8) -> io::Result<Self> {
        prepare_signal()?;
        // SAFETY: no arguments, no memory.
        let thread = unsafe { libc::gettid() };
        Ok(Self {
            target: Mutex::new(Some(Target { immediate_exit, thread })),
            kicked: AtomicBool::new(false),
            entries: AtomicU64::new(0),
        })
    }

    /// The virtual CPU goes away.
    pub(crate) fn retire(&self) {
        *self.target.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The virtual CPU is about to call `KVM_RUN`, or is back from it.
    pub(crate) fn cross(&self) {
        self.entries.fetch_add(1, Ordering::SeqCst);
    }

    /// Makes the run in progress or the next one end.
    pub(crate) fn raise_kick(&self) {
        self.kicked.store(true, Ordering::SeqCst);
    }

    /// Whether the run was kicked; `immediate_exit` must have been cleared before.
    pub(crate) fn take_kick(&self) -> bool {
        self.kicked.swap(false, Ordering::SeqCst)
    }

    /// If the virtual CPU is inside `KVM_RUN`, makes it leave and returns when it has.
    pub(crate) fn interrupt_and_wait(&self) {
        let entries = self.entries.load(Ordering::SeqCst);
        if entries.is_multiple_of(2) {
            return;
        }
        self.interrupt();
        while self.entries.load(Ordering::SeqCst) == entries {
            std::thread::yield_now();
        }
    }

    fn interrupt(&self) {
        let target = self.target.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Target { immediate_exit, thread }) = *target else { return };
        // SAFETY: registered, so the run page is mapped, and the lock keeps it so.
        unsafe { &*immediate_exit }.store(1, Ordering::SeqCst);
        // SAFETY: the signal has a handler (`prepare_signal`) and the thread is one of this process. Failure is possible
        // only if it has ended without dropping its virtual CPU, and then there is no run to end.
        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, KICK_SIGNAL) };
    }
}

impl Kicker for KickState {
    fn kick(&self) {
        self.raise_kick();
        self.interrupt();
    }
}

/// Installs the handler, once, and lets the calling thread receive the signal.
fn prepare_signal() -> io::Result<()> {
    static INSTALL: Once = Once::new();
    extern "C" fn ignore(_signal: libc::c_int) {}
    INSTALL.call_once(|| {
        // SAFETY: all zeros is a valid sigaction.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = ignore as extern "C" fn(libc::c_int) as usize;
        // Other system calls of the thread go on; KVM_RUN returns EINTR all the same.
        action.sa_flags = libc::SA_RESTART;
        // SAFETY: the handler does nothing, so it is safe at any point of any thread.
        let result = unsafe { libc::sigaction(KICK_SIGNAL, &action, ptr::null_mut()) };
        assert_eq!(result, 0, "sigaction: {}", io::Error::last_os_error());
    });
    // SAFETY: sigemptyset initialises the set; the calls read and write only it and this thread's mask.
    let result = unsafe {
        let mut signals: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut signals);
        libc::sigaddset(&mut signals, KICK_SIGNAL);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &signals, ptr::null_mut())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(result)) }
}
