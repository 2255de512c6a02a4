//! `calypte deploy`: makes a function of a folder or zip file, or brings one up to date.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use calypte_types::{FunctionName, limits};
use calypte_worker::code::pack_directory;
use http::Method;
use serde_json::{Map, Value, json};

use super::Global;
use crate::environment_variable::EnvironmentVariable;
use crate::lambda::{EndpointOption, Lambda, function_path, has_code};
use crate::output::bytes_text;
use crate::progress;

/// How long a function may take to become ready.
const READY_TIME_MAX: Duration = Duration::from_secs(60);
/// Between looking whether it is.
const READY_INTERVAL: Duration = Duration::from_millis(100);

/// Options.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Folder or zip file with the function's code
    #[arg(value_name = "FOLDER|ZIP")]
    code: PathBuf,
    /// Name of the function [default: the folder's or file's name]
    #[arg(long)]
    name: Option<String>,
    /// What runs it, for example python3.11; needed for a new function
    #[arg(long)]
    runtime: Option<String>,
    /// What the runtime calls, for example app.handler; needed for a new function unless the runtime is provided.*
    #[arg(long)]
    handler: Option<String>,
    /// Memory of a microVM [default for a new function: 128]
    #[arg(long, value_name = "MIB")]
    memory: Option<u32>,
    /// Time limit of a call [default for a new function: 3]
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u32>,
    /// An environment variable; may be repeated, and replaces all that there were
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<EnvironmentVariable>,
    /// Text for people
    #[arg(long)]
    description: Option<String>,
    /// Whether environments start from a saved one, which skips initialisation [default for a new function: on]
    #[arg(long, value_enum, value_name = "on|off", hide_possible_values = true)]
    template: Option<TemplateOption>,
    #[command(flatten)]
    endpoint: EndpointOption,
}

/// `--template`.
#[derive(Clone, Copy, clap::ValueEnum)]
enum TemplateOption {
    On,
    Off,
}

/// Deploys it.
pub(crate) async fn run(arguments: Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let name = match &arguments.name {
        Some(name) => name.clone(),
        None => name_of(&arguments.code)?,
    };
    let lambda = Lambda::find(&arguments.endpoint, global)?;
    let zip = read_code(&arguments.code)?;
    let zip_bytes = zip.len() as u64;
    let configuration_path = format!("{}/configuration", function_path(&name));
    let existing = match lambda.call_json(Method::GET, &configuration_path, &Value::Null).await {
        Ok(_) => true,
        Err(error) if has_code(&error, "ResourceNotFoundException") => false,
        Err(error) => return Err(error),
    };
    if existing {
        update(&lambda, &name, &arguments, &zip).await.map_err(|error| explain(error, &arguments, global))?;
    } else {
        create(&lambda, &name, &arguments, &zip).await.map_err(|error| explain(error, &arguments, global))?;
    }
    let function = wait_until_ready(&lambda, &configuration_path).await?;
    let text = || {
        let verb = if existing { "Updated" } else { "Created" };
        let runtime = function["Runtime"].as_str().unwrap_or_default();
        format!("{verb} {name} on {runtime} with {} of code. Call it: calypte invoke {name}", bytes_text(zip_bytes))
    };
    global.output().result(text, &function)?;
    Ok(ExitCode::SUCCESS)
}

/// The name of a folder or file as the name of a function.
fn name_of(code: &Path) -> anyhow::Result<String> {
    let whole = code.canonicalize().with_context(|| format!("cannot find {}", code.display()))?;
    let stem = if whole.is_dir() { whole.file_name() } else { whole.file_stem() };
    let name = stem.unwrap_or_default().to_string_lossy();
    match name.parse::<FunctionName>() {
        Ok(_) => Ok(name.into_owned()),
        Err(_) => bail!("{name:?} cannot be the name of a function; give it another one with --name"),
    }
}

fn read_code(code: &Path) -> anyhow::Result<Vec<u8>> {
    let metadata = std::fs::metadata(code).with_context(|| format!("cannot find {}", code.display()))?;
    if metadata.is_dir() {
        let spinner = progress::of_wait(&format!("packing {}", code.display()));
        let zip = pack_directory(code);
        spinner.finish_and_clear();
        return Ok(zip?);
    }
    if metadata.len() > limits::ZIP_BYTES_MAX as u64 {
        bail!(
            "{} has {}; a function's zip file may have {}",
            code.display(),
            bytes_text(metadata.len()),
            bytes_text(limits::ZIP_BYTES_MAX as u64)
        );
    }
    let bytes = std::fs::read(code).with_context(|| format!("cannot read {}", code.display()))?;
    if !bytes.starts_with(b"PK") {
        bail!("{} is neither a folder nor a zip file", code.display());
    }
    Ok(bytes)
}

async fn create(lambda: &Lambda, name: &str, arguments: &Arguments, zip: &[u8]) -> anyhow::Result<()> {
    let Some(runtime) = &arguments.runtime else {
        bail!("there is no function `{name}` yet: a new one needs --runtime, for example --runtime python3.11");
    };
    let handler = match &arguments.handler {
        Some(handler) => handler.as_str(),
        None if runtime.starts_with("provided") => "bootstrap",
        None => bail!("a function on {runtime} needs --handler, for example --handler app.handler"),
    };
    let account = lambda.account_id.as_deref().unwrap_or("000000000000");
    let mut request = configuration(arguments);
    request.insert("FunctionName".to_owned(), json!(name));
    request.insert("Runtime".to_owned(), json!(runtime));
    request.insert("Handler".to_owned(), json!(handler));
    request.insert("Role".to_owned(), json!(format!("arn:aws:iam::{account}:role/calypte")));
    request.insert("Code".to_owned(), json!({ "ZipFile": BASE64_STANDARD.encode(zip) }));
    lambda.call_json(Method::POST, "/functions", &request.into()).await.map(drop)
}

async fn update(lambda: &Lambda, name: &str, arguments: &Arguments, zip: &[u8]) -> anyhow::Result<()> {
    let path = function_path(name);
    let mut request = configuration(arguments);
    for (member, value) in [("Runtime", &arguments.runtime), ("Handler", &arguments.handler)] {
        if let Some(value) = value {
            request.insert(member.to_owned(), json!(value));
        }
    }
    if !request.is_empty() {
        lambda.call_json(Method::PUT, &format!("{path}/configuration"), &request.into()).await?;
        wait_until_ready(lambda, &format!("{path}/configuration")).await?;
    }
    let code = json!({ "ZipFile": BASE64_STANDARD.encode(zip) });
    lambda.call_json(Method::PUT, &format!("{path}/code"), &code).await.map(drop)
}

/// The options that a new function and an update have in common.
fn configuration(arguments: &Arguments) -> Map<String, Value> {
    let mut request = Map::new();
    if let Some(memory) = arguments.memory {
        request.insert("MemorySize".to_owned(), json!(memory));
    }
    if let Some(timeout) = arguments.timeout {
        request.insert("Timeout".to_owned(), json!(timeout));
    }
    if let Some(description) = &arguments.description {
        request.insert("Description".to_owned(), json!(description));
    }
    if let Some(template) = arguments.template {
        let apply_on = match template {
            TemplateOption::On => "PublishedVersions",
            TemplateOption::Off => "None",
        };
        request.insert("SnapStart".to_owned(), json!({ "ApplyOn": apply_on }));
    }
    if !arguments.env.is_empty() {
        let variables: Map<String, Value> =
            arguments.env.iter().map(|variable| (variable.name.clone(), json!(variable.value))).collect();
        request.insert("Environment".to_owned(), json!({ "Variables": variables }));
    }
    request
}

async fn wait_until_ready(lambda: &Lambda, configuration_path: &str) -> anyhow::Result<Value> {
    let deadline = Instant::now() + READY_TIME_MAX;
    loop {
        let function = lambda.call_json(Method::GET, configuration_path, &Value::Null).await?;
        let is_pending = function["State"] == "Pending" || function["LastUpdateStatus"] == "InProgress";
        if function["State"] == "Failed" {
            bail!(
                "the function could not be prepared: {}",
                function["StateReason"].as_str().unwrap_or("no reason given")
            );
        }
        if !is_pending {
            return Ok(function);
        }
        if Instant::now() >= deadline {
            bail!("the function is not ready after {} s; see the server's log", READY_TIME_MAX.as_secs());
        }
        tokio::time::sleep(READY_INTERVAL).await;
    }
}

/// For a runtime that there is not on this machine's server, says which one may have been meant.
fn explain(error: anyhow::Error, arguments: &Arguments, global: &Global) -> anyhow::Error {
    let Some(runtime) = arguments.runtime.as_deref() else { return error };
    let Ok(folder) = global.data_folder() else { return error };
    if !has_code(&error, "InvalidParameterValueException") || !folder.runtimes().is_dir() {
        return error;
    }
    let known = calypte_worker::image::Images::open(folder.runtimes()).and_then(|images| images.list());
    let known: Vec<String> = known.unwrap_or_default().into_iter().map(|image| image.name).collect();
    match crate::suggestion::nearest(runtime, known.iter().map(String::as_str)) {
        Some(meant) if meant != runtime => error.context(format!("{runtime}: did you mean --runtime {meant}?")),
        _ => error,
    }
}
