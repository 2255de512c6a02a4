//! A mapped file as it is saved.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::{Mapping, Source};
use crate::state::{Restorer, Saver, StateError};

/// A [`Mapping`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SavedMapping {
    source: SavedSource,
    path: ByteBuf,
    device: u64,
    inode: u64,
    /// Whether it is counted among those through which the file may be written.
    is_writer: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
enum SavedSource {
    Host(u32),
    Tmp(u32),
    Zero,
}

impl Mapping {
    pub(crate) fn save(&self, saver: &mut Saver<'_>) -> SavedMapping {
        let Self { source, path, device, inode, writer } = self;
        let source = match source {
            Source::Host(file) => SavedSource::Host(saver.host_file(file)),
            Source::Tmp(file) => SavedSource::Tmp(saver.inodes.number(file)),
            Source::Zero => SavedSource::Zero,
        };
        SavedMapping {
            source,
            path: ByteBuf::from(path.to_vec()),
            device: *device,
            inode: *inode,
            is_writer: writer.is_some(),
        }
    }
}

impl SavedMapping {
    pub(crate) fn restore(self, restorer: &Restorer<'_>) -> Result<Mapping, StateError> {
        let Self { source, path, device, inode, is_writer } = self;
        let source = match source {
            SavedSource::Host(file) => Source::Host(restorer.host_file(file)?.clone()),
            SavedSource::Tmp(file) => Source::Tmp(restorer.inode(file)?.clone()),
            SavedSource::Zero => Source::Zero,
        };
        let writer = match &source {
            Source::Tmp(inode) if is_writer => Some(inode.writer_whatever_seals()),
            _ => None,
        };
        Ok(Mapping { source, path: Arc::from(path.into_vec()), device, inode, writer })
    }
}
