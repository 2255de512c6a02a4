//! Removes code that no function uses: blobs and extracted packages.

use std::collections::{HashMap, HashSet};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use calypte_store::{FUNCTIONS_PAGE_MAX, StoreError};
use calypte_types::BlobId;

use crate::Control;
use crate::error::ControlError;
use crate::prepare::blocking;

/// How often, besides when something became unused.
const INTERVAL: Duration = Duration::from_secs(3600);
/// Time between something becoming unused and its removal, so that many changes cause one collection.
const DELAY: Duration = Duration::from_secs(5);

/// Packages that nothing refers to any more but that running invocations may still read: those of functions that were
/// changed or deleted meanwhile, whose callers may have left.
#[derive(Debug, Default)]
pub(crate) struct Lingering {
    until: HashMap<BlobId, Instant>,
}

impl Lingering {
    /// Keeps a package until then, at least.
    pub(crate) fn keep(&mut self, package: BlobId, until: Instant) {
        let kept = self.until.entry(package).or_insert(until);
        *kept = until.max(*kept);
    }

    /// The packages to keep now.
    fn current(&mut self, now: Instant) -> impl Iterator<Item = BlobId> {
        self.until.retain(|_, until| *until > now);
        self.until.keys().cloned()
    }
}

impl Control {
    /// Collects when woken and now and then. Runs until dropped; may be stopped anywhere.
    pub async fn keep_collecting_garbage(&self) {
        loop {
            if let Err(error) = self.collect_garbage().await {
                tracing::error!(error = &error as &dyn std::error::Error, "unused code could not be removed");
            }
            // A time-out is the timer's turn.
            let _ = tokio::time::timeout(INTERVAL, self.garbage.notified()).await;
            tokio::time::sleep(DELAY).await;
        }
    }

    /// Removes what is unused now: first blobs, then directories that were extracted from them. A directory that goes
    /// although a function was just created with it is extracted again when it is needed.
    pub async fn collect_garbage(&self) -> Result<(), ControlError> {
        let failed = |error: StoreError| ControlError::internal("collecting unused code")(error.into());
        let garbage = self.store.collect_garbage().await.map_err(failed)?;
        let mut referenced = HashSet::new();
        for account in self.store.accounts().await.map_err(failed)? {
            let mut after = None;
            loop {
                let page =
                    self.store.functions(&account.id, after.as_ref(), FUNCTIONS_PAGE_MAX).await.map_err(failed)?;
                referenced.extend(page.functions.into_iter().map(|function| function.code.blob));
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
        }
        let now = Instant::now();
        referenced.extend(self.lingering.lock().unwrap_or_else(PoisonError::into_inner).current(now));
        let code = self.code.clone();
        let directories = blocking(move || code.retain(&referenced)).await;
        let directories =
            directories.map_err(|error| ControlError::internal("collecting unused code")(error.into()))?;
        if garbage.blobs > 0 || directories > 0 {
            tracing::info!(blobs = garbage.blobs, bytes = garbage.bytes, directories, "unused code removed");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_linger_until_the_latest_time_that_was_asked_for() {
        let now = Instant::now();
        let after = |seconds| now + Duration::from_secs(seconds);
        let (first, second) = (BlobId::from_digest([1; 32]), BlobId::from_digest([2; 32]));
        let mut lingering = Lingering::default();
        lingering.keep(first.clone(), after(10));
        lingering.keep(first.clone(), after(5));
        lingering.keep(second, after(3));
        assert_eq!(lingering.current(after(1)).count(), 2);
        assert_eq!(lingering.current(after(9)).collect::<Vec<_>>(), [first]);
        assert_eq!(lingering.current(after(10)).count(), 0);
    }
}
