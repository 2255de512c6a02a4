//! The client's side: signing requests with AWS's own crate.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign};
use aws_sigv4::sign::v4;
use calypte_types::{AccessKeyId, SecretAccessKey};

/// With what and for what a client signs.
#[derive(Debug, Clone)]
pub struct Signer {
    /// The public half of the key.
    pub access_key_id: AccessKeyId,
    /// The secret half.
    pub secret: SecretAccessKey,
    /// The region of the service.
    pub region: String,
    /// The service's name, for example `lambda`.
    pub service: String,
}

/// Why a request could not be signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The URI is not absolute, or a header is not text.
    #[error("the request cannot be signed; its URI must be absolute and its headers text")]
    Request(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The parts of the signing parameters are incomplete: a mistake of ours.
    #[error("the signing parameters are incomplete")]
    Parameters(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Signer {
    /// Adds the headers `authorization` and `x-amz-date`. The URI must be absolute: its authority is signed.
    ///
    /// # Errors
    /// [`SignError`].
    pub fn sign<B: AsRef<[u8]>>(&self, request: &mut http::Request<B>, now: SystemTime) -> Result<(), SignError> {
        self.apply(request, now, SigningSettings::default())
    }

    /// Adds the signature to the query of the request's URI, good for `expires_in`.
    ///
    /// # Errors
    /// [`SignError`].
    pub fn presign<B: AsRef<[u8]>>(
        &self,
        request: &mut http::Request<B>,
        now: SystemTime,
        expires_in: Duration,
    ) -> Result<(), SignError> {
        let mut settings = SigningSettings::default();
        settings.signature_location = SignatureLocation::QueryParams;
        settings.expires_in = Some(expires_in);
        self.apply(request, now, settings)
    }

    fn apply<B: AsRef<[u8]>>(
        &self,
        request: &mut http::Request<B>,
        now: SystemTime,
        settings: SigningSettings,
    ) -> Result<(), SignError> {
        let identity =
            Credentials::new(self.access_key_id.as_str(), self.secret.expose(), None, None, "calypte").into();
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name(&self.service)
            .time(now)
            .settings(settings)
            .build()
            .map_err(|error| SignError::Parameters(error.into()))?
            .into();
        let uri = request.uri().to_string();
        let mut headers = Vec::with_capacity(request.headers().len());
        for (name, value) in request.headers() {
            let text = std::str::from_utf8(value.as_bytes()).map_err(|error| SignError::Request(error.into()))?;
            headers.push((name.as_str(), text));
        }
        let body = SignableBody::Bytes(request.body().as_ref());
        let signable = SignableRequest::new(request.method().as_str(), uri, headers.into_iter(), body)
            .map_err(|error| SignError::Request(error.into()))?;
        let (instructions, _) =
            sign(signable, &parameters).map_err(|error| SignError::Request(error.into()))?.into_parts();
        instructions.apply_to_request_http1x(request);
        Ok(())
    }
}
