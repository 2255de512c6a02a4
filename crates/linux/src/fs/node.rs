//! A place in the tree, whatever file system it is on.

pub(crate) mod saved;

use std::sync::Arc;

use crate::call::PATH_BYTES_MAX;
use crate::errno::Errno;
use crate::file::OpenFile;
use crate::file::inotify::{FoundIn, Watches};
use crate::file::lock::FileKey;
use crate::fs::FileSystem;
use crate::fs::devpts::Pts;
use crate::fs::fixed::{Content, Fixed};
use crate::fs::host::HostEntry;
use crate::fs::listing::{Entry, entry_kind};
use crate::fs::metadata::Metadata;
use crate::fs::proc::Proc;
use crate::fs::tmp::{self, TmpInode};
use crate::kernel::Kernel;
use crate::process::Pid;

/// A file of some file system.
#[derive(Debug, Clone)]
pub enum Node {
    /// Of the host.
    Host(Arc<HostEntry>),
    /// In guest memory.
    Tmp(Arc<TmpInode>),
    /// Unchanging.
    Fixed(Arc<FixedPlace>),
    /// Of `/proc`.
    Proc(Proc),
    /// Of `/dev/pts`.
    Pts(Pts),
    /// What an entry of `/proc/self/fd` leads to.
    Open(Arc<OpenFile>),
}

/// A fixed file and the way to it.
#[derive(Debug)]
pub struct FixedPlace {
    /// The file.
    pub file: Arc<Fixed>,
    parent: Option<(Arc<FixedPlace>, Vec<u8>)>,
}

impl FixedPlace {
    /// The root of a tree.
    pub fn root(file: Arc<Fixed>) -> Arc<Self> {
        Arc::new(Self { file, parent: None })
    }
}

/// A place in the tree: a file, and whether mounts are at or below it.
#[derive(Debug, Clone)]
pub struct Location {
    /// The file there.
    pub node: Node,
    /// The junction of mounts that it is.
    pub(super) junction: Option<usize>,
    /// Its name, if it was found by one: whoever watches the directory is told of what happens to the file.
    pub(super) found_in: Option<FoundIn>,
}

/// Where a symbolic link leads.
#[derive(Debug)]
pub enum Target {
    /// To a path.
    Path(Vec<u8>),
    /// To a file, whatever its name is now: the links of `/proc`.
    Jump(Location),
}

impl From<Node> for Location {
    fn from(node: Node) -> Self {
        Location { node, junction: None, found_in: None }
    }
}

impl Location {
    /// What `stat(2)` tells.
    pub fn metadata(&self, kernel: &Kernel) -> Result<Metadata, Errno> {
        match &self.node {
            Node::Host(entry) => entry.metadata(kernel.files.hosts()),
            Node::Tmp(inode) => Ok(inode.metadata()),
            Node::Fixed(place) => Ok(place.file.metadata(kernel.files.started())),
            Node::Proc(entry) => entry.metadata(kernel),
            Node::Pts(entry) => entry.metadata(kernel.files.terminals(), kernel.files.started()),
            Node::Open(file) => file.metadata(kernel),
        }
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        match &self.node {
            Node::Host(entry) => entry.known_metadata().is_directory(),
            Node::Tmp(inode) => inode.is_directory(),
            Node::Fixed(place) => matches!(place.file.content(), Content::Directory(_)),
            Node::Proc(entry) => entry.is_directory(),
            Node::Pts(entry) => *entry == Pts::Root,
            Node::Open(_) => false,
        }
    }

    /// Looks a name up. `None`: there is no such file.
    pub fn lookup(&self, kernel: &Kernel, pid: Pid, name: &[u8]) -> Result<Option<Location>, Errno> {
        let files = &kernel.files;
        if let Some(junction) = self.junction
            && let Some(child) = files.junctions[junction].children.get(name)
        {
            return Ok(Some(files.junction(*child)));
        }
        let node = match &self.node {
            Node::Host(entry) => files.hosts.lookup(entry, name)?.map(Node::Host),
            Node::Tmp(inode) => inode.lookup(name)?.map(Node::Tmp),
            Node::Fixed(place) => place.file.child(name).map(|file| {
                let parent = Some((place.clone(), name.to_vec()));
                Node::Fixed(Arc::new(FixedPlace { file: file.clone(), parent }))
            }),
            Node::Proc(entry) => entry.lookup(kernel, pid, name)?.map(Node::Proc),
            Node::Pts(entry) => entry.lookup(files.terminals(), name).map(Node::Pts),
            Node::Open(_) => return Err(Errno::ENOTDIR),
        };
        Ok(node.map(Location::from))
    }

    /// The directory that this directory is in, and its name there; `None` at the root.
    fn parent_and_name(&self, files: &FileSystem) -> Option<(Location, Vec<u8>)> {
        if let Some(index) = self.junction {
            let junction = &files.junctions[index];
            return Some((files.junction(junction.parent?), junction.name.clone()));
        }
        let (node, name) = match &self.node {
            Node::Host(entry) => (Node::Host(entry.parent()?.clone()), entry.name().to_vec()),
            Node::Tmp(inode) => {
                let (parent, name) = inode.parent()?;
                (Node::Tmp(parent), name)
            }
            Node::Fixed(place) => {
                let (parent, name) = place.parent.as_ref()?;
                (Node::Fixed(parent.clone()), name.clone())
            }
            Node::Proc(entry) => {
                let (parent, name) = entry.parent()?;
                (Node::Proc(parent), name)
            }
            Node::Pts(entry) => {
                let (parent, name) = entry.parent()?;
                (Node::Pts(parent), name)
            }
            Node::Open(_) => return None,
        };
        let junction = files.junctions.iter().position(|junction| junction.node.is_same(&node));
        Some((Location { node, junction, found_in: None }, name))
    }

    /// `..`: the root is its own parent, and so is a directory that was removed.
    pub fn parent(&self, files: &FileSystem) -> Location {
        self.parent_and_name(files).map_or_else(|| self.clone(), |(parent, _)| parent)
    }

    /// The absolute path; `None` for a directory that was removed. Of a path that is longer than [`PATH_BYTES_MAX`], which
    /// directories can be nested to one by one, only that much of the end: open files keep it.
    pub fn path(&self, files: &FileSystem) -> Option<Vec<u8>> {
        let mut names = Vec::new();
        let mut length = 0;
        let mut at = self.clone();
        while at.junction != Some(0) && length < PATH_BYTES_MAX {
            let (parent, name) = at.parent_and_name(files)?;
            length += name.len() + 1;
            names.push(name);
            at = parent;
        }
        if names.is_empty() {
            return Some(b"/".to_vec());
        }
        let mut path = Vec::new();
        for name in names.iter().rev() {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        Some(path)
    }

    /// The path of a file in this directory.
    pub fn path_of(&self, files: &FileSystem, name: &[u8]) -> Vec<u8> {
        let mut path = self.path(files).unwrap_or_default();
        if path.last() != Some(&b'/') {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        path
    }

    /// Where a symbolic link leads; `None` if it is none.
    pub fn link_target(&self, kernel: &Kernel, pid: Pid) -> Result<Option<Target>, Errno> {
        match &self.node {
            Node::Host(entry) if entry.known_metadata().is_link() => Ok(Some(Target::Path(entry.read_link()?))),
            Node::Tmp(inode) => match &inode.state().content {
                tmp::Content::Link(target) => Ok(Some(Target::Path(target.clone()))),
                _ => Ok(None),
            },
            Node::Fixed(place) => match place.file.content() {
                Content::Link(target) => Ok(Some(Target::Path(target.clone()))),
                _ => Ok(None),
            },
            Node::Proc(entry) => entry.link_target(kernel, pid),
            Node::Host(_) | Node::Pts(_) | Node::Open(_) => Ok(None),
        }
    }

    /// The names in a directory, `.` and `..` first.
    pub fn list(&self, kernel: &Kernel, pid: Pid) -> Result<Vec<Entry>, Errno> {
        let mut entries = match &self.node {
            Node::Host(entry) => entry.list()?,
            Node::Tmp(inode) => inode.list()?,
            Node::Fixed(place) => place.file.list(),
            Node::Proc(entry) => entry.list(kernel, pid)?,
            Node::Pts(_) => Pts::list(kernel.files.terminals()),
            Node::Open(_) => return Err(Errno::ENOTDIR),
        };
        if let Some(index) = self.junction {
            for (name, child) in &kernel.files.junctions[index].children {
                if !entries.iter().any(|entry| entry.name == *name) {
                    let inode = kernel.files.junction(*child).metadata(kernel)?.inode;
                    entries.push(Entry { inode, kind: entry_kind(libc::S_IFDIR), name: name.clone() });
                }
            }
        }
        let own = self.metadata(kernel)?.inode;
        let above = self.parent(&kernel.files).metadata(kernel)?.inode;
        let dot = |name: &[u8], inode| Entry { inode, kind: libc::DT_DIR, name: name.to_vec() };
        entries.splice(0..0, [dot(b".", own), dot(b"..", above)]);
        Ok(entries)
    }

    /// The place itself, where this one is only a way to it through `/proc/self/fd`. What a file keeps must not grow with
    /// every such way.
    pub(super) fn settled(&self) -> Location {
        match &self.node {
            Node::Open(file) => file.location.clone().unwrap_or_else(|| self.clone()),
            _ => self.clone(),
        }
    }

    /// Whether something is mounted here, or further down.
    pub fn is_junction(&self) -> bool {
        self.junction.is_some()
    }

    /// The nearest mount at or above.
    fn mount(&self, files: &FileSystem) -> usize {
        let mut at = self.clone();
        loop {
            if let Some(index) = at.junction
                && files.junctions[index].mount.is_some()
            {
                return index;
            }
            match at.parent_and_name(files) {
                Some((parent, _)) => at = parent,
                None => return 0,
            }
        }
    }

    /// Whether something is mounted here.
    pub fn is_mount(&self, files: &FileSystem) -> bool {
        self.junction.is_some_and(|index| files.junctions[index].mount.is_some())
    }

    /// Whether no mount is between two directories.
    pub fn is_same_mount(&self, other: &Location, files: &FileSystem) -> bool {
        self.mount(files) == other.mount(files)
    }

    /// Device and number, of what can be watched.
    pub fn key(&self) -> Option<FileKey> {
        match &self.node {
            Node::Host(entry) => Some((entry.known_metadata().device, entry.known_metadata().inode)),
            Node::Tmp(inode) => Some(inode.key()),
            Node::Open(file) => file.location.as_ref().filter(|at| !matches!(at.node, Node::Open(_)))?.key(),
            Node::Fixed(_) | Node::Proc(_) | Node::Pts(_) => None,
        }
    }

    /// The same, found by a name in a directory.
    pub fn found_in(self, directory: &Location, name: &[u8]) -> Self {
        let found_in = directory.key().map(|key| Arc::new((key, name.to_vec())));
        Self { found_in, ..self }
    }

    /// Tells who watches the file or its directory.
    pub fn tell(&self, watches: &Watches, event: u32) {
        if watches.is_empty() {
            return;
        }
        if let Some(key) = self.key() {
            let bit = if self.is_directory() { libc::IN_ISDIR } else { 0 };
            watches.tell_both(key, self.found_in.as_ref(), event | bit);
        }
    }

    /// Whether both are the same file.
    pub fn is_same(&self, other: &Location) -> bool {
        self.node.is_same(&other.node)
    }
}

impl Node {
    fn is_same(&self, other: &Node) -> bool {
        match (self, other) {
            (Node::Host(a), Node::Host(b)) => Arc::ptr_eq(a, b),
            (Node::Tmp(a), Node::Tmp(b)) => Arc::ptr_eq(a, b),
            (Node::Fixed(a), Node::Fixed(b)) => Arc::ptr_eq(a, b),
            (Node::Proc(a), Node::Proc(b)) => a == b,
            (Node::Pts(a), Node::Pts(b)) => a == b,
            (Node::Open(a), Node::Open(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}
