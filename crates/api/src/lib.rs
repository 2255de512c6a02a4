//! HTTP: the Lambda API. Authenticates every request (Signature Version 4), bounds what it reads, and turns it into a
//! call of `calypte_control::Control`; turns results and errors into what the service model says.
//!
//! [`serve`] runs it on a socket, [`router`] is for tests and for mounting elsewhere. `action` has the operations, one
//! file each; `error` the one table of errors. Neighbours: `control` decides, `iam` verifies signatures, `wire` has the
//! JSON shapes.

#![forbid(unsafe_code)]

mod action;
mod app;
mod body;
mod error;
mod server;

use std::future::Future;
use std::sync::Arc;

use axum::Router;
use calypte_control::Control;
use tokio::net::TcpListener;

/// The operations of the Lambda API.
pub fn router(control: Arc<Control>) -> Router {
    action::routes(app::App::new(control))
}

/// Serves the Lambda API on a socket until `shutdown` is ready and requests under way have ended, or ten seconds more.
pub async fn serve(listener: TcpListener, control: Arc<Control>, shutdown: impl Future<Output = ()>) {
    server::serve_router(listener, router(control), shutdown).await;
}
