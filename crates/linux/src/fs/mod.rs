//! The guest's tree of files: where things are mounted, and how a path becomes a file.
//!
//! - [`host`]: directories of the host, read-only.
//! - [`tmp`]: file systems in guest memory.
//! - [`fixed`]: `/dev`, `/sys` and the like, which never change.
//! - [`devpts`]: `/dev/pts`, the slaves of pseudo-terminals.
//! - [`proc`]: `/proc`, made up when it is looked at.
//!
//! [`walk`] turns a path into a [`Location`], [`open`] a location into an open file.

pub mod change;
pub mod devpts;
pub mod fixed;
pub mod host;
pub mod listing;
pub mod metadata;
pub mod node;
pub mod open;
pub mod overlay;
pub mod pages;
pub mod proc;
pub(crate) mod saved;
pub mod seal;
pub mod tmp;
pub mod walk;
pub mod xattr;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

pub use node::{Location, Node};
pub use open::{ExecutableFile, executable, open_executable};

use crate::errno::Errno;
use crate::file::buffers::Buffers;
use crate::file::inotify::Watches;
use crate::file::lock::Locks;
use crate::frames::{Charge, Frames};
use crate::fs::devpts::Pts;
use crate::fs::fixed::{Builder, Content, Fixed};
use crate::fs::host::HostTrees;
use crate::fs::metadata::{Time, device_number};
use crate::fs::node::FixedPlace;
use crate::fs::proc::Proc;
use crate::fs::proc::processor::Processor;
use crate::fs::tmp::{Owner, TmpFileSystem};
use crate::tty::Terminals;

/// Most files in `/tmp`.
pub const TMP_INODES_MAX: u64 = 65_536;
/// Most files in `/dev/shm`.
pub const SHM_INODES_MAX: u64 = 1024;
/// Most files of `memfd_create` and shared anonymous mappings: more than there can be descriptors.
const SCRATCH_INODES_MAX: u64 = 16_384;

const TMP_DEVICE_MINOR: u32 = 20;
const SHM_DEVICE_MINOR: u32 = 21;
const OVERLAY_DEVICE_MINOR: u32 = 22;
/// Most files that can be made or changed in an overlay of the root.
pub const OVERLAY_INODES_MAX: u64 = 65_536;
const SCRATCH_DEVICE_MINOR: u32 = 1;

/// What the tree consists of.
#[derive(Debug)]
pub struct FileSystemConfig {
    /// Directories of the host and where the guest sees them, for example `/` and `/var/task`. The root may be left out;
    /// places that do not exist below are made.
    pub mounts: Vec<(String, OwnedFd)>,
    /// Whether the root can be changed.
    pub root: RootMode,
    /// Virtual CPUs, as `/sys` shows them.
    pub vcpu_count: u32,
    /// Files with content of ours in place of what is below, for example `/etc/resolv.conf`.
    pub texts: Vec<(String, &'static [u8])>,
    /// The time that files have which exist from the start.
    pub started: Time,
}

/// Whether the tree that is mounted at `/` can be changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RootMode {
    /// It is read-only.
    #[default]
    ReadOnly,
    /// The guest sees its own changes, which are kept in its memory and count against the size of `/tmp`; the host's files
    /// stay as they are.
    Overlay,
}

/// Why a tree could not be put together.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The place in the guest is not an absolute path of plain names.
    #[error("cannot mount at `{path}`: expected an absolute path without `.` or `..`")]
    Path {
        /// The path given.
        path: String,
    },
    /// The host directory cannot be used.
    #[error("cannot show a host directory at `{path}`: {}", errno.name())]
    Host {
        /// Where it was to be shown.
        path: String,
        /// Why not.
        errno: Errno,
    },
}

/// The tree of one guest.
#[derive(Debug)]
pub struct FileSystem {
    hosts: Arc<HostTrees>,
    junctions: Vec<Junction>,
    scratch: Arc<TmpFileSystem>,
    buffers: Buffers,
    locks: Locks,
    watches: Watches,
    terminals: Terminals,
    vcpu_count: u32,
    processor: Processor,
    boot_id: String,
    started: Time,
}

/// A mount point, or a directory on the way to one.
#[derive(Debug)]
struct Junction {
    parent: Option<usize>,
    name: Vec<u8>,
    children: BTreeMap<Vec<u8>, usize>,
    node: Node,
    mount: Option<Mount>,
}

/// A mounted file system, as `/proc/mounts` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mount {
    /// Its type.
    pub kind: &'static str,
    /// Its options.
    pub options: &'static str,
}

const HOST_MOUNT: Mount = Mount { kind: "ext4", options: "ro,nosuid,nodev,relatime" };
const OVERLAY_MOUNT: Mount = Mount { kind: "overlay", options: "rw,nosuid,nodev,relatime" };
const TMP_MOUNT: Mount = Mount { kind: "tmpfs", options: "rw,nosuid,nodev,relatime" };
const DEV_MOUNT: Mount = Mount { kind: "devtmpfs", options: "ro,nosuid,noexec" };
const PTS_MOUNT: Mount = Mount { kind: "devpts", options: "rw,nosuid,noexec,relatime,mode=600,ptmxmode=000" };
const PROC_MOUNT: Mount = Mount { kind: "proc", options: "rw,nosuid,nodev,noexec,relatime" };
const TEXT_MOUNT: Mount = Mount { kind: "tmpfs", options: "ro,nosuid,nodev,relatime" };
const SYS_MOUNT: Mount = Mount { kind: "sysfs", options: "ro,nosuid,nodev,noexec,relatime" };

impl FileSystem {
    /// Puts a tree together.
    pub fn new(config: FileSystemConfig, frames: &Frames) -> Result<Self, MountError> {
        let mut builder = Builder::default();
        let empty = builder.file(Content::Directory(BTreeMap::new()));
        let root = Junction {
            parent: None,
            name: Vec::new(),
            children: BTreeMap::new(),
            node: Node::Fixed(FixedPlace::root(empty.clone())),
            mount: Some(Mount { kind: "rootfs", options: "ro" }),
        };
        let scratch_device = device_number(0, SCRATCH_DEVICE_MINOR);
        let mut tree = Self {
            hosts: Arc::default(),
            junctions: vec![root],
            scratch: TmpFileSystem::new(scratch_device, Charge::Memory, SCRATCH_INODES_MAX, frames),
            buffers: Buffers::default(),
            locks: Locks::default(),
            watches: Watches::default(),
            terminals: Terminals::default(),
            vcpu_count: config.vcpu_count.max(1),
            processor: Processor::of_host(),
            boot_id: proc::system::random_uuid(),
            started: config.started,
        };
        let mut mounts = config.mounts;
        mounts.sort_by_key(|(path, _)| path.matches('/').count() + usize::from(path.len() > 1));
        for (path, fd) in mounts {
            let refused = |errno| MountError::Host { path: path.clone(), errno };
            let host = tree.hosts.root(fd).map_err(refused)?;
            let is_root = path.bytes().all(|byte| byte == b'/');
            if is_root && config.root == RootMode::Overlay {
                let device = device_number(0, OVERLAY_DEVICE_MINOR);
                let trees = tree.hosts.clone();
                let root = TmpFileSystem::over(device, OVERLAY_INODES_MAX, (trees, host), frames).map_err(refused)?;
                root.file_system().set_watches(&tree.watches);
                tree.mount(&path, Node::Tmp(root), OVERLAY_MOUNT, &empty)?;
            } else {
                tree.mount(&path, Node::Host(host), HOST_MOUNT, &empty)?;
            }
        }
        let tmp = tree.new_tmp(TMP_DEVICE_MINOR, Charge::Tmp, TMP_INODES_MAX, frames);
        let shm = tree.new_tmp(SHM_DEVICE_MINOR, Charge::Memory, SHM_INODES_MAX, frames);
        let fixed = |file| Node::Fixed(FixedPlace::root(file));
        tree.mount("/tmp", tmp, TMP_MOUNT, &empty)?;
        tree.mount("/dev", fixed(builder.dev()), DEV_MOUNT, &empty)?;
        tree.mount("/dev/shm", shm, TMP_MOUNT, &empty)?;
        tree.mount("/dev/pts", Node::Pts(Pts::Root), PTS_MOUNT, &empty)?;
        tree.mount("/proc", Node::Proc(Proc::Root), PROC_MOUNT, &empty)?;
        for (path, text) in config.texts {
            let text = builder.file(Content::Text(text.into()));
            tree.mount(&path, fixed(text), TEXT_MOUNT, &empty)?;
        }
        tree.mount("/sys", fixed(builder.sys(config.vcpu_count)), SYS_MOUNT, &empty)?;
        Ok(tree)
    }

    fn new_tmp(&self, device_minor: u32, charge: Charge, inodes_max: u64, frames: &Frames) -> Node {
        let fs = TmpFileSystem::new(device_number(0, device_minor), charge, inodes_max, frames);
        fs.set_watches(&self.watches);
        let owner = Owner { uid: 0, gid: 0, now: self.started };
        Node::Tmp(fs.create_directory(0o1777, owner).expect("an empty file system has room for its root"))
    }

    fn mount(&mut self, path: &str, node: Node, mount: Mount, empty: &Arc<Fixed>) -> Result<(), MountError> {
        let names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
        if !path.starts_with('/') || names.iter().any(|name| *name == "." || *name == "..") {
            return Err(MountError::Path { path: path.to_owned() });
        }
        let mut at = 0;
        for name in names {
            let name = name.as_bytes();
            at = match self.junctions[at].children.get(name) {
                Some(child) => *child,
                None => self.add_junction(at, name, empty),
            };
        }
        self.junctions[at].node = node;
        self.junctions[at].mount = Some(mount);
        Ok(())
    }

    fn add_junction(&mut self, parent: usize, name: &[u8], empty: &Arc<Fixed>) -> usize {
        let below = match &self.junctions[parent].node {
            Node::Host(host) => self.hosts.lookup(host, name).ok().flatten().map(Node::Host),
            Node::Tmp(inode) => inode.lookup(name).ok().flatten().map(Node::Tmp),
            _ => None,
        };
        let node = match below {
            Some(node) if Location::from(node.clone()).is_directory() => node,
            _ => Node::Fixed(FixedPlace::root(empty.clone())),
        };
        let index = self.junctions.len();
        let name = name.to_vec();
        self.junctions[parent].children.insert(name.clone(), index);
        self.junctions.push(Junction { parent: Some(parent), name, children: BTreeMap::new(), node, mount: None });
        index
    }

    /// `/`.
    pub fn root(&self) -> Location {
        self.junction(0)
    }

    fn junction(&self, index: usize) -> Location {
        Location { node: self.junctions[index].node.clone(), junction: Some(index), found_in: None }
    }

    /// The path of a junction, `/` as nothing.
    fn junction_path(&self, index: usize) -> Vec<u8> {
        let junction = &self.junctions[index];
        let Some(parent) = junction.parent else { return Vec::new() };
        let mut path = self.junction_path(parent);
        path.push(b'/');
        path.extend_from_slice(&junction.name);
        path
    }

    /// Every mount and where it is, in the order in which they were made.
    pub fn mounts(&self) -> Vec<(Vec<u8>, Mount)> {
        let shown = |index: usize| {
            let mount = self.junctions[index].mount?;
            let path = self.junction_path(index);
            Some((if path.is_empty() { b"/".to_vec() } else { path }, mount))
        };
        (0..self.junctions.len()).filter_map(shown).collect()
    }

    /// Where the files of `memfd_create` and shared anonymous mappings live.
    pub fn scratch(&self) -> &Arc<TmpFileSystem> {
        &self.scratch
    }

    /// The trees of the host.
    pub fn hosts(&self) -> &HostTrees {
        &self.hosts
    }

    /// The limit on what waits in pipes and sockets.
    pub fn buffers(&self) -> &Buffers {
        &self.buffers
    }

    /// Who watches what.
    pub fn watches(&self) -> &Watches {
        &self.watches
    }

    /// The locks on files.
    pub fn locks(&self) -> &Locks {
        &self.locks
    }

    /// The pseudo-terminals.
    pub fn terminals(&self) -> &Terminals {
        &self.terminals
    }

    /// Virtual CPUs.
    pub fn vcpu_count(&self) -> u32 {
        self.vcpu_count
    }

    /// What they are.
    pub(crate) fn processor(&self) -> &Processor {
        &self.processor
    }

    /// The guest's identity: different for every start.
    pub fn boot_id(&self) -> &str {
        &self.boot_id
    }

    /// When the guest has started.
    pub fn started(&self) -> Time {
        self.started
    }
}
