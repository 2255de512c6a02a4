//! The worker's side of the conversation with a monitor, as a state machine: every message is checked against what may
//! come now. Pure.
//!
//! ```text
//!  Starting ──Ready──▶ Idle ──(invoke)──▶ Running ──Response, Failure, ResponseTooLarge──▶ Answered ──Ready──▶ Idle
//!     └─ InitError, Exited              └─ Exited                                            └─ Exited
//!
//!  Idle ──(save)──▶ Saving ──Saved, NotSaved──▶ Over
//! ```
//!
//! `Log` may come at any time, `Exited` too; nothing may come after `InitError` and `Exited`.

use calypte_types::limits::PAYLOAD_BYTES_MAX;
use calypte_wire::frame::FrameError;
use calypte_wire::monitor::{ExitCause, LOG_BYTES_MAX, ToWorker, Usage, WORKING_SET_RUNS_MAX, WorkingSet};

/// Longest text that is taken over from a monitor's message into logs and errors, in characters.
const TEXT_CHARS_MAX: usize = 1024;

/// What a monitor did that it may not do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Violation {
    /// A message that is not due.
    #[error("the monitor sent {message} while {phase}")]
    OutOfTurn { message: &'static str, phase: &'static str },
    /// An answer to something that was not asked.
    #[error("the monitor answered request {received:?} while {expected} runs")]
    WrongRequest { received: String, expected: String },
    /// An answer before the event was transferred.
    #[error("the monitor answered request {request_id} before it had read the event")]
    TooEarly { request_id: String },
    /// A response over the limit that the monitor should have refused.
    #[error("the monitor sent {bytes} bytes of {what}, the limit is {maximum}")]
    TooLong { what: &'static str, bytes: usize, maximum: usize },
    /// Bytes that are no message.
    #[error("the monitor's bytes are not a message")]
    Frame(#[from] FrameError),
}

/// What the program made of an invocation.
#[derive(Debug, PartialEq)]
pub(crate) enum Answer {
    Response { payload: Vec<u8> },
    Failure { error_type: String, payload: Vec<u8> },
    TooLarge { payload_bytes: u64 },
}

/// A message that was due.
#[derive(Debug, PartialEq)]
pub(crate) enum Event {
    Output { bytes: Vec<u8>, dropped_bytes: u64 },
    Ready,
    Answered(Answer),
    InitFailed { error_type: String, payload: Vec<u8> },
    Used(WorkingSet),
    Saved { bytes: u64 },
    NotSaved { reason: String },
    Exited(ExitCause),
}

#[derive(Debug, Clone, PartialEq)]
enum Phase {
    Starting,
    Idle,
    Running { request_id: String },
    Answered,
    Saving,
    Over,
}

/// One conversation.
#[derive(Debug)]
pub(crate) struct Conversation {
    phase: Phase,
    memory_peak_bytes: u64,
    is_set_known: bool,
}

impl Conversation {
    /// A conversation whose `Start` is being sent.
    pub(crate) fn new() -> Self {
        Self { phase: Phase::Starting, memory_peak_bytes: 0, is_set_known: false }
    }

    /// An `Invoke` is being sent.
    pub(crate) fn invoke(&mut self, request_id: String) {
        assert_eq!(self.phase, Phase::Idle, "an environment runs one invocation at a time, after Ready");
        self.phase = Phase::Running { request_id };
    }

    /// A file for the state of the guest is being sent.
    pub(crate) fn save(&mut self) {
        assert_eq!(self.phase, Phase::Idle, "an environment is saved while it waits for an invocation");
        self.phase = Phase::Saving;
    }

    /// The most memory that the environment has reported so far.
    pub(crate) fn memory_peak_bytes(&self) -> u64 {
        self.memory_peak_bytes
    }

    /// Checks a message. `is_sent`: all that was to be sent has been read from this end of the socket.
    pub(crate) fn receive(&mut self, message: ToWorker, is_sent: bool) -> Result<Event, Violation> {
        match message {
            ToWorker::Log { bytes, dropped_bytes } if self.phase != Phase::Over => {
                check_length("output", bytes.len(), LOG_BYTES_MAX)?;
                Ok(Event::Output { bytes, dropped_bytes })
            }
            ToWorker::Log { .. } => Err(self.out_of_turn("Log")),
            ToWorker::Ready { usage } => {
                if !matches!(self.phase, Phase::Starting | Phase::Answered) {
                    return Err(self.out_of_turn("Ready"));
                }
                self.record(usage);
                self.phase = Phase::Idle;
                Ok(Event::Ready)
            }
            ToWorker::Response { request_id, content_type: _, payload, usage } => {
                check_length("response", payload.len(), PAYLOAD_BYTES_MAX)?;
                self.answered("Response", &request_id, usage, is_sent)?;
                Ok(Event::Answered(Answer::Response { payload }))
            }
            ToWorker::Failure { request_id, error_type, payload, usage } => {
                check_length("error", payload.len(), PAYLOAD_BYTES_MAX)?;
                self.answered("Failure", &request_id, usage, is_sent)?;
                Ok(Event::Answered(Answer::Failure { error_type: printable(&error_type), payload }))
            }
            ToWorker::ResponseTooLarge { request_id, payload_bytes, usage } => {
                self.answered("ResponseTooLarge", &request_id, usage, is_sent)?;
                Ok(Event::Answered(Answer::TooLarge { payload_bytes }))
            }
            ToWorker::InitError { error_type, payload } => {
                if self.phase != Phase::Starting {
                    return Err(self.out_of_turn("InitError"));
                }
                check_length("error", payload.len(), PAYLOAD_BYTES_MAX)?;
                self.phase = Phase::Over;
                Ok(Event::InitFailed { error_type: printable(&error_type), payload })
            }
            ToWorker::Used(set) => {
                if self.phase != Phase::Answered || self.is_set_known {
                    return Err(self.out_of_turn("Used"));
                }
                self.is_set_known = true;
                check_length("a working set", set.written.len().max(set.read.len()), WORKING_SET_RUNS_MAX)?;
                Ok(Event::Used(set))
            }
            ToWorker::Saved { bytes } => {
                self.saved("Saved")?;
                Ok(Event::Saved { bytes })
            }
            ToWorker::NotSaved { reason } => {
                self.saved("NotSaved")?;
                Ok(Event::NotSaved { reason: printable(&reason) })
            }
            ToWorker::Exited { cause, usage } => {
                if self.phase == Phase::Over {
                    return Err(self.out_of_turn("Exited"));
                }
                self.record(usage);
                self.phase = Phase::Over;
                Ok(Event::Exited(match cause {
                    ExitCause::Failed(text) => ExitCause::Failed(printable(&text)),
                    other => other,
                }))
            }
        }
    }

    fn answered(
        &mut self,
        message: &'static str,
        received: &str,
        usage: Usage,
        is_sent: bool,
    ) -> Result<(), Violation> {
        let Phase::Running { request_id } = &self.phase else { return Err(self.out_of_turn(message)) };
        if received != request_id {
            return Err(Violation::WrongRequest { received: printable(received), expected: request_id.clone() });
        }
        if !is_sent {
            return Err(Violation::TooEarly { request_id: request_id.clone() });
        }
        self.record(usage);
        self.phase = Phase::Answered;
        Ok(())
    }

    fn saved(&mut self, message: &'static str) -> Result<(), Violation> {
        if self.phase != Phase::Saving {
            return Err(self.out_of_turn(message));
        }
        self.phase = Phase::Over;
        Ok(())
    }

    fn record(&mut self, usage: Usage) {
        self.memory_peak_bytes = self.memory_peak_bytes.max(usage.memory_peak_bytes);
    }

    fn out_of_turn(&self, message: &'static str) -> Violation {
        let phase = match self.phase {
            Phase::Starting => "the program starts",
            Phase::Idle => "it has nothing to do",
            Phase::Running { .. } => "an invocation runs",
            Phase::Answered => "the invocation is answered",
            Phase::Saving => "it is saved",
            Phase::Over => "the program has ended",
        };
        Violation::OutOfTurn { message, phase }
    }
}

fn check_length(what: &'static str, bytes: usize, maximum: usize) -> Result<(), Violation> {
    if bytes > maximum { Err(Violation::TooLong { what, bytes, maximum }) } else { Ok(()) }
}

/// A text without control characters and of bounded length: it goes into lines of logs.
fn printable(text: &str) -> String {
    text.chars().take(TEXT_CHARS_MAX).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(request_id: &str) -> ToWorker {
        let usage = Usage { memory_peak_bytes: 5, ..Usage::default() };
        ToWorker::Response { request_id: request_id.into(), content_type: None, payload: b"{}".to_vec(), usage }
    }

    fn ready() -> ToWorker {
        ToWorker::Ready { usage: Usage { memory_peak_bytes: 3, ..Usage::default() } }
    }

    fn exited() -> ToWorker {
        ToWorker::Exited { cause: ExitCause::Status(1), usage: Usage::default() }
    }

    fn log(length: usize) -> ToWorker {
        ToWorker::Log { bytes: vec![b'x'; length], dropped_bytes: 0 }
    }

    fn used(count: usize) -> ToWorker {
        ToWorker::Used(WorkingSet { written: vec![(1, 1); count], read: Vec::new() })
    }

    fn conversation(phase: Phase) -> Conversation {
        Conversation { phase, memory_peak_bytes: 0, is_set_known: false }
    }

    #[test]
    fn a_whole_conversation() {
        let mut conversation = Conversation::new();
        assert!(matches!(conversation.receive(log(1), true), Ok(Event::Output { .. })));
        assert_eq!(conversation.receive(ready(), true).unwrap(), Event::Ready);
        for id in ["a", "b"] {
            conversation.invoke(id.into());
            let answer = Answer::Response { payload: b"{}".to_vec() };
            assert_eq!(conversation.receive(response(id), true).unwrap(), Event::Answered(answer));
            assert_eq!(conversation.receive(ready(), true).unwrap(), Event::Ready);
        }
        assert_eq!(conversation.memory_peak_bytes(), 5);
        assert_eq!(conversation.receive(exited(), true).unwrap(), Event::Exited(ExitCause::Status(1)));
    }

    #[test]
    fn what_is_not_due_is_refused() {
        let running = || Phase::Running { request_id: "a".into() };
        let init_error = || ToWorker::InitError { error_type: "E".into(), payload: Vec::new() };
        let cases = [
            (Phase::Starting, response("a")),
            (Phase::Idle, response("a")),
            (Phase::Idle, ready()),
            (Phase::Idle, init_error()),
            (running(), ready()),
            (running(), init_error()),
            (running(), response("b")),
            (running(), response("")),
            (Phase::Answered, response("a")),
            (Phase::Answered, init_error()),
            (Phase::Starting, used(1)),
            (Phase::Saving, used(1)),
            (Phase::Idle, used(1)),
            (running(), used(1)),
            (Phase::Answered, used(WORKING_SET_RUNS_MAX + 1)),
            (Phase::Idle, ToWorker::Saved { bytes: 1 }),
            (running(), ToWorker::Saved { bytes: 1 }),
            (Phase::Answered, ToWorker::NotSaved { reason: String::new() }),
            (Phase::Saving, ready()),
            (Phase::Saving, response("a")),
            (Phase::Over, ready()),
            (Phase::Over, log(1)),
            (Phase::Over, exited()),
            (Phase::Starting, log(LOG_BYTES_MAX + 1)),
        ];
        for (phase, message) in cases {
            let shown = format!("{phase:?} {message:?}");
            assert!(conversation(phase).receive(message, true).is_err(), "{shown}");
        }
        assert!(matches!(conversation(running()).receive(response("a"), false), Err(Violation::TooEarly { .. })));
        let payload = vec![0; PAYLOAD_BYTES_MAX + 1];
        let large = ToWorker::Response { request_id: "a".into(), content_type: None, payload, usage: Usage::default() };
        assert!(matches!(conversation(running()).receive(large, true), Err(Violation::TooLong { .. })));
    }

    #[test]
    fn a_program_that_waits_is_saved_once() {
        let mut conversation = Conversation::new();
        assert_eq!(conversation.receive(ready(), true).unwrap(), Event::Ready);
        conversation.save();
        assert!(matches!(conversation.receive(log(1), true), Ok(Event::Output { .. })));
        assert_eq!(conversation.receive(ToWorker::Saved { bytes: 7 }, true).unwrap(), Event::Saved { bytes: 7 });
        assert!(conversation.receive(ToWorker::Saved { bytes: 7 }, true).is_err());
    }

    #[test]
    fn what_a_copy_has_used_is_told_once() {
        let mut conversation = conversation(Phase::Answered);
        assert!(matches!(conversation.receive(used(3), true), Ok(Event::Used(_))));
        assert!(conversation.receive(used(3), true).is_err());
    }

    #[test]
    fn texts_from_outside_cannot_forge_log_lines() {
        let failure = ToWorker::InitError { error_type: "E\nREPORT forged".repeat(1000), payload: Vec::new() };
        let Ok(Event::InitFailed { error_type, .. }) = Conversation::new().receive(failure, true) else { panic!() };
        assert!(!error_type.contains('\n') && error_type.chars().count() == TEXT_CHARS_MAX);
    }
}
