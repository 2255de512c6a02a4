//! Runs a program of this folder in a guest, on any platform that is here.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex};

use calypte_linux::console::Stream;
use calypte_linux::fs::RootMode;
use calypte_linux::guest::{Guest, GuestConfig, Observer};
use calypte_linux::kernel::{GuestExit, Kernel};
use calypte_platform::Machine;
use rustix::fs::{Mode, OFlags};

use crate::program::{Linking, Run, file, folder, lower};

/// Status that stands for [`GuestExit::OutOfMemory`].
pub(crate) const OUT_OF_MEMORY: i32 = 1000;
/// Where the guest sees the programs.
const FOLDER: &str = "/programs";
const TMP_MIB: u32 = 64;

/// What executes guest code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Platform {
    /// `/dev/kvm`.
    Kvm,
    /// `ptrace(2)`.
    Ptrace,
}

impl Platform {
    /// All of them.
    pub(crate) const ALL: &[Self] = &[Self::Kvm, Self::Ptrace];

    /// As it is printed and asked for.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Ptrace => "ptrace",
        }
    }

    /// Why it cannot be used here.
    pub(crate) fn unavailable(self) -> Option<String> {
        match self {
            Self::Kvm => calypte_kvm::probe().err().map(|error| error.to_string()),
            Self::Ptrace => calypte_ptrace::probe().err().map(|error| error.to_string()),
        }
    }

    fn create_machine(self, frames: u32) -> Arc<dyn Machine> {
        match self {
            Self::Kvm => calypte_kvm::create_machine(&calypte_kvm::Config::new(frames)).expect("a virtual machine"),
            Self::Ptrace => calypte_ptrace::create_machine(&calypte_ptrace::Config { memory_frames_max: frames })
                .expect("a machine"),
        }
    }
}

/// What a guest is given.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    /// What executes it.
    pub(crate) platform: Platform,
    /// Virtual CPUs.
    pub(crate) vcpu_count: usize,
    /// Memory, MiB.
    pub(crate) memory_mib: u32,
    /// Whether `/` can be changed.
    pub(crate) root: RootMode,
}

/// A guest for what is not about programs.
pub(crate) const SMALL: Shape =
    Shape { platform: Platform::Kvm, vcpu_count: 1, memory_mib: 64, root: RootMode::ReadOnly };

/// What a guest has printed.
#[derive(Default)]
pub(crate) struct Output(Mutex<[Vec<u8>; 2]>);

impl Output {
    /// Standard output, then standard error.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().expect("nobody panics with it").concat()).into_owned()
    }
}

impl Observer for Output {
    fn progress(&self, kernel: &mut Kernel) {
        let mut output = self.0.lock().expect("nobody panics with it");
        for (stream, bytes) in kernel.take_output() {
            output[usize::from(stream == Stream::Error)].extend(bytes);
        }
    }
}

/// Whether a file can be loaded as a program. It is not run.
pub(crate) fn can_load(bytes: &[u8]) -> bool {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let file = folder.path().join("program");
    std::fs::write(&file, bytes).expect("a file in it");
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("our own file");
    let shape = Shape { platform: Platform::Kvm, vcpu_count: 1, memory_mib: 64, root: RootMode::ReadOnly };
    let guest = new_guest(folder.path(), shape, Arc::new(Output::default()));
    guest.spawn_first(b"/programs/program", vec![b"program".to_vec()], &[], b"/").is_ok()
}

fn new_guest(programs: &Path, shape: Shape, observer: Arc<dyn Observer>) -> Arc<Guest> {
    let (machine, config) = configuration(programs, shape, observer);
    Guest::new(machine, config).expect("a guest")
}

/// A machine and what a guest is to be made of in it.
pub(crate) fn configuration(
    programs: &Path,
    shape: Shape,
    observer: Arc<dyn Observer>,
) -> (Arc<dyn Machine>, GuestConfig) {
    let frames = (shape.memory_mib + TMP_MIB + 4) * 256;
    let config = GuestConfig {
        memory_mib: shape.memory_mib,
        way_out: None,
        tmp_mib: TMP_MIB,
        mounts: vec![("/".to_owned(), directory(Path::new("/"))), (FOLDER.to_owned(), directory(programs))],
        root: shape.root,
        host_name: "guest".to_owned(),
        vcpu_count: shape.vcpu_count,
        services: Vec::new(),
        observer,
    };
    (shape.platform.create_machine(frames), config)
}

/// A guest that is about to run a program.
pub(crate) fn spawn(
    name: &str,
    linking: Linking,
    arguments: &[&str],
    shape: Shape,
    observer: Arc<dyn Observer>,
) -> Arc<Guest> {
    let guest = new_guest(folder(), shape, observer);
    let path = format!("{FOLDER}/{}", file(name, linking)).into_bytes();
    let mut vector = vec![path.clone()];
    vector.extend(arguments.iter().map(|argument| argument.as_bytes().to_vec()));
    guest
        .spawn_first(&path, vector, &[b"GREETING=hello".to_vec(), format!("LOWER={}", lower()).into_bytes()], b"/")
        .expect("a program");
    guest.lock().close_input();
    guest
}

/// Runs a guest to its end.
pub(crate) fn run(guest: &Arc<Guest>, shape: Shape) -> GuestExit {
    std::thread::scope(|scope| {
        for index in 0..shape.vcpu_count {
            scope.spawn(move || guest.run_vcpu(index));
        }
    });
    guest.wait_exit()
}

/// A guest's end as shells tell it.
pub(crate) fn status(guest: &Guest, exit: GuestExit) -> i32 {
    match exit {
        GuestExit::Status(status) => i32::from(status),
        GuestExit::Signal(signal) => 128 + i32::from(signal),
        GuestExit::OutOfMemory => OUT_OF_MEMORY,
        GuestExit::Failed => panic!("the platform failed: {:?}", guest.lock().failure),
    }
}

/// Runs a program in a guest.
pub(crate) fn run_in_guest(name: &str, linking: Linking, arguments: &[&str], shape: Shape) -> Run {
    let output = Arc::new(Output::default());
    let guest = spawn(name, linking, arguments, shape, output.clone());
    let exit = run(&guest, shape);
    output.progress(&mut guest.lock());
    Run { output: output.text(), status: status(&guest, exit) }
}

fn directory(path: &Path) -> OwnedFd {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).expect("a directory")
}
