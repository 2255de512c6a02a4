//! Trees of the host shown to the guest, read-only: a runtime's root file system, a function's code.
//!
//! Every name is looked up on its own, relative to a descriptor of its directory and never through a symbolic link, so
//! nothing that the guest asks for and nothing that the host renames meanwhile leads out of the tree. Devices, FIFOs and
//! sockets of the host do not exist for the guest, nor do the host's own kernel file systems.

pub(crate) mod saved;

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use calypte_platform::{FramePart, Memory};
use parking_lot::Mutex;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};

use crate::errno::Errno;
use crate::fs::listing::{ENTRIES_MAX, Entry};
use crate::fs::metadata::{Metadata, Time, device_number};

/// Most directories of the host that stay open only because they were used before.
const DIRECTORIES_CACHED_MAX: usize = 256;
/// Most files of the host that stay open only because they were read before.
const FILES_CACHED_MAX: usize = 64;
/// Most different host file systems told apart in one guest.
const DEVICES_MAX: usize = 4096;
/// The minor number of the first host file system; our own come before.
const DEVICE_MINOR_FIRST: u32 = 64;

/// File systems whose files are not data: `statfs(2)` and `linux/magic.h`.
const KERNEL_FILE_SYSTEMS: [u64; 14] = [
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x1cd1,      // devpts
    0x0027_e0eb, // cgroup
    0x6367_7270, // cgroup2
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x7363_6673, // securityfs
    0xcafe_4a11, // bpf
    0x6265_6570, // configfs
    0x1980_0202, // mqueue
    0x4249_4e4d, // binfmt_misc
    0xf97c_ff8c, // selinux
    0xde5e_81e4, // efivarfs
];

/// A file, directory or symbolic link of the host.
#[derive(Debug)]
pub struct HostEntry {
    /// The directory it was found in; `None` for the root of a tree.
    parent: Option<Arc<HostEntry>>,
    name: Vec<u8>,
    metadata: Metadata,
    /// Directories are held open (`O_PATH`).
    directory: Option<Directory>,
}

#[derive(Debug)]
struct Directory {
    id: u64,
    fd: OwnedFd,
}

/// Directories by the number of the one they are in, and their name.
type DirectoryCache = HashMap<(u64, Vec<u8>), Arc<HostEntry>>;

/// What all host trees of one guest share.
#[derive(Debug, Default)]
pub struct HostTrees {
    last_directory: AtomicU64,
    directories: Mutex<DirectoryCache>,
    devices: Mutex<Vec<u64>>,
    /// Files that are open because they were read by name lately, by device and number.
    files: Mutex<HashMap<(u64, u64), Arc<HostFile>>>,
}

impl HostTrees {
    /// The root of a tree, from a descriptor of its directory.
    pub fn root(&self, fd: OwnedFd) -> Result<Arc<HostEntry>, Errno> {
        let stat = rustix::fs::fstat(&fd)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        Ok(Arc::new(HostEntry {
            parent: None,
            name: Vec::new(),
            metadata: self.metadata(&stat)?,
            directory: Some(Directory { id: self.new_id(), fd }),
        }))
    }

    /// A regular file, opened or still open.
    pub fn file(&self, entry: &Arc<HostEntry>) -> Result<Arc<HostFile>, Errno> {
        let key = (entry.metadata.device, entry.metadata.inode);
        let mut files = self.files.lock();
        if let Some(file) = files.get(&key) {
            return Ok(file.clone());
        }
        let file = Arc::new(entry.open()?);
        if files.len() >= FILES_CACHED_MAX {
            files.clear();
        }
        files.insert(key, file.clone());
        Ok(file)
    }

    /// A number for a file that is unique among all host file systems of the guest.
    pub fn unique_number(&self, metadata: &Metadata) -> u64 {
        let device = u64::from(libc::minor(metadata.device)) - u64::from(DEVICE_MINOR_FIRST);
        metadata.inode ^ device << 48
    }

    fn new_id(&self) -> u64 {
        self.last_directory.fetch_add(1, Ordering::Relaxed)
    }

    /// Looks a name up in a directory.
    pub fn lookup(&self, parent: &Arc<HostEntry>, name: &[u8]) -> Result<Option<Arc<HostEntry>>, Errno> {
        let Some(directory) = &parent.directory else { return Err(Errno::ENOTDIR) };
        let key = (directory.id, name.to_vec());
        if let Some(known) = self.directories.lock().get(&key) {
            return Ok(Some(known.clone()));
        }
        let stat = match rustix::fs::statat(&directory.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let entry = self.open_directory(parent, &directory.fd, name)?;
                if let Some(entry) = &entry {
                    let mut directories = self.directories.lock();
                    if directories.len() >= DIRECTORIES_CACHED_MAX {
                        directories.clear();
                    }
                    directories.insert(key, entry.clone());
                }
                Ok(entry)
            }
            FileType::RegularFile | FileType::Symlink => Ok(Some(Arc::new(HostEntry {
                parent: Some(parent.clone()),
                name: name.to_vec(),
                metadata: self.metadata(&stat)?,
                directory: None,
            }))),
            _ => Ok(None),
        }
    }

    fn open_directory(
        &self,
        parent: &Arc<HostEntry>,
        parent_fd: &OwnedFd,
        name: &[u8],
    ) -> Result<Option<Arc<HostEntry>>, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = open_at(parent_fd, name, flags)?;
        let stat = rustix::fs::fstat(&fd)?;
        let metadata = self.metadata(&stat)?;
        if metadata.device != parent.metadata.device && is_kernel_file_system(&fd)? {
            return Ok(None);
        }
        Ok(Some(Arc::new(HostEntry {
            parent: Some(parent.clone()),
            name: name.to_vec(),
            metadata,
            directory: Some(Directory { id: self.new_id(), fd }),
        })))
    }

    /// The host's metadata with device numbers of the guest's own, so that nothing is learnt from them.
    pub fn metadata(&self, stat: &Stat) -> Result<Metadata, Errno> {
        let time = |seconds: i64, nanoseconds: u64| Time { seconds, nanoseconds: nanoseconds as u32 };
        Ok(Metadata {
            device: self.device(stat.st_dev)?,
            inode: stat.st_ino,
            mode: stat.st_mode,
            links: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
            uid: stat.st_uid,
            gid: stat.st_gid,
            special_device: 0,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            blocks: u64::try_from(stat.st_blocks).unwrap_or(0),
            accessed: time(stat.st_atime, stat.st_atime_nsec),
            modified: time(stat.st_mtime, stat.st_mtime_nsec),
            changed: time(stat.st_ctime, stat.st_ctime_nsec),
        })
    }

    fn device(&self, host: u64) -> Result<u64, Errno> {
        let mut devices = self.devices.lock();
        let index = devices.iter().position(|known| *known == host).unwrap_or(devices.len());
        if index == devices.len() {
            if index >= DEVICES_MAX {
                return Err(Errno::EIO);
            }
            devices.push(host);
        }
        Ok(device_number(0, DEVICE_MINOR_FIRST + index as u32))
    }
}

/// Opens a name in a directory. That the monitor has no descriptors left is the system's limit to the guest.
fn open_at(directory: &OwnedFd, name: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(directory, name, flags, Mode::empty()).map_err(|error| match error {
        rustix::io::Errno::MFILE => Errno::ENFILE,
        error => error.into(),
    })
}

fn is_kernel_file_system(fd: &OwnedFd) -> Result<bool, Errno> {
    let kind = rustix::fs::fstatfs(fd)?.f_type as u64;
    Ok(KERNEL_FILE_SYSTEMS.contains(&(kind & 0xffff_ffff)))
}

impl HostEntry {
    /// The directory it was found in; `None` for the root of a tree.
    pub fn parent(&self) -> Option<&Arc<HostEntry>> {
        self.parent.as_ref()
    }

    /// Its name there.
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// As at the look-up; directories are asked again.
    pub fn metadata(&self, trees: &HostTrees) -> Result<Metadata, Errno> {
        match &self.directory {
            Some(directory) => trees.metadata(&rustix::fs::fstat(&directory.fd)?),
            None => Ok(self.metadata),
        }
    }

    /// Type and permissions as at the look-up.
    pub fn known_metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn parent_fd(&self) -> Result<&OwnedFd, Errno> {
        let parent = self.parent.as_ref().ok_or(Errno::EISDIR)?;
        Ok(&parent.directory.as_ref().ok_or(Errno::ENOTDIR)?.fd)
    }

    /// The target of a symbolic link.
    pub fn read_link(&self) -> Result<Vec<u8>, Errno> {
        Ok(rustix::fs::readlinkat(self.parent_fd()?, &*self.name, Vec::new())?.into_bytes())
    }

    /// Opens a regular file for reading.
    pub fn open(self: &Arc<Self>) -> Result<HostFile, Errno> {
        if self.metadata.kind() != libc::S_IFREG {
            return Err(Errno::ENXIO);
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let fd = open_at(self.parent_fd()?, &self.name, flags)?;
        let stat = rustix::fs::fstat(&fd)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Errno::ENXIO);
        }
        Ok(HostFile { entry: self.clone(), fd, device: self.metadata.device, inode: self.metadata.inode })
    }

    /// Everything in a directory, `.` and `..` left out.
    pub fn list(&self) -> Result<Vec<Entry>, Errno> {
        let directory = self.directory.as_ref().ok_or(Errno::ENOTDIR)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = open_at(&directory.fd, b".", flags)?;
        let mut entries = Vec::new();
        for entry in rustix::fs::Dir::new(fd)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            let kind = match entry.file_type() {
                FileType::RegularFile => libc::DT_REG,
                FileType::Directory => libc::DT_DIR,
                FileType::Symlink => libc::DT_LNK,
                FileType::Unknown => libc::DT_UNKNOWN,
                _ => continue,
            };
            if name == b"." || name == b".." {
                continue;
            }
            if entries.len() >= ENTRIES_MAX {
                return Err(Errno::EOVERFLOW);
            }
            entries.push(Entry { inode: entry.ino(), kind, name: name.to_vec() });
        }
        Ok(entries)
    }

    /// The size and use of the host's file system.
    pub fn statfs(&self) -> Result<rustix::fs::StatFs, Errno> {
        match &self.directory {
            Some(directory) => Ok(rustix::fs::fstatfs(&directory.fd)?),
            None => Ok(rustix::fs::fstatfs(self.parent_fd()?)?),
        }
    }
}

/// An open regular file of the host.
#[derive(Debug)]
pub struct HostFile {
    /// What it was opened as: where it is found again when the guest is restored.
    entry: Arc<HostEntry>,
    fd: OwnedFd,
    device: u64,
    inode: u64,
}

impl HostFile {
    /// Reads at an offset; short only at the end of the file.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
        let mut done = 0;
        while done < buffer.len() {
            match rustix::io::pread(&self.fd, &mut buffer[done..], offset.saturating_add(done as u64)) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(done)
    }

    /// Reads straight into frames; short at the end of the file, or where the host's `pread` is.
    pub fn read_into(&self, memory: &dyn Memory, offset: u64, parts: &[FramePart]) -> Result<usize, Errno> {
        loop {
            match memory.read_file(self.fd.as_fd(), offset, parts) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Ok(count) => return Ok(count),
                Err(error) => {
                    return Err(error.raw_os_error().map_or(Errno::EIO, |errno| Errno(errno.unsigned_abs() as u16)));
                }
            }
        }
    }

    /// Its present metadata.
    pub fn metadata(&self, trees: &HostTrees) -> Result<Metadata, Errno> {
        trees.metadata(&rustix::fs::fstat(self.fd.as_fd())?)
    }

    /// Device and file number.
    pub fn device_and_inode(&self) -> (u64, u64) {
        (self.device, self.inode)
    }

    /// Its present length in bytes.
    pub fn size(&self) -> Result<u64, Errno> {
        Ok(u64::try_from(rustix::fs::fstat(self.fd.as_fd())?.st_size).unwrap_or(0))
    }
}
