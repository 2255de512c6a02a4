//! `calypte doctor`: what this host offers to microVMs, what is missing, and what to do about it.

use std::fs;
use std::process::ExitCode;

use calypte_monitor::platform::{Choice, Chosen, choose};
use calypte_worker::Groups;
use calypte_worker::image::Images;
use rustix::process::{Resource, getrlimit};
use serde_json::{Value, json};

use super::{Global, jail_probe};
use crate::administration::Status;
use crate::administration::client::Client;
use crate::data::DataFolder;
use crate::output::{Column, bytes_text, text};

/// Options.
#[derive(clap::Args)]
pub(crate) struct Arguments {}

/// Free disk space below which a warning is given.
const DISK_FREE_BYTES_MIN: u64 = 1024 * 1024 * 1024;
/// Open files below which a server is soon at its end: it has two for each environment.
const DESCRIPTORS_MIN: u64 = 4096;

/// What was found out about one thing.
enum Finding {
    Good(String),
    /// Works, but a person should know.
    Notable(String),
    /// Functions cannot run.
    Bad(String),
}

use Finding::{Bad, Good, Notable};

const COLUMNS: &[Column] = &[
    Column { title: "CHECK", show: |check| text(check, "check") },
    Column { title: "RESULT", show: |check| text(check, "result") },
    Column { title: "DETAIL", show: |check| text(check, "detail") },
];

/// Checks everything. The exit status is 1 when functions cannot run.
pub(crate) async fn run(_: Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let folder = global.data_folder()?;
    let mut checks: Vec<(String, Finding)> = Vec::new();
    let mut add = |name: &str, finding| checks.push((name.to_owned(), finding));
    add("virtual machines", virtual_machines());
    add("platform", platform());
    for (name, finding) in jail() {
        add(&name, finding);
    }
    add("control groups", control_groups());
    add("processors", processors());
    add("memory", memory());
    add("huge pages", huge_pages());
    add("open files", open_files());
    add("data folder", data_folder(&folder));
    add("disk", disk(&folder));
    add("runtimes", runtimes(&folder));
    add("server", server(&folder).await);
    let is_bad = checks.iter().any(|(_, finding)| matches!(finding, Bad(_)));
    let rows: Vec<Value> = checks
        .into_iter()
        .map(|(check, finding)| {
            let (result, detail) = match finding {
                Good(detail) => ("ok", detail),
                Notable(detail) => ("note", detail),
                Bad(detail) => ("BAD", detail),
            };
            json!({ "check": check, "result": result, "detail": detail })
        })
        .collect();
    global.output().list(&rows, COLUMNS, "")?;
    Ok(if is_bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn virtual_machines() -> Finding {
    match choose(Choice::Auto) {
        Ok(Chosen { fallback: None, .. }) => Good(format!("/dev/kvm works: {}", kind_of_kvm())),
        Ok(Chosen { fallback: Some(reason), .. }) => {
            Notable(format!("none: programs run under ptrace, slower and isolated less. {reason}"))
        }
        Err(error) => Bad(error.to_string()),
    }
}

/// Which implementation of KVM this is, as far as can be seen.
fn kind_of_kvm() -> String {
    let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let has = |flag: &str| {
        let flags = processor.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
        flags.split_whitespace().any(|other| other == flag)
    };
    let is_loaded = |module: &str| std::path::Path::new("/sys/module").join(module).is_dir();
    let kind = match () {
        () if is_loaded("kvm_pvm") => "PVM, in software",
        () if has("vmx") && is_loaded("kvm_intel") => "Intel VT-x",
        () if has("svm") && is_loaded("kvm_amd") => "AMD-V",
        () if !has("vmx") && !has("svm") => "the processor shows neither VT-x nor AMD-V: in software",
        () => "of an unknown kind",
    };
    if has("hypervisor") { format!("{kind}; this machine is itself a virtual one") } else { kind.to_owned() }
}

fn platform() -> Finding {
    match choose(Choice::Auto) {
        Ok(Chosen { fallback: None, .. }) => Good("kvm".to_owned()),
        Ok(Chosen { fallback: Some(_), .. }) => Notable("ptrace".to_owned()),
        Err(_) => Notable("none; see virtual machines".to_owned()),
    }
}

/// One row for each layer of the jail.
fn jail() -> Vec<(String, Finding)> {
    match jail_probe::report() {
        Ok(report) => report
            .steps
            .into_iter()
            .map(|step| {
                let name = format!("jail: {}", step.feature.name());
                if step.is_active {
                    (name, Good(step.detail))
                } else {
                    (name, Notable(format!("not here: {}", step.detail)))
                }
            })
            .collect(),
        Err(error) => vec![("jail".to_owned(), Bad(format!("{error:#}")))],
    }
}

fn control_groups() -> Finding {
    match Groups::check() {
        Ok(version) => Good(format!("version {version}: processor time, memory and processes")),
        Err(reason) => Notable(format!(
            "none, so processor time is shared equally and cannot be capped: {reason}. Run the server as root, or in a \
             systemd unit with `Delegate=yes`"
        )),
    }
}

fn processors() -> Finding {
    match std::thread::available_parallelism() {
        Ok(count) => Good(format!("{count}")),
        Err(error) => Notable(format!("their number is not known: {error}")),
    }
}

/// A number in KiB of `/proc/meminfo`, in bytes.
fn meminfo_bytes(name: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn memory() -> Finding {
    let (Some(total), Some(available)) = (meminfo_bytes("MemTotal"), meminfo_bytes("MemAvailable")) else {
        return Notable("its size is not known".to_owned());
    };
    Good(format!("{}, {} available", bytes_text(total), bytes_text(available)))
}

fn huge_pages() -> Finding {
    const SETTING: &str = "/sys/kernel/mm/transparent_hugepage/enabled";
    let text = fs::read_to_string(SETTING).unwrap_or_default();
    match text.split_whitespace().find(|word| word.starts_with('[')) {
        Some(word @ ("[always]" | "[madvise]")) => Good(word.trim_matches(['[', ']']).to_owned()),
        _ => Notable(format!("off, so large programs start more slowly: `echo madvise | sudo tee {SETTING}`")),
    }
}

fn open_files() -> Finding {
    match getrlimit(Resource::Nofile).maximum {
        Some(maximum) if maximum < DESCRIPTORS_MIN => Notable(format!(
            "{maximum}, few for a server: `ulimit -Hn 65536` as root, or `LimitNOFILE=65536` in its systemd unit"
        )),
        Some(maximum) => Good(maximum.to_string()),
        None => Good("unlimited".to_owned()),
    }
}

fn data_folder(folder: &DataFolder) -> Finding {
    let path = folder.path().display();
    match fs::metadata(folder.path()) {
        Ok(metadata) if metadata.is_dir() => match rustix::fs::access(folder.path(), rustix::fs::Access::WRITE_OK) {
            Ok(()) => Good(path.to_string()),
            Err(error) => Bad(format!("{path} cannot be written: {error}; choose another one with --data")),
        },
        Ok(_) => Bad(format!("{path} is not a folder; choose another one with --data")),
        Err(_) => Notable(format!("{path} is not there yet; `calypte dev` makes it")),
    }
}

fn disk(folder: &DataFolder) -> Finding {
    let existing = folder.path().ancestors().find(|path| path.is_dir());
    let Some(space) = existing.and_then(|path| rustix::fs::statvfs(path).ok()) else {
        return Notable("the free space of the data folder's disk is not known".to_owned());
    };
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    let detail = format!("{} free", bytes_text(free));
    if free < DISK_FREE_BYTES_MIN {
        Bad(format!("only {detail}; make space, or choose another disk with --data"))
    } else {
        Good(detail)
    }
}

fn runtimes(folder: &DataFolder) -> Finding {
    let none = "none yet; `calypte dev` imports the Pythons of this host, `calypte runtime add` imports others";
    if !folder.runtimes().is_dir() {
        return Notable(none.to_owned());
    }
    match Images::open(folder.runtimes()).and_then(|images| images.list()) {
        Ok(images) if images.is_empty() => Notable(none.to_owned()),
        Ok(images) => Good(images.into_iter().map(|image| image.name).collect::<Vec<_>>().join(", ")),
        Err(error) => Bad(error.to_string()),
    }
}

async fn server(folder: &DataFolder) -> Finding {
    match Client::new(folder.clone()).get::<Status>("/status").await {
        Ok(status) => Good(format!(
            "version {} at {} (process {}): {} environments busy, {} idle, {} invocations waiting",
            status.version,
            status.endpoint,
            status.pid,
            status.environments_busy,
            status.environments_idle,
            status.invocations_waiting
        )),
        Err(error) => Notable(error.to_string()),
    }
}
