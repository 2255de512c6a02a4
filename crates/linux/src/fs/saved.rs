//! The tree of files as it is saved: what can be different from a new one.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::host::HostTrees;
use super::metadata::Time;
use super::node::saved::SavedNode;
use super::{FileSystem, Junction, Node};
use crate::file::inotify::saved::SavedWatches;
use crate::file::lock::saved::SavedLocks;
use crate::state::{Restorer, Saver, SectionId, StateError};

/// A [`FileSystem`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedTree {
    /// Every mount point, and directory on the way to one, in the order in which a new tree has them.
    junctions: Vec<SavedJunction>,
    scratch: u32,
    boot_id: String,
    started: Time,
    /// The host's numbers of file systems.
    devices: Vec<u64>,
    locks: SavedLocks,
    watches: SavedWatches,
}

/// A [`Junction`]: its path, and what is there if that is the guest's own.
#[derive(Debug, Serialize, Deserialize)]
struct SavedJunction {
    path: ByteBuf,
    kind: Option<String>,
    own: Option<SavedNode>,
}

impl FileSystem {
    pub(crate) fn save(&self, saver: &mut Saver<'_>) -> SavedTree {
        // What comes from the configuration and from the host's processor is made anew.
        let Self {
            hosts,
            junctions,
            scratch,
            buffers: _,
            vcpu_count: _,
            processor: _,
            boot_id,
            started,
            locks,
            watches,
            // Open files bring them back.
            terminals: _,
        } = self;
        let mut saved = Vec::new();
        for (index, Junction { parent: _, name: _, children: _, node, mount }) in junctions.iter().enumerate() {
            saved.push(SavedJunction {
                path: ByteBuf::from(self.junction_path(index)),
                kind: mount.map(|mount| mount.kind.to_owned()),
                own: matches!(node, Node::Tmp(_)).then(|| node.save(saver)),
            });
        }
        SavedTree {
            junctions: saved,
            scratch: saver.tmp_file_systems.number(scratch),
            boot_id: boot_id.clone(),
            started: *started,
            devices: hosts.save(),
            locks: locks.save(),
            watches: watches.save(saver),
        }
    }

    /// The trees of the host.
    pub(crate) fn host_trees(&self) -> &Arc<HostTrees> {
        &self.hosts
    }

    /// How many mount points and directories on the way to them there are.
    pub(crate) fn junction_count(&self) -> usize {
        self.junctions.len()
    }

    /// What is at one of them.
    pub(crate) fn junction_node(&self, index: usize) -> Option<&Node> {
        self.junctions.get(index).map(|junction| &junction.node)
    }

    /// Whether it is one: the root of a tree of the host, or of files that do not change.
    pub(crate) fn junctions(&self) -> impl Iterator<Item = &Node> {
        self.junctions.iter().map(|junction| &junction.node)
    }
}

impl SavedTree {
    /// Checks that a new tree has the same mounts, before anything is looked up in it, and numbers the host's file systems
    /// as they were.
    pub(crate) fn check_mounts(&self, tree: &FileSystem) -> Result<(), StateError> {
        let is_same = |(index, saved): (usize, &SavedJunction)| {
            let Junction { node, mount, .. } = &tree.junctions[index];
            let kind = mount.map(|mount| mount.kind);
            *saved.path == tree.junction_path(index)
                && saved.kind.as_deref() == kind
                && saved.own.is_some() == matches!(node, Node::Tmp(_))
        };
        if self.junctions.len() != tree.junctions.len() || !self.junctions.iter().enumerate().all(is_same) {
            return Err(StateError::OtherMounts);
        }
        tree.hosts.restore(self.devices.clone())
    }

    /// Puts the guest's own files into the tree.
    pub(crate) fn restore(self, restorer: &mut Restorer<'_>) -> Result<(), StateError> {
        let Self { junctions, scratch, boot_id, started, devices: _, locks, watches } = self;
        for (index, saved) in junctions.into_iter().enumerate() {
            let Some(own) = saved.own else { continue };
            let node = own.restore(restorer)?;
            match &node {
                Node::Tmp(inode) if inode.is_directory() => {}
                _ => return Err(StateError::broken(SectionId::Files, "a mounted file system without a directory")),
            }
            restorer.tree.junctions[index].node = node;
        }
        restorer.tree.scratch = Arc::clone(restorer.tmp_file_system(scratch)?);
        let tree_locks = restorer.tree.locks().clone();
        tree_locks.restore(locks, restorer)?;
        restorer.tree.watches().restore(watches, restorer)?;
        restorer.tree.boot_id = boot_id;
        restorer.tree.started = started;
        Ok(())
    }
}
