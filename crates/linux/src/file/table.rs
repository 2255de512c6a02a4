//! A process's descriptors.

use std::sync::Arc;

use calypte_types::limits::FILE_DESCRIPTORS_MAX;

use crate::errno::Errno;
use crate::file::OpenFile;
use crate::file::lock::{Locks, Owner, TableLocks};

/// Most descriptors that `RLIMIT_NOFILE` may allow a process.
pub const DESCRIPTORS_MAX: usize = crate::limits::FILES_MAX as usize;

/// The descriptors of one process.
#[derive(Debug)]
pub struct FdTable {
    slots: Vec<Option<Slot>>,
    limit: usize,
    /// Record locks, once there were any.
    locks: Option<TableLocks>,
}

impl Clone for FdTable {
    /// What `fork(2)` does: record locks are not inherited.
    fn clone(&self) -> Self {
        Self { slots: self.slots.clone(), limit: self.limit, locks: None }
    }
}

#[derive(Debug, Clone)]
struct Slot {
    file: Arc<OpenFile>,
    is_closed_on_exec: bool,
}

impl Default for FdTable {
    fn default() -> Self {
        Self { slots: Vec::new(), limit: FILE_DESCRIPTORS_MAX, locks: None }
    }
}

impl FdTable {
    /// The open file behind a descriptor.
    pub fn get(&self, fd: i32) -> Result<Arc<OpenFile>, Errno> {
        self.slot(fd).map(|slot| slot.file.clone())
    }

    fn slot(&self, fd: i32) -> Result<&Slot, Errno> {
        let index = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        self.slots.get(index).and_then(Option::as_ref).ok_or(Errno::EBADF)
    }

    /// Gives a file the lowest free descriptor that is at least `minimum`. `EMFILE` when there is none below the limit.
    pub fn insert(&mut self, file: Arc<OpenFile>, is_closed_on_exec: bool, minimum: i32) -> Result<i32, Errno> {
        let minimum = usize::try_from(minimum).map_err(|_| Errno::EINVAL)?;
        if minimum >= self.limit {
            return Err(Errno::EINVAL);
        }
        let free = (minimum..self.limit).find(|index| self.slots.get(*index).is_none_or(Option::is_none));
        let index = free.ok_or(Errno::EMFILE)?;
        self.put(index, Slot { file, is_closed_on_exec });
        Ok(index as i32)
    }

    /// Gives a file this descriptor; what was there before comes back.
    pub fn replace(
        &mut self,
        fd: i32,
        file: Arc<OpenFile>,
        is_closed_on_exec: bool,
    ) -> Result<Option<Arc<OpenFile>>, Errno> {
        let index = usize::try_from(fd).ok().filter(|index| *index < self.limit).ok_or(Errno::EBADF)?;
        Ok(self.put(index, Slot { file, is_closed_on_exec }))
    }

    fn put(&mut self, index: usize, slot: Slot) -> Option<Arc<OpenFile>> {
        if self.slots.len() <= index {
            self.slots.resize(index + 1, None);
        }
        let before = self.slots[index].replace(slot).map(|slot| slot.file);
        before.inspect(|file| self.release_locks(file))
    }

    /// Closing any descriptor of a file ends all record locks on it (`fcntl(2)`).
    fn release_locks(&self, file: &OpenFile) {
        if let (Some(locks), Some(key)) = (&self.locks, file.known_key()) {
            locks.release(key);
        }
    }

    /// As whose record locks are taken through this table.
    pub fn lock_owner(&mut self, locks: &Locks) -> Owner {
        self.locks.get_or_insert_with(|| locks.new_table()).owner()
    }

    /// Closes a descriptor.
    pub fn remove(&mut self, fd: i32) -> Result<Arc<OpenFile>, Errno> {
        let index = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        let slot = self.slots.get_mut(index).and_then(Option::take);
        let file = slot.map(|slot| slot.file).ok_or(Errno::EBADF)?;
        self.release_locks(&file);
        Ok(file)
    }

    /// Whether `execve` closes a descriptor.
    pub fn is_closed_on_exec(&self, fd: i32) -> Result<bool, Errno> {
        self.slot(fd).map(|slot| slot.is_closed_on_exec)
    }

    /// Changes whether `execve` closes a descriptor.
    pub fn set_closed_on_exec(&mut self, fd: i32, is_closed_on_exec: bool) -> Result<(), Errno> {
        self.slot(fd)?;
        if let Some(Some(slot)) = self.slots.get_mut(fd as usize) {
            slot.is_closed_on_exec = is_closed_on_exec;
        }
        Ok(())
    }

    /// What `execve` does.
    pub fn close_on_exec(&mut self) {
        let closed = |slot: &&mut Option<Slot>| slot.as_ref().is_some_and(|slot| slot.is_closed_on_exec);
        let closed: Vec<Slot> = self.slots.iter_mut().filter(closed).filter_map(Option::take).collect();
        for slot in closed {
            self.release_locks(&slot.file);
        }
    }

    /// The descriptors in use, ascending.
    pub fn descriptors(&self) -> impl Iterator<Item = i32> {
        self.slots.iter().enumerate().filter(|(_, slot)| slot.is_some()).map(|(index, _)| index as i32)
    }

    /// What `RLIMIT_NOFILE` says; open descriptors above stay open.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit.min(DESCRIPTORS_MAX);
    }
}
