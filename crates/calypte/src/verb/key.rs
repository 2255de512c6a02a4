//! `calypte key`: access keys of accounts.

use std::process::ExitCode;

use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};

use super::Global;
use crate::administration::client::Client;
use crate::administration::{Account, Key, KeyChange, Status};
use crate::output::{Column, text};

/// What to do.
#[derive(Subcommand)]
pub(crate) enum Action {
    /// Make a key and print it; the secret is shown this once
    Add {
        /// Name or id of the account
        account: String,
    },
    /// List keys
    Ls {
        /// Name or id of the account; without it, the keys of all
        account: Option<String>,
    },
    /// Refuse requests signed with a key from now on
    Disable {
        /// The access key id
        key: String,
    },
    /// Accept a disabled key again
    Enable {
        /// The access key id
        key: String,
    },
    /// Remove a key for good
    Rm {
        /// The access key id
        key: String,
    },
}

const COLUMNS: &[Column] = &[
    Column { title: "ACCESS KEY ID", show: |key| text(key, "access_key_id") },
    Column { title: "ACCOUNT ID", show: |key| text(key, "account_id") },
    Column { title: "STATUS", show: |key| text(key, "status") },
    Column { title: "CREATED", show: |key| text(key, "created_at") },
];

/// Does it.
pub(crate) async fn run(action: Action, global: &Global) -> anyhow::Result<ExitCode> {
    let client = Client::new(global.data_folder()?);
    let output = global.output();
    match action {
        Action::Add { account } => {
            let key: Key = client.post(&format!("/accounts/{}/keys", path_part(&account)), &()).await?;
            let server: Status = client.get("/status").await?;
            output.result(|| exports(&key, &server), &json!(key))?;
        }
        Action::Ls { account } => {
            let accounts = match account {
                Some(account) => vec![account],
                None => client.get::<Vec<Account>>("/accounts").await?.into_iter().map(|a| a.account_id).collect(),
            };
            let mut keys: Vec<Value> = Vec::new();
            for account in accounts {
                keys.extend(client.get::<Vec<Value>>(&format!("/accounts/{}/keys", path_part(&account))).await?);
            }
            output.list(&keys, COLUMNS, "There are no keys; make one with `calypte key add ACCOUNT`.")?;
        }
        Action::Disable { key } => {
            client.change(Method::PUT, &key_path(&key), &KeyChange { is_active: false }).await?;
            done(global, &key, "is disabled")?;
        }
        Action::Enable { key } => {
            client.change(Method::PUT, &key_path(&key), &KeyChange { is_active: true }).await?;
            done(global, &key, "is enabled")?;
        }
        Action::Rm { key } => {
            client.change(Method::DELETE, &key_path(&key), &()).await?;
            done(global, &key, "is removed")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn done(global: &Global, key: &str, what: &str) -> std::io::Result<()> {
    global.output().result(|| format!("Key {key} {what}."), &json!({ "access_key_id": key }))
}

fn key_path(key: &str) -> String {
    format!("/keys/{}", path_part(key))
}

/// A word as one segment of a path.
pub(super) fn path_part(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// What to put into a shell to use the key.
fn exports(key: &Key, server: &Status) -> String {
    format!(
        "export AWS_ENDPOINT_URL_LAMBDA={}\nexport AWS_ACCESS_KEY_ID={}\nexport AWS_SECRET_ACCESS_KEY={}\n\
         export AWS_REGION={}\nexport AWS_DEFAULT_REGION={}",
        server.endpoint,
        key.access_key_id,
        key.secret_access_key.as_deref().unwrap_or_default(),
        server.region,
        server.region
    )
}
