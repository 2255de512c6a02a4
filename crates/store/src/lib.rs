//! What must outlive the process: accounts, access keys and functions in SQLite, code in content-addressed blobs.
//!
//! [`Store::open`] takes a data folder for this process alone (a second one gets an error that names the owner) and
//! brings its schema up to date. A call that returned `Ok` survives `kill -9` and power loss: the database commits with
//! `synchronous=FULL`, blobs are written aside, synced and renamed.
//!
//! The folder has mode 0700 and the database 0600, because secrets of access keys are stored as they are: verifying a
//! signature needs the secret itself, not a hash of it.
//!
//! This crate is the only owner of SQL; every statement is in the module `statement`. Neighbours: `control` (functions),
//! the binary (accounts and keys).

#![forbid(unsafe_code)]

mod account;
mod blob;
mod database;
mod error;
mod folder;
mod function;
mod statement;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use account::{AccessKey, Account, KeyStatus};
pub use blob::{BlobError, Blobs, StoredBlob};
pub use error::{OpenError, StoreError};
pub use folder::create_data_folder;
pub use function::{
    Code, Function, FunctionChange, FunctionConfiguration, FunctionPage, FunctionState, TemplateChoice,
};
pub use function::{FUNCTIONS_PAGE_MAX, Garbage};

/// An open data folder. Clones share it; the folder's lock is held until the last one is dropped.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    folder: PathBuf,
    pool: sqlx::SqlitePool,
    blobs: Blobs,
    /// Declared last: dropped after everything that it protects.
    _lock: folder::Lock,
}

impl Store {
    /// Opens the data folder, creating it if it is not there yet.
    ///
    /// # Errors
    /// When another process owns the folder, when it cannot be created or written, or when a newer Calypte wrote it.
    pub async fn open(folder: &Path) -> Result<Self, OpenError> {
        create_data_folder(folder)?;
        let lock = folder::Lock::take(folder)?;
        let blobs = Blobs::open(&folder.join("blobs"))?;
        let pool = database::open(&folder.join("calypte.db")).await?;
        Ok(Self { inner: Arc::new(Inner { folder: folder.to_owned(), pool, blobs, _lock: lock }) })
    }

    /// The data folder.
    pub fn folder(&self) -> &Path {
        &self.inner.folder
    }

    /// The blobs: function code.
    pub fn blobs(&self) -> &Blobs {
        &self.inner.blobs
    }

    /// Finishes what is under way and closes the database; later calls fail. Not needed for durability.
    pub async fn close(&self) {
        self.inner.pool.close().await;
    }
}
