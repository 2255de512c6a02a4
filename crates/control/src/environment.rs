//! Environment variables: what a function's owner may set, and what the system sets.

use std::collections::BTreeMap;

use calypte_types::limits::ENVIRONMENT_BYTES_MAX;

use crate::error::{InvalidParameter, shortened};

/// Variables that only the system sets, as documented for Lambda. Sorted.
const RESERVED: &[&str] = &[
    "AWS_ACCESS_KEY",
    "AWS_ACCESS_KEY_ID",
    "AWS_DEFAULT_REGION",
    "AWS_EXECUTION_ENV",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
    "AWS_LAMBDA_FUNCTION_NAME",
    "AWS_LAMBDA_FUNCTION_VERSION",
    "AWS_LAMBDA_INITIALIZATION_TYPE",
    "AWS_LAMBDA_LOG_GROUP_NAME",
    "AWS_LAMBDA_LOG_STREAM_NAME",
    "AWS_LAMBDA_RUNTIME_API",
    "AWS_REGION",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "LAMBDA_RUNTIME_DIR",
    "LAMBDA_TASK_ROOT",
    "_HANDLER",
    "_X_AMZN_TRACE_ID",
];

/// The owner's variable that says what invocations may find of those before them: [`ISOLATION_FRESH`], or `reuse` as without
/// it.
pub(crate) const ISOLATION_VARIABLE: &str = "CALYPTE_ISOLATION";
/// Every invocation has an environment of its own.
pub(crate) const ISOLATION_FRESH: &str = "fresh";
const ISOLATION_REUSE: &str = "reuse";

/// Refuses variables that Lambda refuses: reserved or malformed names, too many bytes in all.
pub(crate) fn check_variables(variables: &BTreeMap<String, String>) -> Result<(), InvalidParameter> {
    let reserved: Vec<&str> =
        variables.keys().map(String::as_str).filter(|name| RESERVED.binary_search(name).is_ok()).collect();
    if !reserved.is_empty() {
        return Err(InvalidParameter::ReservedVariables(reserved.join(", ")));
    }
    for (name, value) in variables {
        if !is_name(name) {
            return Err(InvalidParameter::Malformed {
                member: "environment.variables",
                value: shortened(name),
                expected: "a name of two or more letters, digits and '_' that begins with a letter",
            });
        }
        if name == ISOLATION_VARIABLE && ![ISOLATION_FRESH, ISOLATION_REUSE].contains(&value.as_str()) {
            return Err(InvalidParameter::Malformed {
                member: "environment.variables",
                value: format!("{ISOLATION_VARIABLE}={}", shortened(value)),
                expected: "CALYPTE_ISOLATION=fresh (an environment for each invocation) or CALYPTE_ISOLATION=reuse",
            });
        }
        if value.contains('\0') {
            return Err(InvalidParameter::Malformed {
                member: "environment.variables",
                value: shortened(name),
                expected: "a variable whose value has no NUL character",
            });
        }
    }
    let bytes = variables.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > ENVIRONMENT_BYTES_MAX {
        return Err(InvalidParameter::EnvironmentTooLarge { bytes });
    }
    Ok(())
}

/// `[a-zA-Z]([a-zA-Z0-9_])+`
fn is_name(text: &str) -> bool {
    text.len() >= 2
        && text.as_bytes()[0].is_ascii_alphabetic()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(variables: &[(&str, &str)]) -> Result<(), InvalidParameter> {
        check_variables(&variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn the_table_of_reserved_names_can_be_searched() {
        assert!(RESERVED.is_sorted());
    }

    #[test]
    fn variables_are_refused_as_lambda_refuses_them() {
        assert_eq!(check(&[("TABLE_NAME", "t"), ("PATH", "/opt/bin"), ("aa", "")]), Ok(()));
        for name in ["", "A", "1A", "A-B", "A=B", "Ä_B", "A\0B"] {
            assert!(matches!(check(&[(name, "")]), Err(InvalidParameter::Malformed { .. })), "{name:?}");
        }
        assert_eq!(check(&[("CALYPTE_ISOLATION", "fresh")]), Ok(()));
        assert_eq!(check(&[("CALYPTE_ISOLATION", "reuse")]), Ok(()));
        assert!(matches!(check(&[("CALYPTE_ISOLATION", "frish")]), Err(InvalidParameter::Malformed { .. })));
        assert!(matches!(check(&[("AB", "a\0b")]), Err(InvalidParameter::Malformed { .. })));
        assert_eq!(
            check(&[("AWS_REGION", "x"), ("OK", ""), ("_HANDLER", "x")]),
            Err(InvalidParameter::ReservedVariables("AWS_REGION, _HANDLER".into()))
        );
        let at_the_limit = "x".repeat(ENVIRONMENT_BYTES_MAX - 2);
        assert_eq!(check(&[("AB", &at_the_limit)]), Ok(()));
        assert_eq!(
            check(&[("ABC", &at_the_limit)]),
            Err(InvalidParameter::EnvironmentTooLarge { bytes: ENVIRONMENT_BYTES_MAX + 1 })
        );
    }
}
