//! What runs invocations: the wall between deciding what to run and running it.

use std::future::Future;
use std::pin::Pin;

use calypte_types::{AccountId, FunctionName};
use calypte_worker::{InvokeError, InvokeOutcome, InvokeRequest, Worker};

/// A running invocation.
pub type Invocation<'a> = Pin<Box<dyn Future<Output = Result<InvokeOutcome, InvokeError>> + Send + 'a>>;

/// Runs invocations in environments. Implemented by this node's worker.
pub trait Executor: Send + Sync + 'static {
    /// Runs one invocation to its end.
    fn invoke(&self, request: InvokeRequest) -> Invocation<'_>;

    /// Ends the idle environments of a function except those of the revision `keep`; running ones end when their
    /// invocation does.
    fn retire(&self, account: &AccountId, function: &FunctionName, keep: Option<&str>);
}

impl Executor for Worker {
    fn invoke(&self, request: InvokeRequest) -> Invocation<'_> {
        Box::pin(Worker::invoke(self, request))
    }

    fn retire(&self, account: &AccountId, function: &FunctionName, keep: Option<&str>) {
        Worker::retire(self, account, function, keep);
    }
}
