//! One program in a microVM with the streams of this process attached: `calypte run`.
//!
//! Threads: one per virtual CPU; `output` copies what the guest prints; `input` reads the standard input of this
//! process, but only when the guest waits for input, so that a program which reads nothing takes nothing (it is left
//! behind in its read when the program ends); `signals` waits for Ctrl-C.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use calypte_jail::{Children, Identity, Policy};
use calypte_linux::console::Stream;
use calypte_linux::guest::{Guest, Observer};
use calypte_linux::kernel::{GuestExit, Kernel};
use calypte_linux::profile::Profile;
use rustix::io::Errno;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::attendant;
pub use crate::attendant::AttendantCommand;
use crate::flag::Flag;
use crate::launch::{self, Confinement, Surroundings};
pub use crate::launch::{LaunchError, Program};
use crate::outside::Outside;
use crate::process;

/// Bytes read from standard input at a time.
const INPUT_BYTES: usize = 64 * 1024;
/// How long output may take that is left when a program is ended from outside.
const OUTPUT_PATIENCE: Duration = Duration::from_millis(500);
/// `SIGPIPE`: nobody reads what the program prints.
const SIGPIPE_NUMBER: u8 = 13;
/// `SIGKILL`.
const SIGKILL_NUMBER: u8 = 9;

/// What to run and for how long at most.
#[derive(Debug, Clone)]
pub struct RunConfig {
    /// The program and its surroundings.
    pub program: Program,
    /// It is ended when it runs longer.
    pub timeout: Option<Duration>,
    /// Whether to say at the end, on standard error, where the program's exits to the monitor went.
    pub has_profile: bool,
    /// What is done when the process cannot be jailed as it should be.
    pub jail_policy: Policy,
    /// How the process is started that does outside the jail what must be done there: starting egress, and accepting
    /// connections to published ports.
    pub attendant: AttendantCommand,
    /// Ports of this host that lead to ports of the program.
    pub publications: Vec<Publication>,
}

/// A port of this host that leads to a port of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Publication {
    /// Where this host listens.
    pub host: SocketAddr,
    /// Where the program does.
    pub guest_port: u16,
}

/// Why a program could not be run to its end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It could not be started.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The virtual machine failed while it ran.
    #[error("the virtual machine failed: {0}")]
    Machine(String),
    /// The host refused something that is needed besides the virtual machine.
    #[error("could not {operation}")]
    Host {
        /// What was attempted.
        operation: &'static str,
        /// The host's reason.
        #[source]
        source: std::io::Error,
    },
    /// A port of this host cannot be had.
    #[error("cannot listen on {address} for --publish; is another program using it?")]
    Publish {
        /// The port.
        address: SocketAddr,
        /// The host's reason.
        #[source]
        source: std::io::Error,
    },
}

/// How a program has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// By itself, with this status.
    Status(u8),
    /// By this signal.
    Signal(u8),
    /// It needed more memory than it was given.
    OutOfMemory {
        /// How much it was given.
        memory_mib: u32,
    },
    /// It ran for as long as it was allowed to.
    TimedOut {
        /// How long that was.
        timeout: Duration,
    },
    /// This process was told to end by this signal.
    Interrupted(u8),
}

impl ExitStatus {
    /// The exit status that says so to a shell: 128 + signal, and 124 after a time-out as `timeout(1)` gives it.
    pub fn code(self) -> u8 {
        match self {
            Self::Status(status) => status,
            Self::Signal(signal) | Self::Interrupted(signal) => 128u8.saturating_add(signal),
            Self::OutOfMemory { .. } => 137,
            Self::TimedOut { .. } => 124,
        }
    }

    /// What a person should be told beyond the status.
    pub fn message(self) -> Option<String> {
        match self {
            // Nobody reads what it prints: there is nobody to tell either.
            Self::Status(_) | Self::Interrupted(_) | Self::Signal(SIGPIPE_NUMBER) => None,
            Self::Signal(signal) => Some(match signal_hook::low_level::signal_name(signal.into()) {
                Some(name) => format!("the program was ended by {name}"),
                None => format!("the program was ended by signal {signal}"),
            }),
            Self::OutOfMemory { memory_mib } => {
                Some(format!("the program needed more than its {memory_mib} MiB of memory: give it more with --memory"))
            }
            Self::TimedOut { timeout } => {
                Some(format!("the program was ended after {} s: allow more with --timeout", timeout.as_secs_f64()))
            }
        }
    }
}

/// What the main thread waits for.
enum Event {
    /// The guest has ended.
    Guest(GuestExit),
    /// This process was told to end.
    Signal(i32),
    /// All output has been copied.
    OutputCopied,
}

/// Runs a program to its end. A message for people about an end that was not the program's own goes to standard error.
///
/// Uses the standard streams and signals of the process: to be called once, by a process that then exits.
pub fn run_program(config: RunConfig) -> Result<ExitStatus, RunError> {
    let host = |operation| move |source| RunError::Host { operation, source };
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(host("handle signals"))?;
    process::raise_descriptor_limit();
    end_on_panic();
    let streams = Arc::new(Streams::default());
    let (memory_mib, vcpu_count) = (config.program.memory_mib, config.program.vcpu_count);
    let listeners = listen(&config.publications)?;
    let has_egress = config.attendant.egress_arguments.is_some();
    // Before the jail: from inside nothing can be started.
    let descriptors = (has_egress || !listeners.is_empty())
        .then(|| attendant::start(&config.attendant, &listeners))
        .transpose()
        .map_err(host("start the process that attends to connections"))?;
    drop(listeners);
    let outside = Outside::new(has_egress, descriptors).map_err(|error| host("watch connections")(error.into()))?;
    let confinement = Confinement {
        begun: calypte_jail::begin(Children::None),
        // The program is to see what the user may read.
        identity: Identity::Keep,
        policy: config.jail_policy,
    };
    let observer = Arc::clone(&streams) as Arc<dyn Observer>;
    let surroundings = Surroundings { services: Vec::new(), way_out: Some(outside.way_out()), observer };
    let guest = launch::load(&config.program, surroundings, confinement)?;
    guest.lock().profile = config.has_profile.then(Profile::default);
    // Nobody has a state for this guest.
    outside.serve(&guest, Box::new(drop));
    let (sender, events) = mpsc::channel();
    process::spawn("input", {
        let (guest, streams) = (Arc::clone(&guest), Arc::clone(&streams));
        move || streams.copy_input(&guest)
    });
    process::spawn("output", {
        let (guest, streams, sender) = (Arc::clone(&guest), Arc::clone(&streams), sender.clone());
        move || {
            streams.copy_output(&guest);
            drop(sender.send(Event::OutputCopied));
        }
    });
    process::spawn("signals", {
        let sender = sender.clone();
        move || signals.forever().for_each(|signal| drop(sender.send(Event::Signal(signal))))
    });
    launch::run(&guest, vcpu_count, move |exit| drop(sender.send(Event::Guest(exit))));

    let mut end = None;
    // While the program runs: its time limit. After its end: how long its output may take.
    let mut patience = config.timeout;
    loop {
        let event = match patience {
            Some(patience) => events.recv_timeout(patience).ok(),
            None => events.recv().ok(),
        };
        let is_first_end = end.is_none();
        match event {
            Some(Event::OutputCopied) => break,
            // The copy of the output ends the program when nobody reads it.
            Some(Event::Guest(exit)) if is_first_end => {
                patience = None;
                end = Some(match exit {
                    GuestExit::Status(status) => Ok(ExitStatus::Status(status)),
                    GuestExit::Signal(signal) => Ok(ExitStatus::Signal(signal)),
                    GuestExit::OutOfMemory => Ok(ExitStatus::OutOfMemory { memory_mib }),
                    GuestExit::Failed => Err(RunError::Machine(guest.lock().failure.clone().unwrap_or_default())),
                });
            }
            Some(Event::Guest(_)) => {}
            Some(Event::Signal(signal)) if is_first_end => {
                patience = Some(OUTPUT_PATIENCE);
                end = Some(Ok(ExitStatus::Interrupted(u8::try_from(signal).unwrap_or(0))));
            }
            None if is_first_end => {
                patience = Some(OUTPUT_PATIENCE);
                end = Some(Ok(ExitStatus::TimedOut { timeout: config.timeout.unwrap_or_default() }));
            }
            Some(Event::Signal(_)) | None => break,
        }
        guest.kill(GuestExit::Signal(SIGKILL_NUMBER));
        streams.end();
    }
    let status = end.unwrap_or(Ok(ExitStatus::Signal(SIGKILL_NUMBER)))?;
    if let Some(message) = status.message() {
        drop(writeln!(std::io::stderr(), "calypte: {message}"));
    }
    if let Some(profile) = &guest.lock().profile {
        drop(writeln!(std::io::stderr(), "{profile}"));
    }
    Ok(status)
}

/// Listens on the ports that lead to the program.
fn listen(publications: &[Publication]) -> Result<Vec<(TcpListener, u16)>, RunError> {
    let listen = |publication: &Publication| match TcpListener::bind(publication.host) {
        Ok(listener) => Ok((listener, publication.guest_port)),
        Err(source) => Err(RunError::Publish { address: publication.host, source }),
    };
    publications.iter().map(listen).collect()
}

/// A panic of any thread ends the process: what the thread was to do would be waited for in vain.
fn end_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::exit(process::STATUS_FAILED)
    }));
}

/// Moves bytes between the guest and the standard streams of this process.
#[derive(Debug, Default)]
struct Streams {
    output: Flag,
    input: Flag,
    is_ended: AtomicBool,
}

impl Streams {
    fn end(&self) {
        self.is_ended.store(true, Ordering::SeqCst);
        self.output.set();
        self.input.set();
    }

    fn is_ended(&self) -> bool {
        self.is_ended.load(Ordering::SeqCst)
    }

    /// Copies what the guest prints until it has ended and all is copied. Ends the guest when nobody reads its output,
    /// as `SIGPIPE` would.
    fn copy_output(&self, guest: &Guest) {
        loop {
            self.output.wait(Duration::ZERO);
            let is_ended = self.is_ended();
            let output = guest.lock().take_output();
            for (stream, bytes) in output {
                let result = match stream {
                    Stream::Output => std::io::stdout().write_all(&bytes).and_then(|()| std::io::stdout().flush()),
                    Stream::Error => std::io::stderr().write_all(&bytes),
                };
                if result.is_err() {
                    guest.kill(GuestExit::Signal(SIGPIPE_NUMBER));
                }
            }
            if is_ended {
                return;
            }
        }
    }

    /// Gives standard input to the guest whenever it waits for some.
    fn copy_input(&self, guest: &Guest) {
        let stdin = rustix::stdio::stdin();
        let mut buffer = vec![0; INPUT_BYTES];
        loop {
            self.input.wait(Duration::ZERO);
            if self.is_ended() {
                return;
            }
            if !guest.lock().console.is_input_wanted() {
                continue;
            }
            match rustix::io::read(stdin, &mut buffer[..]) {
                Ok(length) if length > 0 => guest.lock().push_input(&buffer[..length]),
                Err(Errno::INTR) => self.input.set(),
                Ok(_) | Err(_) => {
                    guest.lock().close_input();
                    return;
                }
            }
        }
    }
}

impl Observer for Streams {
    fn progress(&self, kernel: &mut Kernel) {
        if kernel.console.has_output() {
            self.output.set();
        }
        if kernel.console.is_input_wanted() {
            self.input.set();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_as_shells_do() {
        let timeout = Duration::from_millis(1500);
        for (status, code, message) in [
            (ExitStatus::Status(3), 3, None),
            (ExitStatus::Signal(11), 139, Some("the program was ended by SIGSEGV")),
            (ExitStatus::Signal(13), 141, None),
            (ExitStatus::Interrupted(2), 130, None),
            (
                ExitStatus::TimedOut { timeout },
                124,
                Some("the program was ended after 1.5 s: allow more with --timeout"),
            ),
        ] {
            assert_eq!(status.code(), code);
            assert_eq!(status.message().as_deref(), message);
        }
    }
}
