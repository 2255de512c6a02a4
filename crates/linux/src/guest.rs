//! One guest, as the monitor handles it: make it, start its first program, lend it threads to run on, watch it end.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use calypte_platform::{Machine, PAGE_SIZE, PlatformError};
use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::clock::Clock;
use crate::console::Console;
use crate::errno::Errno;
use crate::exec;
use crate::file;
use crate::frames::Frames;
use crate::fs::metadata::Time;
use crate::fs::walk::{Follow, Walker};
use crate::fs::{FileSystem, FileSystemConfig, MountError, RootMode};
use crate::kernel::{FIRST_PID, GuestExit, Kernel, Statistics};
use crate::mm::AddressSpaces;
use crate::net::egress::RESOLVER_CONFIGURATION;
use crate::net::{Network, WayOut};
use crate::notifier::Notifier;
use crate::process::Process;
use crate::sched::Scheduler;
use crate::service::LoopbackService;
use crate::thread::{Fpu, Thread};
use crate::vdso::Vdso;
use crate::waits::Waits;

/// Most virtual CPUs of a guest.
pub const VCPUS_MAX: usize = 64;
/// Frames that a guest may use beyond its memory size: vDSO, stacks of the start.
const EXTRA_FRAMES: u32 = 16;

/// What a guest is made of.
pub struct GuestConfig {
    /// Memory size, MiB.
    pub memory_mib: u32,
    /// Size of `/tmp`, MiB.
    pub tmp_mib: u32,
    /// Directories of the host and where the guest sees them, read-only.
    pub mounts: Vec<(String, OwnedFd)>,
    /// Whether the tree at `/` can be changed.
    pub root: RootMode,
    /// Host name.
    pub host_name: String,
    /// Virtual CPUs, 1 to [`VCPUS_MAX`].
    pub vcpu_count: usize,
    /// Services on ports of 127.0.0.1.
    pub services: Vec<(u16, Box<dyn LoopbackService>)>,
    /// Its connections to the outside; none if left out.
    pub way_out: Option<WayOut>,
    /// Who is told of what the guest does.
    pub observer: Arc<dyn Observer>,
}

/// The monitor's side of a guest.
pub trait Observer: Send + Sync {
    /// The guest may have printed something, said something to a service, begun to wait for input, or ended. Called with
    /// the kernel locked, by the thread of a virtual CPU after each system call: it must be quick and not block.
    fn progress(&self, kernel: &mut Kernel);
}

/// Why a guest could not be made or its first program not be started.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// The tree of files.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The platform.
    #[error("the guest cannot be set up")]
    Platform(#[from] PlatformError),
    /// No memory for the guest's own first pages.
    #[error("the memory size of {memory_mib} MiB is too small")]
    Memory {
        /// The size asked for.
        memory_mib: u32,
    },
    /// The first program's working directory.
    #[error("there is no working directory {directory:?} in the guest ({})", errno.name())]
    WorkingDirectory {
        /// Its path in the guest.
        directory: String,
        /// What `chdir` would have said.
        errno: Errno,
    },
    /// The first program.
    #[error("cannot run `{program}`: {}", explain(*errno))]
    Program {
        /// Its path.
        program: String,
        /// What `execve` would have said.
        errno: Errno,
    },
}

fn explain(errno: Errno) -> &'static str {
    match errno {
        Errno::ENOENT => "no such file, or its interpreter does not exist",
        Errno::EACCES => "not an executable file",
        Errno::ENOEXEC => "not a program for x86-64 Linux",
        Errno::ELIBBAD => "its interpreter is not a program for x86-64 Linux",
        Errno::E2BIG => "its arguments and environment are too long",
        Errno::ENOMEM => "the memory size is too small for it",
        Errno::ENOTDIR => "a part of its path is not a directory",
        other => other.name(),
    }
}

/// Reads what guests are told about the host, so that it is known when the monitor cannot read it any more. Processes
/// forked afterwards know it too.
pub fn learn_host() {
    crate::fs::proc::processor::Processor::of_host();
}

/// One guest. Shared by the threads that run its virtual CPUs and those that move its input and output.
///
/// Lock order: there is one lock, the kernel's.
pub struct Guest {
    kernel: Mutex<Kernel>,
    /// Virtual CPUs without a thread to run sleep here.
    pub(crate) work: Condvar,
    /// The ticker sleeps here.
    pub(crate) ticker: Condvar,
    /// Those sleep here who wait until no thread of a frozen guest is on a virtual CPU.
    pub(crate) quiet: Condvar,
    /// Those sleep here who wait for the end.
    ended: Condvar,
    observer: Arc<dyn Observer>,
}

/// The kernel, locked by the monitor. When it is given back, guest threads that the monitor's changes have woken run.
pub struct KernelGuard<'g> {
    guest: &'g Guest,
    kernel: MutexGuard<'g, Kernel>,
}

impl std::ops::Deref for KernelGuard<'_> {
    type Target = Kernel;

    fn deref(&self) -> &Kernel {
        &self.kernel
    }
}

impl std::ops::DerefMut for KernelGuard<'_> {
    fn deref_mut(&mut self) -> &mut Kernel {
        &mut self.kernel
    }
}

impl Drop for KernelGuard<'_> {
    fn drop(&mut self) {
        if self.kernel.exit.is_some() || self.kernel.waits.has_woken() {
            self.guest.work.notify_all();
            self.guest.ticker.notify_all();
        }
        if self.kernel.exit.is_some() {
            self.guest.ended.notify_all();
            self.guest.quiet.notify_all();
        }
    }
}

impl Guest {
    /// A guest without a program.
    pub fn new(machine: Arc<dyn Machine>, mut config: GuestConfig) -> Result<Arc<Self>, GuestError> {
        let [memory_frames, tmp_frames] = frame_limits(&config);
        let mut frames = Frames::new(machine.memory(), memory_frames, tmp_frames);
        let mut clock = Clock::new(machine.clone());
        let vdso =
            Vdso::new(&mut frames, &mut clock).map_err(|_| GuestError::Memory { memory_mib: config.memory_mib })?;
        let waits = Waits::default();
        let console = Console::new(waits.notifier());
        let started = Time::from_ns(clock.realtime_ns());
        let (files, network) = tree_and_network(&mut config, &frames, waits.notifier(), started)?;
        let kernel = Kernel {
            machine,
            frames,
            spaces: AddressSpaces::default(),
            processes: Default::default(),
            threads: Default::default(),
            network,
            waits,
            scheduler: Scheduler::new(config.vcpu_count),
            clock,
            vdso,
            files,
            console,
            host_name: config.host_name,
            exit: None,
            failure: None,
            statistics: Statistics::default(),
            profile: None,
            unknown_calls: Default::default(),
            asynchronous: Vec::new(),
            last_tid: FIRST_PID,
            caller: FIRST_PID,
        };
        Ok(Self::of_kernel(kernel, config.observer))
    }

    pub(crate) fn of_kernel(kernel: Kernel, observer: Arc<dyn Observer>) -> Arc<Self> {
        Arc::new(Self {
            kernel: Mutex::new(kernel),
            work: Condvar::new(),
            ticker: Condvar::new(),
            quiet: Condvar::new(),
            ended: Condvar::new(),
            observer,
        })
    }

    /// Starts the first program: `program` is a path in the guest, `arguments` begin with its name.
    pub fn spawn_first(
        &self,
        program: &[u8],
        arguments: Vec<Vec<u8>>,
        environment: &[Vec<u8>],
        cwd: &[u8],
    ) -> Result<(), GuestError> {
        let mut guard = self.lock();
        let kernel = &mut *guard;
        let machine = kernel.machine.clone();
        let space = kernel.spaces.create(&*machine)?;
        let root = kernel.files.root();
        let started_ns = kernel.clock.monotonic_ns();
        let process = Process::new(FIRST_PID, space, file::standard_streams(), root, started_ns);
        kernel.processes.insert(FIRST_PID, process);
        let loaded = load_first(kernel, program, arguments, environment, cwd);
        kernel.spaces.release(space, &mut kernel.frames);
        let loaded = loaded.inspect_err(|_| {
            // Another path may be tried.
            kernel.processes.remove(&FIRST_PID);
        })?;
        let process = kernel.process_mut(FIRST_PID);
        process.space = loaded.space;
        process.program = loaded.facts.into();
        let mut thread = Thread::new(FIRST_PID, loaded.registers, Fpu::Initial);
        thread.set_name(&loaded.name);
        kernel.start_thread(FIRST_PID, thread);
        self.work.notify_all();
        Ok(())
    }

    /// The kernel, for the monitor.
    pub fn lock(&self) -> KernelGuard<'_> {
        KernelGuard { guest: self, kernel: self.kernel.lock() }
    }

    /// The kernel, for a virtual CPU's thread, which looks after sleepers itself.
    pub(crate) fn lock_kernel(&self) -> MutexGuard<'_, Kernel> {
        self.kernel.lock()
    }

    /// The kernel of a frozen guest, once no thread of it is on a virtual CPU; at once if the guest has ended.
    pub(crate) fn lock_quiet(&self) -> MutexGuard<'_, Kernel> {
        let mut kernel = self.kernel.lock();
        assert!(kernel.scheduler.is_frozen() || kernel.exit.is_some(), "only a frozen guest becomes quiet");
        while kernel.exit.is_none() && !kernel.is_quiet() {
            self.quiet.wait(&mut kernel);
        }
        kernel
    }

    /// Tells the monitor that something may have changed.
    pub(crate) fn report(&self, kernel: &mut Kernel) {
        self.observer.progress(kernel);
        if kernel.exit.is_some() {
            self.ended.notify_all();
            self.quiet.notify_all();
        }
    }

    /// Ends the guest now.
    pub fn kill(&self, exit: GuestExit) {
        let mut kernel = self.lock();
        kernel.exit.get_or_insert(exit);
        kernel.scheduler.kick_all();
    }

    /// Waits for the guest's end.
    pub fn wait_exit(&self) -> GuestExit {
        let mut kernel = self.kernel.lock();
        loop {
            if let Some(exit) = kernel.exit {
                return exit;
            }
            self.ended.wait(&mut kernel);
        }
    }
}

/// What of a guest comes from its configuration: the tree of files, as it is at the start, and the network.
pub(crate) fn tree_and_network(
    config: &mut GuestConfig,
    frames: &Frames,
    notifier: &Notifier,
    started: Time,
) -> Result<(FileSystem, Network), MountError> {
    assert!((1..=VCPUS_MAX).contains(&config.vcpu_count), "a guest has 1 to {VCPUS_MAX} virtual CPUs");
    let has_resolver = config.way_out.as_ref().is_some_and(|way_out| way_out.egress.is_some());
    let texts = has_resolver.then(|| ("/etc/resolv.conf".to_owned(), RESOLVER_CONFIGURATION));
    let file_config = FileSystemConfig {
        texts: texts.into_iter().collect(),
        mounts: std::mem::take(&mut config.mounts),
        root: config.root,
        vcpu_count: config.vcpu_count as u32,
        started,
    };
    let files = FileSystem::new(file_config, frames)?;
    let mut network = Network::new(std::mem::take(&mut config.services), notifier);
    if let Some(way_out) = config.way_out.take() {
        network.set_way_out(way_out);
    }
    Ok((files, network))
}

/// Frames that a guest may use for memory and for `/tmp`.
pub(crate) fn frame_limits(config: &GuestConfig) -> [u32; 2] {
    let frames_of = |mib: u32| mib.saturating_mul(((1 << 20) / PAGE_SIZE) as u32);
    [frames_of(config.memory_mib).saturating_add(EXTRA_FRAMES), frames_of(config.tmp_mib)]
}

fn load_first(
    kernel: &mut Kernel,
    program: &[u8],
    arguments: Vec<Vec<u8>>,
    environment: &[Vec<u8>],
    cwd: &[u8],
) -> Result<exec::Loaded, GuestError> {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let no_directory = |errno| GuestError::WorkingDirectory { directory: text(cwd), errno };
    let directory = Walker::new(kernel, FIRST_PID)
        .and_then(|walker| walker.existing(&kernel.files.root(), cwd, Follow::Yes))
        .map_err(no_directory)?;
    if !directory.is_directory() {
        return Err(no_directory(Errno::ENOTDIR));
    }
    kernel.process_mut(FIRST_PID).set_cwd(directory);
    exec::open(kernel, FIRST_PID, program)
        .and_then(|origin| exec::load(kernel, FIRST_PID, origin, arguments, environment))
        .map_err(|errno| GuestError::Program { program: text(program), errno })
}
