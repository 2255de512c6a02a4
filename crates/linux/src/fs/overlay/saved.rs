//! What directories of an overlay show of the host, as it is saved.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::Below;
use crate::fs::host::HostEntry;
use crate::state::{Restorer, Saver, StateError};

/// A [`Below`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedBelow {
    entry: u32,
    hidden: Vec<ByteBuf>,
    shown: Vec<(ByteBuf, u32)>,
}

impl Below {
    pub(crate) fn save(&self, saver: &mut Saver<'_>) -> SavedBelow {
        let Self { entry, hidden, shown } = self;
        let entry = saver.host_entry(entry);
        let shown = shown.iter().filter_map(|(name, child)| Some((name, child.upgrade()?)));
        SavedBelow {
            entry,
            hidden: hidden.iter().map(|name| ByteBuf::from(name.clone())).collect(),
            shown: shown.map(|(name, child)| (ByteBuf::from(name.clone()), saver.inodes.number(&child))).collect(),
        }
    }

    /// The directory of the host.
    pub(crate) fn entry(&self) -> &Arc<HostEntry> {
        &self.entry
    }
}

impl SavedBelow {
    pub(crate) fn restore(self, restorer: &Restorer<'_>) -> Result<Below, StateError> {
        let Self { entry, hidden, shown } = self;
        let entry = restorer.host_entry(entry)?.clone();
        let hidden = hidden.into_iter().map(ByteBuf::into_vec).collect();
        let child = |(name, child): (ByteBuf, u32)| Ok((name.into_vec(), Arc::downgrade(restorer.inode(child)?)));
        let shown = shown.into_iter().map(child).collect::<Result<_, StateError>>()?;
        Ok(Below { entry, hidden, shown })
    }
}
