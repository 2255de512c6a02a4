//! `calypte logs`: what a function logged, and what it logs from now on.

use std::process::ExitCode;

use anyhow::Context;
use http::Method;
use http_body_util::BodyExt;
use serde_json::json;

use super::Global;
use super::key::path_part;
use crate::administration::client::Client;
use crate::administration::{Account, LOG_LINES_MAX};
use crate::data::DataFolder;
use crate::output::Output;

/// Options.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Name of the function
    name: String,
    /// Go on with new lines until Ctrl-C
    #[arg(short, long)]
    follow: bool,
    /// How many of the last lines to show
    #[arg(short = 'n', long, default_value_t = 100)]
    lines: usize,
    /// Name or id of the account [default: the one of `calypte dev`]
    #[arg(long)]
    account: Option<String>,
}

/// Shows them. With `--json`, each line is an object with a member `line`.
pub(crate) async fn run(arguments: Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let folder = global.data_folder()?;
    let client = Client::new(folder.clone());
    let account = match arguments.account {
        Some(account) => account,
        None => default_account(&folder, &client).await?,
    };
    let path = format!(
        "/accounts/{}/functions/{}/log?lines={}&follow={}",
        path_part(&account),
        path_part(&arguments.name),
        arguments.lines.min(LOG_LINES_MAX),
        arguments.follow
    );
    let mut body = client.send(Method::GET, &path, &()).await?;
    let mut lines = Lines { output: global.output(), rest: Vec::new() };
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            _ = tokio::signal::ctrl_c() => break,
        };
        let Some(frame) = frame else { break };
        // A server that stops closes the connection of who follows.
        let Ok(frame) = frame else { break };
        if let Some(bytes) = frame.data_ref() {
            lines.show(bytes)?;
        }
    }
    lines.finish()?;
    Ok(ExitCode::SUCCESS)
}

async fn default_account(folder: &DataFolder, client: &Client) -> anyhow::Result<String> {
    if let Some(credentials) = folder.read_credentials()? {
        return Ok(credentials.account_id.to_string());
    }
    let accounts: Vec<Account> = client.get("/accounts").await?;
    let [account] = accounts.as_slice() else {
        let names: Vec<&str> = accounts.iter().map(|account| account.name.as_str()).collect();
        anyhow::bail!("name the account with --account; there are: {}", names.join(", "));
    };
    Ok(account.account_id.clone())
}

/// Shows text as it comes: as it is, or with `--json` line by line.
struct Lines {
    output: Output,
    rest: Vec<u8>,
}

impl Lines {
    fn show(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        if !self.output.is_json {
            return self.output.bytes(bytes).map_err(Into::into);
        }
        self.rest.extend_from_slice(bytes);
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            self.show_line(&line[..end])?;
        }
        Ok(())
    }

    fn finish(&mut self) -> anyhow::Result<()> {
        let rest = std::mem::take(&mut self.rest);
        if rest.is_empty() { Ok(()) } else { self.show_line(&rest) }
    }

    fn show_line(&self, line: &[u8]) -> anyhow::Result<()> {
        let line = json!({ "line": String::from_utf8_lossy(line) });
        self.output.line(&line.to_string()).context("cannot write")
    }
}
