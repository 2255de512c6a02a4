//! Which runtime a function's `Runtime` means, and what it needs.

use calypte_worker::image::RuntimeImage;

use crate::error::{InvalidParameter, shortened};

/// Program of a function that brings its own runtime.
pub(crate) const BOOTSTRAP: &str = "/var/task/bootstrap";

/// Runtimes of AWS Lambda, as in the service model.
const LAMBDA_RUNTIMES: &[&str] = &[
    "dotnet10",
    "dotnet6",
    "dotnet8",
    "dotnetcore1.0",
    "dotnetcore2.0",
    "dotnetcore2.1",
    "dotnetcore3.1",
    "go1.x",
    "java11",
    "java17",
    "java21",
    "java25",
    "java8",
    "java8.al2",
    "nodejs",
    "nodejs10.x",
    "nodejs12.x",
    "nodejs14.x",
    "nodejs16.x",
    "nodejs18.x",
    "nodejs20.x",
    "nodejs22.x",
    "nodejs24.x",
    "nodejs4.3",
    "nodejs4.3-edge",
    "nodejs6.10",
    "nodejs8.10",
    "provided",
    "provided.al2",
    "provided.al2023",
    "python2.7",
    "python3.10",
    "python3.11",
    "python3.12",
    "python3.13",
    "python3.14",
    "python3.6",
    "python3.7",
    "python3.8",
    "python3.9",
    "ruby2.5",
    "ruby2.7",
    "ruby3.2",
    "ruby3.3",
    "ruby3.4",
    "ruby4.0",
];

/// Whether functions of this runtime bring their own bootstrap and need nothing else of the root file system.
pub(crate) fn is_provided(runtime: &str) -> bool {
    matches!(runtime, "provided" | "provided.al2" | "provided.al2023")
}

/// Why there is no such runtime here.
pub(crate) fn refusal(runtime: &str, installed: &[String]) -> InvalidParameter {
    let installed = match installed {
        [] => "none is installed".to_owned(),
        names => format!("installed: {}", names.join(", ")),
    };
    if LAMBDA_RUNTIMES.binary_search(&runtime).is_ok() {
        InvalidParameter::RuntimeNotInstalled { runtime: runtime.to_owned(), installed }
    } else {
        InvalidParameter::UnknownRuntime { value: shortened(runtime), installed }
    }
}

/// Program and arguments that start a function on this image.
pub(crate) fn bootstrap(image: Option<&RuntimeImage>) -> Vec<String> {
    match image {
        Some(image) if !image.bootstrap.is_empty() => image.bootstrap.clone(),
        _ => vec![BOOTSTRAP.to_owned()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_runtime_is_told_from_an_unknown_one() {
        assert!(LAMBDA_RUNTIMES.is_sorted());
        let installed = ["python3.11".to_owned()];
        let known = refusal("nodejs20.x", &installed);
        assert!(matches!(known, InvalidParameter::RuntimeNotInstalled { .. }), "{known}");
        assert!(known.to_string().contains("installed: python3.11"), "{known}");
        assert!(matches!(refusal("python9", &[]), InvalidParameter::UnknownRuntime { .. }));
    }
}
