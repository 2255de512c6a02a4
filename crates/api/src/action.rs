//! The operations of the Lambda API: one file each, and the table of all of them.

mod create_function;
mod delete_function;
mod download_code;
mod get_function;
mod get_function_configuration;
mod invoke;
mod list_functions;
mod update_function_code;
mod update_function_configuration;

use std::future::Future;

use axum::Router;
use axum::response::Response;
use axum::routing::{MethodFilter, on};

use crate::app::{App, Call, serve, serve_unknown};
use crate::error::{ApiError, ErrorName};

/// Largest body of a request that carries a zip file: that of Lambda. 50 MB of zip file are 70 MB of base64.
const UPLOAD_BYTES_MAX: usize = 70_167_211;
/// Largest body of any other request (ours; the longest acceptable configuration has some 50 kB).
const SMALL_BYTES_MAX: usize = 256 * 1024;

const _: () = assert!(calypte_types::limits::ZIP_BYTES_MAX.div_ceil(3) * 4 < UPLOAD_BYTES_MAX);

/// An operation.
pub(crate) trait Action: Send + Sync + 'static {
    /// Its name in the service model.
    const NAME: &'static str;
    /// What a caller must be allowed to do.
    const PERMISSION: &'static str;
    /// Its method.
    const METHOD: MethodFilter;
    /// Its path; `{function}` stands for the function's name. Older clients may add a slash.
    const PATHS: &'static [&'static str];
    /// Largest body.
    const BODY_BYTES_MAX: usize = SMALL_BYTES_MAX;
    /// What a larger body is refused with.
    const TOO_LARGE: ErrorName = ErrorName::RequestEntityTooLarge;

    /// Carries out an authenticated request.
    fn run(app: &App, call: Call) -> impl Future<Output = Result<Response, ApiError>> + Send;
}

/// All operations.
pub(crate) fn routes(app: App) -> Router {
    let router = Router::new();
    let router = add::<create_function::CreateFunction>(router);
    let router = add::<delete_function::DeleteFunction>(router);
    let router = add::<download_code::DownloadCode>(router);
    let router = add::<get_function::GetFunction>(router);
    let router = add::<get_function_configuration::GetFunctionConfiguration>(router);
    let router = add::<invoke::Invoke>(router);
    let router = add::<list_functions::ListFunctions>(router);
    let router = add::<update_function_code::UpdateFunctionCode>(router);
    let router = add::<update_function_configuration::UpdateFunctionConfiguration>(router);
    router.fallback(serve_unknown).method_not_allowed_fallback(serve_unknown).with_state(app)
}

fn add<A: Action>(router: Router<App>) -> Router<App> {
    A::PATHS.iter().fold(router, |router, path| router.route(path, on(A::METHOD, serve::<A>)))
}
