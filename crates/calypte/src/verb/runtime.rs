//! `calypte runtime`: runtimes of this machine's data folder.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use calypte_worker::image::{Images, RuntimeImage};
use clap::Subcommand;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Global;
use crate::output::{Column, bytes_text, text};
use crate::progress::ImportBar;

/// What to do.
#[derive(Subcommand)]
pub(crate) enum Action {
    /// Import a runtime
    Add(Add),
    /// List runtimes
    Ls,
    /// Remove a runtime; functions on it keep running until their environments end
    Rm {
        /// Its name
        name: String,
    },
}

/// Options of `calypte runtime add`.
#[derive(clap::Args)]
pub(crate) struct Add {
    /// Its name; for --from-host, the default is python3.N
    #[arg(required_unless_present = "from_host")]
    name: Option<String>,
    #[command(flatten)]
    source: Source,
}

/// Where a runtime comes from.
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Source {
    /// A Python of this host: a path, or a name in PATH such as python3
    #[arg(long, value_name = "PROGRAM")]
    from_host: Option<String>,
    /// A folder that is a whole root file system
    #[arg(long, value_name = "FOLDER")]
    from_directory: Option<PathBuf>,
    /// A .tar, .tar.gz or .tar.zst of a whole root file system
    #[arg(long, value_name = "FILE")]
    from_tar: Option<PathBuf>,
    /// An OCI image layout: a folder, or a tar of one
    #[arg(long, value_name = "PATH")]
    from_oci_layout: Option<PathBuf>,
    /// The output of `docker save`
    #[arg(long, value_name = "FILE")]
    from_docker_save: Option<PathBuf>,
}

const COLUMNS: &[Column] = &[
    Column { title: "NAME", show: |runtime| text(runtime, "name") },
    Column { title: "SIZE", show: |runtime| bytes_text(runtime["size_bytes"].as_u64().unwrap_or_default()) },
    Column { title: "CREATED", show: |runtime| text(runtime, "created_at") },
    Column { title: "DIGEST", show: |runtime| text(runtime, "digest").chars().take(12).collect() },
    Column { title: "FROM", show: |runtime| text(runtime, "source") },
];

/// Does it.
pub(crate) fn run(action: Action, global: &Global) -> anyhow::Result<ExitCode> {
    let folder = global.data_folder()?;
    if matches!(action, Action::Ls) && !folder.runtimes().is_dir() {
        // Who looks makes nothing.
        return list(&[], global);
    }
    calypte_store::create_data_folder(folder.path())?;
    let images = Images::open(folder.runtimes())?;
    match action {
        Action::Add(arguments) => {
            let image = add(&images, &arguments)?;
            let shown = || format!("Runtime {} is ready: {}.", image.name, bytes_text(image.size_bytes));
            global.output().result(shown, &view(&image))?;
        }
        Action::Ls => return list(&images.list()?, global),
        Action::Rm { name } => {
            images.remove(&name)?;
            global.output().result(|| format!("Removed {name}."), &json!({ "removed": name }))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn list(images: &[RuntimeImage], global: &Global) -> anyhow::Result<ExitCode> {
    let runtimes: Vec<Value> = images.iter().map(view).collect();
    let empty = "There are no runtimes; import one with `calypte runtime add --from-host python3`.";
    global.output().list(&runtimes, COLUMNS, empty)?;
    Ok(ExitCode::SUCCESS)
}

fn add(images: &Images, arguments: &Add) -> anyhow::Result<RuntimeImage> {
    let name = arguments.name.as_deref();
    let Source { from_host, from_directory, from_tar, from_oci_layout, from_docker_save } = &arguments.source;
    let mut bar = ImportBar::new(name.or(from_host.as_deref()).unwrap_or("runtime"));
    let progress: &mut dyn FnMut(_) = &mut |progress| bar.show(&progress);
    let required = || name.context("a runtime needs a name: calypte runtime add NAME --from-…");
    let imported = if let Some(program) = from_host {
        images.add_from_host(name, program, progress)
    } else if let Some(folder) = from_directory {
        images.add_from_directory(required()?, folder, progress)
    } else if let Some(file) = from_tar {
        images.add_from_tar(required()?, file, progress)
    } else if let Some(path) = from_oci_layout {
        images.add_from_oci_layout(required()?, path, progress)
    } else if let Some(file) = from_docker_save {
        images.add_from_docker_save(required()?, file, progress)
    } else {
        unreachable!("the command line demands one source")
    };
    bar.finish();
    Ok(imported?)
}

/// A runtime as `--json` shows it.
pub(super) fn view(image: &RuntimeImage) -> Value {
    let created_at = i64::try_from(image.created_s)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .and_then(|time| time.format(&Rfc3339).ok());
    json!({
        "name": image.name,
        "digest": image.digest,
        "size_bytes": image.size_bytes,
        "entry_count": image.entry_count,
        "created_at": created_at,
        "python_version": image.python_version,
        "bootstrap": image.bootstrap,
        "source": image.source,
        "root": image.root,
    })
}
