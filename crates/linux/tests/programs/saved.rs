//! The mode "saved": after every so many system calls the guest is saved, ended, and restored from the bytes in a new
//! machine. What the program does must not change.

use std::ffi::OsStr;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, Weak};

use calypte_linux::guest::{Guest, Observer};
use calypte_linux::kernel::{GuestExit, Kernel};
use calypte_linux::state::{ClockPolicy, SavedGuest, State, StateError};

use crate::guest::{Output, Shape, configuration, run, spawn, status};
use crate::program::{self, Linking, Run, folder, run_on_host};

/// How often a program is saved at most: a cycle takes some milliseconds, which is mostly the new machine.
const CYCLES_MAX: u64 = 50;
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
    let mut is_file_next = true;
    loop {
        stopper.guest.set(Arc::downgrade(&guest)).expect("each guest has its own");
        let Some(saved) = run_until_stopped(&guest, &stopper, shape) else { break };
        drop(guest);
        stopper = Stopper::new(output.clone(), every);
        let (machine, config) = configuration(folder(), shape, stopper.clone());
        // By turns its pages are a file's until they are written, and copied from memory.
        let file = is_file_next.then(|| file_of(saved.bytes()));
        is_file_next = !is_file_next;
        let state = match &file {
            Some(file) => State::open(file.as_fd()),
            None => State::parse(saved.bytes()),
        };
        let restored = state.and_then(|state| Guest::restore(machine, config, ClockPolicy::Advance, &state));
        guest = restored.expect("what was saved a moment ago");
        guest.set_frozen(&mut guest.lock(), false);
    }
    let exit = guest.wait_exit();
    output.progress(&mut guest.lock());
    Run { output: output.text(), status: status(&guest, exit) }
}

/// A file in memory.
fn file_of(bytes: &[u8]) -> OwnedFd {
    let file = rustix::fs::memfd_create(c"state", rustix::fs::MemfdFlags::CLOEXEC).expect("a file in memory");
    let mut file = std::fs::File::from(file);
    file.write_all(bytes).expect("there is room");
    file.into()
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

/// Names a state: this process goes on with it ([`go_on`]).
pub(crate) const GO_ON: &str = "CALYPTE_CONFORMANCE_GO_ON";
/// Names the folder with the programs of the process that has saved it.
const PROGRAMS: &str = "CALYPTE_CONFORMANCE_PROGRAMS";

/// A program that begins in this process ends in another one.
pub(crate) fn a_state_crosses_into_another_process(shape: Shape) {
    let (name, linking) = ("events", Linking::Dynamic);
    let calls = count_calls(name, linking, &[], shape) / 2;
    let output = Arc::new(Output::default());
    let stopper = Stopper::new(output.clone(), calls);
    let guest = spawn(name, linking, &[], shape, stopper.clone());
    stopper.guest.set(Arc::downgrade(&guest)).expect("it is new");
    let saved = run_until_stopped(&guest, &stopper, shape).expect("it makes more calls");
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), saved.bytes()).expect("our own file");
    let other = Command::new(std::env::current_exe().expect("this test"))
        .env(GO_ON, file.path())
        .env(PROGRAMS, folder())
        .output()
        .expect("this test as another process");
    let before = output.text();
    let after = String::from_utf8_lossy(&other.stdout).into_owned();
    assert!(!before.is_empty() && !after.is_empty(), "either has a part: {before:?}, {after:?}");
    let whole = Run { output: before + &after, status: other.status.code().unwrap_or(-1) };
    let expected = run_on_host(name, linking, &[]);
    assert_eq!(whole, expected, "{}", String::from_utf8_lossy(&other.stderr));
}

/// What the other process does.
pub(crate) fn go_on(state: &OsStr, shape: Shape) -> u8 {
    let bytes = std::fs::read(state).expect("the state that was named");
    let programs = std::env::var_os(PROGRAMS).expect("the folder with the programs");
    let output = Arc::new(Output::default());
    let guest = restore_with(Path::new(&programs), &bytes, shape, output.clone()).expect("the state is sound");
    guest.set_frozen(&mut guest.lock(), false);
    let exit = run(&guest, shape);
    output.progress(&mut guest.lock());
    print!("{}", output.text());
    u8::try_from(status(&guest, exit)).expect("the program ends by itself")
}

/// The state of a program after a number of system calls, which must not be its last.
pub(crate) fn save_after(name: &str, linking: Linking, calls: u64, shape: Shape) -> Vec<u8> {
    let stopper = Stopper::new(Arc::default(), calls);
    let guest = spawn(name, linking, &[], shape, stopper.clone());
    stopper.guest.set(Arc::downgrade(&guest)).expect("it is new");
    run_until_stopped(&guest, &stopper, shape).expect("it makes more calls").into_bytes()
}

/// A guest from bytes.
pub(crate) fn restore(bytes: &[u8], shape: Shape, observer: Arc<dyn Observer>) -> Result<Arc<Guest>, StateError> {
    restore_with(folder(), bytes, shape, observer)
}

fn restore_with(
    programs: &Path,
    bytes: &[u8],
    shape: Shape,
    observer: Arc<dyn Observer>,
) -> Result<Arc<Guest>, StateError> {
    let (machine, config) = configuration(programs, shape, observer);
    Guest::restore(machine, config, ClockPolicy::Advance, &State::parse(bytes)?)
}
