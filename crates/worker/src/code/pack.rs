//! Packing a directory into a zip for upload.

use std::fs;
use std::io::{self, Cursor, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use calypte_types::limits;
use zip::write::{SimpleFileOptions, ZipWriter};
use zip::{CompressionMethod, DateTime};

use crate::trees::FileError;

/// Names that never belong to a function's code: version control, caches, virtual environments.
const SKIPPED: [&str; 7] = [".git", ".hg", ".svn", "__pycache__", ".pytest_cache", ".mypy_cache", ".venv"];

/// Why a directory cannot be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// There is nothing to pack.
    #[error("{} has no files to deploy", directory.display())]
    Empty {
        /// The directory.
        directory: PathBuf,
    },
    /// It has too many files.
    #[error("{} has more than {} files; deploy a directory with the function's code only", directory.display(), limits::CODE_FILES_MAX)]
    TooManyFiles {
        /// The directory.
        directory: PathBuf,
    },
    /// Its files are too large.
    #[error(
        "the files in {} add up to more than {} MiB, the limit of a function; {} is the largest with {} MiB",
        directory.display(), limits::CODE_BYTES_MAX >> 20, largest.display(), largest_bytes >> 20
    )]
    TooLarge {
        /// The directory.
        directory: PathBuf,
        /// Its largest file.
        largest: PathBuf,
        /// Length of that.
        largest_bytes: u64,
    },
    /// The zip is too large.
    #[error("{} packs to {} MiB; a function's zip may have {} MiB", directory.display(), zip_bytes >> 20, limits::ZIP_BYTES_MAX >> 20)]
    ZipTooLarge {
        /// The directory.
        directory: PathBuf,
        /// Length of the zip.
        zip_bytes: usize,
    },
    /// A name that no zip can hold portably.
    #[error("{} has a name that is not UTF-8, or has a backslash in it; rename it", path.display())]
    Name {
        /// The file.
        path: PathBuf,
    },
    /// The zip could not be written.
    #[error("cannot pack {}", path.display())]
    Zip {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: zip::result::ZipError,
    },
    /// A file could not be read.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Packs a directory: the same files give the same bytes, whatever their times and order on disk. Execute bits and
/// symbolic links are kept; version control, caches and virtual environments are left out.
pub fn pack_directory(directory: &Path) -> Result<Vec<u8>, PackError> {
    let files = files_of(directory)?;
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for path in &files {
        add(&mut zip, directory, path)?;
    }
    let failed = |source| PackError::Zip { path: directory.to_owned(), source };
    let bytes = zip.finish().map_err(failed)?.into_inner();
    if bytes.len() > limits::ZIP_BYTES_MAX {
        return Err(PackError::ZipTooLarge { directory: directory.to_owned(), zip_bytes: bytes.len() });
    }
    Ok(bytes)
}

/// Files and links, relative to the directory, sorted.
fn files_of(directory: &Path) -> Result<Vec<PathBuf>, PackError> {
    let (mut files, mut pending) = (Vec::new(), vec![PathBuf::new()]);
    let (mut total, mut largest) = (0, (PathBuf::new(), 0));
    while let Some(parent) = pending.pop() {
        let path = directory.join(&parent);
        let on_error = || FileError::on("list", &path);
        for entry in fs::read_dir(&path).map_err(on_error())? {
            let entry = entry.map_err(on_error())?;
            let metadata = fs::symlink_metadata(entry.path()).map_err(FileError::on("read", &entry.path()))?;
            let relative = parent.join(entry.file_name());
            if SKIPPED.iter().any(|&skipped| entry.file_name() == skipped) {
                continue;
            }
            if metadata.is_dir() {
                pending.push(relative);
                continue;
            }
            if metadata.is_file() {
                total += metadata.len();
                if metadata.len() > largest.1 {
                    largest = (relative.clone(), metadata.len());
                }
            } else if !metadata.is_symlink() {
                continue;
            }
            files.push(relative);
            if files.len() > limits::CODE_FILES_MAX {
                return Err(PackError::TooManyFiles { directory: directory.to_owned() });
            }
        }
    }
    if total > limits::CODE_BYTES_MAX {
        let (largest, largest_bytes) = largest;
        return Err(PackError::TooLarge { directory: directory.to_owned(), largest, largest_bytes });
    }
    if files.is_empty() {
        return Err(PackError::Empty { directory: directory.to_owned() });
    }
    files.sort();
    Ok(files)
}

fn add(zip: &mut ZipWriter<Cursor<Vec<u8>>>, directory: &Path, relative: &Path) -> Result<(), PackError> {
    let path = directory.join(relative);
    let name = relative.to_str().filter(|name| !name.contains('\\'));
    let name = name.ok_or_else(|| PackError::Name { path: path.clone() })?;
    let failed = |source| PackError::Zip { path: path.clone(), source };
    let metadata = fs::symlink_metadata(&path).map_err(FileError::on("read", &path))?;
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Deflated)
        .last_modified_time(DateTime::default());
    if metadata.is_symlink() {
        let target = fs::read_link(&path).map_err(FileError::on("read", &path))?;
        let target = String::from_utf8(target.as_os_str().as_bytes().to_vec());
        let target = target.map_err(|_| PackError::Name { path: path.clone() })?;
        return zip.add_symlink(name, target, options).map_err(failed);
    }
    let mode = if metadata.permissions().mode() & 0o111 == 0 { 0o644 } else { 0o755 };
    let content = fs::read(&path).map_err(FileError::on("read", &path))?;
    zip.start_file(name, options.unix_permissions(mode)).map_err(failed)?;
    zip.write_all(&content).map_err(|error: io::Error| failed(error.into()))
}
