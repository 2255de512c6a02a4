//! `POST /2015-03-31/functions/{function}/invocations`.

use std::time::Duration;

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::MethodFilter;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use calypte_control::{InvalidParameter, InvocationKind, InvokeCall, Invoked};
use calypte_types::limits::PAYLOAD_BYTES_MAX;
use calypte_worker::{FunctionError, Report};

use super::Action;
use crate::app::{App, Call};
use crate::error::{ApiError, ErrorName};

const EXECUTED_VERSION: &str = "x-amz-executed-version";
const FUNCTION_ERROR: &str = "x-amz-function-error";
const LOG_RESULT: &str = "x-amz-log-result";
/// Ours: the rung of the placement ladder.
const PLACEMENT: &str = "x-calypte-placement";
/// Ours: milliseconds that the function ran.
const DURATION_MS: &str = "x-calypte-duration-ms";
/// Ours: milliseconds that the function's initialisation took, when this invocation waited for it.
const INIT_DURATION_MS: &str = "x-calypte-init-duration-ms";
const RESTORE_DURATION_MS: &str = "x-calypte-restore-duration-ms";
/// Ours: most memory that the environment has used, in bytes.
const MEMORY_PEAK_BYTES: &str = "x-calypte-memory-peak-bytes";

/// Runs a function and waits for its result.
pub(crate) struct Invoke;

impl Action for Invoke {
    const NAME: &'static str = "InvokeFunction";
    const PERMISSION: &'static str = "lambda:InvokeFunction";
    const METHOD: MethodFilter = MethodFilter::POST;
    const PATHS: &'static [&'static str] = &["/2015-03-31/functions/{function}/invocations"];
    const BODY_BYTES_MAX: usize = PAYLOAD_BYTES_MAX;
    const TOO_LARGE: ErrorName = ErrorName::RequestTooLarge;

    async fn run(app: &App, mut call: Call) -> Result<Response, ApiError> {
        let target = call.target::<Self>(app)?;
        let kind = InvocationKind::parse(call.header("x-amz-invocation-type"))?;
        let wants_log = wants_log(&call)?;
        call.refuse_header("x-amz-durable-execution-name", "DurableExecutionName")?;
        call.refuse_header("x-amz-tenant-id", "TenantId")?;
        let payload = std::mem::take(&mut call.body.bytes);
        let invoked = app.control().invoke(InvokeCall {
            target,
            request_id: call.request_id,
            kind,
            payload,
            client_context: call.header("x-amz-client-context"),
            trace_id: call.header("x-amzn-trace-id"),
        });
        let invoked = invoked.await?;
        let version = HeaderValue::from_static(invoked.version());
        let (mut response, log_tail) = match invoked {
            Invoked::Checked => (StatusCode::NO_CONTENT.into_response(), None),
            Invoked::NotStartable { payload, log_tail } => {
                (result(payload, Some(FunctionError::Unhandled)), Some(log_tail))
            }
            Invoked::Ran(outcome) => {
                let mut response = result(outcome.payload, outcome.error);
                add_report(response.headers_mut(), &outcome.report);
                (response, Some(outcome.log_tail))
            }
        };
        if let Some(log_tail) = log_tail.filter(|_| wants_log) {
            response.headers_mut().insert(LOG_RESULT, text(BASE64_STANDARD.encode(log_tail)));
        }
        response.headers_mut().insert(EXECUTED_VERSION, version);
        Ok(response)
    }
}

/// `X-Amz-Log-Type`.
fn wants_log(call: &Call) -> Result<bool, InvalidParameter> {
    match call.header("x-amz-log-type") {
        None | Some("None") => Ok(false),
        Some("Tail") => Ok(true),
        Some(other) => Err(InvalidParameter::malformed("logType", other, "one of None and Tail")),
    }
}

fn result(payload: impl Into<Body>, error: Option<FunctionError>) -> Response {
    let mut response = Response::new(payload.into());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(error) = error {
        response.headers_mut().insert(FUNCTION_ERROR, HeaderValue::from_static(error.as_str()));
    }
    response
}

fn add_report(headers: &mut HeaderMap, report: &Report) {
    headers.insert(PLACEMENT, HeaderValue::from_static(report.rung.as_str()));
    headers.insert(DURATION_MS, milliseconds(report.duration));
    if let Some(duration) = report.init_duration {
        headers.insert(INIT_DURATION_MS, milliseconds(duration));
    }
    if let Some(duration) = report.restore_duration {
        headers.insert(RESTORE_DURATION_MS, milliseconds(duration));
    }
    headers.insert(MEMORY_PEAK_BYTES, HeaderValue::from(report.memory_peak_bytes));
}

fn milliseconds(duration: Duration) -> HeaderValue {
    text(format!("{:.2}", duration.as_secs_f64() * 1000.0))
}

/// Numbers and base64 are header values.
fn text(text: String) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}
