//! Errors of opening a data folder and of its records. Those of blobs are in [`crate::blob`].

use std::io;
use std::path::PathBuf;

use calypte_types::{AccessKeyId, AccountId, FunctionName};

use crate::BlobError;

/// Why a data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error(
        "the data folder {} is in use by {}; stop that process or choose another folder with --data",
        folder.display(),
        match owner { Some(pid) => format!("process {pid}"), None => "another process".to_owned() }
    )]
    InUse {
        /// The folder.
        folder: PathBuf,
        /// The process id that the owner left in the lock file.
        owner: Option<u32>,
    },
    /// A file or folder could not be made or read.
    #[error("cannot {action} {}; check that this user owns the folder and that the disk has space", path.display())]
    Io {
        /// What was attempted: a verb.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The database has migrations that this program does not know.
    #[error(
        "the database {} was written by a newer Calypte (schema {found}, this program knows {known}); \
         use that version or another data folder",
        path.display()
    )]
    Newer {
        /// The database file.
        path: PathBuf,
        /// Its schema version.
        found: i64,
        /// The newest that this program has.
        known: i64,
    },
    /// SQLite refused.
    #[error(
        "cannot open the database {}; if the file is damaged, restore the folder from a backup",
        path.display()
    )]
    Database {
        /// The database file.
        path: PathBuf,
        /// What SQLite said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The blob store could not be opened.
    #[error("cannot open the blob store")]
    Blobs(#[from] BlobError),
}

/// Why a record could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The account has a function of that name.
    #[error("account {account} already has a function {name}")]
    FunctionExists {
        /// The account.
        account: AccountId,
        /// The name.
        name: FunctionName,
    },
    /// The account has no function of that name.
    #[error("account {account} has no function {name}")]
    FunctionNotFound {
        /// The account.
        account: AccountId,
        /// The name.
        name: FunctionName,
    },
    /// The function changed since the caller read it.
    #[error("function {name} has changed since revision {expected}; read it again and repeat the change")]
    RevisionMismatch {
        /// The function.
        name: FunctionName,
        /// The revision on which the change was based.
        expected: String,
    },
    /// The name is taken.
    #[error("there is already an account named {0:?}")]
    AccountExists(String),
    /// The name is not one.
    #[error("account name {0:?} is not 1 to 64 letters, digits, '-', '_' and '.'")]
    AccountName(String),
    /// No such account.
    #[error("there is no account {0}")]
    AccountNotFound(AccountId),
    /// No such key.
    #[error("there is no access key {0}")]
    AccessKeyNotFound(AccessKeyId),
    /// The account has as many keys as it may have.
    #[error("account {account} has {max} access keys already; remove one first")]
    TooManyAccessKeys {
        /// The account.
        account: AccountId,
        /// The limit.
        max: usize,
    },
    /// A stored record is not what this program writes.
    #[error("a stored record of {what} is damaged: {reason}")]
    Damaged {
        /// Which record.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The system's random number generator failed.
    #[error("the operating system gave no random numbers: {0}")]
    Entropy(getrandom::Error),
    /// SQLite refused.
    #[error("the database could not {action}; check the disk's free space and the server's log")]
    Database {
        /// What was attempted: a verb phrase.
        action: &'static str,
        /// What SQLite said.
        source: sqlx::Error,
    },
    /// A blob could not be listed or deleted.
    #[error("the blob store failed")]
    Blob(#[from] BlobError),
}

impl StoreError {
    /// For `map_err`: the failure of a statement that does `action`.
    pub(crate) fn database(action: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |source| Self::Database { action, source }
    }

    /// A record of `what` that cannot be read.
    pub(crate) fn damaged(what: impl Into<String>, reason: impl ToString) -> Self {
        Self::Damaged { what: what.into(), reason: reason.to_string() }
    }
}
