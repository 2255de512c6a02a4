//! A client of the Lambda API, as much of it as the command line needs.

use anyhow::{Context, bail};
use bytes::Bytes;
use futures_util::stream;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use serde_json::Value;

use calypte_iam::sign::Signer;

use crate::connection::{self, Body};
use crate::data::{REGION_DEFAULT, signer};
use crate::verb::Global;
use crate::{progress, suggestion};

/// Bodies from this size on show a progress bar.
const PROGRESS_BYTES_MIN: usize = 1024 * 1024;
/// Pieces in which such a body is sent.
const PROGRESS_CHUNK_BYTES: usize = 256 * 1024;

/// Options of the verbs that use the API.
#[derive(clap::Args)]
pub(crate) struct EndpointOption {
    /// URL of the server, with credentials in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY
    /// [default: the server of the data folder, or AWS_ENDPOINT_URL_LAMBDA]
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
}

/// Speaks to one server with one key.
pub(crate) struct Lambda {
    endpoint: String,
    access_key_id: String,
    signer: Signer,
    /// The account, where the data folder tells it.
    pub(crate) account_id: Option<String>,
}

/// An answer that is no error.
pub(crate) struct Answer {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// An error that the API answered with.
#[derive(Debug)]
pub(crate) struct LambdaError {
    /// The name of the exception.
    pub(crate) code: String,
    message: String,
}

impl std::fmt::Display for LambdaError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.message, self.code)
    }
}

impl std::error::Error for LambdaError {}

/// Whether an error is the API's with this name.
pub(crate) fn has_code(error: &anyhow::Error, code: &str) -> bool {
    error.downcast_ref::<LambdaError>().is_some_and(|error| error.code == code)
}

impl Lambda {
    /// Finds server and key: `--endpoint`, then a data folder named by `--data`, then the AWS variables, then the user's
    /// data folder.
    pub(crate) fn find(option: &EndpointOption, global: &Global) -> anyhow::Result<Self> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let of_environment = || variable("AWS_ENDPOINT_URL_LAMBDA").or_else(|| variable("AWS_ENDPOINT_URL"));
        let endpoint = match &option.endpoint {
            Some(endpoint) => Some(endpoint.clone()),
            None if global.data.is_none() => of_environment(),
            None => None,
        };
        let Some(endpoint) = endpoint else { return Self::of_data_folder(global) };
        connection::check(&endpoint)?;
        let required = |name: &str| {
            variable(name).with_context(|| format!("{name} is not set; it is needed to sign requests for {endpoint}"))
        };
        let region = variable("AWS_REGION").or_else(|| variable("AWS_DEFAULT_REGION"));
        let access_key_id = required("AWS_ACCESS_KEY_ID")?;
        let secret = required("AWS_SECRET_ACCESS_KEY")?;
        let signer = signer(&access_key_id, &secret, region.as_deref().unwrap_or(REGION_DEFAULT))?;
        Ok(Self { endpoint, access_key_id, signer, account_id: None })
    }

    fn of_data_folder(global: &Global) -> anyhow::Result<Self> {
        let folder = global.data_folder()?;
        let Some(server) = folder.read_endpoint()? else {
            bail!(
                "no server runs on the data folder {}; start one with `calypte dev`, or name one with --endpoint",
                folder.path().display()
            );
        };
        let Some(credentials) = folder.read_credentials()? else {
            bail!(
                "the data folder {} has no credentials; make a key with `calypte key add ACCOUNT` and set \
                 AWS_ENDPOINT_URL_LAMBDA, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
                folder.path().display()
            );
        };
        let signer = credentials.signer(&server.region)?;
        Ok(Self {
            endpoint: server.endpoint,
            access_key_id: credentials.access_key_id,
            signer,
            account_id: Some(credentials.account_id.to_string()),
        })
    }

    /// Sends one request to `/2015-03-31` and what follows of the path.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        headers: &[(&'static str, &str)],
        body: Vec<u8>,
    ) -> anyhow::Result<Answer> {
        let uri = format!("{}/2015-03-31{path}", self.endpoint.trim_end_matches('/'));
        let mut request = Request::builder().method(method).uri(uri).header(CONTENT_TYPE, "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(Bytes::from(body))?;
        self.signer.sign(&mut request, std::time::SystemTime::now())?;
        let length = request.body().len();
        request.headers_mut().insert(CONTENT_LENGTH, length.into());
        let stream = connection::connect(&self.endpoint).await?;
        let response = connection::send(stream, request.map(shown_body)).await?;
        let (head, body) = response.into_parts();
        let body = connection::read(body).await?;
        if head.status.is_success() {
            return Ok(Answer { headers: head.headers, body });
        }
        let error = anyhow::Error::from(error_of(head.status, &head.headers, &body));
        if has_code(&error, "UnrecognizedClientException") {
            // As with AWS, the answer does not tell a key that is disabled from one that there never was.
            return Err(error.context(format!(
                "{} does not accept the access key {}; `calypte key ls` lists its keys, `calypte key add ACCOUNT` makes one",
                self.endpoint, self.access_key_id
            )));
        }
        Err(error)
    }

    /// A request whose bodies are JSON.
    pub(crate) async fn call_json(&self, method: Method, path: &str, body: &Value) -> anyhow::Result<Value> {
        let body = if body.is_null() { Vec::new() } else { serde_json::to_vec(body)? };
        let answer = self.call(method, path, &[], body).await?;
        if answer.body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&answer.body).context("the server answered with something else than JSON")
    }

    /// All functions of the account.
    pub(crate) async fn functions(&self) -> anyhow::Result<Vec<Value>> {
        let mut functions = Vec::new();
        let mut marker: Option<String> = None;
        loop {
            let query = marker.map(|marker| format!("?Marker={}", encoded(&marker))).unwrap_or_default();
            let mut page = self.call_json(Method::GET, &format!("/functions{query}"), &Value::Null).await?;
            if let Value::Array(items) = page["Functions"].take() {
                functions.extend(items);
            }
            marker = page["NextMarker"].as_str().filter(|marker| !marker.is_empty()).map(str::to_owned);
            if marker.is_none() {
                return Ok(functions);
            }
        }
    }

    /// For a function that there is not, says which one may have been meant.
    pub(crate) async fn explain(&self, error: anyhow::Error, name: &str) -> anyhow::Error {
        if !has_code(&error, "ResourceNotFoundException") {
            return error;
        }
        let functions = self.functions().await.unwrap_or_default();
        let known = functions.iter().filter_map(|function| function["FunctionName"].as_str());
        let hint = suggestion::hint(name, known, "`calypte ls` lists those that there are");
        anyhow::anyhow!("there is no function `{name}`{hint}")
    }
}

/// The path of a function.
pub(crate) fn function_path(name: &str) -> String {
    format!("/functions/{}", encoded(name))
}

fn encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// The body as it is sent; a large one with a progress bar.
fn shown_body(body: Bytes) -> Body {
    if body.len() < PROGRESS_BYTES_MIN {
        return Full::new(body).boxed();
    }
    let bar = progress::of_bytes("sending", body.len() as u64);
    let chunks = (0..body.len()).step_by(PROGRESS_CHUNK_BYTES).map(move |start| {
        let chunk = body.slice(start..body.len().min(start + PROGRESS_CHUNK_BYTES));
        bar.inc(chunk.len() as u64);
        if bar.length() == Some(bar.position()) {
            bar.finish_and_clear();
        }
        Ok(Frame::data(chunk))
    });
    StreamBody::new(stream::iter(chunks)).boxed()
}

fn error_of(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> LambdaError {
    let document: Value = serde_json::from_slice(body).unwrap_or_default();
    let message = ["message", "Message"].iter().find_map(|name| document[*name].as_str());
    let code = headers.get("x-amzn-errortype").and_then(|code| code.to_str().ok());
    LambdaError {
        code: code.unwrap_or(status.as_str()).to_owned(),
        message: message.map_or_else(|| format!("the server answered {status}"), str::to_owned),
    }
}
