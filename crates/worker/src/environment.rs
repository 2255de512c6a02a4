//! One environment: the task that owns a monitor's socket from `Start` to the end.
//!
//! Initialisation that takes longer than `init_timeout` (10 s) is not repeated as Lambda does: it goes on, and from then
//! on the first invocation's time limit runs. To the caller that is the same limit without the lost time.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use calypte_wire::monitor::{self as wire, ExitCause, Invoke, Platform, ProcessorShare, ToMonitor};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep_until;

use crate::fault::{Fault, error_document};
use crate::groups::MEMORY_MIB_PER_VCPU;
use crate::invocation::{
    FunctionError, FunctionSpec, InvokeError, InvokeOutcome, InvokeRequest, PlacementRung, Report,
};
use crate::placement::EnvironmentId;
use crate::process::MonitorProcess;
use crate::protocol::{Answer, Conversation, Event, Violation};
use crate::templates::Template;
use crate::transcript::{ReportLine, Status, Transcript};

mod channel;
mod saving;

use channel::Channel;

/// How long a monitor may take to end by itself when it is not needed any more.
const END_GRACE: Duration = Duration::from_millis(500);
/// Least time that a program has between its answer and its next `next`.
const FINISH_TIME_MIN: Duration = Duration::from_secs(1);
/// How long restoring an environment from its template may take, together with what its program does before its first
/// `next`. Lambda gives that as long.
const RESTORE_TIME_MAX: Duration = Duration::from_secs(10);
/// Most virtual CPUs of an environment.
const VCPU_COUNT_MAX: u32 = 6;
/// Where the program starts, and where a function's code is.
const WORKING_DIRECTORY: &str = "/var/task";
/// What the guest calls its machine.
const HOST_NAME: &str = "calypte";

/// An invocation on its way to an environment.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) request: InvokeRequest,
    pub(crate) reply: oneshot::Sender<Result<InvokeOutcome, InvokeError>>,
}

/// What the worker tells an environment.
#[derive(Debug)]
pub(crate) enum Command {
    /// Only after [`Notice::Ready`].
    Invoke(Box<Job>),
    /// End, whatever is going on.
    End,
}

/// What an environment tells the worker.
#[derive(Debug)]
pub(crate) enum Notice {
    /// Its initialisation is over; the invocation that it was started for begins.
    Initialised,
    /// It has answered and will soon be ready.
    Finishing,
    /// It waits for an invocation.
    Ready,
    /// It takes no more invocations.
    Ending,
    /// An invocation that was assigned but not begun when the environment ended.
    Orphaned(Box<Job>),
    /// The template does not work: the invocation that the environment was started for, if any, has not begun.
    NotRestored(Option<Box<Job>>),
}

/// What this node offers its environments.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Offer {
    /// What executes guest code.
    pub(crate) platform: Platform,
    /// Whether there is a way out.
    pub(crate) has_egress: bool,
    /// What the monitor does about its part of the processors.
    pub(crate) share: ProcessorShare,
}

/// What an environment starts from.
#[derive(Debug, Clone)]
pub(crate) enum Origin {
    /// The function's program, which initialises itself.
    Program,
    /// A template, which the monitor has been sent.
    Template(Arc<Template>),
}

/// Which environment it is.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) id: EnvironmentId,
    pub(crate) spec: Arc<FunctionSpec>,
    pub(crate) offer: Offer,
    pub(crate) origin: Origin,
}

/// One environment. Nothing that comes out of `channel` may be trusted.
pub(crate) struct Environment<N: Fn(Notice)> {
    id: EnvironmentId,
    spec: Arc<FunctionSpec>,
    offer: Offer,
    origin: Origin,
    commands: mpsc::Receiver<Command>,
    notify: N,
    transcript: Transcript,
    conversation: Conversation,
    channel: Channel,
}

/// Why waiting for an event ended without one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Interruption {
    #[error("the time is up")]
    Deadline,
    #[error("the worker ends it")]
    Requested,
    #[error("the monitor has closed its socket")]
    Closed(#[source] Option<io::Error>),
    #[error(transparent)]
    Violation(#[from] Violation),
}

/// How an environment ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// It is not needed, or its program has ended: the monitor ends by itself.
    Orderly,
    /// It is not trusted any more, or its guest does not stop: the monitor is killed.
    Forced,
}

/// What an invocation came to.
struct Verdict {
    payload: Vec<u8>,
    error: Option<FunctionError>,
    /// Set when the program did not answer.
    fault: Option<Fault>,
    /// What the `REPORT` line says about an error.
    status: Option<Status>,
    /// Set when the environment cannot go on.
    end: Option<End>,
}

impl Verdict {
    fn answered(payload: Vec<u8>, error: Option<FunctionError>) -> Self {
        Self { payload, error, fault: None, status: None, end: None }
    }

    fn fault(fault: Fault, request_id: &str, end: Option<End>) -> Self {
        Self {
            payload: fault.document(request_id),
            error: Some(FunctionError::Unhandled),
            status: Some(fault.status()),
            fault: Some(fault),
            end,
        }
    }
}

/// What an environment does after its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    Ready,
    Finishing,
    Over(End),
}

/// The initialisation that the first invocation waited for.
struct Initialised {
    duration: Duration,
    /// When the first invocation's time is up, if that was set already.
    deadline: Option<Instant>,
}

/// What an invocation had to do with the start of its environment.
enum Start {
    /// It waited for it.
    Awaited(Initialised),
    /// That was over, and no invocation has been run since.
    Earlier,
    /// The environment has run others.
    Used,
}

impl Start {
    fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Awaited(initialised) => initialised.deadline,
            Self::Earlier | Self::Used => None,
        }
    }
}

impl<N: Fn(Notice)> Environment<N> {
    pub(crate) fn new(
        setup: Setup,
        socket: UnixStream,
        commands: mpsc::Receiver<Command>,
        notify: N,
        transcript: Transcript,
    ) -> Self {
        let Setup { id, spec, offer, origin } = setup;
        let (conversation, channel) = (Conversation::new(), Channel::new(socket));
        Self { id, spec, offer, origin, commands, notify, transcript, conversation, channel }
    }

    /// Lets others go first, at least by so much (`nice(2)`). To be called before it is run.
    pub(crate) fn be_nicer(&mut self, by: u8) {
        self.offer.share.nice = self.offer.share.nice.max(by);
    }

    /// Runs the environment until its process is gone, beginning with the invocation it was started for, if any. `started` is
    /// when its start began, `process` the monitor's.
    pub(crate) async fn run(
        mut self,
        first: Option<Job>,
        started: Instant,
        init_timeout: Duration,
        process: Option<MonitorProcess>,
    ) {
        let end = self.serve(first, started, init_timeout).await;
        (self.notify)(Notice::Ending);
        // Nothing is assigned after that notice; what was assigned just before it has not begun.
        while let Ok(command) = self.commands.try_recv() {
            if let Command::Invoke(job) = command {
                (self.notify)(Notice::Orphaned(job));
            }
        }
        // A closed socket tells the monitor to end.
        drop(self);
        if let Some(process) = process {
            process.end(if end == End::Orderly { END_GRACE } else { Duration::ZERO }).await;
        }
    }

    async fn serve(&mut self, first: Option<Job>, started: Instant, init_timeout: Duration) -> End {
        self.channel.send(&ToMonitor::Start(Box::new(start_message(&self.spec, self.offer, &self.origin))));
        if matches!(self.origin, Origin::Template(_)) {
            return self.serve_restored(first, started).await;
        }
        let mut deadline = None;
        let result = loop {
            match self.next_event(deadline.unwrap_or(started + init_timeout)).await {
                Err(Interruption::Deadline) if deadline.is_none() => deadline = Some(Instant::now() + self.timeout()),
                result => break result,
            }
        };
        let duration = started.elapsed();
        match result {
            Ok(Event::Ready) => {
                (self.notify)(Notice::Initialised);
                self.serve_all(first, Initialised { duration, deadline }).await
            }
            result => self.init_failed(first, result, duration),
        }
    }

    async fn serve_restored(&mut self, first: Option<Job>, started: Instant) -> End {
        match self.next_event(started + RESTORE_TIME_MAX).await {
            Ok(Event::Ready) => {
                (self.notify)(Notice::Initialised);
                self.serve_all(first, Initialised { duration: started.elapsed(), deadline: None }).await
            }
            // The program, in what it does in each copy.
            result @ Ok(Event::InitFailed { .. } | Event::Exited(ExitCause::Status(_))) => {
                self.init_failed(first, result, started.elapsed())
            }
            Err(Interruption::Requested) => {
                if let Some(job) = first {
                    answer(job.reply, Err(InvokeError::ShuttingDown));
                }
                End::Forced
            }
            result => {
                tracing::warn!(environment = self.id.0, function = %self.spec.arn, ?result, "the template does not work");
                (self.notify)(Notice::NotRestored(first.map(Box::new)));
                End::Forced
            }
        }
    }

    /// Runs one invocation after the other.
    async fn serve_all(&mut self, first: Option<Job>, initialised: Initialised) -> End {
        let mut next = match first {
            Some(job) => self.invoke(job, Start::Awaited(initialised)).await,
            None => {
                (self.notify)(Notice::Ready);
                match self.wait_for_job().await {
                    Ok(job) => self.invoke(*job, Start::Earlier).await,
                    Err(end) => return end,
                }
            }
        };
        loop {
            if let Err(end) = next {
                return end;
            }
            next = match self.wait_for_job().await {
                Ok(job) => self.invoke(*job, Start::Used).await,
                Err(end) => return end,
            };
        }
    }

    /// Answers the invocation whose environment did not come up.
    fn init_failed(&mut self, job: Option<Job>, result: Result<Event, Interruption>, duration: Duration) -> End {
        let Some(job) = job else {
            tracing::info!(environment = self.id.0, function = %self.spec.arn, ?result, "initialisation ahead of calls failed");
            return End::Forced;
        };
        let request_id = job.request.request_id.to_string();
        let verdict = match result {
            Ok(Event::InitFailed { error_type, payload }) => {
                tracing::info!(environment = self.id.0, function = %self.spec.arn, error_type, "initialisation failed");
                let payload = if payload.is_empty() { unknown_error(&error_type) } else { payload };
                Verdict {
                    status: Some(Status::Error { error_type }),
                    end: Some(End::Orderly),
                    ..Verdict::answered(payload, Some(FunctionError::Handled))
                }
            }
            Ok(event) => self.verdict(event, &request_id, true),
            Err(Interruption::Requested) => {
                answer(job.reply, Err(InvokeError::ShuttingDown));
                return End::Forced;
            }
            Err(interruption) => self.interrupted(&interruption, &request_id),
        };
        let end = verdict.end.unwrap_or(End::Forced);
        self.write_start_line(&request_id);
        let start = Start::Awaited(Initialised { duration, deadline: None });
        let report = self.report(Duration::ZERO, &start);
        let outcome = self.outcome(&request_id, verdict, report);
        answer(job.reply, Ok(outcome));
        end
    }

    /// Runs one invocation, and waits until the program is ready for the next.
    async fn invoke(&mut self, job: Job, start: Start) -> Result<(), End> {
        let Job { request, reply } = job;
        let request_id = request.request_id.to_string();
        let began = Instant::now();
        let deadline = start.deadline().unwrap_or(began + self.timeout());
        self.write_start_line(&request_id);
        self.conversation.invoke(request_id.clone());
        self.channel.send(&ToMonitor::Invoke(invoke_message(request, &request_id, deadline)));
        let verdict = match self.next_event(deadline).await {
            Ok(event) => self.verdict(event, &request_id, false),
            Err(Interruption::Requested) => {
                answer(reply, Err(InvokeError::ShuttingDown));
                return Err(End::Forced);
            }
            Err(interruption) => self.interrupted(&interruption, &request_id),
        };
        let after = match verdict.end {
            Some(end) => After::Over(end),
            // The next `Ready` often comes with the answer; then the caller's immediate next call must find it so.
            None => self.buffered_event().map_or_else(
                |violation| self.after(Err(violation.into())),
                |event| event.map_or(After::Finishing, |event| self.after(Ok(event))),
            ),
        };
        let report = self.report(began.elapsed(), &start);
        let outcome = self.outcome(&request_id, verdict, report);
        self.notify_after(after);
        answer(reply, Ok(outcome));
        match after {
            After::Ready => Ok(()),
            After::Over(end) => Err(end),
            After::Finishing => self.finish(deadline.max(Instant::now() + FINISH_TIME_MIN)).await,
        }
    }

    /// Waits for the program's next `next`.
    async fn finish(&mut self, deadline: Instant) -> Result<(), End> {
        let result = self.next_event(deadline).await;
        match self.after(result) {
            After::Over(end) => Err(end),
            after => {
                self.notify_after(after);
                Ok(())
            }
        }
    }

    async fn wait_for_job(&mut self) -> Result<Box<Job>, End> {
        loop {
            match self.buffered_event() {
                Ok(None) => {}
                Ok(Some(event)) => {
                    tracing::info!(environment = self.id.0, function = %self.spec.arn, ?event, "ended while idle");
                    return Err(End::Orderly);
                }
                Err(violation) => {
                    self.report_violation(&violation);
                    return Err(End::Forced);
                }
            }
            tokio::select! {
                biased;
                command = self.commands.recv() => return match command {
                    Some(Command::Invoke(job)) => Ok(job),
                    Some(Command::End) | None => Err(End::Orderly),
                },
                transferred = self.channel.transfer() => if let Err(error) = transferred {
                    let function = &self.spec.arn;
                    tracing::warn!(environment = self.id.0, %function, ?error, "the monitor of an idle environment is gone");
                    return Err(End::Forced);
                },
            }
        }
    }

    /// The next event that is not output.
    async fn next_event(&mut self, deadline: Instant) -> Result<Event, Interruption> {
        loop {
            if let Some(event) = self.buffered_event()? {
                return Ok(event);
            }
            tokio::select! {
                // The deadline first: a monitor that never stops sending must not keep it from being seen.
                biased;
                () = sleep_until(deadline.into()) => return Err(Interruption::Deadline),
                command = self.commands.recv() => match command {
                    Some(Command::End) | None => return Err(Interruption::Requested),
                    Some(Command::Invoke(_)) => unreachable!("the worker assigns only to idle environments"),
                },
                transferred = self.channel.transfer() => transferred.map_err(Interruption::Closed)?,
            }
        }
    }

    /// The next event among the bytes that have arrived; output goes to the log.
    fn buffered_event(&mut self) -> Result<Option<Event>, Violation> {
        while let Some(message) = self.channel.received()? {
            match self.conversation.receive(message, self.channel.is_sent())? {
                Event::Output { bytes, dropped_bytes } => {
                    self.transcript.output(&bytes, dropped_bytes, Instant::now());
                }
                Event::Used(set) => {
                    if let Origin::Template(template) = &self.origin {
                        template.note_working_set(set);
                    }
                }
                event => return Ok(Some(event)),
            }
        }
        self.transcript.flush();
        Ok(None)
    }

    fn verdict(&self, event: Event, request_id: &str, is_initialising: bool) -> Verdict {
        match event {
            Event::Answered(Answer::Response { payload }) => Verdict::answered(payload, None),
            Event::Answered(Answer::Failure { error_type, payload }) => {
                let payload = if payload.is_empty() { unknown_error(&error_type) } else { payload };
                Verdict::answered(payload, Some(FunctionError::Handled))
            }
            Event::Answered(Answer::TooLarge { payload_bytes }) => {
                tracing::info!(request_id, payload_bytes, "the response is over the limit");
                Verdict::fault(Fault::ResponseTooLarge, request_id, None)
            }
            Event::Exited(cause) => {
                let (environment, function) = (self.id.0, &self.spec.arn);
                if let ExitCause::Failed(reason) = &cause {
                    tracing::warn!(environment, %function, request_id, reason, "the monitor could not run the program");
                } else {
                    tracing::info!(environment, %function, request_id, ?cause, "the program ended without an answer");
                }
                Verdict::fault(Fault::Exited { cause, is_initialising }, request_id, Some(End::Orderly))
            }
            Event::Output { .. }
            | Event::Ready
            | Event::InitFailed { .. }
            | Event::Used(_)
            | Event::Saved { .. }
            | Event::NotSaved { .. } => {
                unreachable!("the conversation lets only answers and ends through")
            }
        }
    }

    fn interrupted(&self, interruption: &Interruption, request_id: &str) -> Verdict {
        let (environment, function) = (self.id.0, &self.spec.arn);
        let fault = match interruption {
            Interruption::Deadline | Interruption::Requested => {
                tracing::info!(environment, %function, request_id, "the invocation timed out: the environment is killed");
                Fault::TimedOut { timeout_s: self.spec.timeout_s }
            }
            Interruption::Closed(error) => {
                tracing::error!(environment, %function, request_id, ?error, "the monitor has gone without a word");
                Fault::Lost
            }
            Interruption::Violation(violation) => {
                self.report_violation(violation);
                Fault::Misbehaved { violation: violation.to_string() }
            }
        };
        Verdict::fault(fault, request_id, Some(End::Forced))
    }

    fn report_violation(&self, violation: &Violation) {
        let (environment, function) = (self.id.0, &self.spec.arn);
        tracing::error!(environment, %function, ?violation, "{violation}: the environment is killed");
    }

    /// What follows an invocation that has been answered.
    fn after(&self, result: Result<Event, Interruption>) -> After {
        let (environment, function) = (self.id.0, &self.spec.arn);
        match result {
            Ok(Event::Ready) => After::Ready,
            Ok(event) => {
                tracing::info!(environment, %function, ?event, "ended after its answer");
                After::Over(End::Orderly)
            }
            Err(Interruption::Violation(violation)) => {
                self.report_violation(&violation);
                After::Over(End::Forced)
            }
            Err(interruption) => {
                tracing::info!(environment, %function, %interruption, "not ready after its answer: killed");
                After::Over(End::Forced)
            }
        }
    }

    fn notify_after(&self, after: After) {
        (self.notify)(match after {
            After::Ready => Notice::Ready,
            After::Finishing => Notice::Finishing,
            After::Over(_) => Notice::Ending,
        });
    }

    fn timeout(&self) -> Duration {
        Duration::from_secs(u64::from(self.spec.timeout_s))
    }

    fn write_start_line(&mut self, request_id: &str) {
        self.transcript.line(&format!("START RequestId: {request_id} Version: {}", self.spec.version));
    }

    /// The figures so far.
    fn report(&self, duration: Duration, start: &Start) -> Report {
        let memory_bytes = u64::from(self.spec.memory_mib) * 1024 * 1024;
        let (rung, init_duration, restore_duration) = match (start, &self.origin) {
            (Start::Used, _) => (PlacementRung::Reuse, None, None),
            (Start::Earlier, _) => (PlacementRung::Prepared, None, None),
            (Start::Awaited(start), Origin::Program) => (PlacementRung::Boot, Some(start.duration), None),
            (Start::Awaited(start), Origin::Template(_)) => (PlacementRung::Template, None, Some(start.duration)),
        };
        let memory_peak_bytes = self.conversation.memory_peak_bytes().min(memory_bytes);
        Report { duration, init_duration, restore_duration, memory_peak_bytes, rung }
    }

    /// Writes the last lines of the invocation and puts together what its caller gets.
    fn outcome(&mut self, request_id: &str, verdict: Verdict, report: Report) -> InvokeOutcome {
        if let Some(fault) = &verdict.fault {
            self.transcript.line(&fault.log_line(request_id));
        }
        self.transcript.line(&format!("END RequestId: {request_id}"));
        let (memory_mib, status) = (self.spec.memory_mib, verdict.status.as_ref());
        let line = ReportLine { request_id, report: &report, memory_mib, status };
        self.transcript.line(&line.to_string());
        self.transcript.flush();
        InvokeOutcome { payload: verdict.payload, error: verdict.error, report, log_tail: self.transcript.take_tail() }
    }
}

/// The caller may have gone: an invocation runs to its end all the same.
fn answer(reply: oneshot::Sender<Result<InvokeOutcome, InvokeError>>, result: Result<InvokeOutcome, InvokeError>) {
    let _ = reply.send(result);
}

/// The document for an error that the runtime reported without one.
fn unknown_error(error_type: &str) -> Vec<u8> {
    let error_type = if error_type.is_empty() { "Runtime.Unknown" } else { error_type };
    error_document(error_type, "Unknown application error occurred")
}

/// Most virtual CPUs of an environment: more than the host has would only make them wait for each other.
fn vcpu_count_max() -> u32 {
    let host = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u32::try_from(host).unwrap_or(u32::MAX).min(VCPU_COUNT_MAX)
}

fn start_message(spec: &FunctionSpec, offer: Offer, origin: &Origin) -> wire::Start {
    let template = match origin {
        Origin::Program => None,
        Origin::Template(template) => Some(template),
    };
    wire::Start {
        platform: offer.platform,
        mounts: spec.mounts.clone(),
        arguments: spec.arguments.clone(),
        environment: spec.environment.clone(),
        working_directory: WORKING_DIRECTORY.to_owned(),
        memory_mib: spec.memory_mib,
        tmp_mib: spec.tmp_mib,
        host_name: HOST_NAME.to_owned(),
        vcpu_count: spec.memory_mib.div_ceil(MEMORY_MIB_PER_VCPU).clamp(1, vcpu_count_max()),
        has_egress: offer.has_egress,
        share: offer.share,
        is_restored: template.is_some(),
        is_to_be_saved: false,
        working_set: template.and_then(|template| template.working_set().cloned()),
    }
}

fn invoke_message(request: InvokeRequest, request_id: &str, deadline: Instant) -> Invoke {
    let deadline_unix = SystemTime::now() + deadline.saturating_duration_since(Instant::now());
    let deadline_ms = deadline_unix.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis());
    Invoke {
        request_id: request_id.to_owned(),
        deadline_ms: u64::try_from(deadline_ms).unwrap_or(u64::MAX),
        function_arn: request.invoked_arn,
        trace_id: request.trace_id,
        client_context: request.client_context,
        payload: request.payload,
    }
}

#[cfg(test)]
mod tests;
