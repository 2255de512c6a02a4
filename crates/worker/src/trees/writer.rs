//! Writing untrusted entries into a tree: whatever paths, links, sizes and modes an archive claims, nothing outside the
//! tree's root is touched and the named limits hold.
//!
//! Every lookup runs with `openat2(RESOLVE_IN_ROOT)`: the kernel treats the root as `/`, as it will be for the guest,
//! so symbolic links written by earlier entries cannot lead out. The last component is never followed.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Bytes copied at a time.
const COPY_BYTES: usize = 64 * 1024;
/// Longest path of an entry, in bytes: Linux's `PATH_MAX`.
const PATH_BYTES_MAX: usize = 4096;
/// Deepest nesting of an entry: bounds the work that one path causes.
const DEPTH_MAX: usize = 256;

/// How much a tree may hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TreeLimits {
    /// Sum of the sizes of its files.
    pub(crate) bytes_max: u64,
    /// Files, directories and links.
    pub(crate) entries_max: u64,
}

/// Why an entry cannot be part of a tree.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    /// The path is not a plain relative one.
    #[error("{path:?} {problem}")]
    Path {
        /// As the archive has it.
        path: String,
        /// Completes the sentence.
        problem: &'static str,
    },
    /// Too many bytes.
    #[error("the files add up to more than {} MiB", bytes_max / (1024 * 1024))]
    TooLarge {
        /// The limit.
        bytes_max: u64,
    },
    /// Too many entries.
    #[error("there are more than {entries_max} files, directories and links")]
    TooMany {
        /// The limit.
        entries_max: u64,
    },
    /// The archive's own data could not be read.
    #[error("the data of {path:?} is damaged")]
    Data {
        /// The entry.
        path: String,
        /// What the decoder said.
        #[source]
        source: io::Error,
    },
    /// The tree could not be written.
    #[error("cannot write {path:?}")]
    Write {
        /// The entry.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Checks that a path is relative, has no `..`, no NUL and a sane length; returns its components joined by `/`.
pub(crate) fn checked_path(path: &Path) -> Result<PathBuf, EntryError> {
    let bytes = path.as_os_str().as_bytes();
    let refuse = |problem| Err(EntryError::Path { path: path.display().to_string(), problem });
    if bytes.len() >= PATH_BYTES_MAX {
        return refuse("has a path longer than 4095 bytes");
    }
    if bytes.contains(&0) {
        return refuse("has a NUL byte in its path");
    }
    if bytes.first() == Some(&b'/') {
        return refuse("has an absolute path; paths must be relative to the root of the archive");
    }
    let mut checked = PathBuf::new();
    for (depth, component) in bytes.split(|&b| b == b'/').filter(|c| !matches!(*c, b"" | b".")).enumerate() {
        if component == b".." {
            return refuse("has a path that leads out of the archive with '..'");
        }
        if component.len() > 255 {
            return refuse("has a path with a name longer than 255 bytes");
        }
        if depth >= DEPTH_MAX {
            return refuse("is nested deeper than 256 directories");
        }
        checked.push(OsStr::from_bytes(component));
    }
    Ok(checked)
}

/// Writes entries below one directory. Paths are relative to it; parents are created as needed.
#[derive(Debug)]
pub(crate) struct TreeWriter {
    root: OwnedFd,
    limits: TreeLimits,
    bytes: u64,
    entries: u64,
}

impl TreeWriter {
    /// A writer into an existing directory.
    pub(crate) fn new(root: &Path, limits: TreeLimits) -> Result<Self, EntryError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, root, flags, Mode::empty()).map_err(|e| write_error(root, e))?;
        Ok(Self { root, limits, bytes: 0, entries: 0 })
    }

    /// Bytes written to files so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A directory, which may exist; replaces anything else, as container layers want it. Its permissions are always 0755, so that every guest user and the host's own
    /// clean-up can use it.
    pub(crate) fn directory(&mut self, path: &Path) -> Result<(), EntryError> {
        let path = checked_path(path)?;
        self.count_entry()?;
        let make = || -> io::Result<()> {
            if let Some(name) = path.file_name() {
                let parent = self.open_directory(path.parent().unwrap_or(Path::new("")))?;
                match rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(there) if FileType::from_raw_mode(there.st_mode).is_dir() => {}
                    _ => remove_at(&parent, name)?,
                }
            }
            self.open_directory(&path)?;
            Ok(())
        };
        make().map_err(|e| write_error(&path, e))
    }

    /// A file; replaces what is there. Readable for everybody, and executable for everybody where `mode` has an execute bit.
    /// Returns its length.
    pub(crate) fn file(&mut self, path: &Path, mode: u32, data: &mut dyn Read) -> Result<u64, EntryError> {
        let path = checked_path(path)?;
        self.count_entry()?;
        let (parent, name) = self.place(&path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let on_error = |source: io::Error| write_error(&path, source);
        let file =
            rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o600)).map_err(|e| on_error(e.into()))?;
        let mut file = File::from(file);
        let length = self.copy(&path, data, &mut file)?;
        let permissions = if mode & 0o111 == 0 { 0o644 } else { 0o755 };
        rustix::fs::fchmod(&file, Mode::from_raw_mode(permissions)).map_err(|e| on_error(e.into()))?;
        Ok(length)
    }

    /// A symbolic link with any target: only the guest follows it. Replaces what is there.
    pub(crate) fn symlink(&mut self, path: &Path, target: &OsStr) -> Result<(), EntryError> {
        let path = checked_path(path)?;
        if target.is_empty() || target.len() >= PATH_BYTES_MAX || target.as_bytes().contains(&0) {
            let problem = "is a symbolic link with an empty, overlong or impossible target";
            return Err(EntryError::Path { path: path.display().to_string(), problem });
        }
        self.count_entry()?;
        let (parent, name) = self.place(&path)?;
        rustix::fs::symlinkat(target, &parent, name).map_err(|e| write_error(&path, e))
    }

    /// Another name of a file that was written before. Replaces what is there.
    pub(crate) fn hard_link(&mut self, path: &Path, existing: &Path) -> Result<(), EntryError> {
        let (path, existing) = (checked_path(path)?, checked_path(existing)?);
        self.count_entry()?;
        let source = self.open_parent(&existing).map_err(|e| write_error(&existing, e))?;
        let source_name = existing.file_name().unwrap_or_default();
        if path == existing {
            return Ok(());
        }
        let (parent, name) = self.place(&path)?;
        rustix::fs::linkat(&source, source_name, &parent, name, AtFlags::empty()).map_err(|e| write_error(&path, e))
    }

    /// Removes what an earlier layer put at a path, if anything.
    pub(crate) fn remove(&mut self, path: &Path) -> Result<(), EntryError> {
        let path = checked_path(path)?;
        match self.open_parent(&path) {
            Ok(parent) => remove_at(&parent, path.file_name().unwrap_or_default()).map_err(|e| write_error(&path, e)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
            Err(error) => Err(write_error(&path, error)),
        }
    }

    /// Empties a directory that earlier layers filled.
    pub(crate) fn clear(&mut self, path: &Path) -> Result<(), EntryError> {
        let path = checked_path(path)?;
        let clear = || -> io::Result<()> {
            let directory = self.open_directory(&path)?;
            remove_children(&directory)
        };
        clear().map_err(|e| write_error(&path, e))
    }

    /// Whether a symbolic link in the tree leads out of it when followed from within. Links to nowhere do not.
    pub(crate) fn leads_out(&self, path: &Path) -> bool {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let opened = rustix::fs::openat2(&self.root, path, flags, Mode::empty(), ResolveFlags::BENEATH);
        matches!(opened, Err(Errno::XDEV | Errno::LOOP))
    }

    fn count_entry(&mut self) -> Result<(), EntryError> {
        self.entries += 1;
        if self.entries > self.limits.entries_max {
            return Err(EntryError::TooMany { entries_max: self.limits.entries_max });
        }
        Ok(())
    }

    /// Counts the bytes that come out, whatever the archive declared.
    fn copy(&mut self, path: &Path, data: &mut dyn Read, file: &mut File) -> Result<u64, EntryError> {
        let mut buffer = vec![0; COPY_BYTES];
        let mut length = 0;
        loop {
            let count = match data.read(&mut buffer) {
                Ok(0) => return Ok(length),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(EntryError::Data { path: path.display().to_string(), source }),
            };
            self.bytes += count as u64;
            if self.bytes > self.limits.bytes_max {
                return Err(EntryError::TooLarge { bytes_max: self.limits.bytes_max });
            }
            file.write_all(&buffer[..count]).map_err(|e| write_error(path, e))?;
            length += count as u64;
        }
    }

    /// The directory for a new entry and its name there, with whatever had that name removed.
    fn place<'p>(&self, path: &'p Path) -> Result<(OwnedFd, &'p OsStr), EntryError> {
        let Some(name) = path.file_name() else {
            return Err(EntryError::Path { path: path.display().to_string(), problem: "names the root itself" });
        };
        let parent = path.parent().unwrap_or(Path::new(""));
        let parent = self.open_directory(parent).map_err(|e| write_error(path, e))?;
        remove_at(&parent, name).map_err(|e| write_error(path, e))?;
        Ok((parent, name))
    }

    fn open_parent(&self, path: &Path) -> Result<OwnedFd, Errno> {
        self.open_in_root(path.parent().unwrap_or(Path::new("")))
    }

    fn open_in_root(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat2(&self.root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT)
    }

    /// Opens a directory, making what is missing of it. A file in the way is an error.
    fn open_directory(&self, path: &Path) -> Result<OwnedFd, Errno> {
        match self.open_in_root(path) {
            Err(Errno::NOENT) => {}
            done => return done,
        }
        let parent = self.open_directory(path.parent().unwrap_or(Path::new("")))?;
        // Fails on a dangling link: Linux would not make its target either.
        rustix::fs::mkdirat(&parent, path.file_name().unwrap_or_default(), Mode::from_raw_mode(0o755))?;
        let directory = self.open_in_root(path)?;
        rustix::fs::fchmod(&directory, Mode::from_raw_mode(0o755))?;
        Ok(directory)
    }
}

fn write_error(path: &Path, source: impl Into<io::Error>) -> EntryError {
    EntryError::Write { path: path.display().to_string(), source: source.into() }
}

/// Removes a file or a whole directory; nothing there is fine.
fn remove_at(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    remove_children(&rustix::fs::openat(parent, name, flags, Mode::empty())?)?;
    Ok(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}

/// Recursion is bounded by `DEPTH_MAX`, the depth of the deepest entry.
fn remove_children(directory: &OwnedFd) -> io::Result<()> {
    for entry in rustix::fs::Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            remove_at(directory, OsStr::from_bytes(name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const LIMITS: TreeLimits = TreeLimits { bytes_max: 1000, entries_max: 20 };

    fn writer() -> (tempfile::TempDir, TreeWriter) {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("root")).unwrap();
        let writer = TreeWriter::new(&directory.path().join("root"), LIMITS).unwrap();
        (directory, writer)
    }

    fn write(writer: &mut TreeWriter, path: &str, text: &str) -> Result<u64, EntryError> {
        writer.file(Path::new(path), 0o600, &mut text.as_bytes())
    }

    #[test]
    fn paths_that_lead_out_are_refused() {
        for (path, expected) in [
            ("../x", "leads out"),
            ("a/../../x", "leads out"),
            ("a/..", "leads out"),
            ("/etc/passwd", "has an absolute"),
            ("a\0b", "NUL"),
            (&"x/".repeat(300), "nested deeper"),
            (&"x".repeat(256), "name longer"),
            (&"x/".repeat(2100), "longer than 4095"),
        ] {
            let error = checked_path(Path::new(path)).unwrap_err().to_string();
            assert!(error.contains(expected), "{path:.20}: {error}");
        }
        assert_eq!(checked_path(Path::new("./a//b/./c/")).unwrap(), Path::new("a/b/c"));
    }

    #[test]
    fn links_written_earlier_stay_inside() {
        let (directory, mut writer) = writer();
        let outside = directory.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        writer.symlink(Path::new("absolute"), outside.as_os_str()).unwrap();
        writer.symlink(Path::new("up"), OsStr::new("../../outside")).unwrap();
        writer.symlink(Path::new("file"), OsStr::new("../outside/file")).unwrap();
        // In the guest the root's parent is the root, so the second one is `/outside`, which is not there.
        assert!(write(&mut writer, "absolute/x", "x").is_err());
        assert!(write(&mut writer, "up/x", "x").is_err());
        write(&mut writer, "file", "replaces the link").unwrap();
        writer.directory(Path::new("outside")).unwrap();
        write(&mut writer, "up/y", "in the tree").unwrap();
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
        let root = directory.path().join("root");
        assert_eq!(std::fs::read_to_string(root.join("outside/y")).unwrap(), "in the tree");
        assert!(root.join("file").symlink_metadata().unwrap().is_file());
    }

    #[test]
    fn modes_are_what_every_guest_user_needs() {
        let (directory, mut writer) = writer();
        writer.file(Path::new("d/plain"), 0o4200, &mut &b""[..]).unwrap();
        writer.file(Path::new("d/program"), 0o6700, &mut &b""[..]).unwrap();
        let mode =
            |path: &str| directory.path().join("root").join(path).metadata().unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode("d"), mode("d/plain"), mode("d/program")), (0o755, 0o644, 0o755));
    }

    #[test]
    fn limits_count_what_is_written() {
        let (_directory, mut writer) = writer();
        let error = write(&mut writer, "big", &"x".repeat(1001)).unwrap_err();
        assert!(matches!(error, EntryError::TooLarge { bytes_max: 1000 }), "{error}");
        for _ in 0..19 {
            writer.directory(Path::new("same")).unwrap();
        }
        assert!(matches!(writer.directory(Path::new("same")), Err(EntryError::TooMany { entries_max: 20 })));
    }

    #[test]
    fn entries_replace_remove_and_clear_earlier_ones() {
        let (directory, mut writer) = writer();
        let root = directory.path().join("root");
        write(&mut writer, "a/b/c", "1").unwrap();
        write(&mut writer, "a/b", "a file instead of a directory").unwrap();
        assert!(root.join("a/b").is_file());
        writer.hard_link(Path::new("h"), Path::new("a/b")).unwrap();
        writer.remove(Path::new("a")).unwrap();
        writer.remove(Path::new("never/was")).unwrap();
        assert!(!root.join("a").exists() && root.join("h").is_file());
        writer.directory(Path::new("d/e/f")).unwrap();
        writer.clear(Path::new("d")).unwrap();
        assert_eq!(std::fs::read_dir(root.join("d")).unwrap().count(), 0);
    }

    #[test]
    fn links_that_leave_are_recognised_even_through_other_links() {
        let (_directory, mut writer) = writer();
        writer.directory(Path::new("deep/deep")).unwrap();
        writer.symlink(Path::new("deep/deep/top"), OsStr::new("../..")).unwrap();
        writer.symlink(Path::new("out"), OsStr::new("deep/deep/top/../x")).unwrap();
        writer.symlink(Path::new("loop"), OsStr::new("loop")).unwrap();
        writer.symlink(Path::new("nowhere"), OsStr::new("absent")).unwrap();
        let leads_out = |path: &str| writer.leads_out(Path::new(path));
        assert!(!leads_out("deep/deep/top"));
        assert!(leads_out("out") && leads_out("loop"));
        assert!(!leads_out("nowhere"));
    }
}
