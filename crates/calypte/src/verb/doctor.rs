//! `calypte doctor`: whether this machine can run microVMs, and what is installed.

use std::process::ExitCode;

use calypte_monitor::platform::{Choice, Chosen, choose};
use calypte_worker::image::Images;
use serde_json::{Value, json};

use super::Global;
use crate::administration::Status;
use crate::administration::client::Client;
use crate::data::DataFolder;
use crate::output::{Column, bytes_text, text};

/// Options.
#[derive(clap::Args)]
pub(crate) struct Arguments {}

/// Free disk space below which a warning is given.
const DISK_FREE_BYTES_MIN: u64 = 1024 * 1024 * 1024;

/// What was found out about one thing.
enum Finding {
    Good(String),
    /// Works, but a person should know.
    Notable(String),
    Bad(String),
}

const COLUMNS: &[Column] = &[
    Column { title: "CHECK", show: |check| text(check, "check") },
    Column { title: "RESULT", show: |check| text(check, "result") },
    Column { title: "DETAIL", show: |check| text(check, "detail") },
];

/// Checks everything. The exit status is 1 when something is bad.
pub(crate) async fn run(_: Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let folder = global.data_folder()?;
    let checks = [
        ("virtual machines", virtual_machines()),
        ("data folder", data_folder(&folder)),
        ("disk", disk(&folder)),
        ("runtimes", runtimes(&folder)),
        ("server", server(&folder).await),
    ];
    let is_bad = checks.iter().any(|(_, finding)| matches!(finding, Finding::Bad(_)));
    let rows: Vec<Value> = checks
        .into_iter()
        .map(|(check, finding)| {
            let (result, detail) = match finding {
                Finding::Good(detail) => ("ok", detail),
                Finding::Notable(detail) => ("note", detail),
                Finding::Bad(detail) => ("BAD", detail),
            };
            json!({ "check": check, "result": result, "detail": detail })
        })
        .collect();
    global.output().list(&rows, COLUMNS, "")?;
    Ok(if is_bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn virtual_machines() -> Finding {
    match choose(Choice::Auto) {
        Ok(Chosen { fallback: None, .. }) => Finding::Good("/dev/kvm works".to_owned()),
        Ok(Chosen { fallback: Some(reason), .. }) => {
            Finding::Notable(format!("none: programs run under ptrace, slower and isolated less. {reason}"))
        }
        Err(error) => Finding::Bad(error.to_string()),
    }
}

fn data_folder(folder: &DataFolder) -> Finding {
    let path = folder.path().display();
    match std::fs::metadata(folder.path()) {
        Ok(metadata) if metadata.is_dir() => match rustix::fs::access(folder.path(), rustix::fs::Access::WRITE_OK) {
            Ok(()) => Finding::Good(path.to_string()),
            Err(error) => Finding::Bad(format!("{path} cannot be written: {error}; choose another one with --data")),
        },
        Ok(_) => Finding::Bad(format!("{path} is not a folder; choose another one with --data")),
        Err(_) => Finding::Notable(format!("{path} is not there yet; `calypte dev` makes it")),
    }
}

fn disk(folder: &DataFolder) -> Finding {
    let existing = folder.path().ancestors().find(|path| path.is_dir());
    let Some(space) = existing.and_then(|path| rustix::fs::statvfs(path).ok()) else {
        return Finding::Notable("the free space of the data folder's disk is not known".to_owned());
    };
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    let detail = format!("{} free", bytes_text(free));
    if free < DISK_FREE_BYTES_MIN {
        Finding::Bad(format!("only {detail}; make space, or choose another disk with --data"))
    } else {
        Finding::Good(detail)
    }
}

fn runtimes(folder: &DataFolder) -> Finding {
    let none = "none yet; `calypte dev` imports the Pythons of this host, `calypte runtime add` imports others";
    if !folder.runtimes().is_dir() {
        return Finding::Notable(none.to_owned());
    }
    match Images::open(folder.runtimes()).and_then(|images| images.list()) {
        Ok(images) if images.is_empty() => Finding::Notable(none.to_owned()),
        Ok(images) => Finding::Good(images.into_iter().map(|image| image.name).collect::<Vec<_>>().join(", ")),
        Err(error) => Finding::Bad(error.to_string()),
    }
}

async fn server(folder: &DataFolder) -> Finding {
    match Client::new(folder.clone()).get::<Status>("/status").await {
        Ok(status) => Finding::Good(format!(
            "version {} at {} (process {}): {} environments busy, {} idle, {} invocations waiting",
            status.version,
            status.endpoint,
            status.pid,
            status.environments_busy,
            status.environments_idle,
            status.invocations_waiting
        )),
        Err(error) => Finding::Notable(error.to_string()),
    }
}
