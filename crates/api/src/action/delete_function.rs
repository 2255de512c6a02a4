//! `DELETE /2015-03-31/functions/{function}`.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::MethodFilter;

use super::Action;
use crate::app::{App, Call};
use crate::error::ApiError;

/// Deletes a function.
pub(crate) struct DeleteFunction;

impl Action for DeleteFunction {
    const NAME: &'static str = "DeleteFunction";
    const PERMISSION: &'static str = "lambda:DeleteFunction";
    const METHOD: MethodFilter = MethodFilter::DELETE;
    const PATHS: &'static [&'static str] = &["/2015-03-31/functions/{function}"];

    async fn run(app: &App, call: Call) -> Result<Response, ApiError> {
        app.control().delete_function(&call.target::<Self>(app)?).await?;
        Ok(StatusCode::NO_CONTENT.into_response())
    }
}
