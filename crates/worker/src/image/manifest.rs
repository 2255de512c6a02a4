//! The canonical manifest of a tree, whose SHA-256 is the image's digest.
//!
//! One record for each entry in depth-first order, names sorted as bytes:
//! `<kind> <mode in octal> <size> <content> <path length>:<path>\n`, where kind is `d`, `f` or `l`, and content is the
//! SHA-256 of the file or of the link's target, or `-`. The records are hashed, not stored.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::{ImageError, OnProgress, Progress, Step};
use crate::trees::FileError;

const READ_BYTES: usize = 256 * 1024;

/// What a walk over a tree yields.
pub(super) struct Summary {
    /// SHA-256 of the manifest, in lower-case hexadecimal.
    pub(super) digest: String,
    /// Sum of the sizes of the files.
    pub(super) bytes: u64,
    /// Entries, without the root.
    pub(super) entries: u64,
}

/// Reads a whole tree.
pub(super) fn summarise(root: &Path, progress: OnProgress<'_>) -> Result<Summary, ImageError> {
    let mut walk = Walk { digest: Sha256::new(), bytes: 0, entries: 0, buffer: vec![0; READ_BYTES], progress };
    walk.directory(root, Path::new(""))?;
    Ok(Summary { digest: hexadecimal(&walk.digest.finalize()), bytes: walk.bytes, entries: walk.entries })
}

/// Lower-case hexadecimal.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

struct Walk<'a> {
    digest: Sha256,
    bytes: u64,
    entries: u64,
    buffer: Vec<u8>,
    progress: OnProgress<'a>,
}

impl Walk<'_> {
    fn directory(&mut self, root: &Path, directory: &Path) -> Result<(), ImageError> {
        let path = root.join(directory);
        let on_error = || FileError::on("list", &path);
        let mut names = Vec::new();
        for entry in fs::read_dir(&path).map_err(on_error())? {
            names.push(entry.map_err(on_error())?.file_name());
        }
        names.sort();
        for name in names {
            self.entry(root, &directory.join(name))?;
        }
        Ok(())
    }

    fn entry(&mut self, root: &Path, entry: &Path) -> Result<(), ImageError> {
        let path = root.join(entry);
        let metadata = fs::symlink_metadata(&path).map_err(FileError::on("read", &path))?;
        self.entries += 1;
        let (kind, size, content) = if metadata.is_dir() {
            ('d', 0, "-".to_owned())
        } else if metadata.is_symlink() {
            let target = fs::read_link(&path).map_err(FileError::on("read", &path))?;
            ('l', target.as_os_str().len() as u64, hexadecimal(&Sha256::digest(target.as_os_str().as_bytes())))
        } else {
            ('f', metadata.len(), self.content(&path)?)
        };
        // Links have no mode of their own.
        let mode = if kind == 'l' { 0 } else { metadata.permissions().mode() & 0o7777 };
        let name = entry.as_os_str().as_bytes();
        self.digest.update(format!("{kind} {mode:o} {size} {content} {}:", name.len()));
        self.digest.update(name);
        self.digest.update(b"\n");
        if kind == 'd' { self.directory(root, entry) } else { Ok(()) }
    }

    fn content(&mut self, path: &Path) -> Result<String, ImageError> {
        let on_error = || FileError::on("read", path);
        let mut file = File::open(path).map_err(on_error())?;
        let mut digest = Sha256::new();
        loop {
            match file.read(&mut self.buffer).map_err(on_error())? {
                0 => break,
                count => {
                    digest.update(&self.buffer[..count]);
                    self.bytes += count as u64;
                }
            }
        }
        (self.progress)(Progress { step: Step::Digest, done: self.bytes, total: None });
        Ok(hexadecimal(&digest.finalize()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(build: impl FnOnce(&Path)) -> String {
        let directory = tempfile::tempdir().unwrap();
        build(directory.path());
        summarise(directory.path(), &mut |_| {}).unwrap().digest
    }

    fn write(path: &Path, text: &str, mode: u32) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn the_digest_depends_on_everything_a_guest_can_see_and_on_nothing_else() {
        let base = digest(|root| {
            write(&root.join("a"), "1", 0o644);
            write(&root.join("b"), "2", 0o644);
        });
        let same = digest(|root| {
            write(&root.join("b"), "2", 0o644);
            write(&root.join("a"), "1", 0o644);
        });
        assert_eq!(base, same);
        type Build = fn(&Path);
        let different: [(&str, Build); 5] = [
            ("content", |root| (write(&root.join("a"), "x", 0o644), write(&root.join("b"), "2", 0o644)).0),
            ("mode", |root| (write(&root.join("a"), "1", 0o755), write(&root.join("b"), "2", 0o644)).0),
            ("name", |root| (write(&root.join("a"), "1", 0o644), write(&root.join("c"), "2", 0o644)).0),
            ("kind", |root| {
                write(&root.join("a"), "1", 0o644);
                std::os::unix::fs::symlink("2", root.join("b")).unwrap();
            }),
            ("more", |root| {
                write(&root.join("a"), "1", 0o644);
                write(&root.join("b"), "2", 0o644);
                fs::create_dir(root.join("c")).unwrap();
            }),
        ];
        for (what, build) in different {
            assert_ne!(digest(build), base, "{what}");
        }
    }
}
