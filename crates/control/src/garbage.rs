//! Removes code that no function uses: blobs and extracted packages.

use std::collections::HashSet;
use std::time::Duration;

use calypte_store::{FUNCTIONS_PAGE_MAX, StoreError};

use crate::Control;
use crate::error::ControlError;
use crate::prepare::blocking;

/// How often, besides when something became unused.
const INTERVAL: Duration = Duration::from_secs(3600);
/// Time between something becoming unused and its removal, so that many changes cause one collection.
const DELAY: Duration = Duration::from_secs(5);

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
