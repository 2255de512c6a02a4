//! Synchronous invocations.

use bytes::Bytes;
use calypte_types::RequestId;
use calypte_worker::{InvokeError, InvokeOutcome, InvokeRequest};
use serde_json::json;

use crate::Control;
use crate::error::ControlError;
use crate::event::{self, InvocationKind};
use crate::function_name::{LATEST, Target};

/// An invocation as a client asks for it.
#[derive(Debug)]
pub struct InvokeCall<'a> {
    /// Which function.
    pub target: Target,
    /// The id that client and function see.
    pub request_id: RequestId,
    /// How.
    pub kind: InvocationKind,
    /// The event.
    pub payload: Bytes,
    /// `X-Amz-Client-Context`.
    pub client_context: Option<&'a str>,
    /// `X-Amzn-Trace-Id`.
    pub trace_id: Option<&'a str>,
}

/// What became of an invocation.
#[derive(Debug)]
pub enum Invoked {
    /// It could be run, and was not asked to be.
    Checked,
    /// It ran.
    Ran(InvokeOutcome),
    /// The function has no program that could be started: the error document.
    NotStartable {
        /// As if the runtime had posted it.
        payload: Vec<u8>,
        /// What the caller gets as the end of the log.
        log_tail: Vec<u8>,
    },
}

impl Control {
    /// Runs a function to its end, or checks that it could be run.
    pub async fn invoke(&self, call: InvokeCall<'_>) -> Result<Invoked, ControlError> {
        call.target.require_latest(&self.region)?;
        let prepared = self.prepared(&call.target).await?;
        let payload = event::check_payload(call.payload)?;
        let client_context = event::client_context(call.client_context)?;
        if call.kind == InvocationKind::DryRun {
            return Ok(Invoked::Checked);
        }
        if let Some(problem) = prepared.entry_point_problem {
            let message = format!("RequestId: {} Error: {problem}", call.request_id);
            tracing::warn!(account = %call.target.account, function = %call.target.name, message, "not startable");
            let document = json!({"errorType": "Runtime.InvalidEntrypoint", "errorMessage": message});
            let id = call.request_id;
            let log = format!("START RequestId: {id} Version: {LATEST}\n{message}\nEND RequestId: {id}\n");
            return Ok(Invoked::NotStartable { payload: document.to_string().into(), log_tail: log.into() });
        }
        let request = InvokeRequest {
            request_id: call.request_id,
            spec: prepared.spec.clone(),
            invoked_arn: call.target.arn(&self.region).to_string(),
            payload: payload.into(),
            client_context,
            trace_id: event::trace_id(call.trace_id),
        };
        self.executor.invoke(request).await.map(Invoked::Ran).map_err(|error| match error {
            InvokeError::Throttled { reason } => ControlError::Throttled(reason),
            InvokeError::ShuttingDown => ControlError::ShuttingDown,
            InvokeError::Environment(source) => ControlError::Internal { doing: "starting an environment", source },
        })
    }
}

impl Invoked {
    /// The version that ran or would run.
    pub fn version(&self) -> &'static str {
        LATEST
    }
}
