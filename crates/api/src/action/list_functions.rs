//! `GET /2015-03-31/functions`.

use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::MethodFilter;
use calypte_control::{InvalidParameter, ListQuery};

use super::Action;
use crate::app::{App, Call, json_response};
use crate::error::ApiError;

/// Lists the caller's functions, a page at a time.
pub(crate) struct ListFunctions;

impl Action for ListFunctions {
    const NAME: &'static str = "ListFunctions";
    const PERMISSION: &'static str = "lambda:ListFunctions";
    const METHOD: MethodFilter = MethodFilter::GET;
    const PATHS: &'static [&'static str] = &["/2015-03-31/functions", "/2015-03-31/functions/"];

    async fn run(app: &App, call: Call) -> Result<Response, ApiError> {
        let parameter = |name: &str| call.query.get(name).map(String::as_str).filter(|value| !value.is_empty());
        let malformed = |member, value: &str, expected| InvalidParameter::malformed(member, value, expected);
        let max_items = parameter("MaxItems")
            .map(|text| text.parse().map_err(|_| malformed("maxItems", text, "a number from 1 to 10000")))
            .transpose()?;
        let has_versions = match parameter("FunctionVersion") {
            None => false,
            Some("ALL") => true,
            Some(other) => return Err(malformed("functionVersion", other, "ALL").into()),
        };
        if parameter("MasterRegion").is_some_and(|region| region != "ALL") {
            return Err(InvalidParameter::Unsupported { member: "MasterRegion".to_owned() }.into());
        }
        let query = ListQuery { marker: parameter("Marker"), max_items, has_versions };
        json_response(StatusCode::OK, &app.control().list_functions(&call.principal.account, query).await?)
    }
}
