//! A worker's conversation with a monitor that runs a program in a virtual machine.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use calypte_wire::monitor::{ExitCause, Platform, ProcessorShare, Start, ToWorker, WorkingSet};

use crate::Test;
use crate::host::{Environment, Zygote, mounts, program, resolve, start};

pub(crate) const TESTS: &[Test] = &[
    ("session::a_program_prints_and_ends", true, a_program_prints_and_ends),
    ("session::invocations_go_round", true, invocations_go_round),
    ("session::initialisation_errors_are_reported", true, initialisation_errors_are_reported),
    ("session::large_responses_pass_up_to_the_limit", true, large_responses_pass_up_to_the_limit),
    ("session::a_program_may_end_at_any_time", true, a_program_may_end_at_any_time),
    ("session::output_waits_for_a_slow_worker", true, output_waits_for_a_slow_worker),
    ("session::closing_the_socket_ends_a_spinning_guest", true, closing_the_socket_ends_a_spinning_guest),
    ("session::a_program_without_an_invocation_is_frozen", true, a_program_without_an_invocation_is_frozen),
    ("session::a_bound_of_processor_time_begins_after_initialisation", true, a_bound_begins_after_initialisation),
    ("session::what_cannot_start_says_why", true, what_cannot_start_says_why),
    ("session::copies_of_a_saved_guest_go_on_from_its_next", true, copies_of_a_saved_guest_go_on_from_its_next),
    (
        "session::a_guest_saved_in_restore_next_does_its_part_first",
        true,
        a_guest_saved_in_restore_next_does_its_part_first,
    ),
    ("session::a_damaged_state_is_refused", true, a_damaged_state_is_refused),
    ("session::a_guest_with_an_invocation_is_not_saved", true, a_guest_with_an_invocation_is_not_saved),
    ("session::a_warm_python_invocation_takes_few_exits", true, a_warm_python_invocation_takes_few_exits),
];

fn runtime(zygote: &mut Zygote) -> Environment {
    runtime_on(zygote, 1)
}

fn runtime_on(zygote: &mut Zygote, vcpu_count: u32) -> Environment {
    let mut environment = zygote.fork();
    environment.start(Start { vcpu_count, ..start(&[&program("runtime")]) });
    let (log, message) = environment.receive_with_log();
    assert_eq!(log, "started\n");
    assert!(matches!(message, ToWorker::Ready { .. }), "{message:?}");
    environment
}

fn exit_cause(message: ToWorker) -> ExitCause {
    let ToWorker::Exited { cause, .. } = message else { panic!("{message:?} instead of an end") };
    cause
}

/// The runtime in a root of its own: in that of the host each jail covers places with file systems of its own.
fn runtime_alone() -> Start {
    let name = program("runtime");
    let (_, folder) = mounts().swap_remove(1);
    Start { mounts: vec![("/".into(), folder)], ..start(&[name.trim_start_matches("/opt")]) }
}

/// The state of a runtime that waits for an event, and how long it is.
fn saved(zygote: &mut Zygote) -> (File, u64) {
    saved_of(zygote, runtime_alone())
}

/// The state of what starts so, once it is ready.
fn saved_of(zygote: &mut Zygote, start: Start) -> (File, u64) {
    let mut environment = zygote.fork();
    environment.start(start);
    assert!(matches!(environment.receive_with_log().1, ToWorker::Ready { .. }));
    let file = tempfile::tempfile().unwrap();
    environment.send_state(&file);
    let message = environment.receive().unwrap();
    let ToWorker::Saved { bytes } = message else { panic!("{message:?}") };
    environment.close();
    assert_eq!(zygote.wait_ended(&environment), 0);
    assert_eq!(file.metadata().unwrap().len(), bytes);
    (file, bytes)
}

/// An environment that goes on from a state.
fn restored(zygote: &mut Zygote, state: &File, working_set: Option<WorkingSet>) -> Environment {
    let mut environment = zygote.fork();
    environment.send_state(state);
    environment.start(Start { is_restored: true, working_set, ..runtime_alone() });
    environment
}

fn copies_of_a_saved_guest_go_on_from_its_next() {
    let mut zygote = Zygote::start();
    let (state, _) = saved(&mut zygote);
    let mut copies: Vec<_> = (0..2).map(|_| restored(&mut zygote, &state, None)).collect();
    let mut sets = Vec::new();
    for (number, copy) in copies.iter_mut().enumerate() {
        let message = copy.receive().unwrap();
        assert!(matches!(message, ToWorker::Ready { .. }), "at once, and nothing is printed again: {message:?}");
        let id = format!("request-{number}");
        copy.invoke(&id, "event");
        let (_, message) = copy.receive_with_log();
        let ToWorker::Response { request_id, .. } = &message else { panic!("{message:?}") };
        assert_eq!(*request_id, id);
        let ToWorker::Used(set) = copy.receive_with_log().1 else { panic!("it tells what it has used") };
        assert!(matches!(copy.receive().unwrap(), ToWorker::Ready { .. }));
        assert!(!set.written.is_empty() && !set.read.is_empty(), "{set:?}");
        sets.push(set);
    }
    // A copy that is told does not tell again; frames that do not exist do no harm.
    let mut set = sets.swap_remove(0);
    set.written.extend([(u32::MAX, 1), (u32::MAX - 1, u32::MAX), (0, u32::MAX)]);
    let mut copy = restored(&mut zygote, &state, Some(set));
    assert!(matches!(copy.receive().unwrap(), ToWorker::Ready { .. }));
    for id in ["one", "two"] {
        copy.invoke(id, "event");
        assert!(matches!(copy.receive_with_log().1, ToWorker::Response { .. }));
        assert!(matches!(copy.receive_with_log().1, ToWorker::Ready { .. }));
    }
    copy.close();
    assert_eq!(zygote.wait_ended(&copy), 0);
}

fn a_guest_saved_in_restore_next_does_its_part_first() {
    let mut zygote = Zygote::start();
    let start_with = |mode: &str| {
        let mut start = runtime_alone();
        start.arguments.extend(["restore".to_owned(), mode.to_owned()]);
        start
    };
    for mode in ["go on", "error", "exit"] {
        let (state, _) = saved_of(&mut zygote, Start { is_to_be_saved: true, ..start_with(mode) });
        let mut copy = restored(&mut zygote, &state, None);
        let (log, message) = copy.receive_with_log();
        assert_eq!(log, "restored: HTTP/1.1 200 a copy\n", "{mode}");
        match mode {
            "error" => assert!(matches!(message, ToWorker::InitError { .. }), "{message:?}"),
            "exit" => assert_eq!(exit_cause(message), ExitCause::Status(5)),
            _ => {
                assert!(matches!(message, ToWorker::Ready { .. }), "{message:?}");
                copy.invoke("one", "event");
                let message = copy.receive_with_log().1;
                assert!(matches!(message, ToWorker::Response { .. }), "{message:?}");
            }
        }
        copy.close();
        zygote.wait_ended(&copy);
    }
    // Nobody saves it: there is nothing to wait for.
    let mut environment = zygote.fork();
    environment.start(start_with("go on"));
    let (log, message) = environment.receive_with_log();
    assert_eq!(log, "started\nrestored: HTTP/1.1 200\n");
    assert!(matches!(message, ToWorker::Ready { .. }), "{message:?}");
}

fn a_damaged_state_is_refused() {
    let mut zygote = Zygote::start();
    let (state, bytes) = saved(&mut zygote);
    let damages: [(&str, &dyn Fn()); 3] = [
        ("header", &|| state.write_all_at(b"x", 3).unwrap()),
        ("section", &|| state.write_all_at(b"\xff", 4096 * 2).unwrap()),
        ("length", &|| state.set_len(bytes - 4096).unwrap()),
    ];
    for (what, damage) in damages {
        let mut before = [0; 1];
        let place = if what == "header" { 3 } else { 4096 * 2 };
        state.read_exact_at(&mut before, place).unwrap();
        damage();
        let mut copy = restored(&mut zygote, &state, None);
        let ExitCause::Failed(reason) = exit_cause(copy.receive().unwrap()) else { panic!("{what}") };
        assert!(reason.contains("cannot be restored"), "{what}: {reason}");
        assert_eq!(copy.receive(), None);
        zygote.wait_ended(&copy);
        state.write_all_at(&before, place).unwrap();
    }
    // Without a file, or with none that can be read.
    let mut copy = restored(&mut zygote, &tempfile::tempfile().unwrap(), None);
    let ExitCause::Failed(reason) = exit_cause(copy.receive().unwrap()) else { panic!("an empty file") };
    assert!(reason.contains("not the state of a guest"), "{reason}");
    zygote.wait_ended(&copy);
}

fn a_guest_with_an_invocation_is_not_saved() {
    let mut zygote = Zygote::start();
    let mut environment = runtime(&mut zygote);
    environment.invoke("one", "spin");
    environment.receive_output("spinning\n");
    environment.send_state(&tempfile::tempfile().unwrap());
    let ToWorker::NotSaved { reason } = environment.receive_with_log().1 else { panic!("it was saved") };
    assert!(reason.contains("does not wait"), "{reason}");
}

fn a_program_prints_and_ends() {
    let mut zygote = Zygote::start();
    let mut environment = zygote.fork();
    let mut start = start(&[&program("streams"), "hello"]);
    start.environment.push(("NAME".into(), "you".into()));
    environment.start(start);
    let (log, message) = environment.receive_with_log();
    assert_eq!(log, "to stderr\nhello you\n", "standard output is no terminal, so it is buffered to the end");
    let ToWorker::Exited { cause, usage } = message else { panic!("{message:?}") };
    assert_eq!(cause, ExitCause::Status(3));
    assert!(usage.memory_peak_bytes > 0 && usage.exits > 0 && usage.cpu_us > 0, "{usage:?}");
    assert_eq!(environment.receive(), None);
    assert_eq!(zygote.wait_ended(&environment), 0);
}

fn invocations_go_round() {
    let mut zygote = Zygote::start();
    let mut environment = runtime(&mut zygote);
    for round in 0..3 {
        let id = format!("id-{round}");
        environment.invoke(&id, &format!("{{\"round\":{round}}}"));
        let (log, message) = environment.receive_with_log();
        let ToWorker::Response { request_id, content_type, payload, .. } = message else { panic!("{message:?}") };
        assert_eq!((log.as_str(), request_id, content_type.as_deref()), ("", id, Some("application/json")));
        assert_eq!(String::from_utf8(payload).unwrap(), format!("{{\"round\":{round}}}"));
        assert!(matches!(environment.receive(), Some(ToWorker::Ready { .. })));
    }
    environment.invoke("e", "error");
    let (_, message) = environment.receive_with_log();
    let ToWorker::Failure { request_id, error_type, payload, .. } = message else { panic!("{message:?}") };
    assert_eq!((request_id.as_str(), error_type.as_str(), &payload[..]), ("e", "Function.Test", &b"{\"a\":1}"[..]));
    assert!(matches!(environment.receive(), Some(ToWorker::Ready { .. })));
    environment.invoke("p", "print");
    let (log, message) = environment.receive_with_log();
    assert!(matches!(message, ToWorker::Response { .. }), "{message:?}");
    assert_eq!(
        log,
        (0..100).map(|line| format!("line {line}\n")).collect::<String>(),
        "output comes before the response"
    );
}

fn initialisation_errors_are_reported() {
    let mut zygote = Zygote::start();
    let mut environment = zygote.fork();
    environment.start(start(&[&program("runtime"), "init-error"]));
    let (_, message) = environment.receive_with_log();
    assert_eq!(message, ToWorker::InitError { error_type: "Runtime.Test".into(), payload: b"{}".to_vec() });
    assert_eq!(exit_cause(environment.receive_with_log().1), ExitCause::Status(1));
}

fn large_responses_pass_up_to_the_limit() {
    let limit = calypte_monitor::runtime_api::RESPONSE_BYTES_MAX;
    let mut zygote = Zygote::start();
    let mut environment = runtime(&mut zygote);
    environment.invoke("1", &format!("large {limit}"));
    let (_, message) = environment.receive_with_log();
    let ToWorker::Response { payload, .. } = message else { panic!("not a response") };
    assert!(payload.len() == limit && payload.iter().all(|byte| *byte == b'x'));
    assert!(matches!(environment.receive(), Some(ToWorker::Ready { .. })));
    environment.invoke("2", &format!("large {}", limit + 1));
    let (_, message) = environment.receive_with_log();
    let ToWorker::ResponseTooLarge { request_id, payload_bytes, .. } = message else { panic!("{message:?}") };
    assert_eq!((request_id.as_str(), payload_bytes), ("2", limit as u64 + 1));
    let (log, message) = environment.receive_with_log();
    assert_eq!(log, "answer: HTTP/1.1 413\n");
    assert!(matches!(message, ToWorker::Ready { .. }), "{message:?}");
}

fn a_program_may_end_at_any_time() {
    let mut zygote = Zygote::start();
    for (event, log, expected) in [
        ("exit", "leaving\n", ExitCause::Status(7)),
        ("abort", "", ExitCause::Signal(9)),
        ("hog", "", ExitCause::OutOfMemory),
    ] {
        let mut environment = runtime(&mut zygote);
        environment.invoke("1", event);
        let (printed, message) = environment.receive_with_log();
        assert_eq!((printed.as_str(), exit_cause(message)), (log, expected), "{event}");
        assert_eq!(zygote.wait_ended(&environment), 0);
    }
}

fn output_waits_for_a_slow_worker() {
    let mut zygote = Zygote::start();
    let mut environment = zygote.fork();
    environment.start(start(&[&program("streams"), "flood"]));
    let mut received = 0;
    while received < 32 * 1024 * 1024 {
        let Some(ToWorker::Log { bytes, dropped_bytes: 0 }) = environment.receive() else { panic!("no output") };
        assert!(bytes.iter().all(|byte| *byte == b'x'));
        received += bytes.len();
    }
    environment.close();
    assert_eq!(zygote.wait_ended(&environment), 0);
}

fn closing_the_socket_ends_a_spinning_guest() {
    let mut zygote = Zygote::start();
    let mut environment = runtime(&mut zygote);
    environment.invoke("1", "spin");
    environment.receive_output("spinning\n");
    environment.close();
    assert_eq!(zygote.wait_ended(&environment), 0);
}

/// Time that a process has had processors, in hundredths of a second (`proc_pid_stat(5)`, utime and stime).
fn cpu_ticks(pid: i32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum()
}

/// The same with that of its child processes, which run guest code on ptrace.
fn cpu_ticks_with_children(pid: i32) -> u64 {
    let parent_of = |pid: i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse::<i32>().ok()
    };
    let all = std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    cpu_ticks(pid) + all.filter(|child| parent_of(*child) == Some(pid)).map(cpu_ticks).sum::<u64>()
}

fn a_program_without_an_invocation_is_frozen() {
    let mut zygote = Zygote::start();
    for vcpu_count in [1, 2] {
        let mut environment = runtime_on(&mut zygote, vcpu_count);
        for (round, event) in ["burn", "more", "more"].into_iter().enumerate() {
            environment.invoke(&round.to_string(), event);
            let (_, message) = environment.receive_with_log();
            assert!(matches!(message, ToWorker::Response { .. }), "{message:?}");
            assert!(matches!(environment.receive(), Some(ToWorker::Ready { .. })));
            let is_at_rest = |_| {
                let before = cpu_ticks(environment.pid);
                std::thread::sleep(Duration::from_millis(200));
                cpu_ticks(environment.pid) == before
            };
            assert!((0..50).any(is_at_rest), "a thread goes on after invocation {round}, {vcpu_count} virtual CPU(s)");
        }
        environment.close();
        assert_eq!(zygote.wait_ended(&environment), 0);
    }
}

/// A twentieth of a processor: the initialisation would take 20 s under it. Afterwards a loop of two threads gets it, and
/// no more.
fn a_bound_begins_after_initialisation() {
    const INIT_MS: u64 = 1_000;
    const SHARE: u32 = 50;
    for (platform, vcpu_count) in [(Platform::Kvm, 1), (Platform::Kvm, 2), (Platform::Ptrace, 1)] {
        if platform == Platform::Ptrace && calypte_ptrace::probe().is_err() {
            println!("SKIP a_bound_of_processor_time_begins_after_initialisation on ptrace: not possible here");
            continue;
        }
        let mut zygote = Zygote::start();
        let mut environment = zygote.fork();
        let start = start(&[&program("runtime"), "init-ms", &INIT_MS.to_string()]);
        let share = ProcessorShare { nice: 3, share_max: Some(SHARE) };
        environment.start(Start { vcpu_count, platform, share, ..start });
        let began = Instant::now();
        let (_, message) = environment.receive_with_log();
        assert!(matches!(message, ToWorker::Ready { .. }), "{message:?}");
        assert!(began.elapsed() < Duration::from_secs(10), "initialisation was held back: {:?}", began.elapsed());

        environment.invoke("1", "burn");
        assert!(matches!(environment.receive_with_log().1, ToWorker::Response { .. }));
        assert!(matches!(environment.receive(), Some(ToWorker::Ready { .. })));
        environment.invoke("2", "spin");
        environment.receive_output("spinning\n");
        let used = || cpu_ticks_with_children(environment.pid);
        let (before, began) = (used(), Instant::now());
        // The time over which it is measured.
        std::thread::sleep(Duration::from_secs(2));
        let ticks = (used() - before) as f64;
        let share = ticks / (began.elapsed().as_secs_f64() * 100.0);
        // On ptrace the time counts for which guest code has its turn, and a busy machine gives it less of that.
        assert!((0.004..0.09).contains(&share), "{share} of a processor on {platform:?} with {vcpu_count}");
        environment.close();
        assert_eq!(zygote.wait_ended(&environment), 0);
    }
}

fn what_cannot_start_says_why() {
    let mut zygote = Zygote::start();
    let mut no_memory = start(&["/bin/true"]);
    no_memory.memory_mib = 0;
    let mut no_root = start(&["/bin/true"]);
    no_root.mounts[0].1 = "/nonexistent".into();
    for (start, expected) in [
        (start(&[]), "no program was given"),
        (start(&["nonexistent"]), "nonexistent: not found in any directory of PATH (/usr/bin:/bin) inside the guest"),
        (start(&["/nonexistent"]), "cannot run `/nonexistent`: no such file"),
        (start(&["/etc/passwd"]), "cannot run `/etc/passwd`: not an executable file"),
        (no_memory, "the memory size in MiB is 0, which is not between 1 and 10240"),
        (no_root, "/nonexistent"),
    ] {
        let mut environment = zygote.fork();
        environment.start(start);
        let ExitCause::Failed(reason) = exit_cause(environment.receive().unwrap()) else { panic!("not a failure") };
        assert!(reason.contains(expected), "{reason}");
        assert_eq!(zygote.wait_ended(&environment), 70);
    }
}

/// Exits that a warm invocation of the managed Python runtime may take.
const WARM_EXITS_MAX: u64 = 8;

fn a_warm_python_invocation_takes_few_exits() {
    let Some(python) = resolve("python3") else {
        println!("SKIP a_warm_python_invocation_takes_few_exits: no python3 on this host");
        return;
    };
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut start = start(&[&python, "/srv/bootstrap.py"]);
    // A monitor of root's is another user, who may not pass through root's home folder.
    if let Some(prefix) = Path::new(&python).ancestors().nth(2).filter(|prefix| prefix.starts_with("/root")) {
        start.mounts.push((prefix.to_str().unwrap().to_owned(), prefix.to_owned()));
    }
    start.mounts.push(("/srv".into(), crate_folder.join("../../runtimes/python")));
    start.mounts.push(("/mnt".into(), crate_folder.join("tests/programs")));
    for (name, value) in [("_HANDLER", "handler.handle"), ("LAMBDA_TASK_ROOT", "/mnt")] {
        start.environment.push((name.into(), value.into()));
    }
    let mut zygote = Zygote::start();
    let mut environment = zygote.fork();
    environment.start(start);
    let (log, message) = environment.receive_with_log();
    let ToWorker::Ready { usage: mut before } = message else { panic!("{message:?}: {log}") };
    for round in 0..20 {
        let id = format!("id-{round}");
        environment.invoke(&id, &format!("{round}"));
        let (log, message) = environment.receive_with_log();
        let ToWorker::Response { payload, .. } = message else { panic!("{message:?}: {log}") };
        assert_eq!(String::from_utf8(payload).unwrap(), format!("{{\"event\": {round}, \"id\": \"{id}\"}}"));
        let Some(ToWorker::Ready { usage }) = environment.receive() else { panic!("not ready") };
        let exits = usage.exits - before.exits;
        assert!(round < 10 || exits <= WARM_EXITS_MAX, "{exits} exits");
        before = usage;
    }
}
