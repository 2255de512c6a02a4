//! `GET /2015-03-31/functions/{function}/configuration`.

use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::MethodFilter;

use super::Action;
use crate::app::{App, Call, json_response};
use crate::error::ApiError;

/// Shows a function's configuration.
pub(crate) struct GetFunctionConfiguration;

impl Action for GetFunctionConfiguration {
    const NAME: &'static str = "GetFunctionConfiguration";
    const PERMISSION: &'static str = "lambda:GetFunctionConfiguration";
    const METHOD: MethodFilter = MethodFilter::GET;
    const PATHS: &'static [&'static str] = &["/2015-03-31/functions/{function}/configuration"];

    async fn run(app: &App, call: Call) -> Result<Response, ApiError> {
        let target = call.target::<Self>(app)?;
        json_response(StatusCode::OK, &app.control().function_configuration(&target).await?)
    }
}
