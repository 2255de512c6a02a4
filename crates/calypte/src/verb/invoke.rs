//! `calypte invoke`: calls a function.

use std::io::Read;
use std::process::ExitCode;

use anyhow::{Context, bail};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderMap, Method};
use serde_json::{Value, json};

use super::Global;
use crate::lambda::{EndpointOption, Lambda, function_path};
use crate::output::note;

/// Options.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Name of the function
    name: String,
    /// The event: JSON text, @FILE, or - for standard input
    #[arg(default_value = "{}")]
    event: String,
    /// Show what the call logged, on standard error
    #[arg(long)]
    log_tail: bool,
    #[command(flatten)]
    endpoint: EndpointOption,
}

/// Calls it. The exit status is 1 when the function failed.
pub(crate) async fn run(arguments: Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let event = read_event(&arguments.event)?;
    let lambda = Lambda::find(&arguments.endpoint, global)?;
    let path = format!("{}/invocations", function_path(&arguments.name));
    let headers: &[_] = if arguments.log_tail { &[("x-amz-log-type", "Tail")] } else { &[] };
    let answer = match lambda.call(Method::POST, &path, headers, event).await {
        Ok(answer) => answer,
        Err(error) => return Err(lambda.explain(error, &arguments.name).await),
    };
    let error = header(&answer.headers, "x-amz-function-error");
    let log = header(&answer.headers, "x-amz-log-result").and_then(|log| BASE64_STANDARD.decode(log).ok());
    let log = log.map(|log| String::from_utf8_lossy(&log).into_owned());
    let output = global.output();
    if output.is_json {
        let payload = serde_json::from_slice(&answer.body)
            .unwrap_or_else(|_| Value::from(String::from_utf8_lossy(&answer.body).into_owned()));
        let value = json!({
            "payload": payload,
            "function_error": error,
            "request_id": header(&answer.headers, "x-amzn-requestid"),
            "executed_version": header(&answer.headers, "x-amz-executed-version"),
            "placement": header(&answer.headers, "x-calypte-placement"),
            "duration_ms": header(&answer.headers, "x-calypte-duration-ms").and_then(|ms| ms.parse::<f64>().ok()),
            "log_tail": log,
        });
        output.line(&value.to_string())?;
    } else {
        if let Some(log) = log {
            note(log.trim_end());
        }
        output.bytes(&answer.body)?;
        output.bytes(b"\n")?;
        if let Some(error) = &error {
            note(&format!(
                "error: the function failed ({error}); `calypte logs {}` shows what it logged",
                arguments.name
            ));
        }
    }
    Ok(if error.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

fn read_event(text: &str) -> anyhow::Result<Vec<u8>> {
    let event = if text == "-" {
        let mut event = Vec::new();
        std::io::stdin().read_to_end(&mut event).context("cannot read the event from standard input")?;
        event
    } else if let Some(file) = text.strip_prefix('@') {
        std::fs::read(file).with_context(|| format!("cannot read the event from {file}"))?
    } else {
        text.as_bytes().to_vec()
    };
    if let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(&event) {
        bail!("the event is not JSON ({error}); in a shell, put it in single quotes: '{{\"name\": \"value\"}}'");
    }
    Ok(event)
}
