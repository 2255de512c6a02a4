//! Errors of the host, and system calls that return them.

use std::io;

use calypte_platform::PlatformError;

/// [`PlatformError::Host`] for an operation.
pub(crate) fn host_error(operation: &'static str, source: io::Error) -> PlatformError {
    PlatformError::Host { operation, source }
}

/// The result of a call that returns -1 and sets `errno` on failure.
pub(crate) fn checked(operation: &'static str, result: libc::c_long) -> Result<libc::c_long, PlatformError> {
    if result == -1 { Err(host_error(operation, io::Error::last_os_error())) } else { Ok(result) }
}
