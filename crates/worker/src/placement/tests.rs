//! The scheduler against small histories, and against random ones with its invariants checked after every event.

use calypte_types::Arn;
use proptest::prelude::*;

use super::*;

fn limits() -> Limits {
    Limits {
        account_concurrency_max: 4,
        environments_max: 100,
        memory_mib_max: 1000,
        memory_mib_overhead: 0,
        tmp_percent: 0,
        queue_account_max: 3,
        queue_node_max: 5,
        queue_wait_max: Duration::from_secs(10),
        finishing_wait_max: Duration::from_millis(20),
        idle_timeout: Duration::from_secs(60),
    }
}

fn spec(account: u8, function: &str, revision: &str, memory_mib: u32) -> FunctionSpec {
    let account: AccountId = format!("{account:012}").parse().unwrap();
    FunctionSpec {
        arn: Arn {
            region: "us-east-1".into(),
            account: account.clone(),
            function: function.parse().unwrap(),
            qualifier: None,
        },
        account,
        version: "$LATEST".into(),
        revision_id: revision.into(),
        mounts: Vec::new(),
        arguments: Vec::new(),
        environment: Vec::new(),
        memory_mib,
        tmp_mib: 512,
        timeout_s: 3,
        has_template: false,
        isolation: Default::default(),
    }
}

/// A scheduler with a clock, and the effects of the last event.
struct Bench {
    scheduler: Scheduler,
    now: Instant,
    effects: Vec<Effect>,
}

impl Bench {
    fn new(limits: Limits) -> Self {
        Self { scheduler: Scheduler::new(limits), now: Instant::now(), effects: Vec::new() }
    }

    fn submit(&mut self, spec: &FunctionSpec) -> Result<Ticket, SubmitError> {
        self.effects.clear();
        self.scheduler.submit(self.now, spec, &mut self.effects)
    }

    /// Submits, and expects a new environment at once.
    fn boot(&mut self, spec: &FunctionSpec) -> EnvironmentId {
        let ticket = self.submit(spec).unwrap();
        match self.effects.as_slice() {
            [Effect::Boot { ticket: booted, environment, .. }] if *booted == ticket => *environment,
            other => panic!("expected a boot, got {other:?}"),
        }
    }

    /// Submits, and expects an idle environment.
    fn reuse(&mut self, spec: &FunctionSpec) -> EnvironmentId {
        let ticket = self.submit(spec).unwrap();
        match self.effects.as_slice() {
            [Effect::Assign { ticket: assigned, environment }] if *assigned == ticket => *environment,
            other => panic!("expected an assignment, got {other:?}"),
        }
    }

    /// Submits, and expects to wait.
    fn wait(&mut self, spec: &FunctionSpec) -> Ticket {
        let ticket = self.submit(spec).unwrap();
        assert!(!self.effects.iter().any(|e| matches!(e, Effect::Boot { .. } | Effect::Assign { .. })));
        ticket
    }

    fn ready(&mut self, id: EnvironmentId) -> &[Effect] {
        self.effects.clear();
        self.scheduler.ready(self.now, id, &mut self.effects);
        &self.effects
    }

    fn ended(&mut self, id: EnvironmentId) -> &[Effect] {
        self.effects.clear();
        self.scheduler.ended(self.now, id, &mut self.effects);
        &self.effects
    }

    fn tick_after(&mut self, time: Duration) -> &[Effect] {
        self.now += time;
        self.effects.clear();
        self.scheduler.tick(self.now, &mut self.effects);
        &self.effects
    }
}

#[test]
fn the_environment_used_last_is_used_first() {
    let mut bench = Bench::new(limits());
    let hello = spec(1, "hello", "r1", 128);
    let (first, second) = (bench.boot(&hello), bench.boot(&hello));
    assert_eq!(bench.ready(first), []);
    assert_eq!(bench.ready(second), []);
    assert_eq!(bench.reuse(&hello), second);
    assert_eq!(bench.reuse(&hello), first);
}

#[test]
fn environments_are_shared_only_by_equal_specs() {
    let mut bench = Bench::new(limits());
    let first = bench.boot(&spec(1, "hello", "r1", 128));
    bench.ready(first);
    for other in [spec(2, "hello", "r1", 128), spec(1, "hello", "r2", 128), spec(1, "other", "r1", 128)] {
        assert_ne!(bench.boot(&other), first);
    }
    assert_eq!(bench.reuse(&spec(1, "hello", "r1", 128)), first);
}

#[test]
fn over_the_concurrency_limit_calls_wait_in_order_and_then_are_refused() {
    let mut bench = Bench::new(limits());
    let hello = spec(1, "hello", "r1", 128);
    let running: Vec<_> = (0..4).map(|_| bench.boot(&hello)).collect();
    let waiting: Vec<_> = (0..3).map(|_| bench.wait(&hello)).collect();
    let full = SubmitError::Throttled(ThrottleReason::QueueFull { waiting: 3 });
    assert_eq!(bench.submit(&hello), Err(full));
    bench.boot(&spec(2, "hello", "r1", 128));
    for (environment, ticket) in running.iter().zip(&waiting) {
        let expected = Effect::Assign { ticket: *ticket, environment: *environment };
        assert_eq!(bench.ready(*environment), [expected]);
    }
    assert_eq!(bench.scheduler.stats().waiting, 0);
}

#[test]
fn waiting_ends_at_its_deadline() {
    let mut bench = Bench::new(Limits { account_concurrency_max: 1, ..limits() });
    let hello = spec(1, "hello", "r1", 128);
    let running = bench.boot(&hello);
    let ticket = bench.wait(&hello);
    assert_eq!(bench.scheduler.wake_at(), Some(bench.now + Duration::from_secs(10)));
    assert_eq!(bench.tick_after(Duration::from_millis(9_999)), []);
    let reason = ThrottleReason::QueueTimeout { waited_ms: 10_000 };
    assert_eq!(bench.tick_after(Duration::from_millis(1)), [Effect::Reject { ticket, reason }]);
    assert_eq!(bench.ready(running), []);
}

#[test]
fn a_cancelled_call_is_not_run() {
    let mut bench = Bench::new(Limits { account_concurrency_max: 1, ..limits() });
    let hello = spec(1, "hello", "r1", 128);
    let running = bench.boot(&hello);
    let ticket = bench.wait(&hello);
    bench.scheduler.cancel(&hello.account, ticket);
    assert_eq!(bench.ready(running), []);
}

#[test]
fn short_memory_evicts_what_was_unused_longest_and_waits_until_it_is_gone() {
    let mut bench = Bench::new(limits());
    let (old, recent) = (bench.boot(&spec(1, "old", "r", 400)), bench.boot(&spec(2, "recent", "r", 400)));
    bench.ready(old);
    bench.now += Duration::from_secs(1);
    bench.ready(recent);
    let large = spec(3, "large", "r", 500);
    let ticket = bench.wait(&large);
    assert_eq!(bench.effects, [Effect::End { environment: old }]);
    assert_eq!(bench.tick_after(Duration::ZERO), [], "what is coming free is not asked for twice");
    match bench.ended(old) {
        [Effect::Boot { ticket: booted, .. }] => assert_eq!(*booted, ticket),
        other => panic!("expected a boot, got {other:?}"),
    }
    assert_eq!(bench.scheduler.stats().memory_mib_reserved, 900);
}

#[test]
fn nothing_is_evicted_in_vain_and_warm_calls_pass_those_that_need_memory() {
    let mut bench = Bench::new(limits());
    let hello = spec(1, "hello", "r", 300);
    let (idle, _busy) = (bench.boot(&hello), bench.boot(&hello));
    bench.ready(idle);
    bench.wait(&spec(1, "large", "r", 900));
    assert_eq!(bench.effects, [], "900 MiB cannot come free while 300 are in use");
    assert_eq!(bench.reuse(&hello), idle);
    bench.wait(&spec(1, "small", "r", 100));
}

#[test]
fn what_can_never_fit_is_refused_at_once() {
    let mut bench = Bench::new(limits());
    let refused = Err(SubmitError::NodeTooSmall { needed_mib: 1001, available_mib: 1000 });
    assert_eq!(bench.submit(&spec(1, "huge", "r", 1001)), refused);
    assert_eq!(bench.scheduler.stats(), Stats::default());
}

#[test]
fn a_call_waits_a_moment_for_an_environment_that_is_finishing() {
    let mut bench = Bench::new(limits());
    let hello = spec(1, "hello", "r1", 128);
    let environment = bench.boot(&hello);
    bench.scheduler.finishing(environment);
    let ticket = bench.wait(&hello);
    bench.boot(&hello);
    assert_eq!(bench.ready(environment), [Effect::Assign { ticket, environment }]);

    bench.scheduler.finishing(environment);
    let ticket = bench.wait(&hello);
    match bench.tick_after(Duration::from_millis(20)) {
        [Effect::Boot { ticket: booted, .. }] => assert_eq!(*booted, ticket, "it does not wait for long"),
        other => panic!("expected a boot, got {other:?}"),
    }
}

#[test]
fn retired_environments_are_not_reused() {
    let mut bench = Bench::new(limits());
    let (old, new) = (spec(1, "hello", "r1", 128), spec(1, "hello", "r2", 128));
    let (idle, busy, kept) = (bench.boot(&old), bench.boot(&old), bench.boot(&new));
    bench.ready(idle);
    bench.ready(kept);
    bench.effects.clear();
    bench.scheduler.retire(&old.account, &old.arn.function, Some("r2"), &mut bench.effects);
    assert_eq!(bench.effects, [Effect::End { environment: idle }]);
    assert_eq!(bench.ready(busy), [Effect::End { environment: busy }]);
    assert_eq!(bench.reuse(&new), kept);
}

#[test]
fn idle_environments_end_after_their_time() {
    let mut bench = Bench::new(limits());
    let environment = bench.boot(&spec(1, "hello", "r1", 128));
    bench.ready(environment);
    assert_eq!(bench.tick_after(Duration::from_secs(59)), []);
    assert_eq!(bench.tick_after(Duration::from_secs(1)), [Effect::End { environment }]);
    assert_eq!(bench.ended(environment), []);
    assert_eq!(bench.scheduler.stats(), Stats::default());
    assert!(bench.scheduler.pools.is_empty() && bench.scheduler.accounts.is_empty());
}

#[test]
fn accounts_take_turns() {
    let mut bench = Bench::new(Limits { environments_max: 1, ..limits() });
    let (one, two) = (spec(1, "hello", "r", 128), spec(2, "hello", "r", 128));
    let mut environment = bench.boot(&one);
    let tickets = [bench.wait(&one), bench.wait(&one), bench.wait(&two)];
    let mut order = Vec::new();
    for _ in 0..tickets.len() {
        match bench.ended(environment) {
            [Effect::Boot { ticket, environment: next, .. }] => {
                order.push(*ticket);
                environment = *next;
            }
            other => panic!("expected a boot, got {other:?}"),
        }
    }
    assert_eq!(order, [tickets[0], tickets[2], tickets[1]]);
}

/// What a random history consists of; numbers choose among what there is.
#[derive(Debug, Clone)]
enum Step {
    Submit { account: u8, function: u8, memory_mib: u32 },
    Finishing(usize),
    Ready(usize),
    Ending(usize),
    Ended(usize),
    Retire { account: u8, function: u8 },
    Cancel(usize),
    Tick { ms: u64 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..3u8, 0..3u8, 1..600u32)
            .prop_map(|(account, function, memory_mib)| Step::Submit { account, function, memory_mib }),
        1 => any::<usize>().prop_map(Step::Finishing),
        3 => any::<usize>().prop_map(Step::Ready),
        1 => any::<usize>().prop_map(Step::Ending),
        2 => any::<usize>().prop_map(Step::Ended),
        1 => (0..3u8, 0..3u8).prop_map(|(account, function)| Step::Retire { account, function }),
        1 => any::<usize>().prop_map(Step::Cancel),
        1 => (0..20_000u64).prop_map(|ms| Step::Tick { ms }),
    ];
    proptest::collection::vec(step, 1..200)
}

/// Memory within the limit, concurrency within the limit, and counters that agree with the tables.
fn check_invariants(scheduler: &Scheduler) {
    let limits = &scheduler.limits;
    let sum: u64 = scheduler.environments.values().map(|e| e.memory_mib).sum();
    assert_eq!(scheduler.memory_mib_used, sum);
    assert!(sum <= limits.memory_mib_max && scheduler.environments.len() <= limits.environments_max);
    for (id, account) in &scheduler.accounts {
        let running = scheduler.environments.values().filter(|environment| {
            scheduler.pools[&environment.pool].spec.account == *id
                && matches!(environment.state, State::Busy | State::Finishing)
        });
        assert_eq!(running.count(), account.running as usize);
        assert!(account.running <= limits.account_concurrency_max);
        assert!(account.queue.len() <= limits.queue_account_max);
        assert_eq!(!account.queue.is_empty(), scheduler.rotation.contains(id));
    }
    assert_eq!(scheduler.waiting, scheduler.accounts.values().map(|account| account.queue.len()).sum::<usize>());
}

proptest! {
    #[test]
    fn every_history_keeps_the_limits_and_settles_every_ticket(steps in steps()) {
        let mut bench = Bench::new(limits());
        let mut open: Vec<(Ticket, AccountId)> = Vec::new();
        let mut environments: Vec<EnvironmentId> = Vec::new();
        for step in steps {
            bench.effects.clear();
            let Bench { scheduler, now, effects } = &mut bench;
            let pick = |n: usize| environments.get(n % environments.len().max(1)).copied();
            match step {
                Step::Submit { account, function, memory_mib } => {
                    let spec = spec(account, &format!("f{function}"), "r", memory_mib / 100 * 100 + 1);
                    if let Ok(ticket) = scheduler.submit(*now, &spec, effects) {
                        open.push((ticket, spec.account));
                    }
                }
                Step::Finishing(n) => if let Some(id) = pick(n) { scheduler.finishing(id) },
                Step::Ready(n) => if let Some(id) = pick(n) { scheduler.ready(*now, id, effects) },
                Step::Ending(n) => if let Some(id) = pick(n) { scheduler.ending(*now, id, effects) },
                Step::Ended(n) => if let Some(id) = pick(n) {
                    environments.retain(|other| *other != id);
                    scheduler.ended(*now, id, effects);
                },
                Step::Retire { account, function } => {
                    let spec = spec(account, &format!("f{function}"), "r", 1);
                    scheduler.retire(&spec.account, &spec.arn.function, None, effects);
                }
                Step::Cancel(n) => if !open.is_empty() {
                    let (ticket, account) = open.swap_remove(n % open.len());
                    scheduler.cancel(&account, ticket);
                },
                Step::Tick { ms } => {
                    *now += Duration::from_millis(ms);
                    scheduler.tick(*now, effects);
                }
            }
            for effect in effects.iter() {
                match effect {
                    Effect::Boot { ticket, environment, .. } => {
                        environments.push(*environment);
                        open.retain(|(other, _)| other != ticket);
                    }
                    Effect::Assign { ticket, .. } | Effect::Reject { ticket, .. } => {
                        prop_assert!(open.iter().any(|(other, _)| other == ticket), "settled twice");
                        open.retain(|(other, _)| other != ticket);
                    }
                    Effect::End { .. } => {}
                }
            }
            check_invariants(scheduler);
        }
        // What still waits is settled when time passes, and everything can be ended.
        bench.tick_after(Duration::from_secs(1000));
        prop_assert_eq!(bench.scheduler.waiting, 0);
        for id in environments {
            bench.ended(id);
        }
        prop_assert!(bench.scheduler.pools.is_empty() && bench.scheduler.pool_ids.is_empty());
        prop_assert_eq!(bench.scheduler.stats(), Stats::default());
    }
}

#[test]
fn a_template_is_made_only_where_there_is_room_that_nobody_wants() {
    let mut bench = Bench::new(limits());
    let large = spec(1, "large", "r1", 600);
    let id = bench.scheduler.begin_template(&large).expect("nobody else is there");
    assert_eq!((bench.scheduler.stats().saving, bench.scheduler.stats().memory_mib_reserved), (1, 600));
    assert_eq!(bench.scheduler.begin_template(&large), None, "no room for another");
    // It takes no part of an account's concurrency, and is never given an invocation.
    let small = spec(1, "small", "r1", 10);
    let running: Vec<_> = (0..4).map(|_| bench.boot(&small)).collect();
    assert_eq!(bench.ready(id), []);
    let ticket = bench.wait(&small);
    assert_eq!(bench.scheduler.begin_template(&small), None, "somebody waits");
    assert_eq!(bench.ready(running[0]), [Effect::Assign { ticket, environment: running[0] }]);
    // It ends with everything else, and its memory is free again when it has.
    bench.effects.clear();
    let Bench { scheduler, effects, .. } = &mut bench;
    assert_eq!(scheduler.close(effects), []);
    assert!(bench.effects.contains(&Effect::End { environment: id }));
    bench.ended(id);
    assert_eq!((bench.scheduler.stats().saving, bench.scheduler.stats().memory_mib_reserved), (0, 40));
}

#[test]
fn a_fresh_environment_runs_one_invocation() {
    let mut bench = Bench::new(limits());
    let fresh = FunctionSpec { isolation: Isolation::Fresh, ..spec(1, "fresh", "r1", 100) };
    let first = bench.boot(&fresh);
    assert_eq!(bench.ready(first), [Effect::End { environment: first }]);
    // The next one may be there already when its invocation comes; one is enough.
    let (spare, _) = bench.scheduler.prepare(&fresh).unwrap();
    assert_eq!(bench.scheduler.prepare(&fresh), None, "one is on its way");
    assert_eq!(bench.scheduler.stats().preparing, 1);
    // Whoever comes before it is ready does not wait for it.
    let second = bench.boot(&fresh);
    assert_eq!(bench.ready(spare), []);
    assert_eq!(bench.scheduler.prepare(&fresh), None, "one is idle");
    assert_eq!(bench.reuse(&fresh), spare);
    let (_, spec) = bench.scheduler.prepare(&fresh).unwrap();
    assert_eq!(*spec, fresh);
    // A call does not wait for one that finishes: it would not get it.
    bench.scheduler.finishing(spare);
    bench.boot(&fresh);
    for used in [second, spare] {
        assert_eq!(bench.ready(used), [Effect::End { environment: used }]);
        bench.ended(used);
    }
}

#[test]
fn nothing_is_prepared_of_what_is_retired_or_where_there_is_no_room() {
    let mut bench = Bench::new(limits());
    let fresh = FunctionSpec { isolation: Isolation::Fresh, ..spec(1, "fresh", "r1", 400) };
    let (spare, _) = bench.scheduler.prepare(&fresh).unwrap();
    let mut effects = Vec::new();
    bench.scheduler.retire(&fresh.account, &fresh.arn.function, None, &mut effects);
    assert_eq!(effects, []);
    assert_eq!(bench.ready(spare), [Effect::End { environment: spare }], "it comes too late");
    assert_eq!(bench.scheduler.prepare(&fresh), None);
    bench.ended(spare);
    bench.boot(&spec(1, "large", "r1", 700));
    assert_eq!(bench.scheduler.prepare(&fresh), None);
}
