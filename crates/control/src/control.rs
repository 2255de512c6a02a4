//! The state that all actions share, and access keys.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use calypte_store::{AccessKey, Function, KeyStatus, Store};
use calypte_types::{AccessKeyId, AccountId, FunctionName};
use calypte_worker::code::CodeCache;
use calypte_worker::image::Images;
use tokio::sync::{Mutex, Notify};

use crate::cache::Cache;
use crate::error::ControlError;
use crate::executor::Executor;
use crate::garbage::Lingering;
use crate::prepare::{PinnedImages, Prepared};

/// Functions that are ready to be invoked without a database. Each holds an open file.
const PREPARED_FUNCTIONS_MAX: usize = 1_000;
/// Access keys in memory.
const ACCESS_KEYS_MAX: usize = 10_000;
/// Functions that can be prepared at the same time without waiting for each other, at most.
const PREPARATION_LOCKS: usize = 64;

/// What decides: functions and their code, keys, what runs where. One for each node.
pub struct Control {
    pub(crate) store: Store,
    pub(crate) executor: Arc<dyn Executor>,
    pub(crate) images: Images,
    pub(crate) code: CodeCache,
    pub(crate) region: String,
    /// Root of functions that bring their own runtime and need no other files.
    pub(crate) empty_root: PathBuf,
    pub(crate) pinned_images: Arc<PinnedImages>,
    pub(crate) prepared: Cache<(AccountId, FunctionName), Prepared>,
    /// So that concurrent first invocations of a function prepare it once. Chosen by the function's name.
    pub(crate) preparation_locks: [Mutex<()>; PREPARATION_LOCKS],
    /// Wakes the collection of garbage.
    pub(crate) garbage: Notify,
    pub(crate) lingering: std::sync::Mutex<Lingering>,
    keys: Cache<AccessKeyId, AccessKey>,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").field("region", &self.region).finish_non_exhaustive()
    }
}

impl Control {
    /// Puts the parts together. `region` is that of every ARN. Makes one directory in the data folder.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn new(
        store: Store,
        executor: Arc<dyn Executor>,
        images: Images,
        code: CodeCache,
        region: impl Into<String>,
    ) -> std::io::Result<Self> {
        let empty_root = store.folder().join("empty-root");
        std::fs::create_dir_all(&empty_root)?;
        Ok(Self {
            store,
            executor,
            images,
            code,
            region: region.into(),
            empty_root: empty_root.canonicalize()?,
            pinned_images: Arc::default(),
            prepared: Cache::new(PREPARED_FUNCTIONS_MAX),
            preparation_locks: std::array::from_fn(|_| Mutex::new(())),
            garbage: Notify::new(),
            lingering: std::sync::Mutex::default(),
            keys: Cache::new(ACCESS_KEYS_MAX),
        })
    }

    /// The region of this system.
    pub fn region(&self) -> &str {
        &self.region
    }

    /// The records, for administration. Whoever changes a key's record calls [`Control::forget_access_key`].
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The active key with this id. Keys that are inactive are as good as unknown.
    pub async fn access_key(&self, id: &AccessKeyId) -> Result<Option<Arc<AccessKey>>, ControlError> {
        if let Some(key) = self.keys.get(id) {
            return Ok(Some(key));
        }
        let began = self.keys.generation();
        let key = self
            .store
            .access_key(id)
            .await
            .map_err(|error| ControlError::internal("reading an access key")(error.into()))?;
        let Some(key) = key.filter(|key| key.status == KeyStatus::Active) else { return Ok(None) };
        let key = Arc::new(key);
        self.keys.insert(began, id.clone(), Arc::clone(&key));
        Ok(Some(key))
    }

    /// To be called after a key was disabled, enabled or removed.
    pub fn forget_access_key(&self, id: &AccessKeyId) {
        self.keys.remove(id);
    }

    /// Whatever was made from this function's record is out of date.
    pub(crate) fn forget_function(&self, account: &AccountId, name: &FunctionName) {
        if let Some(prepared) = self.prepared.remove(&(account.clone(), name.clone())) {
            let until = Instant::now() + prepared.longest_use();
            self.lingering.lock().unwrap_or_else(PoisonError::into_inner).keep(prepared.package.clone(), until);
        }
    }

    /// The function, or that there is none: `arn` is how the client named it.
    pub(crate) async fn read_function(
        &self,
        account: &AccountId,
        name: &FunctionName,
        arn: impl FnOnce() -> String,
    ) -> Result<Function, ControlError> {
        let function = self.store.function(account, name).await;
        let function = function.map_err(|error| ControlError::internal("reading a function")(error.into()))?;
        function.ok_or_else(|| ControlError::NotFound { arn: arn() })
    }
}
