//! Content-addressed blobs: the name of a blob is the SHA-256 digest of its bytes.
//!
//! Written aside, synced, renamed, so that a name always has its full content; checked against the name when read.
//! A blob just stored and not yet named by a record is protected from collection by its [`StoredBlob`].

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{fs, io};

use bytes::Bytes;
use calypte_types::BlobId;
use object_store::local::LocalFileSystem;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use sha2::{Digest, Sha256};
use tokio::sync::Notify;

/// Why a blob could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// There is none of that name.
    #[error("there is no blob {0}")]
    NotFound(BlobId),
    /// Its bytes are not those that were stored.
    #[error("blob {0} is damaged on disk; deploy the function again, which replaces it")]
    Damaged(BlobId),
    /// The folder could not be made or read.
    #[error("cannot use the blob folder {}; check its owner and the disk's free space", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The storage refused.
    #[error("cannot {action} a blob; check the disk's free space")]
    Storage {
        /// What was attempted: a verb.
        action: &'static str,
        /// What the storage said.
        source: object_store::Error,
    },
}

/// The blob store. Clones share it.
#[derive(Debug, Clone)]
pub struct Blobs {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    storage: LocalFileSystem,
    usage: Mutex<Usage>,
    /// Signals that a blob stopped being condemned.
    released: Notify,
}

/// Which blobs may not be deleted, and which may not be handed out. No blob is in both.
#[derive(Debug, Default)]
struct Usage {
    held: HashMap<BlobId, usize>,
    condemned: HashSet<BlobId>,
}

/// A blob that is stored and stays so at least as long as this value lives.
#[derive(Debug)]
pub struct StoredBlob {
    inner: Arc<Inner>,
    id: BlobId,
    size_bytes: u64,
}

impl StoredBlob {
    /// Its name.
    pub fn id(&self) -> &BlobId {
        &self.id
    }

    /// Its size.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }
}

impl Drop for StoredBlob {
    fn drop(&mut self) {
        let mut usage = self.inner.lock();
        if let Some(count) = usage.held.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                usage.held.remove(&self.id);
            }
        }
    }
}

/// A blob about to be deleted: nobody can obtain it while this value lives.
#[derive(Debug)]
pub(crate) struct Condemned {
    inner: Arc<Inner>,
    id: BlobId,
}

impl Drop for Condemned {
    fn drop(&mut self) {
        self.inner.lock().condemned.remove(&self.id);
        self.inner.released.notify_waiters();
    }
}

impl Condemned {
    /// Deletes the blob and returns its size.
    pub(crate) async fn delete(self) -> Result<u64, BlobError> {
        let path = path_of(&self.id);
        let failed = |source| BlobError::Storage { action: "delete", source };
        let size_bytes = self.inner.storage.head(&path).await.map_err(failed)?.size;
        self.inner.storage.delete(&path).await.map_err(failed)?;
        Ok(size_bytes)
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Usage> {
        // Every critical section leaves the sets consistent, so a panic elsewhere does not spoil them.
        self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Blobs {
    /// Opens the folder, whose data folder this process owns, and removes what an interrupted write left behind.
    pub(crate) fn open(folder: &Path) -> Result<Self, BlobError> {
        let failed = |source| BlobError::Folder { path: folder.to_owned(), source };
        fs::create_dir_all(folder.join(PREFIX)).map_err(failed)?;
        remove_staged(folder).map_err(failed)?;
        let storage = LocalFileSystem::new_with_prefix(folder)
            .map_err(|source| BlobError::Storage { action: "find", source })?
            .with_fsync(true);
        Ok(Self { inner: Arc::new(Inner { storage, usage: Mutex::default(), released: Notify::new() }) })
    }

    /// Stores bytes. Once this returned, they are there after any crash. Storing the same bytes again is cheap, and
    /// repairs a damaged copy.
    pub async fn put(&self, bytes: Bytes) -> Result<StoredBlob, BlobError> {
        let id = digest(bytes.clone()).await;
        let blob = self.hold(id, bytes.len() as u64).await;
        match self.get(&blob.id).await {
            Ok(_) => return Ok(blob),
            Err(BlobError::NotFound(_) | BlobError::Damaged(_)) => {}
            Err(error) => return Err(error),
        }
        let path = path_of(&blob.id);
        let written = self.inner.storage.put(&path, PutPayload::from_bytes(bytes)).await;
        written.map_err(|source| BlobError::Storage { action: "store", source })?;
        Ok(blob)
    }

    /// The bytes of a blob, checked against its name.
    pub async fn get(&self, id: &BlobId) -> Result<Bytes, BlobError> {
        let failed = |source| match source {
            object_store::Error::NotFound { .. } => BlobError::NotFound(id.clone()),
            source => BlobError::Storage { action: "read", source },
        };
        let found = self.inner.storage.get(&path_of(id)).await.map_err(failed)?;
        let bytes = found.bytes().await.map_err(failed)?;
        if digest(bytes.clone()).await == *id { Ok(bytes) } else { Err(BlobError::Damaged(id.clone())) }
    }

    /// The names of all blobs.
    pub(crate) async fn list(&self) -> Result<Vec<BlobId>, BlobError> {
        let list = async |path: &object_store::path::Path| {
            let found = self.inner.storage.list_with_delimiter(Some(path)).await;
            found.map_err(|source| BlobError::Storage { action: "list", source })
        };
        let mut blobs = Vec::new();
        for shard in list(&object_store::path::Path::from(PREFIX)).await?.common_prefixes {
            let objects = list(&shard).await?.objects;
            blobs.extend(objects.iter().filter_map(|object| object.location.filename()?.parse().ok()));
        }
        Ok(blobs)
    }

    /// Marks a blob for deletion, unless somebody holds it or deletes it already.
    pub(crate) fn condemn(&self, id: &BlobId) -> Option<Condemned> {
        let mut usage = self.inner.lock();
        let is_free = !usage.held.contains_key(id) && usage.condemned.insert(id.clone());
        is_free.then(|| Condemned { inner: Arc::clone(&self.inner), id: id.clone() })
    }

    /// Protects a name from deletion, after a deletion under way has ended.
    async fn hold(&self, id: BlobId, size_bytes: u64) -> StoredBlob {
        loop {
            let released = self.inner.released.notified();
            tokio::pin!(released);
            // Registered before looking, so that a release in between is not missed.
            released.as_mut().enable();
            {
                let mut usage = self.inner.lock();
                if !usage.condemned.contains(&id) {
                    *usage.held.entry(id.clone()).or_default() += 1;
                    return StoredBlob { inner: Arc::clone(&self.inner), id, size_bytes };
                }
            }
            released.await;
        }
    }
}

/// The algorithm, first part of every path, so that another one can be added.
const PREFIX: &str = "sha256";

/// `sha256/ab/abcd…`: the first byte spreads the blobs over 256 folders.
fn path_of(id: &BlobId) -> object_store::path::Path {
    let name = id.as_str();
    object_store::path::Path::from_iter([PREFIX, &name[..2], name])
}

/// The name of these bytes. Long ones are hashed where they do not hold up the runtime.
async fn digest(bytes: Bytes) -> BlobId {
    /// Hashing this much takes well under a millisecond.
    const INLINE_BYTES_MAX: usize = 256 * 1024;
    let hash = |bytes: Bytes| BlobId::from_digest(Sha256::digest(&bytes).into());
    if bytes.len() <= INLINE_BYTES_MAX {
        return hash(bytes);
    }
    tokio::task::spawn_blocking(move || hash(bytes)).await.expect("hashing does not panic and the runtime is running")
}

/// Removes the files (`NAME#NUMBER`) in which `object_store` stages what it has not renamed yet.
fn remove_staged(folder: &Path) -> io::Result<()> {
    for shard in fs::read_dir(folder.join(PREFIX))? {
        let shard = shard?;
        if !shard.file_type()?.is_dir() {
            continue;
        }
        for file in fs::read_dir(shard.path())? {
            let file = file?;
            if file.file_name().as_encoded_bytes().contains(&b'#') {
                fs::remove_file(file.path())?;
            }
        }
    }
    Ok(())
}
