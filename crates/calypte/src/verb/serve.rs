//! `calypte serve`: a server on a data folder as it is.

use std::process::ExitCode;

use serde_json::json;

use super::Global;
use crate::server::{Options, Prepared};

/// Options.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    server: Options,
}

/// Serves until Ctrl-C or SIGTERM.
pub(crate) async fn run(arguments: Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let server = Prepared::new(&arguments.server, global.data_folder()?).await?.start().await?;
    let text = || format!("Calypte {} serves {}. Ctrl-C stops it.", env!("CARGO_PKG_VERSION"), server.endpoint);
    let value = json!({ "endpoint": server.endpoint, "region": server.region, "pid": std::process::id() });
    global.output().result(text, &value)?;
    server.serve().await?;
    Ok(ExitCode::SUCCESS)
}
