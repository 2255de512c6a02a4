//! Directory trees on disk that are named by their content: runtime images and extracted function code.
//!
//! ```text
//! <directory>/lock                  held while the set of trees changes
//! <directory>/temporary/<name>      staged trees, each locked by its maker; abandoned ones are removed at the next open
//! <directory>/<key>                 complete trees, never changed
//! ```
//!
//! Several processes may use one directory at the same time: a tree appears by one rename, after its bytes are on disk,
//! and a tree that somebody holds ([`TreePin`]) is not removed.
//!
//! Lock order: the store's `lock` file, then a tree.

pub(crate) mod writer;

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// An operation on the file system that failed, and on what.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct FileError {
    /// A verb: `create`, `read`, ….
    pub action: &'static str,
    /// The file or directory.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

impl FileError {
    /// For `map_err`: says what was being done to which path.
    pub(crate) fn on<E: Into<io::Error>>(action: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        let path = path.to_owned();
        move |source| Self { action, path, source: source.into() }
    }
}

/// A directory of trees.
#[derive(Debug, Clone)]
pub(crate) struct TreeStore {
    directory: PathBuf,
}

impl TreeStore {
    /// Opens or creates the store and removes what interrupted processes left behind.
    pub(crate) fn open(directory: &Path) -> Result<Self, FileError> {
        let store = Self { directory: directory.to_owned() };
        let temporary = store.temporary();
        fs::create_dir_all(&temporary).map_err(FileError::on("create", &temporary))?;
        let _lock = store.lock()?;
        for path in entries(&store.temporary())? {
            let is_abandoned = match File::open(&path) {
                Ok(tree) => tree.try_lock().is_ok(),
                Err(_) => false,
            };
            if is_abandoned {
                remove_tree(&path)?;
            }
        }
        Ok(store)
    }

    /// Where the tree of this key is or would be.
    pub(crate) fn path(&self, key: &str) -> PathBuf {
        self.directory.join(key)
    }

    /// Whether the tree is there, complete.
    pub(crate) fn contains(&self, key: &str) -> bool {
        self.path(key).is_dir()
    }

    /// The keys of all trees.
    pub(crate) fn keys(&self) -> Result<Vec<String>, FileError> {
        let names = entries(&self.directory)?.into_iter();
        let names = names.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()));
        Ok(names.filter(|name| name != "lock" && name != "temporary").collect())
    }

    /// An empty directory to build a tree in. It is removed again unless it is published.
    pub(crate) fn stage(&self) -> Result<Staging, FileError> {
        let _lock = self.lock()?;
        let temporary = self.temporary();
        let directory = tempfile::Builder::new()
            .prefix("tree-")
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir_in(&temporary)
            .map_err(FileError::on("create a directory in", &temporary))?;
        let lock = File::open(directory.path()).map_err(FileError::on("open", directory.path()))?;
        lock.lock().map_err(FileError::on("lock", directory.path()))?;
        Ok(Staging { directory, _lock: lock })
    }

    /// Makes a staged tree permanent under `key`. If the key exists already, that tree stays and the staged one goes.
    /// `record` runs once the tree is in place and before anybody may remove it for want of a reference.
    pub(crate) fn publish<E: From<FileError>>(
        &self,
        staging: Staging,
        key: &str,
        record: impl FnOnce() -> Result<(), E>,
    ) -> Result<PathBuf, E> {
        let target = self.path(key);
        sync_file_system(staging.path())?;
        let _lock = self.lock()?;
        if !target.is_dir() {
            fs::rename(staging.path(), &target).map_err(FileError::on("create", &target))?;
            sync_directory(&self.directory)?;
            let _moved = staging.directory.keep();
        }
        record()?;
        Ok(target)
    }

    /// Removes every tree that `is_wanted` does not keep and that nobody holds; how many went.
    pub(crate) fn retain(&self, is_wanted: impl Fn(&str) -> bool) -> Result<usize, FileError> {
        let lock = self.lock()?;
        let mut doomed = Vec::new();
        for key in self.keys()? {
            let path = self.path(&key);
            if is_wanted(&key) {
                continue;
            }
            let tree = File::open(&path).map_err(FileError::on("open", &path))?;
            match tree.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => continue,
                Err(TryLockError::Error(source)) => return Err(FileError { action: "lock", path, source }),
            }
            let grave = self.temporary().join(format!("removed-{}-{key}", std::process::id()));
            fs::rename(&path, &grave).map_err(FileError::on("remove", &path))?;
            doomed.push((grave, tree));
        }
        drop(lock);
        for (path, _tree) in &doomed {
            remove_tree(path)?;
        }
        Ok(doomed.len())
    }

    /// Keeps a tree from being removed; `None` if there is no such tree.
    pub(crate) fn pin(&self, key: &str) -> Result<Option<TreePin>, FileError> {
        let path = self.path(key);
        let _lock = self.lock()?;
        match File::open(&path) {
            Ok(tree) => {
                tree.lock_shared().map_err(FileError::on("lock", &path))?;
                Ok(Some(TreePin { _lock: tree }))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(FileError { action: "open", path, source: error }),
        }
    }

    /// Serialises changes to the set of trees among processes; released when dropped.
    pub(crate) fn lock(&self) -> Result<File, FileError> {
        let path = self.directory.join("lock");
        let file = File::options().create(true).append(true).open(&path).map_err(FileError::on("open", &path))?;
        file.lock().map_err(FileError::on("lock", &path))?;
        Ok(file)
    }

    fn temporary(&self) -> PathBuf {
        self.directory.join("temporary")
    }
}

/// A tree that is being built.
#[derive(Debug)]
pub(crate) struct Staging {
    directory: tempfile::TempDir,
    /// Tells other processes that the maker lives.
    _lock: File,
}

impl Staging {
    /// Where to build it.
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }
}

/// While it lives, its tree is not removed, not by other processes either.
#[derive(Debug)]
pub struct TreePin {
    _lock: File,
}

/// Writes a small file so that it is there completely or not at all, whenever the machine stops.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let write = || -> io::Result<()> {
        let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(directory)?;
        io::Write::write_all(&mut file, bytes)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    write().map_err(FileError::on("write", path))?;
    sync_directory(directory)
}

/// Makes renames and removals in a directory durable.
pub(crate) fn sync_directory(path: &Path) -> Result<(), FileError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(FileError::on("sync", path))
}

/// One call instead of an fsync for each of thousands of files.
fn sync_file_system(path: &Path) -> Result<(), FileError> {
    let directory = File::open(path).map_err(FileError::on("open", path))?;
    rustix::fs::syncfs(&directory).map_err(FileError::on("sync", path))
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>, FileError> {
    let on_error = || FileError::on("list", directory);
    let listing = fs::read_dir(directory).map_err(on_error())?;
    listing.map(|entry| Ok(entry.map_err(on_error())?.path())).collect()
}

/// A tree may be gone already, or be a file that a person put there.
fn remove_tree(path: &Path) -> Result<(), FileError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(FileError::on("remove", path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage_file(store: &TreeStore, text: &str) -> Staging {
        let staging = store.stage().unwrap();
        fs::write(staging.path().join("file"), text).unwrap();
        staging
    }

    fn publish(store: &TreeStore, staging: Staging, key: &str) -> PathBuf {
        store.publish::<FileError>(staging, key, || Ok(())).unwrap()
    }

    #[test]
    fn a_tree_appears_complete_and_the_first_of_two_equal_ones_stays() {
        let directory = tempfile::tempdir().unwrap();
        let store = TreeStore::open(directory.path()).unwrap();
        let first = publish(&store, stage_file(&store, "one"), "key");
        let second = publish(&store, stage_file(&store, "two"), "key");
        assert_eq!(first, second);
        assert_eq!(fs::read_to_string(first.join("file")).unwrap(), "one");
        assert_eq!(store.keys().unwrap(), ["key"]);
        assert_eq!(entries(&store.temporary()).unwrap(), Vec::<PathBuf>::new());
    }

    #[test]
    fn only_abandoned_staging_is_removed_at_open() {
        let directory = tempfile::tempdir().unwrap();
        let store = TreeStore::open(directory.path()).unwrap();
        let live = stage_file(&store, "live");
        let abandoned = store.temporary().join("tree-abandoned");
        fs::create_dir_all(abandoned.join("deep")).unwrap();
        TreeStore::open(directory.path()).unwrap();
        assert!(live.path().join("file").exists());
        assert!(!abandoned.exists());
        let path = live.path().to_owned();
        drop(live);
        assert!(!path.exists());
    }

    #[test]
    fn trees_in_use_are_kept_whatever_the_caller_wants() {
        let directory = tempfile::tempdir().unwrap();
        let store = TreeStore::open(directory.path()).unwrap();
        for key in ["held", "wanted", "unwanted"] {
            publish(&store, stage_file(&store, key), key);
        }
        let pin = store.pin("held").unwrap().unwrap();
        assert!(store.pin("absent").unwrap().is_none());
        assert_eq!(store.retain(|key| key == "wanted").unwrap(), 1);
        let mut keys = store.keys().unwrap();
        keys.sort();
        assert_eq!(keys, ["held", "wanted"]);
        drop(pin);
        assert_eq!(store.retain(|key| key == "wanted").unwrap(), 1);
        assert_eq!(store.keys().unwrap(), ["wanted"]);
    }
}
