//! The data folder itself: created private, owned by one process at a time.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use crate::OpenError;

/// Only the owner may enter the folder.
const FOLDER_MODE: u32 = 0o700;
/// Only the owner may read its files.
pub(crate) const FILE_MODE: u32 = 0o600;

/// Creates the data folder, or takes away other users' access to the one that is there.
///
/// # Errors
/// [`OpenError::Io`].
pub fn create_data_folder(folder: &Path) -> Result<(), OpenError> {
    let failed = |action| move |source| OpenError::Io { action, path: folder.to_owned(), source };
    fs::DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder).map_err(failed("create"))?;
    let permissions = fs::metadata(folder).map_err(failed("read"))?.permissions();
    if permissions.mode() & 0o777 != FOLDER_MODE {
        fs::set_permissions(folder, fs::Permissions::from_mode(FOLDER_MODE)).map_err(failed("restrict"))?;
    }
    // The folder's own name must survive a power failure as well.
    let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed("store"))
}

/// The lock on a data folder. The kernel releases it however the process ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    pub(crate) fn take(folder: &Path) -> Result<Self, OpenError> {
        let path = folder.join("lock");
        let failed = |action| {
            let path = path.clone();
            move |source| OpenError::Io { action, path, source }
        };
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false).mode(FILE_MODE);
        let mut file = options.open(&path).map_err(failed("open"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(OpenError::InUse { folder: folder.to_owned(), owner: read_owner(&mut file) });
            }
            Err(TryLockError::Error(source)) => return Err(failed("lock")(source)),
        }
        write_owner(&mut file).map_err(failed("write"))?;
        Ok(Self { _file: file })
    }
}

/// The process id in the lock file. The owner may be between locking and writing, so it may be missing.
fn read_owner(file: &mut File) -> Option<u32> {
    /// Longest decimal process id, with room for a line end.
    const OWNER_BYTES_MAX: u64 = 16;
    let mut text = String::new();
    file.take(OWNER_BYTES_MAX).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn write_owner(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_owner_is_refused_and_told_who_has_the_folder() {
        let root = tempfile::tempdir().unwrap();
        let first = Lock::take(root.path()).unwrap();
        let refusal = Lock::take(root.path()).unwrap_err();
        assert!(matches!(refusal, OpenError::InUse { owner: Some(pid), .. } if pid == std::process::id()));
        assert!(refusal.to_string().contains(&format!("process {}", std::process::id())));
        drop(first);
        Lock::take(root.path()).unwrap();
    }

    #[test]
    fn the_folder_is_private_even_if_it_was_not() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("a/b");
        create_data_folder(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        create_data_folder(&folder).unwrap();
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, FOLDER_MODE);
    }
}
