//! Bytes become a guest.

use std::collections::{BTreeMap, HashSet};
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use calypte_platform::{FilePages, Frame, FrameRange, Machine, PAGE_SIZE};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;

use super::format::{Pages, SectionId, Sections, Source};
use super::identity::Identity;
use super::save::{PageIndex, SavedFiles, SavedNet};
use super::{ClockPolicy, StateError};
use crate::file::buffers::Buffers;
use crate::file::inotify::Inotify;
use crate::file::pipe::Pipe;
use crate::file::table::Table;
use crate::file::{Body, OpenFile};
use crate::frames::Frames;
use crate::frames::saved::Claims;
use crate::fs::FileSystem;
use crate::fs::host::{HostEntry, HostFile};
use crate::fs::metadata::Time;
use crate::fs::node::FixedPlace;
use crate::fs::tmp::saved::check_directories;
use crate::fs::tmp::{TmpFileSystem, TmpInode};
use crate::guest::{Guest, GuestConfig, frame_limits, tree_and_network};
use crate::kernel::saved::{SavedKernel, SavedMemory, SavedProcesses};
use crate::kernel::{FIRST_PID, Kernel};
use crate::mm::SpaceId;
use crate::net::queue::InFlight;
use crate::net::{ClosedConnections, Network, Socket};
use crate::notifier::Notifier;
use crate::outcome::ObjectId;
use crate::process::saved::restore_actions;
use crate::process::{Actions, Life, ProgramFacts, Surroundings};
use crate::sched::Scheduler;
use crate::thread::{Fpu, ThreadState};
use crate::tty::Terminal;
use crate::waits::{Tid, Waits};

/// A saved guest whose bytes are sound: complete, undamaged, and of versions that are read here.
#[derive(Debug)]
pub struct State<'b> {
    sections: Sections<'b>,
    identity: Identity,
}

impl<'b> State<'b> {
    /// Takes the bytes of a [`super::SavedGuest`] apart. Bytes of anybody may be given.
    pub fn parse(bytes: &'b [u8]) -> Result<Self, StateError> {
        Self::read(Source::Bytes(bytes))
    }

    /// As [`State::parse`], for a file that never changes (a memfd with seals): its pages become the guest's memory and stay
    /// the file's until they are written, where the platform can do that. Their checksum is not looked at, which would take
    /// longer than all the rest: whoever has made the file has done that.
    pub fn open(file: BorrowedFd<'b>) -> Result<Self, StateError> {
        Self::read(Source::file(file)?)
    }

    fn read(source: Source<'b>) -> Result<Self, StateError> {
        let sections = Sections::read(source)?;
        let identity = decode(&sections, SectionId::Identity)?;
        Ok(Self { sections, identity })
    }

    /// What has written it.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The length of a section in bytes, for reports.
    pub fn section_bytes(&self, section: SectionId) -> u64 {
        match section {
            SectionId::Pages => self.sections.pages().length(),
            section => self.sections.get(section).len() as u64,
        }
    }
}

fn decode<T: DeserializeOwned>(sections: &Sections<'_>, section: SectionId) -> Result<T, StateError> {
    let (content, rest) = postcard::take_from_bytes(sections.get(section))
        .map_err(|source| StateError::Encoding { section: section.name(), source })?;
    if rest.is_empty() { Ok(content) } else { Err(StateError::broken(section, "more bytes than it needs")) }
}

/// Shared objects that exist again, by number, and what their makers need.
pub(crate) struct Restorer<'t> {
    pub(crate) tree: &'t mut FileSystem,
    pub(crate) frames: &'t mut Frames,
    pub(crate) claims: Claims,
    pub(crate) notifier: Notifier,
    pub(crate) buffers: Buffers,
    pub(crate) in_flight: InFlight,
    pub(crate) closed_connections: ClosedConnections,
    /// Sockets whose connection to the outside is not there any more: who waits for them must look.
    pub(crate) cut: Vec<Arc<Socket>>,
    objects: HashSet<ObjectId>,
    last_object: u64,
    host_entries: Vec<Arc<HostEntry>>,
    host_files: Vec<Arc<HostFile>>,
    fixed_places: Vec<Arc<FixedPlace>>,
    tmp_file_systems: Vec<Arc<TmpFileSystem>>,
    inodes: Vec<Arc<TmpInode>>,
    pipes: Vec<Arc<Pipe>>,
    terminals: Vec<Arc<Terminal>>,
    sockets: Vec<Arc<Socket>>,
    files: Vec<Arc<OpenFile>>,
    tables: Vec<Arc<Table>>,
    surroundings: Vec<Arc<Mutex<Surroundings>>>,
    lives: Vec<Arc<Life>>,
    inotifies: Vec<Arc<Inotify>>,
    programs: Vec<Arc<ProgramFacts>>,
    actions: Vec<Arc<Mutex<Actions>>>,
}

fn by_number<T>(objects: &[T], number: u32) -> Result<&T, StateError> {
    let rule = "a number that names nothing, or something that is made later";
    objects.get(number as usize).ok_or_else(|| StateError::broken(SectionId::Files, rule))
}

impl Restorer<'_> {
    /// Notes that an object has an identity. Each object has one of its own.
    pub(crate) fn claim_object(&mut self, object: ObjectId) -> Result<(), StateError> {
        if (1..=self.last_object).contains(&object.0) && self.objects.insert(object) {
            return Ok(());
        }
        Err(StateError::broken(SectionId::Kernel, "two objects with one identity, or one with an impossible identity"))
    }

    pub(crate) fn host_entry(&self, number: u32) -> Result<&Arc<HostEntry>, StateError> {
        by_number(&self.host_entries, number)
    }

    pub(crate) fn host_file(&self, number: u32) -> Result<&Arc<HostFile>, StateError> {
        by_number(&self.host_files, number)
    }

    pub(crate) fn fixed_place(&self, number: u32) -> Result<&Arc<FixedPlace>, StateError> {
        by_number(&self.fixed_places, number)
    }

    pub(crate) fn tmp_file_system(&self, number: u32) -> Result<&Arc<TmpFileSystem>, StateError> {
        by_number(&self.tmp_file_systems, number)
    }

    pub(crate) fn inode(&self, number: u32) -> Result<&Arc<TmpInode>, StateError> {
        by_number(&self.inodes, number)
    }

    pub(crate) fn pipe(&self, number: u32) -> Result<&Arc<Pipe>, StateError> {
        by_number(&self.pipes, number)
    }

    pub(crate) fn terminal(&self, number: u32) -> Result<&Arc<Terminal>, StateError> {
        by_number(&self.terminals, number)
    }

    pub(crate) fn socket(&self, number: u32) -> Result<&Arc<Socket>, StateError> {
        by_number(&self.sockets, number)
    }

    pub(crate) fn file(&self, number: u32) -> Result<&Arc<OpenFile>, StateError> {
        by_number(&self.files, number)
    }

    pub(crate) fn table(&self, number: u32) -> Result<&Arc<Table>, StateError> {
        by_number(&self.tables, number)
    }

    pub(crate) fn surroundings(&self, number: u32) -> Result<&Arc<Mutex<Surroundings>>, StateError> {
        by_number(&self.surroundings, number)
    }

    pub(crate) fn life(&self, number: u32) -> Result<&Arc<Life>, StateError> {
        by_number(&self.lives, number)
    }

    pub(crate) fn inotify(&self, number: u32) -> Result<&Arc<Inotify>, StateError> {
        by_number(&self.inotifies, number)
    }

    pub(crate) fn program(&self, number: u32) -> Result<&Arc<ProgramFacts>, StateError> {
        by_number(&self.programs, number)
    }

    pub(crate) fn actions(&self, number: u32) -> Result<&Arc<Mutex<Actions>>, StateError> {
        by_number(&self.actions, number)
    }

    /// Makes all files and sockets, first what others need, and at last what may lead in circles.
    fn restore_files(&mut self, saved: SavedFiles, network: SavedNet, net: &mut Network) -> Result<(), StateError> {
        let SavedFiles {
            tree,
            host_entries,
            host_files,
            fixed_places,
            tmp_file_systems,
            inodes,
            pipes,
            terminals,
            files,
            tables,
            surroundings,
            lives,
            inotifies,
        } = saved;
        let SavedNet { network, sockets } = network;
        check_directories(&inodes)?;
        for entry in host_entries {
            let entry = entry.restore(self)?;
            self.host_entries.push(entry);
        }
        for entry in host_files {
            let file = self.host_entry(entry)?.reopen()?;
            self.host_files.push(Arc::new(file));
        }
        for place in fixed_places {
            let place = place.restore(self)?;
            self.fixed_places.push(place);
        }
        for pipe in pipes {
            let pipe = pipe.restore(self)?;
            self.pipes.push(pipe);
        }
        for terminal in terminals {
            let terminal = terminal.restore(self)?;
            self.terminals.push(terminal);
        }
        for life in lives {
            let life = life.restore(self)?;
            self.lives.push(life);
        }
        for inotify in inotifies {
            let inotify = inotify.restore(self)?;
            self.inotifies.push(inotify);
        }
        let mut links = Vec::new();
        for socket in sockets {
            let (socket, its_links) = socket.restore(self)?;
            self.sockets.push(socket);
            links.push(its_links);
        }
        for fs in tmp_file_systems {
            let fs = fs.restore(self);
            self.tmp_file_systems.push(fs);
        }
        let mut names = Vec::new();
        for inode in inodes {
            let (inode, its_names) = inode.restore(self)?;
            names.push((inode.clone(), its_names));
            self.inodes.push(inode);
        }
        for (inode, names) in names {
            names.restore(&inode, self)?;
        }
        let mut watched = Vec::new();
        for file in files {
            let (file, items) = file.restore(self)?;
            watched.extend(items.map(|items| (file.clone(), items)));
            self.files.push(file);
        }
        for (file, items) in watched {
            let Body::Epoll(epoll) = &file.body else { continue };
            items.restore(epoll, self)?;
        }
        for file in &self.files {
            if let Body::Epoll(epoll) = &file.body {
                epoll.check_nesting()?;
            }
        }
        for (number, links) in links.into_iter().enumerate() {
            links.restore(&self.sockets[number], self)?;
        }
        for table in tables {
            let table = table.restore(self)?;
            self.tables.push(table);
        }
        for surroundings in surroundings {
            let surroundings = surroundings.restore(self)?;
            self.surroundings.push(Arc::new(Mutex::new(surroundings)));
        }
        tree.restore(self)?;
        network.restore(net, self)
    }
}

impl Guest {
    /// A guest that goes on where the saved one was, in a new machine. It is frozen: [`Guest::set_frozen`] lets it go on.
    ///
    /// The configuration gives mounts, limits, virtual CPUs, services and the observer; mounts and services must be those
    /// that there were. What the guest has itself, its host name included, is the state's.
    pub fn restore(
        machine: Arc<dyn Machine>,
        config: GuestConfig,
        clock: ClockPolicy,
        state: &State<'_>,
    ) -> Result<Arc<Self>, StateError> {
        let State { sections, identity } = state;
        identity.check(&*machine)?;
        let observer = config.observer.clone();
        let mut kernel = restore_kernel(machine, config, clock, sections)?;
        kernel.scheduler.set_frozen(true);
        Ok(Self::of_kernel(kernel, observer))
    }
}

fn restore_kernel(
    machine: Arc<dyn Machine>,
    mut config: GuestConfig,
    policy: ClockPolicy,
    sections: &Sections<'_>,
) -> Result<Kernel, StateError> {
    let saved: SavedKernel = decode(sections, SectionId::Kernel)?;
    let processes: SavedProcesses = decode(sections, SectionId::Processes)?;
    let memory: SavedMemory = decode(sections, SectionId::Memory)?;
    let files: SavedFiles = decode(sections, SectionId::Files)?;
    let network: SavedNet = decode(sections, SectionId::Network)?;
    let (mut frames, claims) = memory.frames.restore(machine.memory(), frame_limits(&config))?;
    restore_pages(&frames, decode(sections, SectionId::PageIndex)?, sections.pages())?;
    let mut clock = saved.clock.restore(machine.clone(), policy)?;
    let mut waits = Waits::default();
    // When the guest has started is among what is restored.
    let (mut tree, mut net) = tree_and_network(&mut config, &frames, waits.notifier(), Time::default())?;
    files.tree.check_mounts(&tree)?;
    let mut restorer = Restorer {
        notifier: waits.notifier().clone(),
        buffers: tree.buffers().clone(),
        in_flight: net.in_flight().clone(),
        closed_connections: net.closed_connections(),
        tree: &mut tree,
        frames: &mut frames,
        claims,
        cut: Vec::new(),
        objects: HashSet::new(),
        last_object: saved.waits.notifier.last_object(),
        host_entries: Vec::new(),
        host_files: Vec::new(),
        fixed_places: Vec::new(),
        tmp_file_systems: Vec::new(),
        inodes: Vec::new(),
        pipes: Vec::new(),
        terminals: Vec::new(),
        sockets: Vec::new(),
        files: Vec::new(),
        tables: Vec::new(),
        surroundings: Vec::new(),
        lives: Vec::new(),
        inotifies: Vec::new(),
        programs: Vec::new(),
        actions: Vec::new(),
    };
    let console = saved.console.restore(&mut restorer)?;
    restorer.restore_files(files, network, &mut net)?;
    let vdso = saved.vdso.restore(&mut restorer)?;
    let mut spaces = memory.spaces.restore(&*machine, &mut restorer)?;
    let SavedProcesses { programs, actions, processes, threads: saved_threads } = processes;
    restorer.programs = programs.into_iter().map(|program| program.restore(&restorer)).collect();
    restorer.actions = actions.into_iter().map(restore_actions).collect::<Result<_, _>>()?;
    let mut restored_processes = BTreeMap::new();
    for process in processes {
        restored_processes.insert(process.pid, process.restore(&restorer)?);
    }
    let mut threads = BTreeMap::new();
    for (tid, thread) in saved_threads {
        threads.insert(tid, thread.restore(&restorer)?);
    }
    let asynchronous = restorer.files.iter().filter(|file| file.is_asynchronous()).map(Arc::downgrade).collect();
    let (claims, cut) = (restorer.claims, restorer.cut);
    frames.check_claims(&claims)?;
    if policy == ClockPolicy::Continue {
        spaces.wipe(&mut frames);
    }
    clock.publish(frames.memory(), vdso.data());
    let mut scheduler = Scheduler::new(config.vcpu_count);
    scheduler.restore(saved.scheduler);
    waits.restore(saved.waits)?;
    cut.iter().for_each(|socket| socket.beacon().ring());
    let kernel = Kernel {
        machine,
        frames,
        spaces,
        processes: restored_processes,
        threads,
        waits,
        scheduler,
        clock,
        vdso,
        files: tree,
        network: net,
        console,
        host_name: saved.host_name,
        exit: saved.exit,
        failure: saved.failure,
        statistics: saved.statistics,
        unknown_calls: saved.unknown_calls,
        asynchronous,
        last_tid: saved.last_tid,
        caller: FIRST_PID,
        profile: None,
    };
    check_threads(&kernel)?;
    Ok(kernel)
}

/// Puts the content of frames back. Frames of a new machine are zero.
fn restore_pages(frames: &Frames, index: PageIndex, pages: Pages<'_>) -> Result<(), StateError> {
    let broken = |rule| StateError::broken(SectionId::PageIndex, rule);
    let (mut end, mut length) = (0, 0);
    let mut runs = Vec::with_capacity(index.runs.len());
    for (first, count) in index.runs {
        let next = first.checked_add(count).filter(|_| first >= end && count > 0);
        end = next.ok_or_else(|| broken("frames that are not in order"))?;
        let range = FrameRange { first: Frame(first), count };
        if !range.iter().all(|frame| frames.is_used(frame)) {
            return Err(broken("the content of a frame that nobody uses"));
        }
        runs.push((range, length));
        length += u64::from(count) * PAGE_SIZE as u64;
    }
    if length != pages.length() {
        return Err(broken("not as many pages as frames"));
    }
    match pages {
        Pages::Bytes(bytes) => {
            for (range, position) in runs {
                frames.memory().prepare(range);
                let pages = bytes[position as usize..].chunks_exact(PAGE_SIZE);
                range.iter().zip(pages).for_each(|(frame, page)| frames.memory().copy_in(frame, 0, page));
            }
            Ok(())
        }
        Pages::File { file, position: start, .. } => {
            let of_file = |(frames, position)| FilePages { frames, position: start + position };
            let pages: Vec<FilePages> = runs.into_iter().map(of_file).collect();
            frames.memory().map_file(file, &pages).map_err(StateError::Read)
        }
    }
}

/// Whether a page is all zeros.
pub(super) fn is_zero(page: &[u8]) -> bool {
    let (words, rest) = page.as_chunks::<16>();
    words.iter().all(|word| u128::from_ne_bytes(*word) == 0) && rest.iter().all(|byte| *byte == 0)
}

/// Checks that threads, processes, address spaces, waits and run queue fit together.
fn check_threads(kernel: &Kernel) -> Result<(), StateError> {
    let broken = |rule| Err(StateError::broken(SectionId::Processes, rule));
    let mut expected: Vec<(Tid, bool)> = Vec::new();
    for (tid, thread) in &kernel.threads {
        let process = kernel.processes.get(&thread.pid);
        if process.is_none_or(|process| process.space == SpaceId::NONE) {
            return broken("a thread without a process, or of one without memory");
        }
        if thread.fpu == Fpu::Loaded {
            return broken("a thread whose registers are not there");
        }
        match thread.state {
            ThreadState::Ready => expected.push((*tid, false)),
            ThreadState::Parked => expected.push((*tid, true)),
            ThreadState::Stopped => {
                if kernel.processes[&thread.pid].job.stopped_by.is_none() {
                    return broken("a stopped thread of a process that is not stopped");
                }
            }
            ThreadState::Running(_) => return broken("a thread that runs"),
        }
    }
    let ready = kernel.scheduler.ready().map(|tid| (tid, false));
    let parked = kernel.waits.parked().chain(kernel.waits.woken()).map(|tid| (tid, true));
    let mut found: Vec<(Tid, bool)> = ready.chain(parked).collect();
    found.sort_unstable();
    if found != expected {
        return broken("threads that neither wait nor are to run, or both");
    }
    for (pid, process) in &kernel.processes {
        if process.pid != *pid || process.space != SpaceId::NONE && !has_space(kernel, process.space) {
            return broken("a process without memory");
        }
    }
    for (space, users) in kernel.spaces.ids() {
        let found = kernel.processes.values().filter(|process| process.space == space).count();
        if found != users as usize {
            return broken("memory whose processes are not as many as it says");
        }
    }
    Ok(())
}

fn has_space(kernel: &Kernel, space: SpaceId) -> bool {
    kernel.spaces.ids().any(|(id, _)| id == space)
}
