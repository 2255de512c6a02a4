//! Compiles a program of this folder and runs it here and there.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};

use calypte_linux::console::Stream;
use calypte_linux::guest::{Guest, GuestConfig, Observer};
use calypte_linux::kernel::{GuestExit, Kernel};
use rustix::fs::{Mode, OFlags};

/// Status that stands for [`GuestExit::OutOfMemory`].
pub(crate) const OUT_OF_MEMORY: i32 = 1000;
/// Where the guest sees the programs.
const FOLDER: &str = "/programs";
const TMP_MIB: u32 = 64;

/// How a program is linked.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Linking {
    /// Without an interpreter.
    Static,
    /// Against the host's C library.
    Dynamic,
}

/// What a program has done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// What it printed to either stream.
    pub(crate) output: String,
    /// Exit status as shells tell it.
    pub(crate) status: i32,
}

/// Runs a program on the host and, linked in each way, on one and on two virtual CPUs.
pub(crate) fn check(name: &str, arguments: &[&str]) {
    for linking in [Linking::Static, Linking::Dynamic] {
        let expected = run_on_host(name, linking, arguments);
        for vcpu_count in [1, 2] {
            let Some(found) = run_in_guest(name, linking, arguments, vcpu_count, 256) else { return };
            assert_eq!(found, expected, "{name}, {linking:?}, {vcpu_count} virtual CPU(s)");
        }
    }
}

/// Runs a program that ends in an unusual way.
pub(crate) fn check_end(name: &str, argument: &str, status: i32) {
    assert_eq!(run_on_host(name, Linking::Static, &[argument]).status, status, "{argument} on the host");
    if let Some(run) = run_in_guest(name, Linking::Static, &[argument], 1, 64) {
        assert_eq!(run.status, status, "{argument} in the guest: {run:?}");
    }
}

fn folder() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    FOLDER.get_or_init(|| tempfile::tempdir().expect("a temporary directory")).path()
}

/// The name of the program's file in [`folder`].
fn compile(name: &str, linking: Linking) -> String {
    static COMPILER: Mutex<()> = Mutex::new(());
    let _one_at_a_time = COMPILER.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let file = format!("{name}-{linking:?}").to_lowercase();
    let output = folder().join(&file);
    if !output.exists() {
        let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/programs/{name}.c"));
        let mut command = Command::new("cc");
        command
            .args([
                "-O1",
                "-g",
                "-pthread",
                "-Wall",
                "-Wno-infinite-recursion",
                "-Wno-stringop-overread",
                "-D_GNU_SOURCE",
                "-o",
            ])
            .arg(&output)
            .arg(source);
        if let Linking::Static = linking {
            command.arg("-static");
        }
        let status = command.arg("-lm").status().expect("a C compiler named cc");
        assert!(status.success(), "{name}.c does not compile");
    }
    file
}

/// Runs a program here.
fn run_on_host(name: &str, linking: Linking, arguments: &[&str]) -> Run {
    use std::os::unix::process::ExitStatusExt;
    let file = compile(name, linking);
    let output = Command::new(folder().join(file))
        .args(arguments)
        .env_clear()
        .env("GREETING", "hello")
        .current_dir("/")
        .output()
        .expect("the program was just compiled");
    let status = output.status.code().unwrap_or_else(|| 128 + output.status.signal().unwrap_or(0));
    Run { output: String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(), status }
}

#[derive(Default)]
struct Output(Mutex<[Vec<u8>; 2]>);

impl Observer for Output {
    fn progress(&self, kernel: &mut Kernel) {
        let mut output = self.0.lock().expect("nobody panics with it");
        for (stream, bytes) in kernel.take_output() {
            output[usize::from(stream == Stream::Error)].extend(bytes);
        }
    }
}

/// Whether there are virtual machines here; a test that is skipped for want of them says so.
fn has_machines(test: &str) -> bool {
    match calypte_kvm::probe() {
        Ok(()) => true,
        Err(error) => {
            eprintln!("SKIP {test}: {error}");
            false
        }
    }
}

/// A program's file. `None`, with a message, where there are no virtual machines.
pub(crate) fn program_bytes(name: &str, linking: Linking) -> Option<Vec<u8>> {
    has_machines(name).then(|| std::fs::read(folder().join(compile(name, linking))).expect("it was just compiled"))
}

/// Whether a file can be loaded as a program. It is not run.
pub(crate) fn can_load(bytes: &[u8]) -> bool {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let file = folder.path().join("program");
    std::fs::write(&file, bytes).expect("a file in it");
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("our own file");
    let guest = new_guest(folder.path(), 1, 64, Arc::new(Output::default()));
    guest.spawn_first(b"/programs/program", vec![b"program".to_vec()], &[], b"/").is_ok()
}

fn new_guest(programs: &Path, vcpu_count: usize, memory_mib: u32, observer: Arc<dyn Observer>) -> Arc<Guest> {
    let frames = (memory_mib + TMP_MIB + 4) * 256;
    let machine = calypte_kvm::create_machine(&calypte_kvm::Config::new(frames)).expect("a virtual machine");
    let config = GuestConfig {
        memory_mib,
        tmp_mib: TMP_MIB,
        mounts: vec![("/".to_owned(), directory(Path::new("/"))), (FOLDER.to_owned(), directory(programs))],
        host_name: "guest".to_owned(),
        vcpu_count,
        services: Vec::new(),
        observer,
    };
    Guest::new(machine, config).expect("a guest")
}

/// Runs a program in a guest. `None`, with a message, where there are no virtual machines.
pub(crate) fn run_in_guest(
    name: &str,
    linking: Linking,
    arguments: &[&str],
    vcpu_count: usize,
    memory_mib: u32,
) -> Option<Run> {
    if !has_machines(name) {
        return None;
    }
    let file = compile(name, linking);
    let output = Arc::new(Output::default());
    let guest = new_guest(folder(), vcpu_count, memory_mib, output.clone());
    let path = format!("{FOLDER}/{file}").into_bytes();
    let mut vector = vec![path.clone()];
    vector.extend(arguments.iter().map(|argument| argument.as_bytes().to_vec()));
    guest.spawn_first(&path, vector, &[b"GREETING=hello".to_vec()], b"/").expect("a program");
    guest.lock().close_input();
    std::thread::scope(|scope| {
        for index in 0..vcpu_count {
            let guest = &guest;
            scope.spawn(move || guest.run_vcpu(index));
        }
    });
    let exit = guest.wait_exit();
    output.progress(&mut guest.lock());
    let status = match exit {
        GuestExit::Status(status) => i32::from(status),
        GuestExit::Signal(signal) => 128 + i32::from(signal),
        GuestExit::OutOfMemory => OUT_OF_MEMORY,
        GuestExit::Failed => panic!("the platform failed: {:?}", guest.lock().failure),
    };
    let output = output.0.lock().expect("nobody panics with it").concat();
    Some(Run { output: String::from_utf8_lossy(&output).into_owned(), status })
}

fn directory(path: &Path) -> OwnedFd {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).expect("a directory")
}
