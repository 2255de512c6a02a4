//! From a description of a program to a guest that runs it.

use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::Arc;

use calypte_jail::{Begun, Identity, JailError, Limits, Policy, Profile};
use calypte_linux::errno::Errno;
use calypte_linux::fs::RootMode;
use calypte_linux::guest::{Guest, GuestConfig, GuestError, Observer, VCPUS_MAX};
use calypte_linux::kernel::GuestExit;
use calypte_linux::limits::THREADS_MAX;
use calypte_linux::net::WayOut;
use calypte_linux::service::LoopbackService;
use calypte_linux::state::{ClockPolicy, State, StateError};
use calypte_platform::{Machine, PAGE_SIZE, PlatformError};
use calypte_types::limits::{EPHEMERAL_STORAGE_MIB_MAX, MEMORY_MIB_MAX, MONITOR_DESCRIPTORS_MAX, MONITOR_OVERHEAD_MIB};
use calypte_wire::monitor::Platform;

use crate::process;

/// Where programs are looked for when the environment has no `PATH` (as glibc's `execvp` does).
const PATH_DEFAULT: &str = "/bin:/usr/bin";
/// Memory of a machine beyond what its guest may use: the guest's own first pages.
const OVERHEAD_MIB: u32 = 1;
/// Writable address space that a monitor reserves from here on and never touches in full: stacks, arenas of the allocator.
const RESERVATIONS_MIB: u64 = 256;
/// Threads of a monitor besides its virtual CPUs', generously.
const SERVICE_THREADS_MAX: u64 = 16;
const FRAMES_PER_MIB: u32 = (1024 * 1024 / PAGE_SIZE) as u32;

/// A program and its surroundings.
#[derive(Debug, Clone)]
pub struct Program {
    /// What executes guest code.
    pub platform: Platform,
    /// Directories of the host that the guest sees read-only: `(path in the guest, directory on the host)`, `/` first.
    pub mounts: Vec<(String, PathBuf)>,
    /// Whether the guest can change what it sees at `/`: for itself, until it ends, within the size of `/tmp`.
    pub is_root_writable: bool,
    /// Program and arguments; a program without `/` is looked up in `PATH` of the environment.
    pub arguments: Vec<String>,
    /// Environment variables.
    pub environment: Vec<(String, String)>,
    /// Working directory in the guest.
    pub working_directory: String,
    /// Memory, in MiB.
    pub memory_mib: u32,
    /// Size of `/tmp`, in MiB.
    pub tmp_mib: u32,
    /// Host name that the guest sees.
    pub host_name: String,
    /// Virtual CPUs.
    pub vcpu_count: u32,
}

impl Program {
    /// Sets an environment variable, whether there is one of that name or not.
    pub fn set_variable(&mut self, name: &str, value: &str) {
        self.environment.retain(|(other, _)| other != name);
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    fn variable(&self, name: &str) -> Option<&str> {
        self.environment.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }
}

/// Why a program could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// There is nothing to run.
    #[error("no program was given")]
    NoProgram,
    /// A number is out of range.
    #[error("{what} is {value}, which is not between 1 and {maximum}")]
    OutOfRange {
        /// Which number.
        what: &'static str,
        /// What was given.
        value: u32,
        /// The most that is possible.
        maximum: u32,
    },
    /// The host does not let us run virtual machines.
    #[error(transparent)]
    Kvm(#[from] calypte_kvm::ProbeError),
    /// The host does not let us trace processes.
    #[error(transparent)]
    Ptrace(#[from] calypte_ptrace::ProbeError),
    /// The virtual machine could not be created.
    #[error("the virtual machine could not be created")]
    Machine(#[source] PlatformError),
    /// The monitor could not be jailed.
    #[error(transparent)]
    Jail(#[from] JailError),
    /// The guest could not be assembled, or cannot run the program.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// The guest cannot go on from the state that there is.
    #[error("the guest cannot be restored")]
    State(#[source] StateError),
    /// No directory of `PATH` has the program.
    #[error("{program}: not found in any directory of PATH ({path}) inside the guest")]
    NotInPath {
        /// The program.
        program: String,
        /// Where it was looked for.
        path: String,
    },
}

impl LaunchError {
    /// Whether the program is not there, as opposed to not executable: shells tell these apart by exit status.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotInPath { .. } | Self::Guest(GuestError::Program { errno: Errno::ENOENT, .. }))
    }
}

/// A machine of a platform. When there can be none, its probe knows what to do about the usual reasons.
fn create_machine(platform: Platform, frames_max: u32) -> Result<Arc<dyn Machine>, LaunchError> {
    match platform {
        Platform::Kvm => calypte_kvm::create_machine(&calypte_kvm::Config::new(frames_max))
            .map_err(|error| calypte_kvm::probe().err().map_or(LaunchError::Machine(error), LaunchError::Kvm)),
        Platform::Ptrace => {
            calypte_ptrace::probe()?;
            let config = calypte_ptrace::Config { memory_frames_max: frames_max };
            calypte_ptrace::create_machine(&config).map_err(LaunchError::Machine)
        }
    }
}

fn check_range(what: &'static str, value: u32, maximum: u32) -> Result<(), LaunchError> {
    if (1..=maximum).contains(&value) { Ok(()) } else { Err(LaunchError::OutOfRange { what, value, maximum }) }
}

/// How the monitor is jailed.
#[derive(Debug, Clone)]
pub(crate) struct Confinement {
    /// What has been done already.
    pub(crate) begun: Begun,
    /// As whom it goes on.
    pub(crate) identity: Identity,
    /// What is done when the jail is not complete.
    pub(crate) policy: Policy,
}

/// What a jailed monitor may do to run this program.
fn jail_config(program: &Program, confinement: &Confinement) -> calypte_jail::Config {
    let guest_mib = u64::from(program.memory_mib + program.tmp_mib);
    let profile = match program.platform {
        Platform::Kvm => Profile::KvmMonitor { requests: calypte_kvm::REQUESTS.to_vec() },
        Platform::Ptrace => Profile::PtraceMonitor,
    };
    // On ptrace each process of the guest is one of the host for each virtual CPU that has run it.
    let stubs = match program.platform {
        Platform::Kvm => 0,
        Platform::Ptrace => u64::from(program.vcpu_count) * (THREADS_MAX + 1),
    };
    calypte_jail::Config {
        directories: program.mounts.iter().map(|(_, directory)| directory.clone()).collect(),
        profile,
        identity: confinement.identity,
        limits: Limits {
            memory_bytes: process::data_bytes()
                .map(|bytes| bytes + ((guest_mib + u64::from(MONITOR_OVERHEAD_MIB) + RESERVATIONS_MIB) << 20)),
            descriptors: MONITOR_DESCRIPTORS_MAX,
            threads: u64::from(program.vcpu_count) + SERVICE_THREADS_MAX + stubs,
            // Files cannot be opened for writing; the standard streams may be long ones.
            file_bytes: None,
        },
        policy: confinement.policy,
    }
}

/// What a guest is connected with.
pub(crate) struct Surroundings {
    /// Services on ports of 127.0.0.1.
    pub(crate) services: Vec<(u16, Box<dyn LoopbackService>)>,
    /// Its connections to the outside.
    pub(crate) way_out: Option<WayOut>,
    /// Who is told of what the guest does.
    pub(crate) observer: Arc<dyn Observer>,
}

/// Jails this process, which must have one thread only, assembles a guest in it and loads the program; nothing runs yet.
pub(crate) fn load(
    program: &Program,
    surroundings: Surroundings,
    confinement: Confinement,
) -> Result<Arc<Guest>, LaunchError> {
    let name = program.arguments.first().ok_or(LaunchError::NoProgram)?;
    let (machine, config) = prepare(program, surroundings, confinement)?;
    let guest = Guest::new(machine, config)?;
    spawn(&guest, program, name)?;
    Ok(guest)
}

/// As [`load`], with the guest whose state is in a file that does not change any more. It is frozen.
pub(crate) fn restore(
    state: BorrowedFd<'_>,
    program: &Program,
    surroundings: Surroundings,
    confinement: Confinement,
) -> Result<Arc<Guest>, LaunchError> {
    let (machine, config) = prepare(program, surroundings, confinement)?;
    let restored = State::open(state).and_then(|state| Guest::restore(machine, config, ClockPolicy::Continue, &state));
    restored.map_err(LaunchError::State)
}

/// Jails this process: the machine that it has then, and what a guest on it is made of.
fn prepare(
    program: &Program,
    surroundings: Surroundings,
    confinement: Confinement,
) -> Result<(Arc<dyn Machine>, GuestConfig), LaunchError> {
    check_range("the memory size in MiB", program.memory_mib, MEMORY_MIB_MAX)?;
    check_range("the size of /tmp in MiB", program.tmp_mib, EPHEMERAL_STORAGE_MIB_MAX)?;
    check_range("the number of virtual CPUs", program.vcpu_count, VCPUS_MAX as u32)?;
    let frames_max = (program.memory_mib + program.tmp_mib + OVERHEAD_MIB) * FRAMES_PER_MIB;
    let machine = create_machine(program.platform, frames_max)?;
    calypte_linux::guest::learn_host();
    let config = jail_config(program, &confinement);
    let inside = calypte_jail::enter(confinement.begun, &config)?;
    for step in inside.report.missing() {
        tracing::debug!(step = step.feature.name(), reason = step.detail, "not part of this monitor's jail");
    }
    let places = program.mounts.iter().map(|(place, _)| place.clone());
    let mounts = places.zip(inside.directories).collect();
    let Surroundings { services, way_out, observer } = surroundings;
    let config = GuestConfig {
        memory_mib: program.memory_mib,
        tmp_mib: program.tmp_mib,
        mounts,
        root: if program.is_root_writable { RootMode::Overlay } else { RootMode::ReadOnly },
        host_name: program.host_name.clone(),
        vcpu_count: program.vcpu_count as usize,
        services,
        way_out,
        observer,
    };
    Ok((machine, config))
}

/// Loads the program `name`, which is looked for in `PATH` unless it is a path (`execvp(3)`).
fn spawn(guest: &Guest, program: &Program, name: &str) -> Result<(), LaunchError> {
    let bytes = |text: &String| text.clone().into_bytes();
    let arguments: Vec<Vec<u8>> = program.arguments.iter().map(bytes).collect();
    let environment: Vec<Vec<u8>> =
        program.environment.iter().map(|(name, value)| format!("{name}={value}").into_bytes()).collect();
    let spawn = |file: &str| {
        guest.spawn_first(file.as_bytes(), arguments.clone(), &environment, program.working_directory.as_bytes())
    };
    if name.contains('/') {
        return Ok(spawn(name)?);
    }
    let path = program.variable("PATH").unwrap_or(PATH_DEFAULT);
    let mut denied = None;
    for directory in path.split(':') {
        let directory = if directory.is_empty() { "." } else { directory };
        match spawn(&format!("{directory}/{name}")) {
            Ok(()) => return Ok(()),
            Err(GuestError::Program { errno: Errno::ENOENT | Errno::ENOTDIR, .. }) => {}
            Err(error @ GuestError::Program { errno: Errno::EACCES, .. }) => denied = Some(error),
            Err(error) => return Err(error.into()),
        }
    }
    Err(match denied {
        Some(error) => error.into(),
        None => LaunchError::NotInPath { program: name.to_owned(), path: path.to_owned() },
    })
}

/// Starts a thread for each virtual CPU. `on_end` is called once, when the guest has ended.
pub(crate) fn run(guest: &Arc<Guest>, vcpu_count: u32, on_end: impl FnOnce(GuestExit) + Send + 'static) {
    let mut on_end = Some(on_end);
    for index in 0..vcpu_count as usize {
        let guest = Arc::clone(guest);
        let on_end = on_end.take();
        process::spawn(&format!("vcpu-{index}"), move || {
            guest.run_vcpu(index);
            if let Some(on_end) = on_end {
                on_end(guest.wait_exit());
            }
        });
    }
}
