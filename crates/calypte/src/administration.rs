//! The administration socket: HTTP on a Unix socket in the data folder, for the folder's owner alone. Accounts, keys,
//! the logs of all accounts, and the server's state.
//!
//! | request | answer |
//! |---|---|
//! | `GET /status` | [`Status`] |
//! | `GET /accounts`, `POST /accounts` with [`NewAccount`] | [`Account`]s, [`Account`] |
//! | `GET`, `POST /accounts/ACCOUNT/keys` | [`Key`]s, [`Key`] with its secret |
//! | `PUT /keys/ID` with [`KeyChange`], `DELETE /keys/ID` | nothing |
//! | `GET /accounts/ACCOUNT/functions/NAME/log?lines=N&follow=BOOL` | text, endless with `follow` |
//!
//! `ACCOUNT` is an id or a name. Errors are [`Refusal`]s.

pub(crate) mod client;
pub(crate) mod listener;
pub(crate) mod service;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Name of the socket in the data folder.
const SOCKET_NAME: &str = "administration.socket";
/// Most lines of a log that are read at once.
pub(crate) const LOG_LINES_MAX: usize = 10_000;

/// What a server tells about itself.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) version: String,
    pub(crate) pid: u32,
    pub(crate) endpoint: String,
    pub(crate) region: String,
    pub(crate) environments_busy: usize,
    pub(crate) environments_idle: usize,
    pub(crate) invocations_waiting: usize,
    pub(crate) memory_mib_reserved: u64,
}

/// An account to be made.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewAccount {
    pub(crate) name: String,
}

/// An account.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Account {
    pub(crate) account_id: String,
    pub(crate) name: String,
    pub(crate) created_at: String,
}

/// An access key.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Key {
    pub(crate) access_key_id: String,
    pub(crate) account_id: String,
    pub(crate) status: String,
    pub(crate) created_at: String,
    /// Only when it was just made.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) secret_access_key: Option<String>,
}

/// Whether a key may be used.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyChange {
    pub(crate) is_active: bool,
}

/// Which part of a log.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LogQuery {
    pub(crate) lines: usize,
    pub(crate) follow: bool,
}

/// Why a request was refused.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Refusal {
    pub(crate) message: String,
}

/// The socket's path by way of an open folder: the address of a socket has room for 107 bytes only, and the path of a
/// data folder may be longer.
struct SocketPath {
    _folder: std::fs::File,
    path: PathBuf,
}

impl SocketPath {
    fn within(folder: &Path) -> std::io::Result<Self> {
        use std::os::fd::AsRawFd;
        let folder = std::fs::File::open(folder)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}/{SOCKET_NAME}", folder.as_raw_fd()));
        Ok(Self { _folder: folder, path })
    }
}
