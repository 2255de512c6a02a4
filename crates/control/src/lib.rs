//! Decides: what a request means, whether it is acceptable, what becomes of functions, and what runs an invocation.
//!
//! [`Control`] has one method for each action. What can be decided without I/O is in modules of its own: names
//! ([`FunctionReference`]), settings, environment variables, what the worker starts, what clients see.
//!
//! Neighbours: `api` turns HTTP into these calls and errors into responses; `store` keeps records and code; `worker`
//! runs invocations behind [`Executor`]. Invocations find functions and keys in memory, not in the database.

#![forbid(unsafe_code)]

mod cache;
mod control;
mod environment;
mod error;
mod event;
mod executor;
mod function_name;
mod functions;
mod garbage;
mod invoke;
mod members;
mod prepare;
mod runtime;
mod settings;
mod spec;
mod view;

pub use control::Control;
pub use error::{ControlError, InvalidParameter, Source};
pub use event::InvocationKind;
pub use executor::{Executor, Invocation};
pub use function_name::{FunctionReference, LATEST, Target};
pub use functions::{Described, ListQuery};
pub use invoke::{InvokeCall, Invoked};
