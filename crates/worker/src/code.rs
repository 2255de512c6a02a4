//! Function code on this node: zip files, checked and extracted into directories named by the zip's digest.
//!
//! A zip is as hostile as any input: what it declares is compared with what comes out, and nothing outside its directory
//! is touched (`TreeWriter`). A directory appears complete or not at all, so several processes may extract at once.
//! Everything here blocks: call it from a thread that may.

mod archive;
mod pack;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use calypte_types::{BlobId, limits};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

pub use pack::{PackError, pack_directory};

use crate::trees::writer::{EntryError, TreeLimits, TreeWriter};
use crate::trees::{FileError, TreePin, TreeStore};

const LIMITS: TreeLimits = TreeLimits { bytes_max: limits::CODE_BYTES_MAX, entries_max: limits::CODE_FILES_MAX as u64 };

/// Why a zip file cannot be a function's code.
#[derive(Debug, thiserror::Error)]
pub enum CodeError {
    /// It is longer than the limit.
    #[error(
        "the zip file has {bytes} bytes and may have {}; leave out what the function does not need",
        limits::ZIP_BYTES_MAX
    )]
    ZipTooLarge {
        /// Its length.
        bytes: usize,
    },
    /// It is not a zip file, or damaged.
    #[error("the file is not a valid zip file: {problem}")]
    Corrupt {
        /// What is wrong.
        problem: String,
    },
    /// It has nothing in it.
    #[error("the zip file is empty")]
    Empty,
    /// It would extract to more than the limit.
    #[error("unzipped, the code is larger than {} bytes", limits::CODE_BYTES_MAX)]
    TooLarge,
    /// It has too many members.
    #[error("the zip file has more than {} members", limits::CODE_FILES_MAX)]
    TooManyFiles,
    /// A member cannot be extracted.
    #[error("member {name:?} of the zip file {problem}")]
    Member {
        /// As the zip has it.
        name: String,
        /// Completes the sentence.
        problem: String,
    },
    /// The bytes are not those that the id names.
    #[error("the code has digest {actual} instead of {expected}: the stored blob is damaged")]
    Digest {
        /// Of the bytes.
        actual: BlobId,
        /// As asked for.
        expected: BlobId,
    },
    /// This node could not write the files: not the zip's fault.
    #[error(transparent)]
    File(#[from] FileError),
}

impl CodeError {
    /// Whether the zip is at fault, and not this node.
    pub fn is_callers_fault(&self) -> bool {
        !matches!(self, Self::File(_) | Self::Digest { .. })
    }
}

/// The extracted code of a data folder. Cheap to clone; several processes may use one folder.
#[derive(Debug, Clone)]
pub struct CodeCache {
    trees: TreeStore,
}

impl CodeCache {
    /// Opens `<data>/code`, creates it if need be, and removes what interrupted extractions left behind.
    pub fn open(directory: impl AsRef<Path>) -> Result<Self, CodeError> {
        let directory = directory.as_ref();
        let absolute = fs::create_dir_all(directory).and_then(|()| directory.canonicalize());
        let directory = absolute.map_err(FileError::on("create", directory))?;
        Ok(Self { trees: TreeStore::open(&directory)? })
    }

    /// The id of a zip: its digest.
    pub fn id_of(zip: &[u8]) -> BlobId {
        BlobId::from_digest(Sha256::digest(zip).into())
    }

    /// Checks and extracts a zip, unless that has been done before; where its files are.
    pub fn add(&self, id: &BlobId, zip: &[u8]) -> Result<PathBuf, CodeError> {
        if let Some(directory) = self.directory(id) {
            return Ok(directory);
        }
        if zip.len() > limits::ZIP_BYTES_MAX {
            return Err(CodeError::ZipTooLarge { bytes: zip.len() });
        }
        let actual = Self::id_of(zip);
        if actual != *id {
            return Err(CodeError::Digest { actual, expected: id.clone() });
        }
        let staging = self.trees.stage()?;
        let mut writer = TreeWriter::new(staging.path(), LIMITS).map_err(|error| refused("", error))?;
        archive::extract(zip, &mut writer)?;
        self.trees.publish(staging, id.as_str(), || Ok(()))
    }

    /// Checks a zip completely without keeping anything: for requests that only ask whether it would be accepted.
    pub fn check(&self, zip: &[u8]) -> Result<(), CodeError> {
        if zip.len() > limits::ZIP_BYTES_MAX {
            return Err(CodeError::ZipTooLarge { bytes: zip.len() });
        }
        let staging = self.trees.stage()?;
        let mut writer = TreeWriter::new(staging.path(), LIMITS).map_err(|error| refused("", error))?;
        archive::extract(zip, &mut writer)
    }

    /// Where the files of a zip are that has been extracted.
    pub fn directory(&self, id: &BlobId) -> Option<PathBuf> {
        self.trees.contains(id.as_str()).then(|| self.trees.path(id.as_str()))
    }

    /// Keeps a directory from being removed while the pin lives; `None` if it is not there.
    pub fn pin(&self, id: &BlobId) -> Result<Option<TreePin>, CodeError> {
        Ok(self.trees.pin(id.as_str())?)
    }

    /// Removes every directory that is neither referenced nor pinned; how many. They can be extracted again.
    pub fn retain(&self, referenced: &HashSet<BlobId>) -> Result<usize, CodeError> {
        let is_referenced = |key: &str| key.parse::<BlobId>().is_ok_and(|id| referenced.contains(&id));
        Ok(self.trees.retain(is_referenced)?)
    }
}

/// What the tree's own checks found, in the words of a zip.
fn refused(name: &str, error: EntryError) -> CodeError {
    match error {
        EntryError::TooLarge { .. } => CodeError::TooLarge,
        EntryError::TooMany { .. } => CodeError::TooManyFiles,
        EntryError::Path { problem, .. } => CodeError::Member { name: name.to_owned(), problem: problem.to_owned() },
        EntryError::Data { source, .. } => {
            CodeError::Member { name: name.to_owned(), problem: format!("is damaged ({source})") }
        }
        EntryError::Write { source, .. } if is_conflict(&source) => {
            let problem = "is below something that is not a directory".to_owned();
            CodeError::Member { name: name.to_owned(), problem }
        }
        EntryError::Write { path, source } => FileError { action: "write", path: PathBuf::from(path), source }.into(),
    }
}

/// Whether members contradict each other, as opposed to a failing disk.
fn is_conflict(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOTDIR | Errno::ISDIR | Errno::LOOP | Errno::EXIST))
}
