//! Who is told by a signal that a file has something to read: `O_ASYNC` and `F_SETOWN` (`fcntl(2)`, "Managing signals").

use std::sync::{Arc, Weak};

use serde::{Deserialize, Serialize};

use crate::errno::Errno;
use crate::file::{Body, OpenFile, readiness};
use crate::kernel::Kernel;
use crate::process::Pid;
use crate::signal::{Info, Signal};

/// Whom a file belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Owner {
    /// A thread, by its id.
    Thread(u32),
    /// A process.
    Process(Pid),
    /// A process group.
    Group(Pid),
}

/// Who is told of a file's readiness, and what was told already.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Ownership {
    /// Nobody at first.
    pub owner: Option<Owner>,
    /// Real and effective user of whoever has said so: in his name the signals are sent.
    users: [u32; 2],
    /// The file's count of changes when it was looked at last.
    seen_changes: u64,
}

impl OpenFile {
    /// Who owns it.
    pub fn owner(&self) -> Option<Owner> {
        self.ownership.lock().owner
    }

    /// Gives it an owner (`F_SETOWN`).
    pub fn set_owner(&self, owner: Option<Owner>, users: [u32; 2]) {
        let mut ownership = self.ownership.lock();
        (ownership.owner, ownership.users) = (owner, users);
    }

    /// Whether its owner is told of its readiness.
    pub fn is_asynchronous(&self) -> bool {
        self.has_flag(libc::O_ASYNC)
    }

    /// Whether Linux tells the owners of such files anything.
    fn has_news(&self) -> bool {
        matches!(
            self.body,
            Body::Pipe(_)
                | Body::Socket(_)
                | Body::Terminal(_)
                | Body::Inotify(_)
                | Body::ConsoleInput
                | Body::ConsoleOutput(_)
        )
    }

    /// Who is to be told now, in whose name: something has changed, and there is something to read, or room in what is only
    /// written.
    fn take_news(&self, kernel: &Kernel) -> Option<(Owner, [u32; 2])> {
        let changes = self.changes(kernel);
        let mut ownership = self.ownership.lock();
        if std::mem::replace(&mut ownership.seen_changes, changes) == changes {
            return None;
        }
        let wanted = if self.is_readable() { readiness::IN | readiness::PRIORITY } else { readiness::OUT };
        let wanted = wanted | readiness::ERROR | readiness::HANG_UP;
        let owner = ownership.owner?;
        (self.readiness(kernel) & wanted != 0).then_some((owner, ownership.users))
    }
}

impl Kernel {
    /// Switches `O_ASYNC`. `ENOTTY` for files that nobody is told of.
    pub(crate) fn set_asynchronous(&mut self, file: &Arc<OpenFile>, is_asynchronous: bool) -> Result<(), Errno> {
        if !file.has_news() {
            return Err(Errno::ENOTTY);
        }
        if is_asynchronous != file.is_asynchronous() {
            // Those that are closed by now go too: the list is never longer than there are open files.
            self.asynchronous
                .retain(|other| other.strong_count() > 0 && !std::ptr::eq(other.as_ptr(), Arc::as_ptr(file)));
        }
        if is_asynchronous && !file.is_asynchronous() {
            file.ownership.lock().seen_changes = file.changes(self);
            self.asynchronous.push(Arc::downgrade(file));
        }
        file.set_flag(libc::O_ASYNC, is_asynchronous);
        Ok(())
    }

    /// Tells the owners of files whose readiness has changed.
    pub(crate) fn signal_owners(&mut self) {
        if self.asynchronous.is_empty() || !self.waits.notifier().has_rung() {
            return;
        }
        let mut files = std::mem::take(&mut self.asynchronous);
        files.retain(|file| file.upgrade().is_some_and(|file| file.is_asynchronous()));
        for file in files.iter().filter_map(Weak::upgrade) {
            if let Some((owner, users)) = file.take_news(self) {
                self.signal_owner(owner, users);
            }
        }
        self.asynchronous = files;
    }

    fn signal_owner(&mut self, owner: Owner, users: [u32; 2]) {
        let info = Info::from_kernel(Signal::IO);
        let is_permitted = |kernel: &Kernel, pid: Pid| {
            let target = kernel.processes.get(&pid).map(|process| &process.credentials);
            target.is_some_and(|target| {
                users[1] == 0 || users.iter().any(|uid| [target.uid, target.uid_saved].contains(uid))
            })
        };
        let (thread, processes) = match owner {
            Owner::Thread(tid) => (self.threads.get(&tid).map(|thread| (tid, thread.pid)), Vec::new()),
            Owner::Process(pid) => (None, vec![pid]),
            Owner::Group(group) => (None, self.processes_where(|process| process.group == group)),
        };
        // Nobody waits for an answer: what cannot be sent is lost, as on Linux.
        if let Some((tid, _)) = thread.filter(|(_, pid)| is_permitted(self, *pid)) {
            let _ = self.signal_thread(tid, info);
        }
        for pid in processes {
            if is_permitted(self, pid) {
                let _ = self.signal_process(pid, info);
            }
        }
    }
}
