//! `calypte ls`: functions.

use std::process::ExitCode;

use super::Global;
use crate::lambda::{EndpointOption, Lambda};
use crate::output::{Column, bytes_text, text};

/// Options.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    endpoint: EndpointOption,
}

const COLUMNS: &[Column] = &[
    Column { title: "NAME", show: |function| text(function, "FunctionName") },
    Column { title: "RUNTIME", show: |function| text(function, "Runtime") },
    Column { title: "HANDLER", show: |function| text(function, "Handler") },
    Column { title: "MEMORY", show: |function| format!("{} MiB", text(function, "MemorySize")) },
    Column { title: "TIMEOUT", show: |function| format!("{} s", text(function, "Timeout")) },
    Column { title: "CODE", show: |function| bytes_text(function["CodeSize"].as_u64().unwrap_or_default()) },
    Column { title: "MODIFIED", show: |function| text(function, "LastModified") },
];

/// Lists them.
pub(crate) async fn run(arguments: Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let functions = Lambda::find(&arguments.endpoint, global)?.functions().await?;
    let empty = "There are no functions; make one with `calypte deploy FOLDER --runtime RUNTIME --handler HANDLER`.";
    global.output().list(&functions, COLUMNS, empty)?;
    Ok(ExitCode::SUCCESS)
}
