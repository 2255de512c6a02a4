//! Invocations that end without an answer of the program's: Lambda's error types and texts.

use calypte_wire::monitor::ExitCause;
use serde::Serialize;

use crate::timestamp;
use crate::transcript::Status;

/// Largest response as Lambda's message states it, in bytes.
const RESPONSE_BYTES_STATED: u64 = 6_291_556;
const SIGKILL: u8 = 9;

/// What ended an invocation.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Fault {
    /// It ran longer than its function may.
    TimedOut { timeout_s: u32 },
    /// The program ended before it answered.
    Exited { cause: ExitCause, is_initialising: bool },
    /// The monitor ended without saying why.
    Lost,
    /// The monitor broke its protocol.
    Misbehaved { violation: String },
    /// The response was longer than the limit.
    ResponseTooLarge,
}

/// Lambda's error document, in Lambda's order.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    error_type: &'a str,
    error_message: &'a str,
}

impl Fault {
    /// `errorType`.
    pub(crate) fn error_type(&self) -> &'static str {
        match self {
            Self::TimedOut { .. } => "Sandbox.Timedout",
            Self::Exited { cause: ExitCause::OutOfMemory, .. } => "Runtime.OutOfMemory",
            Self::Exited { cause: ExitCause::Failed(_), is_initialising: true } => "Runtime.InvalidEntrypoint",
            Self::Exited { cause: ExitCause::Failed(_), is_initialising: false } | Self::Misbehaved { .. } => {
                "Sandbox.Failure"
            }
            Self::Exited { .. } | Self::Lost => "Runtime.ExitError",
            Self::ResponseTooLarge => "Function.ResponseSizeTooLarge",
        }
    }

    /// What comes after `RequestId: … Error: `.
    fn description(&self) -> String {
        match self {
            Self::TimedOut { timeout_s } => format!("Task timed out after {timeout_s}.00 seconds"),
            Self::Exited { cause, .. } => match cause {
                ExitCause::OutOfMemory => "Runtime exited with error: signal: killed".to_owned(),
                ExitCause::Status(0) => "Runtime exited without providing a reason".to_owned(),
                ExitCause::Status(status) => format!("Runtime exited with error: exit status {status}"),
                ExitCause::Signal(signal) => format!("Runtime exited with error: signal: {}", signal_text(*signal)),
                ExitCause::Failed(text) => text.clone(),
            },
            Self::Lost => "Runtime exited without providing a reason".to_owned(),
            Self::Misbehaved { violation } => {
                format!("The execution environment failed and was ended: {violation}. The next call gets a new one")
            }
            Self::ResponseTooLarge => {
                format!("Response payload size exceeded maximum allowed payload size ({RESPONSE_BYTES_STATED} bytes).")
            }
        }
    }

    /// The error document that the caller gets.
    pub(crate) fn document(&self, request_id: &str) -> Vec<u8> {
        let error_message = match self {
            Self::ResponseTooLarge => self.description(),
            _ => format!("RequestId: {request_id} Error: {}", self.description()),
        };
        error_document(self.error_type(), &error_message)
    }

    /// The line that the function's log gets.
    pub(crate) fn log_line(&self, request_id: &str) -> String {
        match self {
            Self::TimedOut { .. } => format!("{} {request_id} {}", timestamp::now(), self.description()),
            _ => format!("RequestId: {request_id} Error: {} {}", self.description(), self.error_type()),
        }
    }

    /// What the `REPORT` line says.
    pub(crate) fn status(&self) -> Status {
        match self {
            Self::TimedOut { .. } => Status::Timeout,
            _ => Status::Error { error_type: self.error_type().to_owned() },
        }
    }
}

/// `{"errorType": …, "errorMessage": …}`.
pub(crate) fn error_document(error_type: &str, error_message: &str) -> Vec<u8> {
    serde_json::to_vec(&Document { error_type, error_message }).expect("two texts always have a JSON form")
}

/// A signal as Go's `syscall.Signal` names it, which is where Lambda's texts come from.
fn signal_text(signal: u8) -> String {
    let text = match signal {
        1 => "hangup",
        2 => "interrupt",
        3 => "quit",
        4 => "illegal instruction",
        5 => "trace/breakpoint trap",
        6 => "aborted",
        7 => "bus error",
        8 => "floating point exception",
        SIGKILL => "killed",
        11 => "segmentation fault",
        13 => "broken pipe",
        14 => "alarm clock",
        15 => "terminated",
        other => return format!("signal {other}"),
    };
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_lambdas() {
        let exited = |cause| Fault::Exited { cause, is_initialising: false };
        let cases = [
            (
                Fault::TimedOut { timeout_s: 3 },
                r#"{"errorType":"Sandbox.Timedout","errorMessage":"RequestId: id Error: Task timed out after 3.00 seconds"}"#,
            ),
            (
                exited(ExitCause::Status(1)),
                r#"{"errorType":"Runtime.ExitError","errorMessage":"RequestId: id Error: Runtime exited with error: exit status 1"}"#,
            ),
            (
                exited(ExitCause::Signal(9)),
                r#"{"errorType":"Runtime.ExitError","errorMessage":"RequestId: id Error: Runtime exited with error: signal: killed"}"#,
            ),
            (
                exited(ExitCause::Signal(11)),
                r#"{"errorType":"Runtime.ExitError","errorMessage":"RequestId: id Error: Runtime exited with error: signal: segmentation fault"}"#,
            ),
            (
                exited(ExitCause::OutOfMemory),
                r#"{"errorType":"Runtime.OutOfMemory","errorMessage":"RequestId: id Error: Runtime exited with error: signal: killed"}"#,
            ),
            (
                exited(ExitCause::Status(0)),
                r#"{"errorType":"Runtime.ExitError","errorMessage":"RequestId: id Error: Runtime exited without providing a reason"}"#,
            ),
            (
                Fault::Lost,
                r#"{"errorType":"Runtime.ExitError","errorMessage":"RequestId: id Error: Runtime exited without providing a reason"}"#,
            ),
            (
                Fault::Exited { cause: ExitCause::Failed("no \"such\" file".into()), is_initialising: true },
                r#"{"errorType":"Runtime.InvalidEntrypoint","errorMessage":"RequestId: id Error: no \"such\" file"}"#,
            ),
            (
                Fault::ResponseTooLarge,
                r#"{"errorType":"Function.ResponseSizeTooLarge","errorMessage":"Response payload size exceeded maximum allowed payload size (6291556 bytes)."}"#,
            ),
        ];
        for (fault, expected) in cases {
            assert_eq!(String::from_utf8(fault.document("id")).unwrap(), expected);
        }
    }

    #[test]
    fn log_lines_name_the_request() {
        let line = Fault::TimedOut { timeout_s: 3 }.log_line("id");
        assert!(line.ends_with("Z id Task timed out after 3.00 seconds"), "{line}");
        let line = Fault::Lost.log_line("id");
        assert_eq!(line, "RequestId: id Error: Runtime exited without providing a reason Runtime.ExitError");
    }
}
