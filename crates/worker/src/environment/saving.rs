//! An environment that is started only to become a template: initialised as any other, then saved, and ended.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use calypte_wire::descriptor::Descriptor;
use calypte_wire::monitor::ToMonitor;

use super::{Environment, Interruption, Notice, start_message};
use crate::egress::send_descriptor;
use crate::process::MonitorProcess;
use crate::protocol::Event;
use crate::templates::{Draft, Template};

/// How long saving may take.
const SAVE_TIME_MAX: Duration = Duration::from_secs(60);

/// The variable by which runtimes know whether to ask for `restore/next`.
const INITIALIZATION_TYPE: &str = "AWS_LAMBDA_INITIALIZATION_TYPE";
/// Its value in an environment that is to be saved.
const SNAP_START: &str = "snap-start";

/// Why there is no template.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SavingError {
    #[error("the program did not become ready for its first event ({0})")]
    NotReady(String),
    #[error("the environment ended before it was saved")]
    Interrupted(#[source] Interruption),
    #[error("the monitor could not save its guest: {0}")]
    NotSaved(String),
    #[error("the file of the template cannot be made, sent or sealed")]
    File(#[from] io::Error),
}

/// Tells the runtime that it is to be saved, as Lambda does.
fn say_snap_start(environment: &mut Vec<(String, String)>) {
    environment.retain(|(name, _)| name != INITIALIZATION_TYPE);
    environment.push((INITIALIZATION_TYPE.to_owned(), SNAP_START.to_owned()));
}

impl<N: Fn(Notice)> Environment<N> {
    /// Runs the program until it is ready for its first event, or waits in `restore/next`, saves it, and ends it. `descriptors`
    /// is where its monitor is sent descriptors.
    pub(crate) async fn run_to_template(
        mut self,
        descriptors: &OwnedFd,
        init_timeout: Duration,
        process: Option<MonitorProcess>,
    ) -> Result<Template, SavingError> {
        let result = self.save(descriptors, init_timeout).await;
        (self.notify)(Notice::Ending);
        // There is nothing that this monitor could still be wanted for.
        drop(self);
        if let Some(process) = process {
            process.end(Duration::ZERO).await;
        }
        // Only now can nobody write any more.
        let (draft, bytes) = result?;
        Ok(draft.seal(bytes)?)
    }

    async fn save(&mut self, descriptors: &OwnedFd, init_timeout: Duration) -> Result<(Draft, u64), SavingError> {
        let mut start = start_message(&self.spec, self.offer, &self.origin);
        start.is_to_be_saved = true;
        say_snap_start(&mut start.environment);
        self.channel.send(&ToMonitor::Start(Box::new(start)));
        let deadline = Instant::now() + init_timeout + self.timeout();
        match self.next_event(deadline).await.map_err(SavingError::Interrupted)? {
            Event::Ready => {}
            event => return Err(SavingError::NotReady(format!("{event:?}"))),
        }
        let draft = Draft::new(&self.spec)?;
        self.conversation.save();
        send_descriptor(descriptors.as_fd(), Descriptor::State, draft.file())?;
        match self.next_event(Instant::now() + SAVE_TIME_MAX).await.map_err(SavingError::Interrupted)? {
            Event::Saved { bytes } => Ok((draft, bytes)),
            Event::NotSaved { reason } => Err(SavingError::NotSaved(reason)),
            event => Err(SavingError::NotReady(format!("{event:?}"))),
        }
    }
}
