//! `PUT /2015-03-31/functions/{function}/code`.

use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::MethodFilter;

use super::{Action, UPLOAD_BYTES_MAX};
use crate::app::{App, Call, json_response};
use crate::error::ApiError;

/// Replaces a function's code. With `DryRun` it only checks the request; the answer is what would be.
pub(crate) struct UpdateFunctionCode;

impl Action for UpdateFunctionCode {
    const NAME: &'static str = "UpdateFunctionCode";
    const PERMISSION: &'static str = "lambda:UpdateFunctionCode";
    const METHOD: MethodFilter = MethodFilter::PUT;
    const PATHS: &'static [&'static str] = &["/2015-03-31/functions/{function}/code"];
    const BODY_BYTES_MAX: usize = UPLOAD_BYTES_MAX;

    async fn run(app: &App, mut call: Call) -> Result<Response, ApiError> {
        let target = call.target::<Self>(app)?;
        let request = call.take_json().await?;
        json_response(StatusCode::OK, &app.control().update_function_code(&target, request).await?)
    }
}
