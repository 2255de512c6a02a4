//! Which environment runs which invocation. Pure: events and the time go in, [`Effect`]s come out.
//!
//! ```text
//!                  ┌───────────────────────── assigned ────────────────────────┐
//!                  ▼                                                           │
//!  boot ───────▶ Busy ── answered ──▶ Finishing ── waits for work ──▶ Idle ─────┤
//!                  │                      │                            │
//!                  └──── failed, exited ──┴──▶ Ending ◀── time-out, ────┘
//!                                                │        eviction, retired
//!                                                ▼
//!                                               gone (its memory is free again)
//! ```
//!
//! An invocation takes the first of: an idle environment with an equal [`FunctionSpec`] (the one used last, so that the
//! others can age), a new environment if the limits allow it (idle environments give way, the one unused for longest
//! first), a place in its account's queue. Queues are first in, first out; only calls that can use a warm environment may
//! pass calls that need a new one. Environments are never shared by accounts because a spec names its account.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use calypte_types::{AccountId, FunctionName};

use crate::invocation::{FunctionSpec, Isolation, ThrottleReason};

/// One environment, for as long as the worker lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EnvironmentId(pub(crate) u64);

/// One invocation from its submission until it is given to an environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Ticket(u64);

/// What the caller has to do.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Effect {
    /// Give the invocation to an idle environment.
    Assign { ticket: Ticket, environment: EnvironmentId },
    /// Start an environment and give it the invocation.
    Boot { ticket: Ticket, environment: EnvironmentId, spec: Arc<FunctionSpec> },
    /// End an idle environment.
    End { environment: EnvironmentId },
    /// The invocation has waited too long.
    Reject { ticket: Ticket, reason: ThrottleReason },
}

/// Why an invocation is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SubmitError {
    /// Too many wait.
    #[error("{0}")]
    Throttled(ThrottleReason),
    /// It can never run here.
    #[error(
        "the function needs {needed_mib} MiB of memory, this node hands out {available_mib} MiB: lower the function's \
         memory size or give the node more"
    )]
    NodeTooSmall { needed_mib: u64, available_mib: u64 },
}

/// The bounds of [`Scheduler`]; see `WorkerConfig` for their meaning.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    pub(crate) account_concurrency_max: u32,
    pub(crate) environments_max: usize,
    pub(crate) memory_mib_max: u64,
    pub(crate) memory_mib_overhead: u64,
    pub(crate) tmp_percent: u32,
    pub(crate) queue_account_max: usize,
    pub(crate) queue_node_max: usize,
    pub(crate) queue_wait_max: Duration,
    pub(crate) finishing_wait_max: Duration,
    pub(crate) idle_timeout: Duration,
}

impl Limits {
    /// Memory that an environment for this function is counted with.
    fn needed_mib(&self, spec: &FunctionSpec) -> u64 {
        let tmp_mib = u64::from(spec.tmp_mib) * u64::from(self.tmp_percent) / 100;
        u64::from(spec.memory_mib) + tmp_mib + self.memory_mib_overhead
    }
}

/// Environments by state, and what they use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Environments that start or run an invocation.
    pub busy: usize,
    /// Environments that have answered and are not yet ready for the next invocation.
    pub finishing: usize,
    /// Environments without work.
    pub idle: usize,
    /// Environments that start before an invocation needs them.
    pub preparing: usize,
    /// Environments of which templates are made.
    pub saving: usize,
    /// Environments whose process is being ended.
    pub ending: usize,
    /// Invocations that wait for capacity.
    pub waiting: usize,
    /// Memory of all environments, in MiB.
    pub memory_mib_reserved: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct PoolId(u64);

/// The environments of one spec.
#[derive(Debug)]
struct Pool {
    spec: Arc<FunctionSpec>,
    /// The one used last is at the end.
    idle: Vec<EnvironmentId>,
    /// How many are `Preparing`.
    preparing: usize,
    finishing: usize,
    environments: usize,
    waiters: usize,
    /// The function has changed: environments are not used again.
    is_retired: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Busy,
    Finishing,
    Idle {
        since: Instant,
    },
    /// It starts before an invocation needs it.
    Preparing,
    /// A template is made of it.
    Saving,
    Ending,
}

#[derive(Debug)]
struct Environment {
    pool: PoolId,
    memory_mib: u64,
    state: State,
}

#[derive(Debug)]
struct Waiter {
    ticket: Ticket,
    pool: PoolId,
    since: Instant,
    /// Until then an environment that is finishing is worth waiting for.
    boot_not_before: Instant,
}

#[derive(Debug, Default)]
struct Account {
    /// Environments that are `Busy` or `Finishing`.
    running: u32,
    queue: VecDeque<Waiter>,
}

/// All environments and all waiting invocations of one node.
#[derive(Debug)]
pub(crate) struct Scheduler {
    limits: Limits,
    pools: HashMap<PoolId, Pool>,
    pool_ids: HashMap<Arc<FunctionSpec>, PoolId>,
    environments: HashMap<EnvironmentId, Environment>,
    accounts: HashMap<AccountId, Account>,
    /// Accounts with waiting invocations; the one served last is at the end.
    rotation: VecDeque<AccountId>,
    waiting: usize,
    memory_mib_used: u64,
    memory_mib_ending: u64,
    next_id: u64,
    wake_at: Option<Instant>,
}

impl Scheduler {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            pools: HashMap::new(),
            pool_ids: HashMap::new(),
            environments: HashMap::new(),
            accounts: HashMap::new(),
            rotation: VecDeque::new(),
            waiting: 0,
            memory_mib_used: 0,
            memory_mib_ending: 0,
            next_id: 0,
            wake_at: None,
        }
    }

    /// A new invocation. Unless it is refused, its ticket is in an effect of this call or of a later one.
    pub(crate) fn submit(
        &mut self,
        now: Instant,
        spec: &FunctionSpec,
        effects: &mut Vec<Effect>,
    ) -> Result<Ticket, SubmitError> {
        let needed_mib = self.limits.needed_mib(spec);
        if needed_mib > self.limits.memory_mib_max {
            return Err(SubmitError::NodeTooSmall { needed_mib, available_mib: self.limits.memory_mib_max });
        }
        let pool_id = self.intern(spec);
        let ticket = Ticket(self.new_id());
        let boot_not_before = now + self.finishing_wait(pool_id, &spec.account);
        let account = self.accounts.entry(spec.account.clone()).or_default();
        if account.queue.is_empty() {
            self.rotation.push_back(spec.account.clone());
        }
        account.queue.push_back(Waiter { ticket, pool: pool_id, since: now, boot_not_before });
        self.waiting += 1;
        self.pool_mut(pool_id).waiters += 1;
        self.dispatch_account(now, &spec.account, effects);

        let Some(account) = self.accounts.get(&spec.account) else { return Ok(ticket) };
        let is_waiting = account.queue.back().is_some_and(|waiter| waiter.ticket == ticket);
        let is_full = account.queue.len() > self.limits.queue_account_max || self.waiting > self.limits.queue_node_max;
        if is_waiting && is_full {
            let waiting = account.queue.len() - 1;
            self.cancel(&spec.account, ticket);
            return Err(SubmitError::Throttled(ThrottleReason::QueueFull { waiting }));
        }
        if is_waiting {
            self.wake_by(now + self.limits.queue_wait_max);
            if boot_not_before > now {
                self.wake_by(boot_not_before);
            }
        }
        Ok(ticket)
    }

    /// How long a call for this pool waits for environments that are finishing and that no other call waits for.
    fn finishing_wait(&self, pool_id: PoolId, account: &AccountId) -> Duration {
        let waited_for = self.pools.get(&pool_id).filter(|pool| pool.spec.isolation == Isolation::Reuse);
        let finishing = waited_for.map_or(0, |pool| pool.finishing);
        if finishing == 0 {
            return Duration::ZERO;
        }
        let queue = self
            .accounts
            .get(account)
            .map_or(0, |account| account.queue.iter().filter(|waiter| waiter.pool == pool_id).take(finishing).count());
        if finishing > queue { self.limits.finishing_wait_max } else { Duration::ZERO }
    }

    /// The caller of a waiting invocation has gone. Nothing happens if it does not wait any more.
    pub(crate) fn cancel(&mut self, account_id: &AccountId, ticket: Ticket) {
        let Some(account) = self.accounts.get_mut(account_id) else { return };
        if let Some(index) = account.queue.iter().position(|waiter| waiter.ticket == ticket) {
            let pool = self.take_waiter(account_id, index).pool;
            self.forget_pool(pool);
            self.forget_account(account_id);
        }
    }

    /// An environment of which a template is made, if there is room that nobody else wants.
    pub(crate) fn begin_template(&mut self, spec: &FunctionSpec) -> Option<EnvironmentId> {
        self.start_aside(spec, State::Saving)
    }

    /// An environment for the next invocation of a function, if there is none, and room that nobody else wants.
    pub(crate) fn prepare(&mut self, spec: &FunctionSpec) -> Option<(EnvironmentId, Arc<FunctionSpec>)> {
        let pool = self.pool_ids.get(spec).and_then(|id| self.pools.get(id));
        if pool.is_some_and(|pool| !pool.idle.is_empty() || pool.preparing > 0 || pool.is_retired) {
            return None;
        }
        let environment = self.start_aside(spec, State::Preparing)?;
        let pool = self.pool_mut(self.environments[&environment].pool);
        pool.preparing += 1;
        Some((environment, pool.spec.clone()))
    }

    fn start_aside(&mut self, spec: &FunctionSpec, state: State) -> Option<EnvironmentId> {
        let memory_mib = self.limits.needed_mib(spec);
        let is_room = self.memory_mib_used + memory_mib <= self.limits.memory_mib_max
            && self.environments.len() < self.limits.environments_max;
        if !is_room || self.waiting > 0 {
            return None;
        }
        let pool = self.intern(spec);
        let environment = EnvironmentId(self.new_id());
        self.environments.insert(environment, Environment { pool, memory_mib, state });
        self.memory_mib_used += memory_mib;
        self.pool_mut(pool).environments += 1;
        Some(environment)
    }

    /// The environment has answered; it will be ready soon.
    pub(crate) fn finishing(&mut self, id: EnvironmentId) {
        if let Some(environment) = self.environments.get_mut(&id)
            && environment.state == State::Busy
        {
            environment.state = State::Finishing;
            let pool = environment.pool;
            self.pool_mut(pool).finishing += 1;
        }
    }

    /// The environment waits for an invocation.
    pub(crate) fn ready(&mut self, now: Instant, id: EnvironmentId, effects: &mut Vec<Effect>) {
        let Some(environment) = self.environments.get(&id) else { return };
        let is_used = match environment.state {
            State::Busy | State::Finishing => true,
            State::Preparing => false,
            State::Idle { .. } | State::Saving | State::Ending => return,
        };
        let pool_id = environment.pool;
        self.leave_state(id);
        let pool = self.pool_mut(pool_id);
        if pool.is_retired || is_used && pool.spec.isolation == Isolation::Fresh {
            self.end(id, effects);
        } else {
            self.environments.get_mut(&id).expect("looked up above").state = State::Idle { since: now };
            self.pool_mut(pool_id).idle.push(id);
            self.wake_by(now + self.limits.idle_timeout);
        }
        let account = self.pool_mut(pool_id).spec.account.clone();
        self.dispatch_account(now, &account, effects);
        self.dispatch(now, effects);
    }

    /// The environment will take no further invocation, for example because its program has ended.
    pub(crate) fn ending(&mut self, now: Instant, id: EnvironmentId, effects: &mut Vec<Effect>) {
        if self.environments.get(&id).is_some_and(|environment| environment.state != State::Ending) {
            self.leave_state(id);
            self.mark_ending(id);
            self.dispatch(now, effects);
        }
    }

    /// The environment's process is gone.
    pub(crate) fn ended(&mut self, now: Instant, id: EnvironmentId, effects: &mut Vec<Effect>) {
        if !self.environments.contains_key(&id) {
            return;
        }
        self.leave_state(id);
        let environment = self.environments.remove(&id).expect("looked up above");
        self.memory_mib_used -= environment.memory_mib;
        let pool = self.pool_mut(environment.pool);
        pool.environments -= 1;
        let account = pool.spec.account.clone();
        self.forget_pool(environment.pool);
        self.dispatch(now, effects);
        self.forget_account(&account);
    }

    /// The function has changed or is gone: only environments of revision `keep` are used again.
    pub(crate) fn retire(
        &mut self,
        account: &AccountId,
        function: &FunctionName,
        keep: Option<&str>,
        effects: &mut Vec<Effect>,
    ) {
        let is_old = |pool: &Pool| {
            let is_function = pool.spec.account == *account && pool.spec.arn.function == *function;
            is_function && keep != Some(pool.spec.revision_id.as_str())
        };
        let mut idle = Vec::new();
        for pool in self.pools.values_mut().filter(|pool| is_old(pool)) {
            pool.is_retired = true;
            idle.extend_from_slice(&pool.idle);
        }
        for id in idle {
            self.leave_state(id);
            self.end(id, effects);
        }
    }

    /// Applies everything that is due. To be called when [`Scheduler::wake_at`] has come.
    pub(crate) fn tick(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        self.expire_waiters(now, effects);
        let is_due = |environment: &Environment| match environment.state {
            State::Idle { since } => now.duration_since(since) >= self.limits.idle_timeout,
            _ => false,
        };
        let due: Vec<_> = self.environments.iter().filter(|(_, e)| is_due(e)).map(|(id, _)| *id).collect();
        for id in due {
            self.leave_state(id);
            self.end(id, effects);
        }
        self.dispatch(now, effects);
        self.wake_at = self.earliest(now);
    }

    /// When [`Scheduler::tick`] is to be called next.
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        self.wake_at
    }

    pub(crate) fn stats(&self) -> Stats {
        let mut stats = Stats { waiting: self.waiting, memory_mib_reserved: self.memory_mib_used, ..Stats::default() };
        for environment in self.environments.values() {
            match environment.state {
                State::Busy => stats.busy += 1,
                State::Finishing => stats.finishing += 1,
                State::Idle { .. } => stats.idle += 1,
                State::Preparing => stats.preparing += 1,
                State::Saving => stats.saving += 1,
                State::Ending => stats.ending += 1,
            }
        }
        stats
    }

    /// Ends everything: the tickets of all waiting invocations, and an effect for each environment.
    pub(crate) fn close(&mut self, effects: &mut Vec<Effect>) -> Vec<Ticket> {
        let live: Vec<_> =
            self.environments.iter().filter(|(_, e)| e.state != State::Ending).map(|(id, _)| *id).collect();
        for id in live {
            self.leave_state(id);
            self.end(id, effects);
        }
        let mut tickets = Vec::new();
        for account_id in std::mem::take(&mut self.rotation) {
            while self.accounts.get(&account_id).is_some_and(|account| !account.queue.is_empty()) {
                tickets.push(self.take_waiter(&account_id, 0).ticket);
            }
        }
        tickets
    }

    fn expire_waiters(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let accounts: Vec<AccountId> = self.rotation.iter().cloned().collect();
        for account_id in accounts {
            while let Some(waiter) = self.accounts.get(&account_id).and_then(|account| account.queue.front()) {
                let waited = now.duration_since(waiter.since);
                if waited < self.limits.queue_wait_max {
                    break;
                }
                let waited_ms = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
                let reason = ThrottleReason::QueueTimeout { waited_ms };
                let Waiter { ticket, pool, .. } = self.take_waiter(&account_id, 0);
                self.forget_pool(pool);
                effects.push(Effect::Reject { ticket, reason });
            }
            self.forget_account(&account_id);
        }
    }

    fn earliest(&self, now: Instant) -> Option<Instant> {
        let idle = self.environments.values().filter_map(|environment| match environment.state {
            State::Idle { since } => Some(since + self.limits.idle_timeout),
            _ => None,
        });
        let waiting = self.accounts.values().flat_map(|account| &account.queue).map(|waiter| {
            let deadline = waiter.since + self.limits.queue_wait_max;
            if waiter.boot_not_before > now { deadline.min(waiter.boot_not_before) } else { deadline }
        });
        idle.chain(waiting).min()
    }

    fn wake_by(&mut self, at: Instant) {
        self.wake_at = Some(self.wake_at.map_or(at, |wake_at| wake_at.min(at)));
    }

    /// Serves the accounts that wait; whoever has been served is last the next time.
    fn dispatch(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let order: Vec<AccountId> = self.rotation.iter().cloned().collect();
        for account in order {
            let waiting_before = self.waiting;
            self.dispatch_account(now, &account, effects);
            if self.waiting < waiting_before
                && let Some(index) = self.rotation.iter().position(|waiting| *waiting == account)
                && let Some(account) = self.rotation.remove(index)
            {
                self.rotation.push_back(account);
            }
        }
    }

    /// Gives environments to the waiting invocations of one account.
    fn dispatch_account(&mut self, now: Instant, account_id: &AccountId, effects: &mut Vec<Effect>) {
        let mut may_boot = true;
        let mut index = 0;
        while let Some(account) = self.accounts.get(account_id) {
            if account.running >= self.limits.account_concurrency_max {
                return;
            }
            let Some(waiter) = account.queue.get(index) else { return };
            let (pool_id, is_patient) = (waiter.pool, waiter.boot_not_before > now);
            if let Some(environment) = self.pool_mut(pool_id).idle.last().copied() {
                self.leave_state(environment);
                let ticket = self.take_waiter(account_id, index).ticket;
                self.enter_busy(environment, account_id);
                effects.push(Effect::Assign { ticket, environment });
            } else if may_boot && !is_patient && self.make_room(pool_id, effects) {
                let ticket = self.take_waiter(account_id, index).ticket;
                self.boot(ticket, pool_id, account_id, effects);
            } else {
                // Whoever needs a new environment waits behind the first who does.
                may_boot &= is_patient;
                index += 1;
            }
        }
    }

    fn boot(&mut self, ticket: Ticket, pool_id: PoolId, account_id: &AccountId, effects: &mut Vec<Effect>) {
        let environment = EnvironmentId(self.new_id());
        let memory_mib = self.needed_mib(pool_id);
        self.environments.insert(environment, Environment { pool: pool_id, memory_mib, state: State::Busy });
        self.memory_mib_used += memory_mib;
        let pool = self.pool_mut(pool_id);
        pool.environments += 1;
        let spec = pool.spec.clone();
        self.enter_busy(environment, account_id);
        effects.push(Effect::Boot { ticket, environment, spec });
    }

    fn enter_busy(&mut self, environment: EnvironmentId, account_id: &AccountId) {
        self.environments.get_mut(&environment).expect("the caller has it from a pool").state = State::Busy;
        self.accounts.entry(account_id.clone()).or_default().running += 1;
    }

    /// Whether one more environment of the pool fits. If not, idle environments are asked to end, as many as it takes; when
    /// not even that would be enough, none.
    fn make_room(&mut self, pool_id: PoolId, effects: &mut Vec<Effect>) -> bool {
        let needed_mib = self.needed_mib(pool_id);
        let free_mib = self.limits.memory_mib_max.saturating_sub(self.memory_mib_used);
        let free_places = self.limits.environments_max.saturating_sub(self.environments.len());
        if needed_mib <= free_mib && free_places > 0 {
            return true;
        }
        let ending = self.environments.values().filter(|e| e.state == State::Ending).count();
        let mut coming_mib = free_mib + self.memory_mib_ending;
        let mut coming_places = free_places + ending;
        let mut idle: Vec<(Instant, EnvironmentId, u64)> = Vec::new();
        for (id, environment) in &self.environments {
            if let State::Idle { since } = environment.state {
                idle.push((since, *id, environment.memory_mib));
            }
        }
        idle.sort_unstable();
        let mut victims = Vec::new();
        for (_, id, memory_mib) in idle {
            if coming_mib >= needed_mib && coming_places > 0 {
                break;
            }
            coming_mib += memory_mib;
            coming_places += 1;
            victims.push(id);
        }
        if coming_mib >= needed_mib && coming_places > 0 {
            for id in victims {
                self.leave_state(id);
                self.end(id, effects);
            }
        }
        false
    }

    fn needed_mib(&self, pool_id: PoolId) -> u64 {
        self.pools.get(&pool_id).map_or(0, |pool| self.limits.needed_mib(&pool.spec))
    }

    fn end(&mut self, id: EnvironmentId, effects: &mut Vec<Effect>) {
        self.mark_ending(id);
        effects.push(Effect::End { environment: id });
    }

    fn mark_ending(&mut self, id: EnvironmentId) {
        let environment = self.environments.get_mut(&id).expect("callers have looked it up");
        environment.state = State::Ending;
        self.memory_mib_ending += environment.memory_mib;
    }

    /// Undoes what the environment's present state means elsewhere. The caller sets the next state.
    fn leave_state(&mut self, id: EnvironmentId) {
        let Some(environment) = self.environments.get(&id) else { return };
        let (pool_id, state, memory_mib) = (environment.pool, environment.state, environment.memory_mib);
        let pool = self.pools.get_mut(&pool_id).expect("a pool lives as long as its environments");
        match state {
            State::Idle { .. } => pool.idle.retain(|idle| *idle != id),
            State::Preparing => pool.preparing -= 1,
            State::Saving => {}
            State::Ending => self.memory_mib_ending -= memory_mib,
            State::Finishing | State::Busy => {
                if state == State::Finishing {
                    pool.finishing -= 1;
                }
                let account = self.accounts.get_mut(&pool.spec.account).expect("it has a running environment");
                account.running -= 1;
            }
        }
    }

    fn take_waiter(&mut self, account_id: &AccountId, index: usize) -> Waiter {
        let account = self.accounts.get_mut(account_id).expect("callers have looked it up");
        let waiter = account.queue.remove(index).expect("callers have looked it up");
        let is_empty = account.queue.is_empty();
        self.waiting -= 1;
        if is_empty {
            self.rotation.retain(|waiting| waiting != account_id);
        }
        self.pool_mut(waiter.pool).waiters -= 1;
        waiter
    }

    fn forget_pool(&mut self, id: PoolId) {
        if self.pools.get(&id).is_some_and(|pool| pool.environments == 0 && pool.waiters == 0) {
            let pool = self.pools.remove(&id).expect("looked up above");
            self.pool_ids.remove(&pool.spec);
        }
    }

    fn forget_account(&mut self, id: &AccountId) {
        if self.accounts.get(id).is_some_and(|account| account.running == 0 && account.queue.is_empty()) {
            self.accounts.remove(id);
        }
    }

    fn intern(&mut self, spec: &FunctionSpec) -> PoolId {
        if let Some(id) = self.pool_ids.get(spec) {
            return *id;
        }
        let id = PoolId(self.new_id());
        let spec = Arc::new(spec.clone());
        self.pool_ids.insert(spec.clone(), id);
        let pool =
            Pool { spec, idle: Vec::new(), preparing: 0, finishing: 0, environments: 0, waiters: 0, is_retired: false };
        self.pools.insert(id, pool);
        id
    }

    fn pool_mut(&mut self, id: PoolId) -> &mut Pool {
        self.pools.get_mut(&id).expect("a pool lives as long as its environments and waiters")
    }

    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}

#[cfg(test)]
mod tests;
