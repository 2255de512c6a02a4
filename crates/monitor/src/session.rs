//! The monitor process of one environment: the guest on one side, the worker's socket on the other. Protocol:
//! [`calypte_wire::monitor`].
//!
//! Threads: one per virtual CPU; the main thread reads the socket; `outbox` writes what the socket did not take at once;
//! `log` passes on output that the program prints while it does nothing else of interest; `freeze` stops the program
//! between invocations. On the path of an invocation no other thread takes part: the main thread hands the event to the
//! guest, and the virtual CPU's thread writes the response to the socket.
//!
//! **The process ends when the socket closes, whatever the guest does**: the main thread reads it all the time, and
//! ending a process ends its virtual CPUs with it. (A parent-death signal would not do as a second line of defence: the
//! parent is the zygote, and losing that must not harm live environments.)
//!
//! Lock order: kernel, Runtime API, outbox.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use calypte_linux::console::Stream;
use calypte_linux::guest::{Guest, Observer};
use calypte_linux::kernel::{GuestExit, Kernel};
use calypte_linux::profile::Profile;
use calypte_linux::service::LoopbackService;
use calypte_wire::frame::{Decoder, FrameError};
use calypte_wire::monitor::{
    ExitCause, Invoke, LOG_BYTES_MAX, Start, TO_MONITOR_BYTES_MAX, ToMonitor, ToWorker, Usage, WORKING_SET_RUNS_MAX,
    WorkingSet,
};
use rustix::io::Errno;

use crate::flag::Flag;
use crate::launch::{self, Confinement, LaunchError, Program, Surroundings};
use crate::outbox::Outbox;
use crate::outside::{self, Outside};
use crate::process::{self, STATUS_FAILED};
use crate::runtime_api::{self, RuntimeEvent, SharedRuntimeApi};

/// How long output may wait for more before it is passed on, when nothing else is sent to the worker.
const LOG_DELAY: Duration = Duration::from_millis(5);
/// How long a program without an invocation goes on before it is frozen. As on Lambda it gets no time that nobody pays for;
/// the delay keeps freezing off the path of invocations that follow each other.
const FREEZE_DELAY: Duration = Duration::from_millis(100);
/// How long an ending monitor waits for the worker to take its last messages.
const FAREWELL_PATIENCE: Duration = Duration::from_secs(5);
/// Bytes read from the socket at a time.
const READ_BYTES: usize = 64 * 1024;

/// A function with this variable, set to `1`, has a line in its log after each invocation that says where its exits to the
/// monitor went.
const PROFILE_VARIABLE: &str = "CALYPTE_PROFILE";

/// Exit status after the orderly end of an environment.
const STATUS_ENDED: i32 = 0;

/// What the worker sent instead of what the protocol allows.
#[derive(Debug, thiserror::Error)]
enum ProtocolError {
    #[error("the worker's socket failed")]
    Socket(#[source] Errno),
    #[error("the worker sent something that is not a message")]
    Frame(#[from] FrameError),
    #[error("the worker did not begin with `Start`")]
    NoStart,
    #[error("the worker sent `Start` twice")]
    SecondStart,
    #[error(transparent)]
    NotReady(#[from] runtime_api::NotReady),
}

/// Runs a monitor on its socket to the worker, and the one on which it is sent descriptors. The process must have one
/// thread only, and be used for nothing else.
pub(crate) fn monitor_main(socket: OwnedFd, descriptors: OwnedFd, confinement: Confinement) -> ! {
    process::become_monitor();
    let (outbox, mut inbox) = match connect(socket) {
        Ok(ends) => ends,
        Err(error) => {
            process::report(&error);
            std::process::exit(STATUS_FAILED)
        }
    };
    report_panics(Arc::clone(&outbox));
    let start = match inbox.next() {
        Ok(Some(ToMonitor::Start(start))) => *start,
        Ok(None) => std::process::exit(STATUS_ENDED),
        Ok(Some(ToMonitor::Invoke(_))) => fail(&outbox, &ProtocolError::NoStart),
        Err(error) => fail(&outbox, &error),
    };
    let state = match start.is_restored.then(|| outside::receive_state(descriptors.as_fd())).transpose() {
        Ok(state) => state,
        Err(error) => fail(&outbox, &error),
    };
    let outside = match Outside::new(start.has_egress, Some(descriptors)) {
        Ok(outside) => outside,
        Err(error) => fail(&outbox, &error),
    };
    let session = match Session::start(start, state, outside, Arc::clone(&outbox), confinement) {
        Ok(session) => session,
        Err(error) => fail(&outbox, &error),
    };
    match session.serve(&mut inbox) {
        Ok(()) => std::process::exit(STATUS_ENDED),
        Err(error) => fail(&outbox, &error),
    }
}

fn connect(socket: OwnedFd) -> Result<(Arc<Outbox>, Inbox), ProtocolError> {
    // The worker's runtime may have made both ends non-blocking.
    rustix::io::ioctl_fionbio(&socket, false).map_err(ProtocolError::Socket)?;
    let sending = rustix::io::fcntl_dupfd_cloexec(&socket, 3).map_err(ProtocolError::Socket)?;
    Ok((Arc::new(Outbox::new(sending)), Inbox::new(socket)))
}

/// Ends the process, telling the worker why.
fn fail(outbox: &Outbox, error: &dyn std::error::Error) -> ! {
    tracing::error!(error = process::describe(error), "monitor failed");
    end(outbox, vec![exited(ExitCause::Failed(process::describe(error)), Usage::default())], STATUS_FAILED)
}

fn end(outbox: &Outbox, messages: Vec<ToWorker>, status: i32) -> ! {
    outbox.send(&messages);
    outbox.flush(FAREWELL_PATIENCE);
    std::process::exit(status)
}

fn exited(cause: ExitCause, usage: Usage) -> ToWorker {
    ToWorker::Exited { cause, usage }
}

/// A panic of any thread is a failure of this monitor and ends this process only.
fn report_panics(outbox: Arc<Outbox>) {
    std::panic::set_hook(Box::new(move |panic| {
        let text = format!("the monitor failed: {panic}");
        process::report(&std::io::Error::other(text.clone()));
        if outbox.try_send(&exited(ExitCause::Failed(text), Usage::default())) {
            outbox.flush(FAREWELL_PATIENCE);
        }
        std::process::exit(STATUS_FAILED)
    }));
}

/// The receiving side of the socket.
struct Inbox {
    socket: OwnedFd,
    decoder: Decoder,
    buffer: Vec<u8>,
}

impl Inbox {
    fn new(socket: OwnedFd) -> Self {
        Self { socket, decoder: Decoder::new(TO_MONITOR_BYTES_MAX), buffer: vec![0; READ_BYTES] }
    }

    /// The next message; `None` when the worker has closed the socket.
    fn next(&mut self) -> Result<Option<ToMonitor>, ProtocolError> {
        loop {
            if let Some(message) = self.decoder.next()? {
                return Ok(Some(message));
            }
            match rustix::io::read(&self.socket, &mut self.buffer[..]) {
                Ok(0) | Err(Errno::CONNRESET) => return Ok(None),
                Ok(length) => self.decoder.push(&self.buffer[..length]),
                Err(Errno::INTR) => {}
                Err(error) => return Err(ProtocolError::Socket(error)),
            }
        }
    }
}

struct Session {
    guest: Arc<Guest>,
    vcpu_count: u32,
    link: Arc<Link>,
}

/// What connects the guest with the worker.
struct Link {
    runtime_api: SharedRuntimeApi,
    outbox: Arc<Outbox>,
    output: Flag,
    /// Set when the program begins to wait for an invocation.
    idle: Flag,
    /// The bound of processor time that begins with the end of initialisation, until then.
    share_max: Mutex<Option<u32>>,
    /// Whether the worker wants to know what the guest uses of its state.
    is_set_wanted: AtomicBool,
    /// Whether an invocation has been answered.
    has_answered: AtomicBool,
}

impl Session {
    fn start(
        start: Start,
        state: Option<OwnedFd>,
        outside: Outside,
        outbox: Arc<Outbox>,
        confinement: Confinement,
    ) -> Result<Self, LaunchError> {
        process::be_nicer(start.share.nice);
        let runtime_api = SharedRuntimeApi::default();
        if start.is_to_be_saved {
            runtime_api.lock().expect_saving();
        }
        let link = Arc::new(Link {
            runtime_api: runtime_api.clone(),
            outbox,
            output: Flag::default(),
            idle: Flag::default(),
            share_max: Mutex::new(start.share.share_max),
            is_set_wanted: AtomicBool::new(start.is_restored && start.working_set.is_none()),
            has_answered: AtomicBool::new(false),
        });
        let vcpu_count = start.vcpu_count;
        let mut program = Program {
            platform: start.platform,
            mounts: start.mounts,
            is_root_writable: false,
            arguments: start.arguments,
            environment: start.environment,
            working_directory: start.working_directory,
            memory_mib: start.memory_mib,
            tmp_mib: start.tmp_mib,
            host_name: start.host_name,
            vcpu_count,
        };
        let has_profile = program.environment.iter().any(|(name, value)| name == PROFILE_VARIABLE && value == "1");
        program.set_variable("AWS_LAMBDA_RUNTIME_API", runtime_api::ADDRESS);
        let surroundings = Surroundings {
            services: vec![(runtime_api::PORT, Box::new(runtime_api) as Box<_>)],
            way_out: Some(outside.way_out()),
            observer: Arc::clone(&link) as Arc<dyn Observer>,
        };
        let guest = match state {
            None => launch::load(&program, surroundings, confinement)?,
            Some(state) => launch::restore(state.as_fd(), &program, surroundings, confinement)?,
        };
        if let Some(WorkingSet { written, read }) = start.working_set {
            guest.fetch(&calypte_linux::state::WorkingSet { written, read });
        }
        let (to_be_saved, its_link) = (Arc::downgrade(&guest), Arc::clone(&link));
        outside.serve(&guest, Box::new(move |file| save(&to_be_saved, &its_link, file)));
        let mut kernel = guest.lock();
        if start.is_restored {
            link.restored(&guest, &mut kernel);
        } else {
            kernel.close_input();
        }
        kernel.profile = has_profile.then(Profile::default);
        drop(kernel);
        Ok(Self { guest, vcpu_count, link })
    }

    /// Starts the guest and serves the worker until it closes the socket.
    fn serve(self, inbox: &mut Inbox) -> Result<(), ProtocolError> {
        let (guest, link) = (Arc::clone(&self.guest), Arc::clone(&self.link));
        process::spawn("outbox", move || {
            link.outbox.write(|| link.pass_output(&guest));
            std::process::exit(STATUS_ENDED)
        });
        let (guest, link) = (Arc::clone(&self.guest), Arc::clone(&self.link));
        process::spawn("log", move || {
            loop {
                link.output.wait(LOG_DELAY);
                link.pass_output(&guest);
            }
        });
        let (guest, link) = (Arc::clone(&self.guest), Arc::clone(&self.link));
        process::spawn("freeze", move || {
            loop {
                link.idle.wait(FREEZE_DELAY);
                let mut kernel = guest.lock();
                if link.runtime_api.lock().is_idle() {
                    guest.set_frozen(&mut kernel, true);
                }
            }
        });
        let (guest, link) = (Arc::clone(&self.guest), Arc::clone(&self.link));
        launch::run(&self.guest, self.vcpu_count, move |exit| link.finish(&guest, exit));
        while let Some(message) = inbox.next()? {
            match message {
                ToMonitor::Invoke(invocation) => self.invoke(invocation)?,
                ToMonitor::Start(_) => return Err(ProtocolError::SecondStart),
            }
        }
        Ok(())
    }

    fn invoke(&self, invocation: Invoke) -> Result<(), ProtocolError> {
        let runtime_api = &self.link.runtime_api;
        let mut kernel = self.guest.lock();
        self.guest.set_frozen(&mut kernel, false);
        let work = |_: &mut dyn LoopbackService| runtime_api.lock().invoke(invocation);
        kernel.network.with_service(runtime_api::PORT, work).unwrap_or(Err(runtime_api::NotReady))?;
        Ok(())
    }
}

/// Saves the guest, which waits for an invocation or in `restore/next`, and tells the worker. It stays frozen.
fn save(guest: &Weak<Guest>, link: &Link, file: OwnedFd) {
    let Some(guest) = guest.upgrade() else { return };
    let mut kernel = guest.lock();
    let is_idle = link.runtime_api.lock().is_idle();
    if is_idle {
        guest.set_frozen(&mut kernel, true);
    }
    drop(kernel);
    let saved = if is_idle {
        guest.save_to(File::from(file)).map_err(|error| process::describe(&error))
    } else {
        Err("the program does not wait for an invocation".to_owned())
    };
    link.pass_output(&guest);
    link.outbox.send(&[match saved {
        Ok((_, bytes)) => ToWorker::Saved { bytes },
        Err(reason) => ToWorker::NotSaved { reason },
    }]);
}

impl Link {
    /// The guest goes on from a state in which it waits for an invocation, or in `restore/next`: then it is ready when its
    /// program has done what is to be done in each copy.
    fn restored(&self, guest: &Guest, kernel: &mut Kernel) {
        kernel.network.with_service(runtime_api::PORT, |_| self.runtime_api.lock().begin_generation());
        let mut runtime_api = self.runtime_api.lock();
        let events = runtime_api.take_events();
        let is_restoring = runtime_api.is_restoring();
        drop(runtime_api);
        if events.contains(&RuntimeEvent::Ready) {
            self.cap_processors(kernel);
        }
        if is_restoring {
            guest.set_frozen(kernel, false);
        }
        let messages: Vec<_> = events.into_iter().map(|event| message(event, kernel)).collect();
        self.outbox.send(&messages);
    }

    /// Initialisation is over: from now on the environment has its share of the processors.
    fn cap_processors(&self, kernel: &mut Kernel) {
        if let Some(share) = self.share_max.lock().unwrap_or_else(PoisonError::into_inner).take() {
            kernel.cap_processors(share);
        }
    }

    /// Passes output of the program on to the worker, unless the worker does not keep up: then the program blocks.
    fn pass_output(&self, guest: &Guest) {
        if self.outbox.has_room() {
            self.outbox.send(&take_output(&mut guest.lock()));
        }
    }

    fn finish(&self, guest: &Guest, exit: GuestExit) -> ! {
        let mut kernel = guest.lock();
        let mut messages = take_output(&mut kernel);
        messages.extend(self.runtime_api.lock().take_events().into_iter().map(|event| message(event, &kernel)));
        let cause = match exit {
            GuestExit::Status(status) => ExitCause::Status(status),
            GuestExit::Signal(signal) => ExitCause::Signal(signal),
            GuestExit::OutOfMemory => ExitCause::OutOfMemory,
            GuestExit::Failed => ExitCause::Failed(format!(
                "the virtual machine failed: {}",
                kernel.failure.as_deref().unwrap_or_default()
            )),
        };
        messages.push(exited(cause, usage(&kernel)));
        drop(kernel);
        end(&self.outbox, messages, STATUS_ENDED)
    }
}

impl Observer for Link {
    fn progress(&self, kernel: &mut Kernel) {
        let events = self.runtime_api.lock().take_events();
        if !events.is_empty() {
            if events.contains(&RuntimeEvent::Ready) {
                self.idle.set();
                self.cap_processors(kernel);
            }
            // What was printed before goes first, in the same write.
            let mut messages = take_output(kernel);
            if events.contains(&RuntimeEvent::Ready) {
                messages.extend(take_profile(kernel));
            }
            for event in events {
                if event != RuntimeEvent::Ready {
                    self.has_answered.store(true, Ordering::Relaxed);
                } else if self.has_answered.load(Ordering::Relaxed) && self.is_set_wanted.swap(false, Ordering::Relaxed)
                {
                    // The answer is on its way before this takes its time.
                    self.outbox.send(&std::mem::take(&mut messages));
                    let set = kernel.working_set(WORKING_SET_RUNS_MAX);
                    messages.push(ToWorker::Used(WorkingSet { written: set.written, read: set.read }));
                }
                messages.push(message(event, kernel));
            }
            self.outbox.send(&messages);
        } else if kernel.console.has_output() {
            self.output.set();
        }
    }
}

/// Takes what the program has printed.
fn take_output(kernel: &mut Kernel) -> Vec<ToWorker> {
    let output: Vec<u8> =
        kernel.take_output().into_iter().flat_map(|(Stream::Output | Stream::Error, bytes)| bytes).collect();
    output.chunks(LOG_BYTES_MAX).map(|bytes| ToWorker::Log { bytes: bytes.to_vec(), dropped_bytes: 0 }).collect()
}

/// What the program did since it was ready the last time, as a line of its log, if that is wanted.
fn take_profile(kernel: &mut Kernel) -> Option<ToWorker> {
    let profile = std::mem::take(kernel.profile.as_mut()?);
    Some(ToWorker::Log { bytes: format!("PROFILE {}\n", profile.summary()).into_bytes(), dropped_bytes: 0 })
}

fn usage(kernel: &Kernel) -> Usage {
    Usage {
        memory_peak_bytes: kernel.frames.peak_bytes(),
        exits: kernel.statistics.exits,
        cpu_us: kernel.statistics.guest_ns / 1000,
    }
}

fn message(event: RuntimeEvent, kernel: &Kernel) -> ToWorker {
    let usage = usage(kernel);
    match event {
        RuntimeEvent::Ready => ToWorker::Ready { usage },
        RuntimeEvent::Response { request_id, content_type, payload } => {
            ToWorker::Response { request_id, content_type, payload, usage }
        }
        RuntimeEvent::Failure { request_id, error_type, payload } => {
            ToWorker::Failure { request_id, error_type, payload, usage }
        }
        RuntimeEvent::ResponseTooLarge { request_id, payload_bytes } => {
            ToWorker::ResponseTooLarge { request_id, payload_bytes, usage }
        }
        RuntimeEvent::InitError { error_type, payload } => ToWorker::InitError { error_type, payload },
    }
}
