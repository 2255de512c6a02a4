//! `GET /_calypte/code/{function}/{blob}`: where the `Location` of `GetFunction` leads to.

use axum::body::Body;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use axum::routing::MethodFilter;
use calypte_control::InvalidParameter;
use calypte_types::{BlobId, FunctionName};

use super::Action;
use crate::app::{App, Call};
use crate::error::ApiError;

/// Gives a function's zip file to its owner, while it is the current one.
pub(crate) struct DownloadCode;

/// The path of a function's zip file.
pub(super) fn path(function: &FunctionName, code: &BlobId) -> String {
    format!("/_calypte/code/{function}/{code}")
}

impl Action for DownloadCode {
    const NAME: &'static str = "DownloadCode";
    const PERMISSION: &'static str = "lambda:GetFunction";
    const METHOD: MethodFilter = MethodFilter::GET;
    const PATHS: &'static [&'static str] = &["/_calypte/code/{function}/{blob}"];

    async fn run(app: &App, call: Call) -> Result<Response, ApiError> {
        let target = call.target::<Self>(app)?;
        let blob = call.path.get("blob").map_or("", String::as_str);
        let blob = blob
            .parse()
            .map_err(|_| InvalidParameter::malformed("blob", blob, "a SHA-256 digest in lower-case hexadecimal"))?;
        let mut response = Response::new(Body::from(app.control().package(&target, &blob).await?));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/zip"));
        Ok(response)
    }
}
