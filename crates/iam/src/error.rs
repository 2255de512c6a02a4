//! Why a request was not authenticated.

/// Why a request was not authenticated. AWS answers each with HTTP status 403.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// The request is not signed at all.
    #[error("Missing Authentication Token")]
    Missing,
    /// The request is signed in a way that cannot be understood.
    #[error("{0}")]
    Incomplete(String),
    /// No active key has the id that the request names.
    #[error("The security token included in the request is invalid.")]
    UnknownKey,
    /// The request is too old, too new, for another region or service, or not what was signed.
    #[error("{0}")]
    InvalidSignature(String),
}

impl AuthError {
    /// The value of `x-amzn-ErrorType`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Missing => "MissingAuthenticationTokenException",
            Self::Incomplete(_) => "IncompleteSignatureException",
            Self::UnknownKey => "UnrecognizedClientException",
            Self::InvalidSignature(_) => "InvalidSignatureException",
        }
    }

    /// The signature, or the body, differs from what the client signed.
    pub(crate) fn mismatch() -> Self {
        Self::InvalidSignature(
            "The request signature we calculated does not match the signature you provided. Check your AWS Secret \
             Access Key and signing method. Consult the service documentation for details."
                .to_owned(),
        )
    }
}
