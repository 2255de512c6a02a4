//! Places in the tree as they are saved.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::{FixedPlace, Location, Node};
use crate::file::lock::FileKey;
use crate::fs::devpts::Pts;
use crate::fs::host::HostEntry;
use crate::fs::proc::saved::SavedProc;
use crate::state::{Restorer, Saver, SectionId, StateError};

/// A [`Location`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedLocation {
    node: SavedNode,
    junction: Option<u32>,
    found_in: Option<(FileKey, ByteBuf)>,
}

/// A [`Node`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum SavedNode {
    Host(u32),
    Tmp(u32),
    Fixed(u32),
    Proc(SavedProc),
    Pts(Pts),
    Open(u32),
}

/// A [`FixedPlace`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum SavedFixedPlace {
    /// What the tree has at a junction.
    Junction(u32),
    /// A name in a place that stands before this one.
    Child(u32, ByteBuf),
}

impl Location {
    pub(crate) fn save(&self, saver: &mut Saver<'_>) -> SavedLocation {
        let Self { node, junction, found_in } = self;
        let found_in = found_in.as_ref().map(|found_in| (found_in.0, ByteBuf::from(found_in.1.clone())));
        SavedLocation { node: node.save(saver), junction: junction.map(|index| index as u32), found_in }
    }
}

impl Node {
    pub(crate) fn save(&self, saver: &mut Saver<'_>) -> SavedNode {
        match self {
            Node::Host(entry) => SavedNode::Host(saver.host_entry(entry)),
            Node::Tmp(inode) => SavedNode::Tmp(saver.inodes.number(inode)),
            Node::Fixed(place) => SavedNode::Fixed(saver.fixed_place(place)),
            Node::Proc(entry) => SavedNode::Proc(entry.save()),
            Node::Pts(entry) => SavedNode::Pts(*entry),
            Node::Open(file) => SavedNode::Open(saver.file(file)),
        }
    }
}

impl Node {
    /// The directory of the host that is here, or that shows through here.
    pub(crate) fn host_root(&self) -> Option<Arc<HostEntry>> {
        match self {
            Node::Host(entry) => Some(entry.clone()),
            Node::Tmp(inode) => inode.entry_below(),
            Node::Fixed(_) | Node::Proc(_) | Node::Pts(_) | Node::Open(_) => None,
        }
    }
}

impl SavedLocation {
    pub(crate) fn restore(self, restorer: &Restorer<'_>) -> Result<Location, StateError> {
        let Self { node, junction, found_in } = self;
        let junction = junction.map(|index| index as usize);
        if junction.is_some_and(|index| index >= restorer.tree.junction_count()) {
            return Err(StateError::broken(SectionId::Files, "a mount that does not exist"));
        }
        let found_in = found_in.map(|(key, name)| Arc::new((key, name.into_vec())));
        Ok(Location { node: node.restore(restorer)?, junction, found_in })
    }
}

impl SavedNode {
    pub(crate) fn restore(self, restorer: &Restorer<'_>) -> Result<Node, StateError> {
        Ok(match self {
            SavedNode::Host(entry) => Node::Host(restorer.host_entry(entry)?.clone()),
            SavedNode::Tmp(inode) => Node::Tmp(restorer.inode(inode)?.clone()),
            SavedNode::Fixed(place) => Node::Fixed(restorer.fixed_place(place)?.clone()),
            SavedNode::Proc(entry) => Node::Proc(entry.restore()?),
            SavedNode::Pts(entry) => Node::Pts(entry),
            SavedNode::Open(file) => Node::Open(restorer.file(file)?.clone()),
        })
    }
}

impl FixedPlace {
    /// The place that this one was found in, and its name there.
    pub(crate) fn parent(&self) -> Option<(&Arc<FixedPlace>, &[u8])> {
        let Self { file: _, parent } = self;
        parent.as_ref().map(|(parent, name)| (parent, &**name))
    }
}

impl SavedFixedPlace {
    pub(crate) fn restore(self, restorer: &Restorer<'_>) -> Result<Arc<FixedPlace>, StateError> {
        let missing = || StateError::broken(SectionId::Files, "a file of /dev or /sys that does not exist");
        match self {
            SavedFixedPlace::Junction(index) => match restorer.tree.junction_node(index as usize) {
                Some(Node::Fixed(place)) => Ok(place.clone()),
                _ => Err(missing()),
            },
            SavedFixedPlace::Child(parent, name) => {
                let parent = restorer.fixed_place(parent)?.clone();
                let file = parent.file.child(&name).ok_or_else(missing)?.clone();
                Ok(Arc::new(FixedPlace { file, parent: Some((parent, name.into_vec())) }))
            }
        }
    }
}
