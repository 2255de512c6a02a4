//! `POST /2015-03-31/functions`.

use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::MethodFilter;
use calypte_control::InvalidParameter;
use calypte_wire::lambda::CreateFunctionRequest;

use super::{Action, UPLOAD_BYTES_MAX};
use crate::app::{App, Call, json_response};
use crate::error::ApiError;

/// Creates a function; it is active at once.
pub(crate) struct CreateFunction;

impl Action for CreateFunction {
    const NAME: &'static str = "CreateFunction";
    const PERMISSION: &'static str = "lambda:CreateFunction";
    const METHOD: MethodFilter = MethodFilter::POST;
    const PATHS: &'static [&'static str] = &["/2015-03-31/functions", "/2015-03-31/functions/"];
    const BODY_BYTES_MAX: usize = UPLOAD_BYTES_MAX;

    async fn run(app: &App, mut call: Call) -> Result<Response, ApiError> {
        let request: CreateFunctionRequest = call.take_json().await?;
        let name = request.function_name.as_deref().ok_or(InvalidParameter::Missing { member: "functionName" })?;
        let target = call.target_named::<Self>(app, name)?;
        json_response(StatusCode::CREATED, &app.control().create_function(&target, request).await?)
    }
}
