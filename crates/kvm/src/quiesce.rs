//! Waiting until no virtual CPU works with an old page-table entry.
//!
//! With shadow paging, KVM serves a fault by reading the guest's page tables and then installing what it read. If an entry
//! changes between the two, and the flush comes before the second, the old translation would be installed after the
//! flush and stay. A guest kernel avoids that by interrupting the other processors before it relies on a change; we
//! do the same: change the entry, have every virtual CPU leave `KVM_RUN` once, flush.
//!
//! No test fails without this on today's KVM, whose shadow paging reads the leaf entry again under the lock that a flush takes
//! too before it installs a translation (`gpte_changed` in Linux's `paging_tmpl.h`): 48,000 pages unmapped or protected
//! while other virtual CPUs used them showed nothing with the interruption removed; it is kept for KVMs that do not.

use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};

use crate::kick::KickState;

/// The virtual CPUs of a machine.
#[derive(Debug, Default)]
pub(crate) struct VcpuSet(Mutex<Vec<Arc<KickState>>>);

impl VcpuSet {
    /// Adds one.
    pub(crate) fn add(&self, vcpu: Arc<KickState>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(vcpu);
    }

    /// Returns when every virtual CPU has been outside `KVM_RUN` after the call began. Costs next to nothing when none is
    /// inside, as with one virtual CPU whose thread is the caller.
    pub(crate) fn interrupt_and_wait(&self) {
        // Page-table entries written before are visible to whoever enters from here on.
        fence(Ordering::SeqCst);
        for vcpu in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            vcpu.interrupt_and_wait();
        }
    }
}
