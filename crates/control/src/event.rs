//! The parts of an invocation that clients send: checks before anything runs. Pure.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use calypte_types::limits::PAYLOAD_BYTES_MAX;
use serde::de::IgnoredAny;

use crate::error::{ControlError, InvalidParameter, shortened};

/// Longest client context, decoded: Lambda's limit.
const CLIENT_CONTEXT_BYTES_MAX: usize = 3583;
/// Longest trace header that is passed on (ours; an X-Ray header has some 100).
const TRACE_ID_BYTES_MAX: usize = 512;

/// How a function is to be invoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InvocationKind {
    /// Run it and wait for the result.
    RequestResponse,
    /// Only check that it could be.
    DryRun,
}

impl InvocationKind {
    /// From `X-Amz-Invocation-Type`.
    pub fn parse(text: Option<&str>) -> Result<Self, InvalidParameter> {
        match text {
            None | Some("RequestResponse") => Ok(Self::RequestResponse),
            Some("DryRun") => Ok(Self::DryRun),
            Some("Event") => Err(InvalidParameter::EventInvocation),
            Some(other) => Err(InvalidParameter::Malformed {
                member: "invocationType",
                value: shortened(other),
                expected: "one of Event, RequestResponse and DryRun",
            }),
        }
    }
}

/// The event as the function gets it: JSON, `{}` if there is none.
pub(crate) fn check_payload(payload: bytes::Bytes) -> Result<bytes::Bytes, ControlError> {
    if payload.len() > PAYLOAD_BYTES_MAX {
        return Err(ControlError::EventTooLarge);
    }
    if payload.is_empty() {
        return Ok(bytes::Bytes::from_static(b"{}"));
    }
    let unreadable = |why: String| {
        ControlError::BadEvent(format!(
            "Could not parse request body into json: Could not parse payload into json: {why}"
        ))
    };
    // Strings are checked as UTF-8 only when they are kept; a function's JSON parser would stumble over them.
    std::str::from_utf8(&payload).map_err(|error| unreadable(error.to_string()))?;
    serde_json::from_slice::<IgnoredAny>(&payload).map_err(|error| unreadable(error.to_string()))?;
    Ok(payload)
}

/// The JSON text of `X-Amz-Client-Context`.
pub(crate) fn client_context(header: Option<&str>) -> Result<Option<String>, ControlError> {
    let Some(header) = header.filter(|header| !header.is_empty()) else { return Ok(None) };
    let bad = |why: &str| {
        Err(ControlError::BadEvent(format!("Client context must be a valid Base64-encoded JSON object: {why}")))
    };
    let Ok(bytes) = BASE64_STANDARD.decode(header) else { return bad("it is not base64") };
    if bytes.len() > CLIENT_CONTEXT_BYTES_MAX {
        return bad("it has more than 3583 bytes");
    }
    let Ok(text) = String::from_utf8(bytes) else { return bad("it is not UTF-8") };
    match serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&text) {
        // On one line, because it travels in a header.
        Ok(object) => Ok(Some(serde_json::Value::Object(object).to_string())),
        Err(_) => bad("it is not a JSON object"),
    }
}

/// `X-Amzn-Trace-Id` as it is passed on: printable ASCII of bounded length, or nothing.
pub(crate) fn trace_id(header: Option<&str>) -> Option<String> {
    let is_acceptable = |text: &&str| {
        (1..=TRACE_ID_BYTES_MAX).contains(&text.len()) && text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
    };
    header.filter(is_acceptable).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn events_are_json_or_nothing() {
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        for good in ["1", "null", "\"\\ud83d\\ude00\"", " {\"a\": [1, 2.5e3]} ", &deep] {
            assert!(check_payload(Bytes::from(good.to_owned())).is_ok(), "{}", shortened(good));
        }
        assert_eq!(check_payload(Bytes::new()).unwrap(), "{}");
        for bad in [&b"{"[..], b"{}x", b"hello", b"'a'", b"{\"a\":}", b"\"\xff\"", b"\0", b" "] {
            let error = check_payload(Bytes::from_static(bad)).unwrap_err();
            assert!(matches!(error, ControlError::BadEvent(_)), "{error}");
        }
    }

    #[test]
    fn the_size_limit_is_exact() {
        let event = |bytes: usize| Bytes::from(format!("\"{}\"", "x".repeat(bytes - 2)));
        assert!(check_payload(event(PAYLOAD_BYTES_MAX)).is_ok());
        assert!(matches!(check_payload(event(PAYLOAD_BYTES_MAX + 1)), Err(ControlError::EventTooLarge)));
    }

    #[test]
    fn a_client_context_is_a_json_object_in_base64() {
        let read = |text: &str| client_context(Some(&BASE64_STANDARD.encode(text)));
        assert_eq!(client_context(None).unwrap(), None);
        assert_eq!(read("{\"custom\":\n{\"a\":1}}").unwrap().as_deref(), Some("{\"custom\":{\"a\":1}}"));
        for bad in ["", "1", "[]", "{", "\u{0}"] {
            assert_eq!(read(bad).is_err(), !bad.is_empty(), "{bad:?}");
        }
        assert!(client_context(Some("***")).is_err());
        assert!(read(&format!("{{\"a\":\"{}\"}}", "x".repeat(4000))).is_err());
    }

    #[test]
    fn kinds_of_invocation_are_lambdas_words() {
        assert_eq!(InvocationKind::parse(None), Ok(InvocationKind::RequestResponse));
        assert_eq!(InvocationKind::parse(Some("DryRun")), Ok(InvocationKind::DryRun));
        assert_eq!(InvocationKind::parse(Some("Event")), Err(InvalidParameter::EventInvocation));
        assert!(matches!(InvocationKind::parse(Some("event")), Err(InvalidParameter::Malformed { .. })));
    }

    #[test]
    fn a_trace_header_cannot_carry_anything_else() {
        assert_eq!(trace_id(Some("Root=1-2-3;Sampled=0")).as_deref(), Some("Root=1-2-3;Sampled=0"));
        for bad in ["", "a\nb", "ä", &"x".repeat(513)] {
            assert_eq!(trace_id(Some(bad)), None, "{bad:?}");
        }
    }
}
