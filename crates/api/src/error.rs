//! The one table from the system's errors to what clients of the Lambda API get: status, `x-amzn-ErrorType`, body.

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use calypte_control::{ControlError, InvalidParameter};
use calypte_iam::AuthError;
use calypte_wire::lambda::ErrorBody;

/// Header with the error's name.
pub(crate) const ERROR_TYPE: &str = "x-amzn-errortype";
/// Seconds after which a refused request may be repeated.
const RETRY_AFTER_S: &str = "1";

/// Names of errors, as in the service model and, for those about access, as all AWS services have them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ErrorName {
    AccessDenied,
    IncompleteSignature,
    InvalidParameterValue,
    InvalidRequestContent,
    InvalidRuntime,
    InvalidSignature,
    InvalidZipFile,
    MissingAuthenticationToken,
    PreconditionFailed,
    RequestEntityTooLarge,
    RequestTimeout,
    RequestTooLarge,
    ResourceConflict,
    ResourceNotFound,
    Serialization,
    Service,
    TooManyRequests,
    UnknownOperation,
    UnrecognizedClient,
}

/// Whose mistake an error is, if its shape says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    User,
    Service,
    Unsaid,
}

/// The name of the body's member that holds the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spelling {
    Lower,
    Capital,
}

impl ErrorName {
    /// One row of the table: name on the wire, status, fault, spelling of the text.
    const fn row(self) -> (&'static str, StatusCode, Fault, Spelling) {
        use Fault::{Service, Unsaid, User};
        use Spelling::{Capital, Lower};
        match self {
            Self::AccessDenied => ("AccessDeniedException", StatusCode::FORBIDDEN, Unsaid, Capital),
            Self::IncompleteSignature => ("IncompleteSignatureException", StatusCode::FORBIDDEN, Unsaid, Lower),
            Self::InvalidParameterValue => ("InvalidParameterValueException", StatusCode::BAD_REQUEST, User, Lower),
            Self::InvalidRequestContent => ("InvalidRequestContentException", StatusCode::BAD_REQUEST, User, Lower),
            Self::InvalidRuntime => ("InvalidRuntimeException", StatusCode::BAD_GATEWAY, Service, Capital),
            Self::InvalidSignature => ("InvalidSignatureException", StatusCode::FORBIDDEN, Unsaid, Lower),
            Self::InvalidZipFile => ("InvalidZipFileException", StatusCode::BAD_GATEWAY, Service, Capital),
            Self::MissingAuthenticationToken => {
                ("MissingAuthenticationTokenException", StatusCode::FORBIDDEN, Unsaid, Lower)
            }
            Self::PreconditionFailed => ("PreconditionFailedException", StatusCode::PRECONDITION_FAILED, User, Lower),
            Self::RequestEntityTooLarge => {
                ("RequestEntityTooLargeException", StatusCode::PAYLOAD_TOO_LARGE, User, Capital)
            }
            Self::RequestTimeout => ("RequestTimeoutException", StatusCode::REQUEST_TIMEOUT, User, Lower),
            Self::RequestTooLarge => ("RequestTooLargeException", StatusCode::PAYLOAD_TOO_LARGE, User, Lower),
            Self::ResourceConflict => ("ResourceConflictException", StatusCode::CONFLICT, User, Lower),
            Self::ResourceNotFound => ("ResourceNotFoundException", StatusCode::NOT_FOUND, User, Capital),
            Self::Serialization => ("SerializationException", StatusCode::BAD_REQUEST, User, Lower),
            Self::Service => ("ServiceException", StatusCode::INTERNAL_SERVER_ERROR, Service, Capital),
            Self::TooManyRequests => ("TooManyRequestsException", StatusCode::TOO_MANY_REQUESTS, User, Lower),
            Self::UnknownOperation => ("UnknownOperationException", StatusCode::NOT_FOUND, Unsaid, Lower),
            Self::UnrecognizedClient => ("UnrecognizedClientException", StatusCode::FORBIDDEN, Unsaid, Lower),
        }
    }
}

/// Which limit a refused request ran into: `Reason` of `TooManyRequestsException`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ThrottleLimit {
    /// Environments that may run at the same time.
    Concurrency,
    /// Requests that the server takes at the same time.
    Requests,
}

impl ThrottleLimit {
    fn as_str(self) -> &'static str {
        match self {
            Self::Concurrency => "ConcurrentInvocationLimitExceeded",
            Self::Requests => "CallerRateLimitExceeded",
        }
    }
}

/// An error as a client gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiError {
    name: ErrorName,
    message: String,
    limit: Option<ThrottleLimit>,
}

impl ApiError {
    pub(crate) fn new(name: ErrorName, message: impl Into<String>) -> Self {
        Self { name, message: message.into(), limit: None }
    }

    /// One line for the server's log. The text may be the client's: it is quoted. A client's mistake is the client's to
    /// read, and some ask for what is not there on purpose.
    pub(crate) fn log(&self) {
        let (error, status, ..) = self.name.row();
        let (status, is_ours, text) = (status.as_u16(), status.is_server_error(), &self.message);
        if is_ours {
            tracing::info!(error, status, ?text, "request refused");
        } else {
            tracing::debug!(error, status, ?text, "request refused");
        }
    }

    /// A request that may be repeated later.
    pub(crate) fn throttled(limit: ThrottleLimit, message: impl Into<String>) -> Self {
        Self { name: ErrorName::TooManyRequests, message: message.into(), limit: Some(limit) }
    }
}

impl From<InvalidParameter> for ApiError {
    fn from(error: InvalidParameter) -> Self {
        Self::new(ErrorName::InvalidParameterValue, error.to_string())
    }
}

impl From<ControlError> for ApiError {
    fn from(error: ControlError) -> Self {
        if let ControlError::Internal { .. } = &error {
            tracing::error!(error = &error as &dyn std::error::Error, "a request failed");
        }
        let name = match &error {
            ControlError::Throttled(_) => return Self::throttled(ThrottleLimit::Concurrency, error.to_string()),
            ControlError::Invalid(_) => ErrorName::InvalidParameterValue,
            ControlError::NotFound { .. } | ControlError::OtherRegion { .. } => ErrorName::ResourceNotFound,
            ControlError::OtherAccount { .. } => ErrorName::AccessDenied,
            ControlError::AlreadyExists { .. } | ControlError::UpdateInProgress { .. } => ErrorName::ResourceConflict,
            ControlError::RevisionMismatch => ErrorName::PreconditionFailed,
            ControlError::BadEvent(_) => ErrorName::InvalidRequestContent,
            ControlError::EventTooLarge => ErrorName::RequestTooLarge,
            ControlError::RuntimeUnavailable(_) => ErrorName::InvalidRuntime,
            ControlError::PackageDamaged(_) => ErrorName::InvalidZipFile,
            ControlError::ShuttingDown | ControlError::Internal { .. } => ErrorName::Service,
        };
        Self::new(name, error.to_string())
    }
}

impl From<AuthError> for ApiError {
    fn from(error: AuthError) -> Self {
        let name = match &error {
            AuthError::Missing => ErrorName::MissingAuthenticationToken,
            AuthError::Incomplete(_) => ErrorName::IncompleteSignature,
            AuthError::UnknownKey => ErrorName::UnrecognizedClient,
            AuthError::InvalidSignature(_) => ErrorName::InvalidSignature,
        };
        Self::new(name, error.to_string())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (name, status, fault, spelling) = self.name.row();
        let (message, message_capital) = match spelling {
            Spelling::Lower => (Some(self.message), None),
            Spelling::Capital => (None, Some(self.message)),
        };
        let fault = match fault {
            Fault::User => Some("User".to_owned()),
            Fault::Service => Some("Service".to_owned()),
            Fault::Unsaid => None,
        };
        let reason = self.limit.map(|limit| limit.as_str().to_owned());
        let body = ErrorBody { fault, message, message_capital, reason };
        let body = serde_json::to_vec(&body).expect("an error body is plain text members");
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ERROR_TYPE, HeaderValue::from_static(name));
        if self.limit.is_some() {
            headers.insert(RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_S));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn check(error: ApiError, status: u16, name: &str, body: &str) {
        let response = error.into_response();
        assert_eq!(response.status(), status);
        assert_eq!(response.headers()[ERROR_TYPE], name);
        let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        assert_eq!(std::str::from_utf8(&bytes).unwrap(), body);
    }

    #[tokio::test]
    async fn errors_have_the_models_shapes() {
        let not_found = ControlError::NotFound { arn: "a".into() };
        let body = r#"{"Type":"User","Message":"Function not found: a"}"#;
        check(not_found.into(), 404, "ResourceNotFoundException", body).await;
        let body = r#"{"Type":"User","message":"Please provide a source for function code."}"#;
        check(InvalidParameter::NoCode.into(), 400, "InvalidParameterValueException", body).await;
        let throttled = ApiError::throttled(ThrottleLimit::Concurrency, "Rate Exceeded.");
        assert_eq!(throttled.clone().into_response().headers()[RETRY_AFTER], "1");
        let body = r#"{"Type":"User","message":"Rate Exceeded.","Reason":"ConcurrentInvocationLimitExceeded"}"#;
        check(throttled, 429, "TooManyRequestsException", body).await;
        let body = r#"{"message":"Missing Authentication Token"}"#;
        let error = ApiError::new(ErrorName::MissingAuthenticationToken, "Missing Authentication Token");
        check(error, 403, "MissingAuthenticationTokenException", body).await;
    }

    #[tokio::test]
    async fn our_own_failures_keep_their_causes_to_themselves() {
        let error = ControlError::Internal { doing: "reading a function", source: "disk on fire".into() };
        let body = r#"{"Type":"Service","Message":"reading a function failed; the server's log has the details"}"#;
        check(error.into(), 500, "ServiceException", body).await;
    }
}
