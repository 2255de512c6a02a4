//! A guest becomes bytes.

use std::collections::HashMap;
use std::io::{self, Cursor, Seek, Write};
use std::sync::Arc;

use calypte_platform::{Frame, PAGE_SIZE};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::format::{SectionId, Writer};
use super::identity::Identity;
use super::{StateError, restore};
use crate::file::OpenFile;
use crate::file::inotify::Inotify;
use crate::file::inotify::saved::SavedInotify;
use crate::file::pipe::Pipe;
use crate::file::pipe::saved::SavedPipe;
use crate::file::saved::SavedFile;
use crate::file::table::Table;
use crate::file::table::saved::SavedTable;
use crate::frames::Frames;
use crate::fs::fixed::Fixed;
use crate::fs::host::saved::SavedHostEntry;
use crate::fs::host::{HostEntry, HostFile};
use crate::fs::node::saved::SavedFixedPlace;
use crate::fs::node::{FixedPlace, Node};
use crate::fs::saved::SavedTree;
use crate::fs::tmp::saved::{SavedInode, SavedTmpFileSystem};
use crate::fs::tmp::{TmpFileSystem, TmpInode};
use crate::guest::Guest;
use crate::kernel::Kernel;
use crate::net::Socket;
use crate::net::saved::SavedNetwork;
use crate::net::socket::saved::SavedSocket;
use crate::process::saved::{SavedLife, SavedSurroundings};
use crate::process::{Actions, Life, ProgramFacts, Surroundings};
use crate::tty::Terminal;
use crate::tty::saved::SavedTerminal;

/// Frames of zeros in a row, within frames that are in use, that are saved with those around them.
const GAP_FRAMES_MAX: u32 = 16;
/// Pages copied at a time.
const PAGES_AT_ONCE: u32 = 64;

/// A guest as bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedGuest {
    bytes: Vec<u8>,
}

impl SavedGuest {
    /// The bytes, for [`super::State::parse`].
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// The body of the section `files`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SavedFiles {
    pub(super) tree: SavedTree,
    pub(super) host_entries: Vec<SavedHostEntry>,
    /// Files of the host that are open or mapped: their entries' numbers.
    pub(super) host_files: Vec<u32>,
    pub(super) fixed_places: Vec<SavedFixedPlace>,
    pub(super) tmp_file_systems: Vec<SavedTmpFileSystem>,
    pub(super) inodes: Vec<SavedInode>,
    pub(super) pipes: Vec<SavedPipe>,
    pub(super) terminals: Vec<SavedTerminal>,
    pub(super) files: Vec<SavedFile>,
    pub(super) tables: Vec<SavedTable>,
    pub(super) surroundings: Vec<SavedSurroundings>,
    pub(super) lives: Vec<SavedLife>,
    pub(super) inotifies: Vec<SavedInotify>,
}

/// The body of the section `network`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SavedNet {
    pub(super) network: SavedNetwork,
    pub(super) sockets: Vec<SavedSocket>,
}

/// The body of the section `page index`: which frames' content is in the section `pages`, in order.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct PageIndex {
    /// First frame and how many.
    pub(super) runs: Vec<(u32, u32)>,
}

/// Objects of one type that the guest shares, numbered in the order in which they are found.
pub(crate) struct Numbered<T> {
    numbers: HashMap<*const T, u32>,
    objects: Vec<Arc<T>>,
}

impl<T> Default for Numbered<T> {
    fn default() -> Self {
        Self { numbers: HashMap::new(), objects: Vec::new() }
    }
}

impl<T> Numbered<T> {
    /// An object's number, which it gets now if it has none.
    pub(crate) fn number(&mut self, object: &Arc<T>) -> u32 {
        // The object is kept, so nothing else gets its address meanwhile.
        *self.numbers.entry(Arc::as_ptr(object)).or_insert_with(|| {
            self.objects.push(object.clone());
            (self.objects.len() - 1) as u32
        })
    }

    fn is_known(&self, object: &Arc<T>) -> bool {
        self.numbers.contains_key(&Arc::as_ptr(object))
    }

    /// The objects found, by number.
    pub(crate) fn objects(&self) -> impl Iterator<Item = &T> {
        self.objects.iter().map(|object| &**object)
    }

    fn get(&self, index: usize) -> Option<Arc<T>> {
        self.objects.get(index).cloned()
    }
}

/// What is found of shared objects while a guest is saved.
pub(crate) struct Saver<'k> {
    kernel: &'k Kernel,
    host_entries: Numbered<HostEntry>,
    host_files: Numbered<HostFile>,
    fixed_places: Numbered<FixedPlace>,
    pub(crate) tmp_file_systems: Numbered<TmpFileSystem>,
    pub(crate) inodes: Numbered<TmpInode>,
    pub(crate) pipes: Numbered<Pipe>,
    pub(crate) terminals: Numbered<Terminal>,
    pub(crate) sockets: Numbered<Socket>,
    files: Numbered<OpenFile>,
    pub(crate) tables: Numbered<Table>,
    pub(crate) surroundings: Numbered<Mutex<Surroundings>>,
    pub(crate) lives: Numbered<Life>,
    pub(crate) inotifies: Numbered<Inotify>,
    pub(crate) programs: Numbered<ProgramFacts>,
    pub(crate) actions: Numbered<Mutex<Actions>>,
}

impl<'k> Saver<'k> {
    fn new(kernel: &'k Kernel) -> Self {
        Self {
            kernel,
            host_entries: Numbered::default(),
            host_files: Numbered::default(),
            fixed_places: Numbered::default(),
            tmp_file_systems: Numbered::default(),
            inodes: Numbered::default(),
            pipes: Numbered::default(),
            terminals: Numbered::default(),
            sockets: Numbered::default(),
            files: Numbered::default(),
            tables: Numbered::default(),
            surroundings: Numbered::default(),
            lives: Numbered::default(),
            inotifies: Numbered::default(),
            programs: Numbered::default(),
            actions: Numbered::default(),
        }
    }

    /// The number of an open file. One that it leads to is numbered before it.
    pub(crate) fn file(&mut self, file: &Arc<OpenFile>) -> u32 {
        if !self.files.is_known(file)
            && let Some(location) = &file.location
            && let Node::Open(inner) = &location.node
        {
            self.file(inner);
        }
        self.files.number(file)
    }

    /// The number of an open file of the host.
    pub(crate) fn host_file(&mut self, file: &Arc<HostFile>) -> u32 {
        self.host_files.number(file)
    }

    /// The number of a file of the host. The directories that it is in are numbered before it.
    pub(crate) fn host_entry(&mut self, entry: &Arc<HostEntry>) -> u32 {
        let mut path = vec![entry];
        while let Some(parent) = path[path.len() - 1].parent()
            && !self.host_entries.is_known(parent)
        {
            path.push(parent);
        }
        path.into_iter().rev().fold(0, |_, entry| self.host_entries.number(entry))
    }

    /// The number of a place in a tree that does not change. Those above are numbered before it.
    pub(crate) fn fixed_place(&mut self, place: &Arc<FixedPlace>) -> u32 {
        let mut path = vec![place];
        while let Some((parent, _)) = path[path.len() - 1].parent()
            && !self.fixed_places.is_known(parent)
        {
            path.push(parent);
        }
        path.into_iter().rev().fold(0, |_, place| self.fixed_places.number(place))
    }

    /// The junction whose directory of the host this is.
    pub(crate) fn junction_of(&self, entry: &HostEntry) -> u32 {
        let is_it = |node: &Node| node.host_root().is_some_and(|root| std::ptr::eq(&*root, entry));
        self.kernel.files.junctions().position(is_it).expect("the root of a tree of the host is mounted") as u32
    }

    fn junction_of_fixed(&self, file: &Arc<Fixed>) -> u32 {
        let is_it = |node: &Node| matches!(node, Node::Fixed(place) if Arc::ptr_eq(&place.file, file));
        self.kernel.files.junctions().position(is_it).expect("the root of a tree that does not change is mounted")
            as u32
    }

    fn save_fixed_place(&mut self, place: &Arc<FixedPlace>) -> SavedFixedPlace {
        match place.parent() {
            Some((parent, name)) => SavedFixedPlace::Child(self.fixed_place(parent), name.to_vec().into()),
            None => SavedFixedPlace::Junction(self.junction_of_fixed(&place.file)),
        }
    }

    /// Saves the objects that were found, and those found thereby, until there are no more.
    fn finish(mut self, tree: SavedTree, network: SavedNetwork) -> (SavedFiles, SavedNet) {
        let mut saved = SavedFiles {
            tree,
            host_entries: Vec::new(),
            host_files: Vec::new(),
            fixed_places: Vec::new(),
            tmp_file_systems: Vec::new(),
            inodes: Vec::new(),
            pipes: Vec::new(),
            terminals: Vec::new(),
            files: Vec::new(),
            tables: Vec::new(),
            surroundings: Vec::new(),
            lives: Vec::new(),
            inotifies: Vec::new(),
        };
        let mut sockets = Vec::new();
        loop {
            if let Some(table) = self.tables.get(saved.tables.len()) {
                saved.tables.push(table.save(&mut self));
            } else if let Some(surroundings) = self.surroundings.get(saved.surroundings.len()) {
                let surroundings = surroundings.lock().save(&mut self);
                saved.surroundings.push(surroundings);
            } else if let Some(life) = self.lives.get(saved.lives.len()) {
                saved.lives.push(life.save());
            } else if let Some(inotify) = self.inotifies.get(saved.inotifies.len()) {
                saved.inotifies.push(inotify.save());
            } else if let Some(file) = self.files.get(saved.files.len()) {
                saved.files.push(file.save(&mut self));
            } else if let Some(socket) = self.sockets.get(sockets.len()) {
                sockets.push(socket.save(&mut self));
            } else if let Some(inode) = self.inodes.get(saved.inodes.len()) {
                saved.inodes.push(inode.save(&mut self));
            } else if let Some(fs) = self.tmp_file_systems.get(saved.tmp_file_systems.len()) {
                saved.tmp_file_systems.push(fs.save());
            } else if let Some(pipe) = self.pipes.get(saved.pipes.len()) {
                saved.pipes.push(pipe.save());
            } else if let Some(terminal) = self.terminals.get(saved.terminals.len()) {
                saved.terminals.push(terminal.save());
            } else if let Some(file) = self.host_files.get(saved.host_files.len()) {
                saved.host_files.push(file.save(&mut self));
            } else if let Some(entry) = self.host_entries.get(saved.host_entries.len()) {
                saved.host_entries.push(entry.save(&mut self));
            } else if let Some(place) = self.fixed_places.get(saved.fixed_places.len()) {
                saved.fixed_places.push(self.save_fixed_place(&place));
            } else {
                return (saved, SavedNet { network, sockets });
            }
        }
    }
}

impl Guest {
    /// Saves everything that the guest has. It must be frozen ([`Guest::set_frozen`]): waits until no thread of it is on a
    /// virtual CPU. The guest can go on afterwards.
    pub fn save(&self) -> Result<SavedGuest, StateError> {
        let (target, _) = self.save_to(Cursor::new(Vec::new()))?;
        Ok(SavedGuest { bytes: target.into_inner() })
    }

    /// As [`Guest::save`], to the beginning of an empty file: also how many bytes it has then.
    pub fn save_to<W: Write + Seek>(&self, target: W) -> Result<(W, u64), StateError> {
        let mut kernel = self.lock_quiet();
        if kernel.exit.is_some() {
            return Err(StateError::Ended);
        }
        kernel.settle();
        kernel.network.settle_closed();
        let kernel = &mut *kernel;
        kernel.spaces.carry_out_cuts(&mut kernel.frames);
        kernel.frames.reclaim();
        write(kernel, target)
    }
}

fn write<W: Write + Seek>(kernel: &Kernel, target: W) -> Result<(W, u64), StateError> {
    let mut saver = Saver::new(kernel);
    let parts = kernel.save(&mut saver)?;
    let (files, network) = saver.finish(parts.tree, parts.network);
    let index = page_index(&kernel.frames);
    let mut writer = Writer::new(target);
    let mut section =
        |id, body: Vec<u8>| writer.section(id, |target| target.write_all(&body)).map_err(StateError::Write);
    section(SectionId::Identity, body(SectionId::Identity, &Identity::of(&*kernel.machine))?)?;
    section(SectionId::Kernel, body(SectionId::Kernel, &parts.kernel)?)?;
    section(SectionId::Processes, body(SectionId::Processes, &parts.processes)?)?;
    section(SectionId::Memory, body(SectionId::Memory, &parts.memory)?)?;
    section(SectionId::Files, body(SectionId::Files, &files)?)?;
    section(SectionId::Network, body(SectionId::Network, &network)?)?;
    section(SectionId::PageIndex, body(SectionId::PageIndex, &index)?)?;
    let pages = writer.section(SectionId::Pages, |target| write_pages(&kernel.frames, &index, target));
    pages.and_then(|()| writer.finish()).map_err(StateError::Write)
}

fn body<T: Serialize>(section: SectionId, content: &T) -> Result<Vec<u8>, StateError> {
    postcard::to_stdvec(content).map_err(|source| StateError::Encoding { section: section.name(), source })
}

/// The frames in use that are not all zeros, and few that are: a run with a short gap is mapped sooner than two.
fn page_index(frames: &Frames) -> PageIndex {
    let mut index = PageIndex::default();
    let mut page = [0; PAGE_SIZE];
    for (first, count) in frames.used_runs() {
        for frame in first..first + count {
            frames.memory().copy_out(Frame(frame), 0, &mut page);
            if restore::is_zero(&page) {
                continue;
            }
            match index.runs.last_mut() {
                Some((start, length)) if *start >= first && frame - (*start + *length) <= GAP_FRAMES_MAX => {
                    *length = frame + 1 - *start;
                }
                Some((start, length)) if *start + *length == frame => *length += 1,
                _ => index.runs.push((frame, 1)),
            }
        }
    }
    index
}

fn write_pages(frames: &Frames, index: &PageIndex, target: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; PAGE_SIZE * PAGES_AT_ONCE as usize];
    for (first, count) in &index.runs {
        let (mut at, end) = (*first, *first + *count);
        while at < end {
            let pages = (end - at).min(PAGES_AT_ONCE);
            let bytes = &mut buffer[..pages as usize * PAGE_SIZE];
            for (frame, page) in (at..).zip(bytes.chunks_exact_mut(PAGE_SIZE)) {
                frames.memory().copy_out(Frame(frame), 0, page);
            }
            target.write_all(bytes)?;
            at += pages;
        }
    }
    Ok(())
}
