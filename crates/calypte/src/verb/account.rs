//! `calypte account`: accounts.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Value, json};

use super::Global;
use crate::administration::client::Client;
use crate::administration::{Account, NewAccount};
use crate::output::{Column, text};

/// What to do.
#[derive(Subcommand)]
pub(crate) enum Action {
    /// Make an account
    Add {
        /// Its name
        name: String,
    },
    /// List accounts
    Ls,
}

const COLUMNS: &[Column] = &[
    Column { title: "NAME", show: |account| text(account, "name") },
    Column { title: "ACCOUNT ID", show: |account| text(account, "account_id") },
    Column { title: "CREATED", show: |account| text(account, "created_at") },
];

/// Does it.
pub(crate) async fn run(action: Action, global: &Global) -> anyhow::Result<ExitCode> {
    let client = Client::new(global.data_folder()?);
    match action {
        Action::Add { name } => {
            let account: Account = client.post("/accounts", &NewAccount { name }).await?;
            let shown = || {
                let Account { name, account_id, .. } = &account;
                format!("Account {name} has the id {account_id}. Make a key for it: calypte key add {name}")
            };
            global.output().result(shown, &json!(account))?;
        }
        Action::Ls => {
            let accounts: Vec<Value> = client.get("/accounts").await?;
            global.output().list(
                &accounts,
                COLUMNS,
                "There are no accounts; make one with `calypte account add NAME`.",
            )?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
