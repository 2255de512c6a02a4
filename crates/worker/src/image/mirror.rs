//! Copying files of this host into an image, each to the path that it has on the host, so that what one file says about
//! another stays true. Symbolic links on the way (`/lib` → `usr/lib`, `python3` → `python3.11`) become links in the image.

use std::collections::{HashSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use super::{ImageError, Import, Progress, Step};
use crate::trees::FileError;
use crate::trees::writer::EntryError;

/// Links followed for one path: Linux's own limit (`MAXSYMLINKS`).
const LINKS_MAX: usize = 40;

/// Copies single files and what their paths need.
pub(super) struct Mirror<'i, 'p> {
    import: &'i mut Import<'p>,
    /// Host paths that are in the image already: links, directories and files.
    present: HashSet<PathBuf>,
}

impl<'i, 'p> Mirror<'i, 'p> {
    pub(super) fn new(import: &'i mut Import<'p>) -> Self {
        Self { import, present: HashSet::new() }
    }

    /// Adds one absolute host path with every link on its way; returns where it really is.
    pub(super) fn add(&mut self, path: &Path) -> Result<PathBuf, ImageError> {
        let mut rest: VecDeque<OsString> = components(path);
        let mut place = PathBuf::from("/");
        let mut links = 0;
        while let Some(name) = rest.pop_front() {
            if name == ".." {
                place.pop();
                continue;
            }
            let next = place.join(&name);
            let metadata = fs::symlink_metadata(&next).map_err(FileError::on("read", &next))?;
            if metadata.is_symlink() {
                links += 1;
                if links > LINKS_MAX {
                    let source = io::Error::from(rustix::io::Errno::LOOP);
                    return Err(FileError { action: "follow the links of", path: path.to_owned(), source }.into());
                }
                let target = fs::read_link(&next).map_err(FileError::on("read", &next))?;
                self.link(&next, target.as_os_str())?;
                if target.is_absolute() {
                    place = PathBuf::from("/");
                }
                for component in components(&target).into_iter().rev() {
                    rest.push_front(component);
                }
                continue;
            }
            if metadata.is_dir() {
                self.directory(&next)?;
            } else {
                self.file(&next, &metadata)?;
            }
            place = next;
        }
        Ok(place)
    }

    /// Adds a path if the host has it.
    pub(super) fn add_if_present(&mut self, path: &Path) -> Result<bool, ImageError> {
        if !path.exists() {
            return Ok(false);
        }
        self.add(path).map(|_| true)
    }

    /// A file that the host does not have, or has with other content.
    pub(super) fn write(&mut self, path: &Path, mode: u32, content: &[u8]) -> Result<(), ImageError> {
        self.present.insert(path.to_owned());
        self.import.writer.file(in_image(path), mode, &mut &content[..]).map_err(|e| failed(path, e))?;
        self.report();
        Ok(())
    }

    /// A link that the host does not have; nothing if the image has something at that path.
    pub(super) fn link(&mut self, path: &Path, target: &OsStr) -> Result<(), ImageError> {
        if self.present.insert(path.to_owned()) {
            self.import.writer.symlink(in_image(path), target).map_err(|e| failed(path, e))?;
        }
        Ok(())
    }

    /// An empty directory.
    pub(super) fn directory(&mut self, path: &Path) -> Result<(), ImageError> {
        if self.present.insert(path.to_owned()) {
            self.import.writer.directory(in_image(path)).map_err(|e| failed(path, e))?;
        }
        Ok(())
    }

    /// Says what is being done.
    pub(super) fn step(&mut self, step: Step) {
        (self.import.progress)(Progress { step, done: 0, total: None });
    }

    fn file(&mut self, path: &Path, metadata: &fs::Metadata) -> Result<(), ImageError> {
        if !metadata.is_file() || !self.present.insert(path.to_owned()) {
            return Ok(());
        }
        let mut file = File::open(path).map_err(FileError::on("read", path))?;
        let mode = metadata.permissions().mode();
        self.import.writer.file(in_image(path), mode, &mut file).map_err(|e| failed(path, e))?;
        self.report();
        Ok(())
    }

    fn report(&mut self) {
        let done = self.import.writer.bytes();
        (self.import.progress)(Progress { step: Step::Copy, done, total: None });
    }
}

/// Copies a directory as the root of an image. Device nodes, sockets and pipes are left out: `/dev` is the monitor's.
pub(super) fn copy_directory(source: &Path, import: &mut Import<'_>) -> Result<(), ImageError> {
    let mut pending = vec![PathBuf::new()];
    while let Some(directory) = pending.pop() {
        let path = source.join(&directory);
        let on_error = || FileError::on("list", &path);
        for entry in fs::read_dir(&path).map_err(on_error())? {
            let entry = entry.map_err(on_error())?;
            let (from, to) = (entry.path(), directory.join(entry.file_name()));
            let metadata = fs::symlink_metadata(&from).map_err(FileError::on("read", &from))?;
            let failed = |e| failed(source, e);
            if metadata.is_dir() {
                import.writer.directory(&to).map_err(failed)?;
                pending.push(to);
            } else if metadata.is_symlink() {
                let target = fs::read_link(&from).map_err(FileError::on("read", &from))?;
                import.writer.symlink(&to, target.as_os_str()).map_err(failed)?;
            } else if metadata.is_file() {
                let mut file = File::open(&from).map_err(FileError::on("read", &from))?;
                import.writer.file(&to, metadata.permissions().mode(), &mut file).map_err(failed)?;
                (import.progress)(Progress { step: Step::Copy, done: import.writer.bytes(), total: None });
            }
        }
    }
    Ok(())
}

fn in_image(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

fn failed(path: &Path, source: EntryError) -> ImageError {
    ImageError::Entry { source_name: path.display().to_string(), source }
}

/// Normal components and `..`, in order.
fn components(path: &Path) -> VecDeque<OsString> {
    let kept = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    kept.collect()
}
