//! A guest whose program is a script of system calls.

use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use calypte_linux::guest::{Guest, GuestConfig, Observer};
use calypte_linux::kernel::{GuestExit, Kernel};
use calypte_linux::outcome::Woken;
use calypte_linux::thread::ThreadState;
use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};

use crate::machine::ScriptedMachine;
use crate::script::Script;

/// Where the program's scratch memory is.
pub const SCRATCH: u64 = 0x40_1000;
/// Its size, bytes.
pub const SCRATCH_BYTES: u64 = 64 * 1024;
/// Where paths are that exist in the guest, or may be made.
pub const PATHS: u64 = 0x40_0800;
/// The distance of each from [`PATHS`].
pub const PATH_OFFSETS: [u64; 7] = [0, 13, 19, 26, 33, 49, 59];
const PATH_BYTES: &[u8] = b"/folder/file\0/link\0/tmp/a\0/tmp/b\0/proc/self/maps\0/dev/zero\0/program\0";
const MEMORY_MIB: u32 = 16;
const TMP_MIB: u32 = 4;
/// How often it is looked whether anything can still happen in a guest.
const WATCH_INTERVAL: Duration = Duration::from_millis(20);
/// Frames of the machine of such a guest.
pub const FRAMES_MAX: u32 = (MEMORY_MIB + TMP_MIB + 4) * 256;

/// Runs a script to its end and checks what must hold then: the guest has ended, and the platform has not failed.
pub fn run(script: &[u8]) {
    let script = Arc::new(Mutex::new(Script::new(script)));
    let machine = ScriptedMachine::new(FRAMES_MAX, script.clone());
    let guest = start(machine, configuration(Arc::new(Waker::new(script.clone()))));
    run_to_end(&guest, &script);
}

/// Runs a guest to its end and checks that it was not the platform's. A guest in which nothing can happen any more, such as
/// one whose last process is stopped, is ended.
pub fn run_to_end(guest: &Arc<Guest>, script: &Mutex<Script>) {
    std::thread::scope(|scope| {
        let (ended, is_ended) = mpsc::channel::<()>();
        scope.spawn(move || {
            let mut steps_before = None;
            while is_ended.recv_timeout(WATCH_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                let steps = Some(script.lock().steps());
                let can_run = guest.lock().threads.values().any(|thread| can_run(thread.state));
                if !can_run && steps == steps_before {
                    guest.kill(GuestExit::Status(0));
                }
                steps_before = steps;
            }
        });
        guest.run_vcpu(0);
        drop(ended);
    });
    let exit = guest.wait_exit();
    assert!(exit != GuestExit::Failed, "the platform failed: {:?}", guest.lock().failure);
}

fn can_run(state: ThreadState) -> bool {
    !matches!(state, ThreadState::Parked | ThreadState::Stopped)
}

/// What such a guest is made of.
pub fn configuration(observer: Arc<dyn Observer>) -> GuestConfig {
    GuestConfig {
        way_out: None,
        memory_mib: MEMORY_MIB,
        tmp_mib: TMP_MIB,
        mounts: vec![("/".to_owned(), root())],
        root: Default::default(),
        host_name: "fuzz".to_owned(),
        vcpu_count: 1,
        services: Vec::new(),
        observer,
    }
}

/// A guest that is about to run its program.
pub fn start(machine: Arc<ScriptedMachine>, config: GuestConfig) -> Arc<Guest> {
    let guest = Guest::new(machine, config).expect("a guest");
    guest.spawn_first(b"/program", vec![b"program".to_vec()], &[], b"/").expect("a program");
    guest
}

/// Nobody else would end the waits of a script: when all threads wait or are stopped, the calls are interrupted. Some waits
/// no signal ends, such as that of `vfork`; when all are of that kind, the guest is ended.
pub struct Waker {
    script: Arc<Mutex<Script>>,
    /// Steps that had been made when the waits were interrupted last.
    interrupted_at: Mutex<usize>,
}

impl Waker {
    /// For a guest that follows a script.
    pub fn new(script: Arc<Mutex<Script>>) -> Self {
        Self { script, interrupted_at: Mutex::new(0) }
    }
}

impl Observer for Waker {
    fn progress(&self, kernel: &mut Kernel) {
        kernel.take_output();
        let (is_over, steps) = {
            let script = self.script.lock();
            (script.is_over(), script.steps())
        };
        if is_over {
            kernel.exit.get_or_insert(GuestExit::Status(0));
            return;
        }
        let parked: Vec<_> = kernel
            .threads
            .iter()
            .filter(|(_, thread)| thread.state == ThreadState::Parked)
            .map(|(tid, _)| *tid)
            .collect();
        if !kernel.threads.values().any(|thread| can_run(thread.state)) {
            if std::mem::replace(&mut *self.interrupted_at.lock(), steps) == steps {
                kernel.exit.get_or_insert(GuestExit::Status(0));
            }
            parked.iter().for_each(|tid| _ = kernel.waits.wake(*tid, Woken::Signal));
        }
    }
}

/// A root file system with one program, the same for all runs.
fn root() -> OwnedFd {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let program = folder.path().join("program");
        std::fs::write(&program, elf()).expect("a file in it");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("our own file");
        std::fs::create_dir(folder.path().join("folder")).expect("a folder in it");
        std::fs::write(folder.path().join("folder/file"), vec![b'x'; 10_000]).expect("a file in it");
        std::os::unix::fs::symlink("folder/file", folder.path().join("link")).expect("a link in it");
        folder
    });
    open(folder.path())
}

fn open(path: &Path) -> OwnedFd {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).expect("a directory")
}

/// A program of one page of code, which nobody runs, and the scratch memory.
fn elf() -> Vec<u8> {
    let mut bytes = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    bytes.extend(2_u16.to_le_bytes()); // ET_EXEC
    bytes.extend(62_u16.to_le_bytes()); // EM_X86_64
    bytes.extend(1_u32.to_le_bytes());
    bytes.extend(0x40_0000_u64.to_le_bytes()); // entry
    bytes.extend(64_u64.to_le_bytes()); // program headers
    bytes.extend(0_u64.to_le_bytes());
    bytes.extend(0_u32.to_le_bytes());
    for value in [64_u16, 56, 2, 64, 0, 0] {
        bytes.extend(value.to_le_bytes());
    }
    segment(&mut bytes, 5, 0x40_0000, 4096, 4096);
    segment(&mut bytes, 6, SCRATCH, 0, SCRATCH_BYTES);
    bytes.resize(4096, 0);
    bytes[2048..2048 + PATH_BYTES.len()].copy_from_slice(PATH_BYTES);
    bytes
}

fn segment(bytes: &mut Vec<u8>, flags: u32, address: u64, file_bytes: u64, memory_bytes: u64) {
    bytes.extend(1_u32.to_le_bytes()); // PT_LOAD
    bytes.extend(flags.to_le_bytes());
    for value in [0, address, address, file_bytes, memory_bytes, 4096] {
        bytes.extend(value.to_le_bytes());
    }
}
