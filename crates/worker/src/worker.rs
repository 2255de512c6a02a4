//! The worker: what the scheduler decides, done.
//!
//! Lock order: there is one lock, the state's. It is never held across an await.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use calypte_types::limits::PAYLOAD_BYTES_MAX;
use calypte_types::{AccountId, FunctionName};
use calypte_wire::descriptor::Descriptor;
use calypte_wire::egress::Counts;
use calypte_wire::monitor::ProcessorShare;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::UnixStream;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{sleep_until, timeout};

use crate::config::WorkerConfig;
use crate::egress::{Egress, VisitError, send_descriptor};
use crate::environment::{Command, Environment, Job, Notice, Offer, Origin, Setup};
use crate::groups::{Bounds, CpuLimit, Group, Groups};
use crate::invocation::{FunctionSpec, InvokeError, InvokeOutcome, InvokeRequest, Isolation};
use crate::logs::Logs;
use crate::placement::{Effect, EnvironmentId, Limits, Scheduler, Stats, SubmitError, Ticket};
use crate::process::MonitorProcess;
use crate::templates::{Template, Templates};
use crate::transcript::{RateLimit, Transcript};
use crate::zygote::{LaunchError, Launched, Zygote};

/// Longest sum of an invocation's texts (ARN, trace id, client context), in bytes; HTTP headers are shorter.
const TEXTS_BYTES_MAX: usize = 32 * 1024;
/// How long the last messages of a monitor that has ended may take to be read.
const LAST_MESSAGES_WAIT_MAX: Duration = Duration::from_secs(1);
/// By how much processes that make templates are nicer than those that serve calls.
const TEMPLATE_NICE: u8 = 10;
/// Commands to an environment that wait: one invocation and one end.
const COMMANDS_MAX: usize = 2;

/// Why a worker cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The zygote does not run.
    #[error("the worker cannot start environments")]
    Zygote(#[from] LaunchError),
    /// Egress does not run.
    #[error("the process that opens connections for environments cannot be started")]
    Egress(#[source] io::Error),
    /// The thread that writes logs does not run.
    #[error("the log writer's thread cannot be started")]
    LogWriter(#[source] io::Error),
}

/// Why an environment could not be started for an invocation; the source of [`InvokeError::Environment`].
#[derive(Debug, thiserror::Error)]
enum EnvironmentError {
    #[error("the event or its context is too long: {bytes} bytes, the limit is {maximum}")]
    RequestTooLong { bytes: usize, maximum: usize },
    #[error("the task of the environment has failed; the server's log says why")]
    TaskFailed,
}

/// Owns the environments of a node. To be ended by [`Worker::shutdown`].
#[derive(Debug)]
pub struct Worker {
    shared: Arc<Shared>,
    ticker: JoinHandle<()>,
    /// Keeps egress running; dropping what it holds ends that process.
    supervisor: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    config: WorkerConfig,
    zygote: Zygote,
    egress: Arc<Egress>,
    logs: Logs,
    templates: Templates,
    /// Where the host allows any.
    groups: Option<Arc<Groups>>,
    state: Mutex<State>,
    /// The ticker has to look at the time again.
    rescheduled: Notify,
    /// The last environment of a worker that shuts down is gone.
    drained: Notify,
}

#[derive(Debug)]
struct State {
    scheduler: Scheduler,
    /// Invocations that wait for an environment.
    jobs: HashMap<Ticket, Box<Job>>,
    environments: HashMap<EnvironmentId, mpsc::Sender<Command>>,
    /// When the ticker will look at the time by itself.
    armed_at: Option<Instant>,
    is_closed: bool,
}

/// A group, when it has been made, and the task that makes it.
type GroupOnItsWay = (Arc<OnceLock<Group>>, Option<JoinHandle<()>>);

/// Takes an invocation out of the queue when its caller goes away.
struct Submission<'a> {
    shared: &'a Shared,
    account: AccountId,
    ticket: Ticket,
}

impl Drop for Submission<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if state.jobs.remove(&self.ticket).is_some() {
            state.scheduler.cancel(&self.account, self.ticket);
        }
    }
}

/// Tells the scheduler that an environment is gone, even if its task has panicked.
struct Departure {
    shared: Arc<Shared>,
    id: EnvironmentId,
}

impl Drop for Departure {
    fn drop(&mut self) {
        self.shared.egress.remove(self.id);
        let mut state = self.shared.lock();
        state.environments.remove(&self.id);
        self.shared.change(&mut state, |scheduler, now, effects| scheduler.ended(now, self.id, effects));
        if state.environments.is_empty() {
            self.shared.drained.notify_one();
        }
    }
}

impl Worker {
    /// A worker without environments, with its zygote running.
    pub async fn start(config: WorkerConfig) -> Result<Arc<Self>, StartError> {
        raise_descriptor_limit();
        let logs = Logs::open(config.data_directory.join("logs")).map_err(StartError::LogWriter)?;
        let zygote = Zygote::start(config.zygote_program.clone(), config.zygote_arguments.clone()).await?;
        let groups = match Groups::open() {
            Ok(groups) => Some(Arc::new(groups)),
            Err(reason) => {
                tracing::info!(reason, "environments have no control groups: monitors keep to their shares themselves");
                None
            }
        };
        let limits = Limits {
            account_concurrency_max: config.account_concurrency_max,
            environments_max: config.environments_max,
            memory_mib_max: config.memory_mib_max,
            memory_mib_overhead: config.memory_mib_overhead,
            tmp_percent: config.tmp_percent,
            queue_account_max: config.queue_account_max,
            queue_node_max: config.queue_node_max,
            queue_wait_max: config.queue_wait_max,
            finishing_wait_max: config.finishing_wait_max,
            idle_timeout: config.idle_timeout,
        };
        let state = State {
            scheduler: Scheduler::new(limits),
            jobs: HashMap::new(),
            environments: HashMap::new(),
            armed_at: None,
            is_closed: false,
        };
        let (rescheduled, drained) = (Notify::new(), Notify::new());
        let egress = Arc::<Egress>::default();
        let supervisor = config.egress.clone().map(|config| egress.start(config)).transpose();
        let supervisor = Mutex::new(supervisor.map_err(StartError::Egress)?);
        let templates = Templates::new(config.templates_mib_max << 20);
        let state = Mutex::new(state);
        let shared = Arc::new(Shared { config, zygote, egress, logs, templates, groups, state, rescheduled, drained });
        let ticker = tokio::spawn(shared.clone().tick());
        Ok(Arc::new(Self { shared, ticker, supervisor }))
    }

    /// Runs one invocation to its end. Dropping the future gives up a waiting invocation; one that runs goes on.
    pub async fn invoke(&self, request: InvokeRequest) -> Result<InvokeOutcome, InvokeError> {
        check_length(&request)?;
        let account = request.spec.account.clone();
        let (reply, answer) = oneshot::channel();
        let ticket = self.shared.submit(Box::new(Job { request, reply }))?;
        let _submission = Submission { shared: &self.shared, account, ticket };
        answer.await.unwrap_or_else(|_| Err(InvokeError::Environment(Box::new(EnvironmentError::TaskFailed))))
    }

    /// To be called after a function was updated or deleted: its environments of other revisions than `keep_revision`
    /// are not used again. Idle ones end now, busy ones after their invocation.
    pub fn retire(&self, account: &AccountId, function: &FunctionName, keep_revision: Option<&str>) {
        let mut state = self.shared.lock();
        let retire = |scheduler: &mut Scheduler, _, effects: &mut _| {
            scheduler.retire(account, function, keep_revision, effects);
        };
        self.shared.change(&mut state, retire);
        self.shared.templates.retire(account, function, keep_revision);
    }

    /// Hands a connection to an environment, for a port that a program in it listens on. It is closed if none does.
    pub fn visit(
        &self,
        environment: EnvironmentId,
        port: u16,
        visitor: SocketAddr,
        connection: OwnedFd,
    ) -> Result<(), VisitError> {
        self.shared.egress.visit(environment, port, visitor, connection)
    }

    /// The environments that run a function of an account, busy or not.
    pub fn environments(&self, account: &AccountId, function: &FunctionName) -> Vec<EnvironmentId> {
        self.shared.egress.environments(account, function)
    }

    /// What the environments of an account that have ended have asked egress for.
    pub fn egress_counts(&self, account: &AccountId) -> Counts {
        self.shared.egress.counts(account)
    }

    /// The egress process that runs at the moment.
    pub fn egress_pid(&self) -> Option<u32> {
        self.shared.egress.pid()
    }

    fn take_supervisor(&self) -> Option<JoinHandle<()>> {
        self.supervisor.lock().expect("no panic while it is held").take()
    }

    /// Environments by state.
    pub fn stats(&self) -> Stats {
        self.shared.lock().scheduler.stats()
    }

    /// The logs of all functions.
    pub fn logs(&self) -> &Logs {
        &self.shared.logs
    }

    /// Ends everything, running invocations too. Afterwards no process is left and all log lines are written.
    pub async fn shutdown(&self) {
        {
            let mut state = self.shared.lock();
            state.is_closed = true;
            let mut effects = Vec::new();
            for ticket in state.scheduler.close(&mut effects) {
                if let Some(job) = state.jobs.remove(&ticket) {
                    // A caller who has gone needs no answer.
                    let _ = job.reply.send(Err(InvokeError::ShuttingDown));
                }
            }
            self.shared.apply(&mut state, effects);
        }
        while !self.shared.lock().environments.is_empty() {
            self.shared.drained.notified().await;
        }
        self.shared.zygote.close().await;
        if let Some(supervisor) = self.take_supervisor() {
            supervisor.abort();
            // Aborted, as it should be; what it held is dropped, and egress killed.
            let _ = supervisor.await;
        }
        self.shared.logs.flush().await;
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.ticker.abort();
        if let Some(supervisor) = self.take_supervisor() {
            supervisor.abort();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("the scheduler does not panic")
    }

    fn submit(self: &Arc<Self>, job: Box<Job>) -> Result<Ticket, InvokeError> {
        let mut state = self.lock();
        if state.is_closed {
            return Err(InvokeError::ShuttingDown);
        }
        let mut effects = Vec::new();
        let submitted = state.scheduler.submit(Instant::now(), &job.request.spec, &mut effects);
        let result = match submitted {
            Ok(ticket) => {
                state.jobs.insert(ticket, job);
                Ok(ticket)
            }
            Err(error) => Err(error.into()),
        };
        self.apply(&mut state, effects);
        result
    }

    /// Changes the scheduler and does what follows.
    fn change(
        self: &Arc<Self>,
        state: &mut MutexGuard<'_, State>,
        change: impl FnOnce(&mut Scheduler, Instant, &mut Vec<Effect>),
    ) {
        let mut effects = Vec::new();
        change(&mut state.scheduler, Instant::now(), &mut effects);
        self.apply(state, effects);
    }

    fn apply(self: &Arc<Self>, state: &mut MutexGuard<'_, State>, effects: Vec<Effect>) {
        let mut fresh = Vec::new();
        for effect in effects {
            match effect {
                Effect::Assign { ticket, environment } => {
                    let job = state.jobs.remove(&ticket).expect("a ticket is settled once");
                    fresh.extend(Some(&job.request.spec).filter(|spec| spec.isolation == Isolation::Fresh).cloned());
                    state.command(environment, Command::Invoke(job));
                }
                Effect::Boot { ticket, environment, spec } => {
                    let job = state.jobs.remove(&ticket).expect("a ticket is settled once");
                    fresh.extend(Some(&*spec).filter(|spec| spec.isolation == Isolation::Fresh).cloned());
                    self.start(state, environment, spec, Some(*job));
                }
                Effect::End { environment } => state.command(environment, Command::End),
                Effect::Reject { ticket, reason } => {
                    let job = state.jobs.remove(&ticket).expect("a ticket is settled once");
                    // A caller who has gone needs no answer.
                    let _ = job.reply.send(Err(InvokeError::Throttled { reason }));
                }
            }
        }
        for spec in fresh {
            self.want_spare(state, &spec);
        }
        let is_earlier = match (state.scheduler.wake_at(), state.armed_at) {
            (Some(wake_at), Some(armed_at)) => wake_at < armed_at,
            (wake_at, None) => wake_at.is_some(),
            (None, Some(_)) => false,
        };
        if is_earlier {
            state.armed_at = state.scheduler.wake_at();
            self.rescheduled.notify_one();
        }
    }

    fn start(self: &Arc<Self>, state: &mut State, id: EnvironmentId, spec: Arc<FunctionSpec>, job: Option<Job>) {
        let (sender, commands) = mpsc::channel(COMMANDS_MAX);
        state.environments.insert(id, sender);
        tokio::spawn(self.clone().boot(id, spec, job, commands));
    }

    /// Starts an environment from the template for the next invocation, whose environment the present one cannot be.
    fn want_spare(self: &Arc<Self>, state: &mut State, spec: &FunctionSpec) {
        if !state.is_closed
            && self.templates.has(spec)
            && let Some((id, spec)) = state.scheduler.prepare(spec)
        {
            self.start(state, id, spec, None);
        }
    }

    /// Starts an environment, for an invocation or ahead of one, and runs it until it is gone.
    async fn boot(
        self: Arc<Self>,
        id: EnvironmentId,
        spec: Arc<FunctionSpec>,
        job: Option<Job>,
        commands: mpsc::Receiver<Command>,
    ) {
        let started = Instant::now();
        let _departure = Departure { shared: self.clone(), id };
        let template = spec.has_template.then(|| self.templates.get(&spec)).flatten();
        let launched = match self.launch(id, template.as_deref()).await {
            Ok(launched) => launched,
            Err(error) => {
                tracing::error!(environment = id.0, function = %spec.arn, ?error, "no monitor could be started");
                let is_closed = matches!(error, LaunchError::Closed);
                let error =
                    if is_closed { InvokeError::ShuttingDown } else { InvokeError::Environment(Box::new(error)) };
                if let Some(job) = job {
                    // A caller who has gone needs no answer.
                    let _ = job.reply.send(Err(error));
                }
                return;
            }
        };
        let group = self.group(id, &spec, launched.process.as_ref());
        self.egress.add(id, spec.account.clone(), spec.arn.function.clone(), launched.descriptors);
        let shared = self.clone();
        let (is_capped, capped) = (self.config.cpu_limit == CpuLimit::Cap, Arc::clone(&group.0));
        let notify_spec = Arc::clone(&spec);
        let notify = move |notice| {
            // The second time is for a group that was not made yet at the first.
            if is_capped
                && matches!(notice, Notice::Initialised | Notice::Ready)
                && let Some(group) = capped.get()
            {
                group.cap();
            }
            shared.notice(id, &notify_spec, notice);
        };
        let origin = template.map_or(Origin::Program, Origin::Template);
        let environment = self.environment(id, spec, origin, launched.socket, commands, notify);
        environment.run(job, started, self.config.init_timeout, launched.process).await;
        self.clear_up(id, launched.messages, group).await;
    }

    /// A monitor, which has been sent its template if it is to have one.
    async fn launch(&self, id: EnvironmentId, template: Option<&Template>) -> Result<Launched, LaunchError> {
        let launched = self.zygote.launch(id).await?;
        if let Some(template) = template {
            send_descriptor(launched.descriptors.as_fd(), Descriptor::State, template.file())?;
        }
        Ok(launched)
    }

    fn environment<N: Fn(Notice)>(
        &self,
        id: EnvironmentId,
        spec: Arc<FunctionSpec>,
        origin: Origin,
        socket: UnixStream,
        commands: mpsc::Receiver<Command>,
        notify: N,
    ) -> Environment<N> {
        let rate = RateLimit::new(self.config.output_bytes_per_s, self.config.output_bytes_burst, Instant::now());
        let transcript = Transcript::new(self.logs.sink(&spec.account, &spec.arn.function), rate);
        let share = match self.groups {
            Some(_) => ProcessorShare::default(),
            None => Bounds::of(&spec).share_without_group(self.config.cpu_limit),
        };
        let offer = Offer { platform: self.config.platform, has_egress: self.config.egress.is_some(), share };
        let setup = Setup { id, spec, offer, origin };
        Environment::new(setup, socket, commands, notify, transcript)
    }

    /// What is left to do when an environment's process is gone.
    async fn clear_up(&self, id: EnvironmentId, messages: JoinHandle<()>, group: GroupOnItsWay) {
        let reader = messages.abort_handle();
        if timeout(LAST_MESSAGES_WAIT_MAX, messages).await.is_err() {
            tracing::debug!(environment = id.0, "what a monitor says has no end");
            reader.abort();
        }
        if let Some(made) = group.1 {
            // The group can be removed only when it has been made, and now that its process is gone.
            let removed = made.await.map(|()| tokio::task::spawn_blocking(move || drop(group.0)));
            if let Err(error) = removed {
                tracing::error!(%error, "the task that makes a control group has failed");
            }
        }
    }

    /// Makes a template of a function version, unless there is one, or no room to make it.
    fn want_template(self: &Arc<Self>, state: &mut State, spec: &Arc<FunctionSpec>) {
        if !spec.has_template || state.is_closed || !self.templates.begin(spec) {
            return;
        }
        let Some(id) = state.scheduler.begin_template(spec) else {
            self.templates.postpone(spec);
            return;
        };
        let (sender, commands) = mpsc::channel(COMMANDS_MAX);
        state.environments.insert(id, sender);
        tokio::spawn(self.clone().make_template(id, Arc::clone(spec), commands));
    }

    /// Starts an environment, makes a template of it and ends it.
    async fn make_template(
        self: Arc<Self>,
        id: EnvironmentId,
        spec: Arc<FunctionSpec>,
        commands: mpsc::Receiver<Command>,
    ) {
        let started = Instant::now();
        let departure = Departure { shared: self.clone(), id };
        let launched = match self.launch(id, None).await {
            Ok(launched) => launched,
            Err(error) => {
                tracing::warn!(environment = id.0, function = %spec.arn, ?error, "no template: no monitor could be started");
                self.templates.finish(&spec, None);
                return;
            }
        };
        let group = self.group(id, &spec, launched.process.as_ref());
        self.egress.add(id, spec.account.clone(), spec.arn.function.clone(), Arc::clone(&launched.descriptors));
        let (shared, notify_spec) = (self.clone(), Arc::clone(&spec));
        let notify = move |notice| shared.notice(id, &notify_spec, notice);
        let mut environment =
            self.environment(id, Arc::clone(&spec), Origin::Program, launched.socket, commands, notify);
        environment.be_nicer(TEMPLATE_NICE);
        let made = environment.run_to_template(&launched.descriptors, self.config.init_timeout, launched.process).await;
        match made {
            Ok(template) => {
                let (kib, ms) = (template.bytes() >> 10, started.elapsed().as_millis());
                tracing::info!(function = %spec.arn, kib, ms, "template made");
                self.templates.finish(&spec, Some(template));
            }
            Err(error) => {
                tracing::warn!(environment = id.0, function = %spec.arn, ?error, "no template: {error}");
                self.templates.finish(&spec, None);
            }
        }
        self.clear_up(id, launched.messages, group).await;
        drop(departure);
    }

    /// Puts a process into a control group of its own, which takes the kernel some milliseconds: beside the start. The
    /// memory that the process has by then is not counted.
    fn group(&self, id: EnvironmentId, spec: &FunctionSpec, process: Option<&MonitorProcess>) -> GroupOnItsWay {
        let group = Arc::new(OnceLock::new());
        let (Some(groups), Some(process)) = (self.groups.clone(), process) else { return (group, None) };
        let (place, bounds, pid) = (Arc::clone(&group), Bounds::of(spec), process.pid());
        let made = tokio::task::spawn_blocking(move || match groups.create(id.0, bounds, pid) {
            Ok(group) => drop(place.set(group)),
            Err(error) => tracing::warn!(environment = id.0, %error, "an environment has no control group"),
        });
        (group, Some(made))
    }

    fn notice(self: &Arc<Self>, id: EnvironmentId, spec: &Arc<FunctionSpec>, notice: Notice) {
        let mut state = self.lock();
        match notice {
            Notice::Initialised => {}
            Notice::Finishing => state.scheduler.finishing(id),
            Notice::Ready => {
                self.change(&mut state, |scheduler, now, effects| scheduler.ready(now, id, effects));
                self.want_template(&mut state, spec);
            }
            Notice::Ending => self.change(&mut state, |scheduler, now, effects| scheduler.ending(now, id, effects)),
            Notice::Orphaned(job) => {
                drop(state);
                self.resubmit(job);
            }
            Notice::NotRestored(job) => {
                drop(state);
                self.templates.discard(spec);
                if let Some(job) = job {
                    self.resubmit(job);
                }
            }
        }
    }

    /// An invocation that has not begun is placed anew.
    fn resubmit(self: &Arc<Self>, job: Box<Job>) {
        let mut state = self.lock();
        let mut effects = Vec::new();
        let submitted = match state.is_closed {
            true => Err(InvokeError::ShuttingDown),
            false => state.scheduler.submit(Instant::now(), &job.request.spec, &mut effects).map_err(Into::into),
        };
        match submitted {
            Ok(ticket) => drop(state.jobs.insert(ticket, job)),
            // A caller who has gone needs no answer.
            Err(error) => drop(job.reply.send(Err(error))),
        }
        self.apply(&mut state, effects);
    }

    /// Calls the scheduler whenever something is due.
    async fn tick(self: Arc<Self>) {
        loop {
            let wake_at = {
                let mut state = self.lock();
                if state.scheduler.wake_at().is_some_and(|wake_at| wake_at <= Instant::now()) {
                    self.change(&mut state, Scheduler::tick);
                }
                state.armed_at = state.scheduler.wake_at();
                state.armed_at
            };
            match wake_at {
                Some(wake_at) => tokio::select! {
                    () = sleep_until(wake_at.into()) => {}
                    () = self.rescheduled.notified() => {}
                },
                None => self.rescheduled.notified().await,
            }
        }
    }
}

impl State {
    fn command(&mut self, environment: EnvironmentId, command: Command) {
        let Some(sender) = self.environments.get(&environment) else { return };
        // The environment has room for one invocation and one end, and reads its commands to the last when it ends.
        if let Err(error) = sender.try_send(command) {
            tracing::error!(environment = environment.0, %error, "an environment does not take commands");
        }
    }
}

impl From<SubmitError> for InvokeError {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::Throttled(reason) => Self::Throttled { reason },
            SubmitError::NodeTooSmall { .. } => Self::Environment(Box::new(error)),
        }
    }
}

/// Two descriptors for each environment: more than the usual soft limit has.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open files stays at {:?}", limit.current);
    }
}

fn check_length(request: &InvokeRequest) -> Result<(), InvokeError> {
    let texts = request.invoked_arn.len()
        + request.trace_id.as_ref().map_or(0, String::len)
        + request.client_context.as_ref().map_or(0, String::len);
    for (bytes, maximum) in [(request.payload.len(), PAYLOAD_BYTES_MAX), (texts, TEXTS_BYTES_MAX)] {
        if bytes > maximum {
            return Err(InvokeError::Environment(Box::new(EnvironmentError::RequestTooLong { bytes, maximum })));
        }
    }
    Ok(())
}
