//! What a kernel has beside its parts, as it is saved.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{GuestExit, Kernel, Statistics};
use crate::clock::saved::SavedClock;
use crate::console::saved::SavedConsole;
use crate::frames::saved::SavedFrames;
use crate::fs::saved::SavedTree;
use crate::mm::saved::SavedSpaces;
use crate::net::saved::SavedNetwork;
use crate::process::saved::{SavedProcess, save_actions};
use crate::process::{Pid, Process, ProgramFacts};
use crate::sched::saved::SavedScheduler;
use crate::signal::Action;
use crate::state::{Saver, StateError};
use crate::thread::Thread;
use crate::thread::saved::SavedThread;
use crate::vdso::saved::SavedVdso;
use crate::waits::Tid;
use crate::waits::saved::SavedWaits;

/// The body of the section `kernel`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedKernel {
    pub(crate) waits: SavedWaits,
    pub(crate) scheduler: SavedScheduler,
    pub(crate) clock: SavedClock,
    pub(crate) vdso: SavedVdso,
    pub(crate) console: SavedConsole,
    pub(crate) host_name: String,
    pub(crate) exit: Option<GuestExit>,
    pub(crate) failure: Option<String>,
    pub(crate) statistics: Statistics,
    pub(crate) unknown_calls: BTreeSet<u64>,
    pub(crate) last_tid: Tid,
}

/// The body of the section `processes`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedProcesses {
    /// What processes have in common, by number.
    pub(crate) programs: Vec<ProgramFacts>,
    pub(crate) actions: Vec<Vec<Action>>,
    pub(crate) processes: Vec<SavedProcess>,
    pub(crate) threads: Vec<(Tid, SavedThread)>,
}

/// The body of the section `memory`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedMemory {
    pub(crate) spaces: SavedSpaces,
    pub(crate) frames: SavedFrames,
}

/// All parts of a kernel. Files and sockets that they name are the saver's.
pub(crate) struct SavedParts {
    pub(crate) kernel: SavedKernel,
    pub(crate) processes: SavedProcesses,
    pub(crate) memory: SavedMemory,
    pub(crate) tree: SavedTree,
    pub(crate) network: SavedNetwork,
}

impl Kernel {
    /// Everything but files and sockets, which are found on the way. No thread is on a virtual CPU.
    pub(crate) fn save(&self, saver: &mut Saver<'_>) -> Result<SavedParts, StateError> {
        let Self {
            machine: _,
            frames,
            spaces,
            processes,
            threads,
            waits,
            scheduler,
            clock,
            vdso,
            files,
            network,
            console,
            host_name,
            exit,
            failure,
            statistics,
            unknown_calls,
            last_tid,
            // Those open files that have `O_ASYNC`.
            asynchronous: _,
            // Set anew by whatever call is served next.
            caller: _,
            // A measurement of the monitor's, made where it was asked for.
            profile: _,
        } = self;
        Ok(SavedParts {
            kernel: SavedKernel {
                waits: waits.save(),
                scheduler: scheduler.save(),
                clock: clock.save(),
                vdso: vdso.save(),
                console: console.save(),
                host_name: host_name.clone(),
                exit: *exit,
                failure: failure.clone(),
                statistics: *statistics,
                unknown_calls: unknown_calls.clone(),
                last_tid: *last_tid,
            },
            processes: save_processes(processes, threads, saver),
            memory: SavedMemory { spaces: spaces.save(saver), frames: frames.save() },
            tree: files.save(saver),
            network: network.save(saver)?,
        })
    }
}

fn save_processes(
    processes: &BTreeMap<Pid, Process>,
    threads: &BTreeMap<Tid, Thread>,
    saver: &mut Saver<'_>,
) -> SavedProcesses {
    let processes = processes.values().map(|process| process.save(saver)).collect();
    let threads = threads.iter().map(|(tid, thread)| (*tid, thread.save(saver))).collect();
    SavedProcesses {
        programs: saver.programs.objects().map(ProgramFacts::save).collect(),
        actions: saver.actions.objects().map(save_actions).collect(),
        processes,
        threads,
    }
}
