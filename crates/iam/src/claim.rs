//! What a request says about its signature, and whether that can be true at all.

use std::time::Duration;

use calypte_types::AccessKeyId;
use time::format_description::well_known::Rfc2822;
use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime};

use crate::canonical::{self, SIGNATURE_PARAMETER};
use crate::{AuthError, Scope, SignedRequest};

/// How far a client's clock may be off.
pub const CLOCK_SKEW_MAX: Duration = Duration::from_secs(5 * 60);
/// Longest time for which a presigned request is good: seven days.
pub const PRESIGNED_EXPIRY_S_MAX: u64 = 7 * 24 * 60 * 60;

/// The only algorithm.
pub(crate) const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// The last part of a credential scope.
pub(crate) const TERMINATOR: &str = "aws4_request";
/// Most headers that a signature may cover.
const SIGNED_HEADERS_MAX: usize = 100;
/// Longest `Credential`, generously.
const CREDENTIAL_BYTES_MAX: usize = 512;
/// `x-amz-*` headers that clients leave out of the signature; nothing depends on them.
const UNSIGNED_HEADERS: &[&str] = &["x-amz-user-agent", "x-amz-checksum-mode"];

/// What a request claims, unverified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub(crate) access_key_id: AccessKeyId,
    /// `YYYYMMDD` of the credential scope.
    pub(crate) date: String,
    pub(crate) region: String,
    pub(crate) service: String,
    /// `YYYYMMDDTHHMMSSZ`.
    pub(crate) timestamp: String,
    pub(crate) signed_headers: Vec<String>,
    pub(crate) signature: [u8; 32],
    pub(crate) payload: Payload,
    /// Whether it came with a session token, which only temporary keys have.
    pub(crate) has_session_token: bool,
}

/// What of the body is signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Payload {
    /// Its digest.
    Body,
    /// Its digest, which the client stated.
    Stated(String),
    /// Nothing.
    Unsigned,
}

/// The texts of a signature, wherever they were found.
struct Texts {
    credential: String,
    signed_headers: String,
    signature: String,
    timestamp: Option<String>,
    expires: Option<String>,
    has_session_token: bool,
    content_sha256: Option<String>,
}

impl Claim {
    /// The key whose secret [`crate::Verifier::verify`] needs.
    pub fn access_key_id(&self) -> &AccessKeyId {
        &self.access_key_id
    }

    /// Reads a request's claim; see [`crate::Verifier::claim`].
    pub(crate) fn read(request: &SignedRequest<'_>, scope: &Scope, now: OffsetDateTime) -> Result<Self, AuthError> {
        let header = request.single_header("authorization").map_err(not_single)?;
        let is_presigned = canonical::parameters(request.query).any(|(name, _)| name == b"X-Amz-Algorithm");
        let texts = match (header, is_presigned) {
            (None, false) => return Err(AuthError::Missing),
            (Some(_), true) => {
                return Err(incomplete("The request has an Authorization header and an X-Amz-Algorithm parameter."));
            }
            (Some(header), false) => Texts::of_header(request, header)?,
            (None, true) => Texts::of_query(request)?,
        };
        let (access_key_id, date, region, service) = read_credential(&texts.credential, scope)?;
        let signed_headers = read_signed_headers(&texts.signed_headers, request)?;
        let (timestamp, signed_at) = read_time(texts.timestamp.as_deref(), request)?;
        if timestamp[..8] != *date {
            return Err(AuthError::InvalidSignature(format!(
                "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: '{date}' \
                 != '{}', from '{timestamp}'.",
                &timestamp[..8]
            )));
        }
        check_age(&timestamp, signed_at, texts.expires.as_deref(), is_presigned, now)?;
        Ok(Self {
            access_key_id,
            date: date.to_owned(),
            region: region.to_owned(),
            service: service.to_owned(),
            signed_headers,
            signature: read_signature(&texts.signature)?,
            payload: read_payload(texts.content_sha256, is_presigned)?,
            has_session_token: texts.has_session_token,
            timestamp,
        })
    }
}

impl Texts {
    /// `Authorization: AWS4-HMAC-SHA256 Credential=…, SignedHeaders=…, Signature=…`.
    fn of_header(request: &SignedRequest<'_>, header: &str) -> Result<Self, AuthError> {
        let fields = header.strip_prefix(ALGORITHM).filter(|rest| rest.starts_with(' ')).ok_or_else(|| {
            let algorithm = header.split(' ').next().unwrap_or_default();
            incomplete(&format!("Unsupported AWS 'algorithm': '{}', expected '{ALGORITHM}'.", shown(algorithm)))
        })?;
        let mut found = [None, None, None];
        const NAMES: [&str; 3] = ["Credential", "SignedHeaders", "Signature"];
        for field in fields.split(',').map(str::trim).filter(|field| !field.is_empty()) {
            let place = field.split_once('=').and_then(|(name, value)| {
                let index = NAMES.iter().position(|known| *known == name)?;
                found[index].replace(value).is_none().then_some(())
            });
            if place.is_none() {
                return Err(incomplete(&format!("Authorization header: unexpected or repeated '{}'.", shown(field))));
            }
        }
        let missing: Vec<String> = (NAMES.iter().zip(&found))
            .filter(|(_, value)| value.is_none())
            .map(|(name, _)| format!("Authorization header requires '{name}' parameter."))
            .collect();
        let [Some(credential), Some(signed_headers), Some(signature)] = found else {
            return Err(incomplete(&missing.join(" ")));
        };
        let own = |name| request.single_header(name).map(|value| value.map(str::to_owned)).map_err(not_single);
        Ok(Self {
            credential: credential.to_owned(),
            signed_headers: signed_headers.to_owned(),
            signature: signature.to_owned(),
            timestamp: own("x-amz-date")?,
            expires: None,
            has_session_token: request.headers.contains_key("x-amz-security-token"),
            content_sha256: own("x-amz-content-sha256")?,
        })
    }

    /// `?X-Amz-Algorithm=…&X-Amz-Credential=…&X-Amz-Date=…&X-Amz-Expires=…&X-Amz-SignedHeaders=…&X-Amz-Signature=…`.
    fn of_query(request: &SignedRequest<'_>) -> Result<Self, AuthError> {
        let optional = |wanted: &str| -> Result<Option<String>, AuthError> {
            let mut values = canonical::parameters(request.query).filter(|(name, _)| name == wanted.as_bytes());
            match (values.next(), values.next()) {
                (None, _) => Ok(None),
                (Some((_, value)), None) => String::from_utf8(value).map(Some).map_err(|_| not_single(wanted)),
                (Some(_), Some(_)) => Err(not_single(wanted)),
            }
        };
        let required = |wanted: &str| {
            let missing = || incomplete(&format!("AWS query-string parameters must include '{wanted}'."));
            optional(wanted)?.ok_or_else(missing)
        };
        let algorithm = required("X-Amz-Algorithm")?;
        if algorithm != ALGORITHM {
            let algorithm = shown(&algorithm);
            return Err(incomplete(&format!("Unsupported AWS 'algorithm': '{algorithm}', expected '{ALGORITHM}'.")));
        }
        let stated = request.single_header("x-amz-content-sha256").map_err(not_single)?.map(str::to_owned);
        Ok(Self {
            credential: required("X-Amz-Credential")?,
            signed_headers: required("X-Amz-SignedHeaders")?,
            signature: required(SIGNATURE_PARAMETER)?,
            timestamp: Some(required("X-Amz-Date")?),
            expires: Some(required("X-Amz-Expires")?),
            has_session_token: optional("X-Amz-Security-Token")?.is_some()
                || request.headers.contains_key("x-amz-security-token"),
            content_sha256: stated.or(optional("X-Amz-Content-Sha256")?),
        })
    }
}

/// `KEY/YYYYMMDD/REGION/SERVICE/aws4_request`.
fn read_credential<'t>(text: &'t str, scope: &Scope) -> Result<(AccessKeyId, &'t str, &'t str, &'t str), AuthError> {
    let parts: Vec<&str> = text.split('/').collect();
    let [key, date, region, service, terminator] = parts.as_slice() else {
        return Err(incomplete(&format!(
            "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term, got '{}'.",
            shown(text)
        )));
    };
    if text.len() > CREDENTIAL_BYTES_MAX || date.len() != 8 || !date.bytes().all(|b| b.is_ascii_digit()) {
        return Err(incomplete(&format!("Credential '{}' has no date of the form YYYYMMDD.", shown(text))));
    }
    let invalid = |reason: String| Err(AuthError::InvalidSignature(reason));
    if let Some(expected) = scope.region.as_deref().filter(|expected| expected != region) {
        return invalid(format!("Credential should be scoped to region '{expected}', not '{}'.", shown(region)));
    }
    if !scope.services.iter().any(|known| known == service) {
        return invalid(format!(
            "Credential should be scoped to correct service: '{}'.",
            scope.services.join("' or '")
        ));
    }
    if *terminator != TERMINATOR {
        let terminator = shown(terminator);
        return invalid(format!(
            "Credential should be scoped with a valid terminator: '{TERMINATOR}', not '{terminator}'."
        ));
    }
    Ok((key.parse().map_err(|_| AuthError::UnknownKey)?, date, region, service))
}

/// Lower-case names in order. `host` and all `x-amz-*` headers must be among them: they decide what a request does.
fn read_signed_headers(text: &str, request: &SignedRequest<'_>) -> Result<Vec<String>, AuthError> {
    let names: Vec<String> = text.split(';').take(SIGNED_HEADERS_MAX + 1).map(str::to_owned).collect();
    let is_name = |name: &String| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic() && !b.is_ascii_uppercase() && b != b':')
    };
    if names.len() > SIGNED_HEADERS_MAX || !names.iter().all(is_name) || !names.is_sorted_by(|a, b| a < b) {
        return Err(incomplete(
            "SignedHeaders must be lower-case header names in alphabetical order, separated by ';'.",
        ));
    }
    let is_signed = |name: &str| names.binary_search_by(|known| known.as_str().cmp(name)).is_ok();
    if !is_signed("host") {
        let reason = "'Host' or ':authority' must be a 'SignedHeader' in the AWS Authorization.";
        return Err(AuthError::InvalidSignature(reason.to_owned()));
    }
    let must_sign = |name: &&str| name.starts_with("x-amz-") && !UNSIGNED_HEADERS.contains(name);
    if let Some(name) = request.headers.keys().map(http::HeaderName::as_str).filter(must_sign).find(|n| !is_signed(n)) {
        let reason = format!("The header '{name}' must be a 'SignedHeader' in the AWS Authorization.");
        return Err(AuthError::InvalidSignature(reason));
    }
    let is_present = |name: &String| request.headers.contains_key(name.as_str()) || name == "host";
    if let Some(name) = names.iter().find(|name| !is_present(name)) {
        let reason = format!("The signed header '{}' is not in the request.", shown(name));
        return Err(AuthError::InvalidSignature(reason));
    }
    Ok(names)
}

/// The time of the signature, from `X-Amz-Date` or else from `Date`, as text in ISO 8601's basic form and as a value.
fn read_time(text: Option<&str>, request: &SignedRequest<'_>) -> Result<(String, OffsetDateTime), AuthError> {
    let basic = format_description!("[year][month][day]T[hour][minute][second]Z");
    let read_basic = |text: &str| PrimitiveDateTime::parse(text, &basic).map(PrimitiveDateTime::assume_utc).ok();
    let header = request.single_header("date").map_err(not_single)?;
    let (text, time) = match (text, header) {
        (Some(text), _) => (text, read_basic(text)),
        (None, Some(text)) => (text, read_basic(text).or_else(|| OffsetDateTime::parse(text, &Rfc2822).ok())),
        (None, None) => {
            let reason = "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header.";
            return Err(incomplete(reason));
        }
    };
    let bad = || incomplete(&format!("Date must be in ISO-8601 'basic format'. Got '{}'.", shown(text)));
    let time = time.ok_or_else(bad)?;
    Ok((time.to_offset(time::UtcOffset::UTC).format(&basic).map_err(|_| bad())?, time))
}

/// Refuses what is from too far in the past or the future.
fn check_age(
    timestamp: &str,
    signed_at: OffsetDateTime,
    expires: Option<&str>,
    is_presigned: bool,
    now: OffsetDateTime,
) -> Result<(), AuthError> {
    let shown_now = now.unix_timestamp();
    let (allowance_s, name) = match expires {
        Some(text) if is_presigned => {
            let in_range = |seconds: &u64| (1..=PRESIGNED_EXPIRY_S_MAX).contains(seconds);
            let seconds = text.parse().ok().filter(in_range).ok_or_else(|| {
                incomplete(&format!("X-Amz-Expires must be a number of seconds from 1 to {PRESIGNED_EXPIRY_S_MAX}."))
            })?;
            (seconds, "its X-Amz-Expires")
        }
        _ => (CLOCK_SKEW_MAX.as_secs(), "5 min."),
    };
    let age_s = shown_now - signed_at.unix_timestamp();
    let skew_s = CLOCK_SKEW_MAX.as_secs() as i64;
    if age_s > allowance_s as i64 {
        let reason = format!("Signature expired: {timestamp} is {age_s} s ago, more than {name}; check the clock.");
        return Err(AuthError::InvalidSignature(reason));
    }
    if age_s < -skew_s {
        let reason = format!("Signature not yet current: {timestamp} is {} s ahead, more than 5 min.", -age_s);
        return Err(AuthError::InvalidSignature(reason));
    }
    Ok(())
}

/// Sixty-four lower-case hexadecimal digits.
fn read_signature(text: &str) -> Result<[u8; 32], AuthError> {
    let mut signature = [0; 32];
    let digit = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    if text.len() != 2 * signature.len() {
        return Err(AuthError::mismatch());
    }
    for (byte, pair) in signature.iter_mut().zip(text.as_bytes().chunks(2)) {
        let (Some(high), Some(low)) = (digit(pair[0]), digit(pair[1])) else { return Err(AuthError::mismatch()) };
        *byte = high << 4 | low;
    }
    Ok(signature)
}

fn read_payload(stated: Option<String>, is_presigned: bool) -> Result<Payload, AuthError> {
    match stated {
        None => Ok(Payload::Body),
        Some(text) if text == "UNSIGNED-PAYLOAD" && is_presigned => Ok(Payload::Unsigned),
        Some(text) if text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) => Ok(Payload::Stated(text)),
        Some(text) => Err(incomplete(&format!(
            "x-amz-content-sha256 must be the SHA-256 digest of the body in hexadecimal, not '{}'.",
            shown(&text)
        ))),
    }
}

fn incomplete(reason: &str) -> AuthError {
    AuthError::Incomplete(reason.to_owned())
}

fn not_single(name: &str) -> AuthError {
    incomplete(&format!("'{name}' must occur once, as text."))
}

/// As much of a client's text as an error message repeats.
fn shown(text: &str) -> String {
    const CHARACTERS_MAX: usize = 100;
    text.chars().take(CHARACTERS_MAX).filter(|c| !c.is_control()).collect()
}
