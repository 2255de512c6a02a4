//! The mode "saved": after every so many system calls the guest is saved, ended, and restored from the bytes in a new
//! machine. What the program does must not change.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, Weak};

use calypte_linux::guest::{Guest, Observer};
use calypte_linux::kernel::{GuestExit, Kernel};
use calypte_linux::state::{ClockPolicy, SavedGuest, State, StateError};

use crate::guest::{Output, Shape, configuration, run, spawn, status};
use crate::program::{self, Linking, Run, folder};

/// How often a program is saved at most: a cycle takes some milliseconds, which is mostly the new machine.
const CYCLES_MAX: u64 = 80;
/// The same where the processor is emulated.
const CYCLES_EMULATED_MAX: u64 = 8;

/// Stops the guest after a number of system calls.
struct Stopper {
    output: Arc<Output>,
    calls: AtomicU64,
    calls_max: u64,
    guest: OnceLock<Weak<Guest>>,
    stopped: (Mutex<bool>, Condvar),
}

impl Stopper {
    fn new(output: Arc<Output>, calls_max: u64) -> Arc<Self> {
        Arc::new(Self {
            output,
            calls: AtomicU64::new(0),
            calls_max,
            guest: OnceLock::new(),
            stopped: (Mutex::new(false), Condvar::new()),
        })
    }

    /// Waits until the guest is frozen or has ended.
    fn wait(&self) {
        let (lock, changed) = &self.stopped;
        let is_stopped = lock.lock().expect("nobody panics with it");
        drop(changed.wait_while(is_stopped, |is_stopped| !*is_stopped).expect("nobody panics with it"));
    }
}

impl Observer for Stopper {
    fn progress(&self, kernel: &mut Kernel) {
        self.output.progress(kernel);
        let calls = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        let guest = self.guest.get().and_then(Weak::upgrade);
        let Some(guest) = guest.filter(|_| calls == self.calls_max || kernel.exit.is_some()) else { return };
        if kernel.exit.is_none() {
            guest.set_frozen(kernel, true);
        }
        *self.stopped.0.lock().expect("nobody panics with it") = true;
        self.stopped.1.notify_all();
    }
}

/// How many system calls a program makes.
fn count_calls(name: &str, linking: Linking, arguments: &[&str], shape: Shape) -> u64 {
    let counter = Stopper::new(Arc::default(), u64::MAX);
    run(&spawn(name, linking, arguments, shape, counter.clone()), shape);
    counter.calls.load(Ordering::Relaxed)
}

/// Runs a program in one guest after the other.
pub(crate) fn run_saved(name: &str, linking: Linking, arguments: &[&str], shape: Shape) -> Run {
    let cycles_max = if program::is_recorded() { CYCLES_EMULATED_MAX } else { CYCLES_MAX };
    let every = count_calls(name, linking, arguments, shape).div_ceil(cycles_max).max(1);
    let output = Arc::new(Output::default());
    let mut stopper = Stopper::new(output.clone(), every);
    let mut guest = spawn(name, linking, arguments, shape, stopper.clone());
    loop {
        stopper.guest.set(Arc::downgrade(&guest)).expect("each guest has its own");
        let Some(saved) = run_until_stopped(&guest, &stopper, shape) else { break };
        drop(guest);
        stopper = Stopper::new(output.clone(), every);
        guest = restore(saved.bytes(), shape, stopper.clone()).expect("what was saved a moment ago");
        guest.set_frozen(&mut guest.lock(), false);
    }
    let exit = guest.wait_exit();
    output.progress(&mut guest.lock());
    Run { output: output.text(), status: status(&guest, exit) }
}

/// The saved guest; nothing if it has ended.
fn run_until_stopped(guest: &Arc<Guest>, stopper: &Stopper, shape: Shape) -> Option<SavedGuest> {
    std::thread::scope(|scope| {
        for index in 0..shape.vcpu_count {
            scope.spawn(move || guest.run_vcpu(index));
        }
        stopper.wait();
        match guest.save() {
            Ok(saved) => {
                guest.kill(GuestExit::Failed);
                Some(saved)
            }
            Err(StateError::Ended) => None,
            Err(error) => panic!("{error}"),
        }
    })
}

fn restore(bytes: &[u8], shape: Shape, observer: Arc<dyn Observer>) -> Result<Arc<Guest>, StateError> {
    let (machine, config) = configuration(folder(), shape, observer);
    Guest::restore(machine, config, ClockPolicy::Advance, &State::parse(bytes)?)
}
