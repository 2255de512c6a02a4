//! `PUT /2015-03-31/functions/{function}/configuration`.

use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::MethodFilter;

use super::Action;
use crate::app::{App, Call, json_response};
use crate::error::ApiError;

/// Changes a function's configuration. Members that the request leaves out stay as they are.
pub(crate) struct UpdateFunctionConfiguration;

impl Action for UpdateFunctionConfiguration {
    const NAME: &'static str = "UpdateFunctionConfiguration";
    const PERMISSION: &'static str = "lambda:UpdateFunctionConfiguration";
    const METHOD: MethodFilter = MethodFilter::PUT;
    const PATHS: &'static [&'static str] = &["/2015-03-31/functions/{function}/configuration"];

    async fn run(app: &App, mut call: Call) -> Result<Response, ApiError> {
        let target = call.target::<Self>(app)?;
        let request = call.take_json().await?;
        json_response(StatusCode::OK, &app.control().update_function_configuration(&target, request).await?)
    }
}
