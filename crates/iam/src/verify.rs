//! Computing a signature and comparing it.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use calypte_types::{AccessKeyId, SecretAccessKey};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use time::OffsetDateTime;

use crate::canonical::canonical_request;
use crate::claim::{ALGORITHM, Payload, TERMINATOR};
use crate::{AuthError, Claim, SignedRequest};

/// For what requests must be signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// The region; `None` accepts any.
    pub region: Option<String>,
    /// Names of the services, for example `lambda`.
    pub services: Vec<String>,
}

/// The SHA-256 digest of a request's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyDigest([u8; 32]);

impl BodyDigest {
    /// Of a whole body.
    pub fn of(body: &[u8]) -> Self {
        Self(Sha256::digest(body).into())
    }

    /// Of a body that was hashed while it was read.
    pub fn from_digest(digest: [u8; 32]) -> Self {
        Self(digest)
    }
}

/// Most derived keys that are remembered.
const DERIVED_KEYS_MAX: usize = 1_000;

/// Verifies requests. Remembers the keys derived from secrets, of which a client's requests of one day need the same.
#[derive(Debug)]
pub struct Verifier {
    scope: Scope,
    derived: Mutex<HashMap<DerivedFor, DerivedKey>>,
}

/// What a derived key depends on. An access key id never changes its secret, so the id stands for it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct DerivedFor {
    access_key_id: AccessKeyId,
    date: String,
    region: String,
    service: String,
}

#[derive(Clone, Copy)]
struct DerivedKey([u8; 32]);

impl std::fmt::Debug for DerivedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DerivedKey(…)")
    }
}

impl Verifier {
    /// A verifier of requests within `scope`.
    pub fn new(scope: Scope) -> Self {
        Self { scope, derived: Mutex::default() }
    }

    /// Reads what a request claims.
    ///
    /// # Errors
    /// When it is not signed, its signature is incomplete, too old or too new, or not meant for this scope.
    pub fn claim(&self, request: &SignedRequest<'_>, now: OffsetDateTime) -> Result<Claim, AuthError> {
        Claim::read(request, &self.scope, now)
    }

    /// Checks the signature of the request of which `claim` was read. `secret` is that of [`Claim::access_key_id`].
    ///
    /// # Errors
    /// [`AuthError::InvalidSignature`] when request or body are not what was signed with this secret;
    /// [`AuthError::UnknownKey`] when the request has a session token, which no key here comes with.
    pub fn verify(
        &self,
        request: &SignedRequest<'_>,
        claim: &Claim,
        secret: &SecretAccessKey,
        body: BodyDigest,
    ) -> Result<(), AuthError> {
        if claim.has_session_token {
            return Err(AuthError::UnknownKey);
        }
        let payload = match &claim.payload {
            Payload::Body => hexadecimal(&body.0),
            Payload::Stated(stated) if stated.eq_ignore_ascii_case(&hexadecimal(&body.0)) => stated.clone(),
            Payload::Stated(_) => {
                let reason = "The body is not the one whose digest x-amz-content-sha256 states.";
                return Err(AuthError::InvalidSignature(reason.to_owned()));
            }
            Payload::Unsigned => "UNSIGNED-PAYLOAD".to_owned(),
        };
        let wanted_for = DerivedFor {
            access_key_id: claim.access_key_id.clone(),
            date: claim.date.clone(),
            region: claim.region.clone(),
            service: claim.service.clone(),
        };
        let remembered = self.derived().get(&wanted_for).copied();
        let key = remembered.unwrap_or_else(|| derive_key(secret, claim));
        let expected = hmac(&key.0, string_to_sign(request, claim, &payload).as_bytes());
        if !bool::from(expected.ct_eq(&claim.signature)) {
            return Err(AuthError::mismatch());
        }
        // Only now, so that nobody without a secret can fill the memory.
        if remembered.is_none() {
            let mut derived = self.derived();
            if derived.len() >= DERIVED_KEYS_MAX {
                derived.clear();
            }
            derived.insert(wanted_for, key);
        }
        Ok(())
    }

    fn derived(&self) -> MutexGuard<'_, HashMap<DerivedFor, DerivedKey>> {
        self.derived.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn string_to_sign(request: &SignedRequest<'_>, claim: &Claim, payload: &str) -> String {
    let canonical = canonical_request(request, &claim.signed_headers, payload);
    let Claim { timestamp, date, region, service, .. } = claim;
    let digest = hexadecimal(&Sha256::digest(canonical).into());
    format!("{ALGORITHM}\n{timestamp}\n{date}/{region}/{service}/{TERMINATOR}\n{digest}")
}

fn derive_key(secret: &SecretAccessKey, claim: &Claim) -> DerivedKey {
    let key = format!("AWS4{}", secret.expose());
    let parts = [&claim.date, &claim.region, &claim.service, TERMINATOR];
    DerivedKey(
        parts[1..].iter().fold(hmac(key.as_bytes(), parts[0].as_bytes()), |key, part| hmac(&key, part.as_bytes())),
    )
}

fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(message);
    mac.finalize().into_bytes().into()
}

fn hexadecimal(digest: &[u8; 32]) -> String {
    digest.iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
