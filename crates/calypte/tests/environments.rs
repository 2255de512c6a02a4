//! Environments in real microVMs: what becomes of them when processes are killed, that accounts share none, and that an
//! imported container image runs.

#![allow(missing_docs)]
#![allow(clippy::print_stderr, reason = "a test that cannot run says so")]

mod harness;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use harness::{Server, as_account, calypte, good, has_kvm, json, signal, stderr, stdout};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// How often two accounts take turns.
const TURNS: usize = 150;

/// Waits when told to, after a line in its log.
const WAITING_FUNCTION: &str = r#"
import time
def handler(event, context):
    if "wait" in event:
        print("it waits now", flush=True)
        time.sleep(50)
    return event
"#;

/// Gives back what earlier calls left behind, and leaves something behind.
const CANARY_FUNCTION: &str = r#"
import os, sys
kept = []
def handler(event, context):
    found = kept + os.listdir("/tmp") + os.environ.get("CANARY", "").split() + getattr(sys, "canary", [])
    name = event["account"]
    kept.append(name)
    open("/tmp/" + name, "w").close()
    os.environ["CANARY"] = name
    sys.canary = [name]
    return {"found": found, "calls": len(kept)}
"#;

/// Uses half a second of processor time to initialise, and as much as it gets in three seconds for each call.
const BUSY_FUNCTION: &str = r#"
import resource, time
def used():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
while used() < 0.5:
    pass
initialised = used()
def handler(event, context):
    before, began = used(), time.monotonic()
    while time.monotonic() - began < 3:
        pass
    return {"init": initialised, "used": used() - before, "passed": time.monotonic() - began}
"#;
/// Memory of that function, and its share of a processor.
const BUSY_MEMORY_MIB: u32 = 256;
const BUSY_SHARE: f64 = BUSY_MEMORY_MIB as f64 / 1769.0;

/// A server with this host's Python as the runtime `python`; none, printed as a skip, if there is no Python or no KVM.
fn server_with_python(test: &str, data: &Path) -> Option<Server> {
    server_with_python_and(test, data, &[])
}

/// As [`server_with_python`], with further options.
fn server_with_python_and(test: &str, data: &Path, options: &[&str]) -> Option<Server> {
    if !has_kvm(test) {
        return None;
    }
    let version = Command::new("python3").arg("--version").output();
    if !version.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIP {test}: python3 is not installed");
        return None;
    }
    good(data, &["runtime", "add", "python", "--from-host", "python3"]);
    Some(Server::start_with(data, options))
}

/// A folder with a function.
fn function(parent: &Path, name: &str, code: &str) -> String {
    let folder = parent.join(name);
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("app.py"), code).unwrap();
    folder.to_str().unwrap().to_owned()
}

const DEPLOY_OPTIONS: [&str; 6] = ["--runtime", "python", "--handler", "app.handler", "--timeout", "60"];

#[test]
fn killed_processes_cost_no_more_than_their_environment() {
    let parent = tempfile::tempdir().unwrap();
    let data = parent.path().join("data");
    let Some(server) = server_with_python("killed_processes_cost_no_more_than_their_environment", &data) else {
        return;
    };
    for name in ["first", "second"] {
        let folder = function(parent.path(), name, WAITING_FUNCTION);
        good(&data, &[&["deploy", folder.as_str()], &DEPLOY_OPTIONS[..]].concat());
    }
    let invoke = |name| json(&good(&data, &["invoke", name, "{}", "--json"]));

    // A monitor in the middle of a call.
    let mut log = calypte(&data).args(["logs", "-f", "first"]).stdout(Stdio::piped()).spawn().unwrap();
    let call = calypte(&data)
        .args(["invoke", "first", r#"{"wait": 1}"#, "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(log.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("it waits now")), "the call never came to its wait");
    log.kill().unwrap();
    log.wait().unwrap();
    let monitors = server.monitors();
    assert_eq!(monitors.len(), 1, "one environment runs");
    signal(monitors[0], "-KILL");
    let output = call.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert_eq!(json(&stdout(&output))["function_error"], "Unhandled");
    assert_eq!(invoke("first")["placement"], "boot");

    // The zygote: what runs goes on, and there is a new one for what starts.
    let zygote = server.children();
    signal(zygote[0], "-KILL");
    assert_eq!(invoke("first")["placement"], "reuse");
    assert_eq!(invoke("second")["placement"], "boot");
    assert_ne!(server.children(), zygote);
    server.stop();
}

/// What the kernel says of the group that a process is in for processor time: its quota (version 1 or 2), and how often it was
/// held back. None if it is in none of ours.
fn processor_group(pid: u32) -> Option<(String, u64)> {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let line =
        groups.lines().find(|line| line.contains("environment-") && line.contains("cpu") || line.starts_with("0::"))?;
    let path = line.splitn(3, ':').nth(2).filter(|path| path.contains("environment-"))?.to_owned();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mounts = mounts.lines().map(|line| line.split(' ').nth(1).unwrap()).filter(|place| place.contains("cgroup"));
    mounts.map(|mount| PathBuf::from(format!("{mount}{path}"))).find_map(|folder| {
        let quota =
            ["cpu.cfs_quota_us", "cpu.max"].iter().find_map(|file| fs::read_to_string(folder.join(file)).ok())?;
        let statistics = fs::read_to_string(folder.join("cpu.stat")).unwrap_or_default();
        let throttled = statistics.lines().find_map(|line| line.strip_prefix("nr_throttled ")).unwrap_or("0");
        Some((quota.trim().to_owned(), throttled.parse().unwrap()))
    })
}

#[test]
fn a_capped_function_gets_its_share_and_initialises_without_a_cap() {
    let test = "a_capped_function_gets_its_share_and_initialises_without_a_cap";
    let parent = tempfile::tempdir().unwrap();
    let data = parent.path().join("data");
    let Some(server) = server_with_python_and(test, &data, &["--cpu-limit", "cap"]) else { return };
    let folder = function(parent.path(), "busy", BUSY_FUNCTION);
    let memory = ["--memory", &BUSY_MEMORY_MIB.to_string()];
    good(&data, &[&["deploy", folder.as_str()], &DEPLOY_OPTIONS[..], &memory].concat());
    let mut call =
        calypte(&data).args(["invoke", "busy", "{}"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // The group's quota, each value once, and how often it was held back, until the call's end.
    let (mut quotas, mut held_back) = (Vec::new(), 0);
    while call.try_wait().unwrap().is_none() {
        let seen = server.monitors().first().and_then(|monitor| processor_group(*monitor));
        if let Some((quota, throttled)) = seen {
            held_back = throttled;
            if quotas.last() != Some(&quota) {
                quotas.push(quota);
            }
        }
        std::thread::yield_now();
    }
    let output = call.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let answer = json(&stdout(&output));
    let number = |name: &str| answer[name].as_f64().unwrap();
    assert!(number("init") >= 0.5, "{answer}");
    // Twice its share and a period: far below what a busy loop gets, even of a machine with more to do.
    let most = number("passed") * BUSY_SHARE * 2.0 + 0.1;
    assert!(number("used") > 0.0 && number("used") < most, "{answer}: at most {most} s");
    match quotas.as_slice() {
        [] => eprintln!("SKIP {test}, its part about control groups: there are none"),
        [before, after] => {
            assert!(["-1", "max 100000"].contains(&before.as_str()), "{quotas:?}");
            let expected = ["14471", "14400", "14471 100000", "14400 100000"];
            assert!(expected.contains(&after.as_str()), "{quotas:?}");
            assert!(held_back > 0, "the kernel has held it back");
        }
        _ => panic!("no cap, then one: {quotas:?}"),
    }
    server.stop();
}

#[test]
fn accounts_share_no_environment() {
    let parent = tempfile::tempdir().unwrap();
    let data = parent.path().join("data");
    let Some(server) = server_with_python("accounts_share_no_environment", &data) else { return };
    // The same name and the same bytes: only the account tells the two apart.
    let folder = function(parent.path(), "canary", CANARY_FUNCTION);
    let accounts = ["ada", "grace"];
    let keys = accounts.map(|name| {
        good(&data, &["account", "add", name]);
        json(&good(&data, &["key", "add", name, "--json"]))
    });
    for key in &keys {
        let output = as_account(&server, key).arg("deploy").arg(&folder).args(DEPLOY_OPTIONS).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
    }
    let mut calls_max = 0;
    for turn in 0..TURNS {
        // Both at the same time.
        let calls = [0, 1].map(|index| {
            let event = json!({ "account": accounts[index] }).to_string();
            as_account(&server, &keys[index]).args(["invoke", "canary", &event]).stdout(Stdio::piped()).spawn().unwrap()
        });
        for (call, account) in calls.into_iter().zip(accounts) {
            let output = call.wait_with_output().unwrap();
            assert!(output.status.success(), "turn {turn}: {}", stdout(&output));
            let answer = json(&stdout(&output));
            let found = answer["found"].as_array().unwrap();
            assert!(found.iter().all(|name| name == account), "turn {turn}: {account} found {answer}");
            calls_max = calls_max.max(answer["calls"].as_u64().unwrap());
        }
    }
    assert!(calls_max > TURNS as u64 / 2, "environments were reused {calls_max} times only: this shows nothing");
    server.stop();
}

#[test]
fn an_imported_container_image_runs() {
    let test = "an_imported_container_image_runs";
    if !has_kvm(test) {
        return;
    }
    let busybox = Path::new("/bin/busybox");
    if !fs::read(busybox).is_ok_and(|program| is_static(&program)) {
        eprintln!("SKIP {test}: there is no static /bin/busybox");
        return;
    }
    let parent = tempfile::tempdir().unwrap();
    let data = parent.path().join("data");
    let image = docker_save(parent.path(), &fs::read(busybox).unwrap());
    let image = image.to_str().unwrap();
    good(&data, &["runtime", "add", "image", "--from-docker-save", image]);
    assert_eq!(good(&data, &["run"]), "hello from the image in /etc: second\n");
    assert_eq!(good(&data, &["run", "--env", "GREETING=bye", "--", "/bin/sh", "-c", "echo $GREETING"]), "bye\n");
    // With a way out there is also the name server's address.
    assert_eq!(good(&data, &["run", "--", "ls", "/etc"]), "layer\nresolv.conf\n");
}

/// Whether an ELF program needs no interpreter: it has no `PT_INTERP`.
fn is_static(program: &[u8]) -> bool {
    let number =
        |at: usize, bytes: usize| program[at..at + bytes].iter().rev().fold(0, |all, b| all << 8 | usize::from(*b));
    let (table, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    program.starts_with(b"\x7fELF") && (0..count).all(|index| number(table + index * size, 4) != 3)
}

/// What `docker save` writes for an image of two layers, of which the second replaces and removes something.
fn docker_save(folder: &Path, busybox: &[u8]) -> PathBuf {
    let layers = [
        tar(&[("bin/busybox", busybox, 0o755), ("etc/layer", b"first", 0o644), ("etc/gone", b"", 0o644)], true),
        tar(&[("etc/layer", b"second", 0o644), ("etc/.wh.gone", b"", 0o644)], false),
    ];
    let names = layers.each_ref().map(|layer| digest(layer));
    let configuration = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "Env": ["PATH=/bin", "GREETING=hello from the image"],
            "Entrypoint": ["/bin/sh", "-c"],
            "Cmd": ["read layer < layer; echo $GREETING in $PWD: $layer"],
            "WorkingDir": "/etc",
        },
        "rootfs": { "type": "layers", "diff_ids": names.each_ref().map(|name| format!("sha256:{name}")) },
    })
    .to_string();
    let configuration_name = format!("{}.json", digest(configuration.as_bytes()));
    let files = names.each_ref().map(|name| format!("{name}/layer.tar"));
    let manifest: Value = json!([{ "Config": configuration_name, "RepoTags": ["image:latest"], "Layers": files }]);
    let manifest = manifest.to_string();
    let mut entries = vec![
        (configuration_name.as_str(), configuration.as_bytes(), 0o644),
        ("manifest.json", manifest.as_bytes(), 0o644),
    ];
    entries.extend(files.iter().zip(&layers).map(|(name, layer)| (name.as_str(), layer.as_slice(), 0o644)));
    let path = folder.join("image.tar");
    fs::write(&path, tar(&entries, false)).unwrap();
    path
}

fn digest(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A tar of files, with a link from `bin/sh` and `bin/ls` to busybox if wanted.
fn tar(files: &[(&str, &[u8], u32)], with_links: bool) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    for (path, content, mode) in files {
        header.set_size(content.len() as u64);
        header.set_mode(*mode);
        archive.append_data(&mut header, path, *content).unwrap();
    }
    if with_links {
        header.set_size(0);
        header.set_entry_type(tar::EntryType::Symlink);
        for name in ["bin/sh", "bin/ls"] {
            archive.append_link(&mut header, name, "busybox").unwrap();
        }
    }
    archive.into_inner().unwrap()
}
