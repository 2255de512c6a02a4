//! `GET /2015-03-31/functions/{function}`.

use std::time::{Duration, SystemTime};

use axum::http::header::HOST;
use axum::http::{Request, StatusCode};
use axum::response::Response;
use axum::routing::MethodFilter;
use calypte_control::{ControlError, Target};
use calypte_iam::sign::Signer;
use calypte_types::BlobId;
use calypte_wire::lambda::{FunctionCodeLocation, GetFunctionResponse};

use super::{Action, download_code};
use crate::app::{App, Call, SERVICE, json_response};
use crate::error::{ApiError, ErrorName};

/// How long the address of the code is good: as Lambda's.
const LOCATION_TIME: Duration = Duration::from_secs(600);

/// Shows a function, with an address from which its code can be downloaded.
pub(crate) struct GetFunction;

impl Action for GetFunction {
    const NAME: &'static str = "GetFunction";
    const PERMISSION: &'static str = "lambda:GetFunction";
    const METHOD: MethodFilter = MethodFilter::GET;
    const PATHS: &'static [&'static str] = &["/2015-03-31/functions/{function}"];

    async fn run(app: &App, call: Call) -> Result<Response, ApiError> {
        let target = call.target::<Self>(app)?;
        let function = app.control().function(&target).await?;
        let location = code_location(app, &call, &target, &function.code).await?;
        let response = GetFunctionResponse {
            configuration: function.configuration,
            code: FunctionCodeLocation { repository_type: "Calypte".to_owned(), location },
            tags: function.tags,
        };
        json_response(StatusCode::OK, &response)
    }
}

/// A URL on this server, as the caller reaches it, presigned with the caller's own key.
async fn code_location(app: &App, call: &Call, target: &Target, code: &BlobId) -> Result<String, ApiError> {
    let host = call.header(HOST.as_str()).unwrap_or_default();
    let uri = format!("http://{host}{}", download_code::path(&target.name, code));
    let mut request = Request::get(uri).body("").map_err(|_| {
        ApiError::new(
            ErrorName::InvalidParameterValue,
            "The Host header is not a name or address with an optional port",
        )
    })?;
    let internal = |source| ControlError::Internal { doing: "signing the address of a function's code", source };
    let key = app.control().access_key(&call.principal.access_key_id).await?;
    let key = key.ok_or_else(|| internal("the caller's key was removed meanwhile".into()))?;
    let signer = Signer {
        access_key_id: key.id.clone(),
        secret: key.secret.clone(),
        region: app.control().region().to_owned(),
        service: SERVICE.to_owned(),
    };
    signer.presign(&mut request, SystemTime::now(), LOCATION_TIME).map_err(|error| internal(error.into()))?;
    Ok(request.uri().to_string())
}
