//! Who is calling: AWS Signature Version 4, verified and made.
//!
//! Pure: no I/O and no clock; the caller passes the present and the secret. Verification has two steps, because
//! looking up the secret may take I/O and reading the body may be refused first:
//!
//! 1. [`Verifier::claim`] reads what a request claims (key, scope, time, signed headers) and refuses what is
//!    incomplete, stale or meant for another service;
//! 2. [`Verifier::verify`] computes the signature with the secret of [`Claim::access_key_id`] over the request and the
//!    digest of its body.
//!
//! [`sign`] is the client's side, by AWS's own crate. Neighbours: `api` verifies, the command line signs.
//!
//! Source: "Signing AWS API requests" in the IAM User Guide; AWS's signing test suite is in `tests/`.

#![forbid(unsafe_code)]

mod canonical;
mod claim;
mod error;
mod request;
pub mod sign;
mod verify;

use calypte_types::{AccessKeyId, AccountId};

pub use claim::{CLOCK_SKEW_MAX, Claim, PRESIGNED_EXPIRY_S_MAX};
pub use error::AuthError;
pub use request::SignedRequest;
pub use verify::{BodyDigest, Scope, Verifier};

/// Who sent a request whose signature was verified.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Principal {
    /// The account.
    pub account: AccountId,
    /// The key with which the request was signed.
    pub access_key_id: AccessKeyId,
}
