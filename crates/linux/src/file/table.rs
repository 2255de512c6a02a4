//! A process's descriptors. Processes made with `CLONE_FILES` share them.

pub(crate) mod saved;

use std::sync::Arc;

use parking_lot::Mutex;

use calypte_types::limits::FILE_DESCRIPTORS_MAX;

use crate::errno::Errno;
use crate::file::OpenFile;
use crate::file::lock::{Locks, Owner, TableLocks};

/// Most descriptors that `RLIMIT_NOFILE` may allow a process.
pub const DESCRIPTORS_MAX: usize = crate::limits::FILES_MAX as usize;

/// The descriptors of one process, or its hold on those that it shares, and the limit that it has itself.
#[derive(Debug)]
pub struct FdTable {
    table: Arc<Table>,
    limit: usize,
}

#[derive(Debug, Default)]
pub(crate) struct Table {
    slots: Mutex<Vec<Option<Slot>>>,
    /// Record locks, once there were any.
    locks: Mutex<Option<TableLocks>>,
}

#[derive(Debug, Clone)]
struct Slot {
    file: Arc<OpenFile>,
    is_closed_on_exec: bool,
}

impl Default for FdTable {
    fn default() -> Self {
        Self { table: Arc::default(), limit: FILE_DESCRIPTORS_MAX }
    }
}

impl FdTable {
    /// The same descriptors for another process: what one opens or closes, the other has or has not (`CLONE_FILES`).
    pub fn share(&self) -> Self {
        Self { table: self.table.clone(), limit: self.limit }
    }

    /// A copy of the descriptors, for the same open files. Record locks are not inherited.
    pub fn copy(&self) -> Self {
        let slots = Mutex::new(self.table.slots.lock().clone());
        Self { table: Arc::new(Table { slots, locks: Mutex::default() }), limit: self.limit }
    }

    /// Whether it is the very same table as another process's.
    pub fn is_shared_with(&self, other: &FdTable) -> bool {
        Arc::ptr_eq(&self.table, &other.table)
    }

    /// The open file behind a descriptor.
    pub fn get(&self, fd: i32) -> Result<Arc<OpenFile>, Errno> {
        self.with_slot(fd, |slot| slot.file.clone())
    }

    fn with_slot<T>(&self, fd: i32, look: impl FnOnce(&mut Slot) -> T) -> Result<T, Errno> {
        let index = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        self.table.slots.lock().get_mut(index).and_then(Option::as_mut).map(look).ok_or(Errno::EBADF)
    }

    /// Whether one more descriptor is free; `EMFILE` if not. Calls that change something ask first.
    pub fn check_room(&self) -> Result<(), Errno> {
        self.free_index(&self.table.slots.lock(), 0).map(drop)
    }

    fn free_index(&self, slots: &[Option<Slot>], minimum: usize) -> Result<usize, Errno> {
        let free = (minimum..self.limit).find(|index| slots.get(*index).is_none_or(Option::is_none));
        free.ok_or(Errno::EMFILE)
    }

    /// Gives a file the lowest free descriptor. `EMFILE` when there is none below the limit.
    pub fn insert(&mut self, file: Arc<OpenFile>, is_closed_on_exec: bool) -> Result<i32, Errno> {
        self.insert_from(file, is_closed_on_exec, 0)
    }

    /// The same from a descriptor on. `EINVAL` if that is not below the limit.
    pub fn insert_at_least(
        &mut self,
        file: Arc<OpenFile>,
        is_closed_on_exec: bool,
        minimum: i32,
    ) -> Result<i32, Errno> {
        let minimum = usize::try_from(minimum).ok().filter(|minimum| *minimum < self.limit).ok_or(Errno::EINVAL)?;
        self.insert_from(file, is_closed_on_exec, minimum)
    }

    fn insert_from(&mut self, file: Arc<OpenFile>, is_closed_on_exec: bool, minimum: usize) -> Result<i32, Errno> {
        let mut slots = self.table.slots.lock();
        let index = self.free_index(&slots, minimum)?;
        put(&mut slots, index, Slot { file, is_closed_on_exec });
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
        let before = put(&mut self.table.slots.lock(), index, Slot { file, is_closed_on_exec });
        Ok(before.inspect(|file| self.release_locks(file)))
    }

    /// Closing any descriptor of a file ends all record locks on it (`fcntl(2)`).
    fn release_locks(&self, file: &OpenFile) {
        if let (Some(locks), Some(key)) = (&*self.table.locks.lock(), file.known_key()) {
            locks.release(key);
        }
    }

    /// As whose record locks are taken through this table.
    pub fn lock_owner(&mut self, locks: &Locks) -> Owner {
        self.table.locks.lock().get_or_insert_with(|| locks.new_table()).owner()
    }

    /// Closes a descriptor.
    pub fn remove(&mut self, fd: i32) -> Result<Arc<OpenFile>, Errno> {
        let index = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        let slot = self.table.slots.lock().get_mut(index).and_then(Option::take);
        let file = slot.map(|slot| slot.file).ok_or(Errno::EBADF)?;
        self.release_locks(&file);
        Ok(file)
    }

    /// Whether `execve` closes a descriptor.
    pub fn is_closed_on_exec(&self, fd: i32) -> Result<bool, Errno> {
        self.with_slot(fd, |slot| slot.is_closed_on_exec)
    }

    /// Changes whether `execve` closes a descriptor.
    pub fn set_closed_on_exec(&mut self, fd: i32, is_closed_on_exec: bool) -> Result<(), Errno> {
        self.with_slot(fd, |slot| slot.is_closed_on_exec = is_closed_on_exec)
    }

    /// Makes the table the process's own, if it shares it.
    pub fn unshare(&mut self) {
        if Arc::strong_count(&self.table) > 1 {
            *self = self.copy();
        }
    }

    /// What `execve` does: the table is the process's own from now on, without what is closed then.
    pub fn close_on_exec(&mut self) {
        self.unshare();
        let closed = |slot: &mut Option<Slot>| slot.take_if(|slot| slot.is_closed_on_exec);
        let closed: Vec<Slot> = self.table.slots.lock().iter_mut().filter_map(closed).collect();
        for slot in closed {
            self.release_locks(&slot.file);
        }
    }

    /// The descriptors in use, ascending.
    pub fn descriptors(&self) -> impl Iterator<Item = i32> + use<> {
        let slots = self.table.slots.lock();
        let used = slots.iter().enumerate().filter(|(_, slot)| slot.is_some()).map(|(index, _)| index as i32);
        used.collect::<Vec<i32>>().into_iter()
    }

    /// What `RLIMIT_NOFILE` says; open descriptors above stay open.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit.min(DESCRIPTORS_MAX);
    }
}

fn put(slots: &mut Vec<Option<Slot>>, index: usize, slot: Slot) -> Option<Arc<OpenFile>> {
    if slots.len() <= index {
        slots.resize(index + 1, None);
    }
    slots[index].replace(slot).map(|slot| slot.file)
}
