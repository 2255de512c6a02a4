//! What all requests share, and the way of a request: authenticate, read, act, answer.

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequestParts, Path, Query, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use calypte_control::{Control, ControlError, FunctionReference, InvalidParameter, Target};
use calypte_iam::{AuthError, BodyDigest, Principal, Scope, SignedRequest, Verifier};
use calypte_types::RequestId;
use serde::Serialize;
use serde::de::DeserializeOwned;
use time::OffsetDateTime;
use tracing::Instrument;

use crate::action::Action;
use crate::body::{self, BodyError, BodyMemory, ReadBody};
use crate::error::{ApiError, ErrorName, ThrottleLimit};

/// Header with the id of every request.
const REQUEST_ID: &str = "x-amzn-requestid";
/// The service for which requests are signed.
pub(crate) const SERVICE: &str = "lambda";
/// What is read of the body of a request that is refused for its signature.
const DISCARD_BYTES_MAX: usize = 8 * 1024 * 1024;
/// What is read of the body of a request that is refused for its size, or later.
const DISCARD_AUTHENTICATED_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Bodies longer than this are hashed and parsed where they do not hold up others.
const INLINE_BYTES_MAX: usize = 256 * 1024;

/// What all requests share. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct App {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    control: Arc<Control>,
    verifier: Verifier,
    memory: BodyMemory,
}

/// A request whose signature was verified.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) principal: Principal,
    pub(crate) request_id: RequestId,
    /// What the placeholders of the path stand for.
    pub(crate) path: HashMap<String, String>,
    pub(crate) query: HashMap<String, String>,
    pub(crate) parts: Parts,
    pub(crate) body: ReadBody,
}

impl App {
    pub(crate) fn new(control: Arc<Control>) -> Self {
        // Any region: one server is one region, whatever a client calls it.
        let scope = Scope { region: None, services: vec![SERVICE.to_owned()] };
        Self { inner: Arc::new(Inner { control, verifier: Verifier::new(scope), memory: BodyMemory::default() }) }
    }

    pub(crate) fn control(&self) -> &Control {
        &self.inner.control
    }

    /// Checks who sent a request and reads its body.
    async fn authenticate<A: Action>(&self, parts: &Parts, body: &mut Body) -> Result<(Principal, ReadBody), ApiError> {
        let signed = SignedRequest::from(parts);
        let claim = self.inner.verifier.claim(&signed, OffsetDateTime::now_utc());
        let claim = match claim {
            Ok(claim) => claim,
            Err(error) => return Err(refuse(body, error).await),
        };
        let Some(key) = self.control().access_key(claim.access_key_id()).await? else {
            return Err(refuse(body, AuthError::UnknownKey).await);
        };
        let read = match body::read(&parts.headers, body, A::BODY_BYTES_MAX, &self.inner.memory).await {
            Ok(read) => read,
            Err(error) => {
                if error == BodyError::TooLarge {
                    body::discard(body, DISCARD_AUTHENTICATED_BYTES_MAX).await;
                }
                return Err(body_refusal::<A>(error));
            }
        };
        let digest = digest(read.bytes.clone()).await;
        self.inner.verifier.verify(&signed, &claim, &key.secret, digest)?;
        let principal = Principal { account: key.account.clone(), access_key_id: key.id.clone() };
        Ok((principal, read))
    }
}

/// Serves one request of an action.
pub(crate) async fn serve<A: Action>(State(app): State<App>, request: Request) -> Response {
    let request_id = RequestId::new();
    let span = tracing::info_span!("request", action = A::NAME, %request_id, account = tracing::field::Empty);
    let result = answer::<A>(&app, request_id, request).instrument(span.clone()).await;
    if let Err(error) = &result {
        span.in_scope(|| error.log());
    }
    finish(request_id, result)
}

async fn answer<A: Action>(app: &App, request_id: RequestId, request: Request) -> Result<Response, ApiError> {
    let (mut parts, mut body) = request.into_parts();
    let path = Path::<HashMap<String, String>>::from_request_parts(&mut parts, app).await;
    let query = Query::<HashMap<String, String>>::try_from_uri(&parts.uri);
    let (principal, body) = app.authenticate::<A>(&parts, &mut body).await?;
    tracing::Span::current().record("account", principal.account.as_str());
    // Only now: who is not authenticated learns nothing else.
    let Path(path) = path.map_err(|error| ApiError::new(ErrorName::InvalidParameterValue, error.body_text()))?;
    let Query(query) = query.map_err(|error| ApiError::new(ErrorName::InvalidParameterValue, error.body_text()))?;
    A::run(app, Call { principal, request_id, path, query, parts, body }).await
}

/// For paths and methods that no action has.
pub(crate) async fn serve_unknown(request: Request) -> Response {
    let (parts, mut body) = request.into_parts();
    body::discard(&mut body, DISCARD_BYTES_MAX).await;
    let message = format!(
        "{} {} is no operation of this server; see the documentation for the operations that it has",
        parts.method,
        parts.uri.path().chars().take(200).collect::<String>()
    );
    finish(RequestId::new(), Err(ApiError::new(ErrorName::UnknownOperation, message)))
}

fn finish(request_id: RequestId, result: Result<Response, ApiError>) -> Response {
    let mut response = result.unwrap_or_else(IntoResponse::into_response);
    let id = HeaderValue::try_from(request_id.to_string()).expect("a UUID is a header value");
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

impl Call {
    /// The caller's function that the path names.
    pub(crate) fn target<A: Action>(&self, app: &App) -> Result<Target, ApiError> {
        let name = self.path.get("function").map_or("", String::as_str);
        self.target_named::<A>(app, name)
    }

    /// The caller's function of this name.
    pub(crate) fn target_named<A: Action>(&self, app: &App, name: &str) -> Result<Target, ApiError> {
        let qualifier = self.query.get("Qualifier").map(String::as_str);
        let reference = FunctionReference::parse(name)?;
        Ok(reference.resolve(&self.principal.account, app.control().region(), A::PERMISSION, qualifier)?)
    }

    /// The body as JSON. It is gone afterwards, but still counts against the memory of bodies while `self` lives.
    pub(crate) async fn take_json<T: DeserializeOwned + Send + 'static>(&mut self) -> Result<T, ApiError> {
        let bytes = std::mem::take(&mut self.body.bytes);
        let length = bytes.len();
        let parsed = where_it_may_take_time(length, move || serde_json::from_slice(&bytes)).await;
        parsed.map_err(|error| {
            ApiError::new(
                ErrorName::Serialization,
                format!("The request body is not what the operation takes: {error}"),
            )
        })
    }

    /// A header's value, if it is text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.parts.headers.get(name)?.to_str().ok()
    }

    /// Refuses a header whose function this version does not have.
    pub(crate) fn refuse_header(&self, name: &str, member: &str) -> Result<(), ApiError> {
        match self.parts.headers.contains_key(name) {
            true => Err(InvalidParameter::Unsupported { member: member.to_owned() }.into()),
            false => Ok(()),
        }
    }
}

/// A response with a JSON body.
pub(crate) fn json_response(status: StatusCode, value: &impl Serialize) -> Result<Response, ApiError> {
    let body = serde_json::to_vec(value)
        .map_err(|error| ControlError::Internal { doing: "encoding a response", source: error.into() })?;
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

async fn refuse(body: &mut Body, error: AuthError) -> ApiError {
    body::discard(body, DISCARD_BYTES_MAX).await;
    error.into()
}

fn body_refusal<A: Action>(error: BodyError) -> ApiError {
    match error {
        BodyError::TooLarge => {
            let message =
                format!("Request must be smaller than {} bytes for the {} operation", A::BODY_BYTES_MAX, A::NAME);
            ApiError::new(A::TOO_LARGE, message)
        }
        BodyError::TooSlow => {
            ApiError::new(ErrorName::RequestTimeout, "The request body came too slowly; send it again")
        }
        BodyError::Broken => ApiError::new(ErrorName::Serialization, "The request body is incomplete"),
        BodyError::NoMemory => {
            ApiError::throttled(ThrottleLimit::Requests, "Too many large requests at the same time; try again")
        }
    }
}

async fn digest(bytes: Bytes) -> BodyDigest {
    where_it_may_take_time(bytes.len(), move || BodyDigest::of(&bytes)).await
}

/// Runs work on `length` bytes here if they are few.
async fn where_it_may_take_time<T: Send + 'static>(length: usize, work: impl FnOnce() -> T + Send + 'static) -> T {
    if length <= INLINE_BYTES_MAX {
        return work();
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
