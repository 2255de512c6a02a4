//! From a function's record to what clients see of it. Pure.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use calypte_store::{Function, TemplateChoice};
use calypte_types::{Arn, FunctionName};
use calypte_wire::lambda::{
    Environment, EphemeralStorage, FunctionConfiguration, LoggingConfig, SnapStartResponse, TracingConfig,
};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::{format_description, offset};

use crate::error::{InvalidParameter, shortened};
use crate::function_name::LATEST;
use crate::settings::{APPLY_ON_NONE, APPLY_ON_PUBLISHED_VERSIONS};
use crate::spec::log_group;

/// `2026-11-24T08:00:00.000+0000`, in UTC.
const LAST_MODIFIED: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]+0000");

/// How much of a function is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detail {
    /// Everything.
    Full,
    /// What Lambda shows in lists: no states.
    Listed,
}

/// What clients see. `qualifier` is the one that the client gave: it becomes part of the ARN.
pub(crate) fn configuration(
    function: &Function,
    region: &str,
    qualifier: Option<&str>,
    detail: Detail,
) -> FunctionConfiguration {
    let settings = &function.configuration;
    let arn = Arn {
        region: region.to_owned(),
        account: function.account.clone(),
        function: function.name.clone(),
        qualifier: qualifier.map(str::to_owned),
    };
    let environment =
        (!settings.environment.is_empty()).then(|| Environment { variables: Some(settings.environment.clone()) });
    FunctionConfiguration {
        function_name: function.name.to_string(),
        function_arn: arn.to_string(),
        runtime: settings.runtime.clone(),
        role: settings.role.clone(),
        handler: settings.handler.clone(),
        code_size: function.code.size_bytes,
        description: settings.description.clone(),
        timeout: settings.timeout_s,
        memory_size: settings.memory_mib,
        last_modified: last_modified(function.modified_at),
        code_sha256: function.code.sha256_base64(),
        version: LATEST.to_owned(),
        environment,
        tracing_config: TracingConfig { mode: "PassThrough".to_owned() },
        revision_id: function.revision_id.clone(),
        state: (detail == Detail::Full).then(|| function.state.as_str().to_owned()),
        last_update_status: (detail == Detail::Full).then(|| "Successful".to_owned()),
        package_type: "Zip".to_owned(),
        architectures: vec!["x86_64".to_owned()],
        ephemeral_storage: EphemeralStorage { size: i64::from(settings.tmp_mib) },
        snap_start: snap_start(settings.template),
        logging_config: LoggingConfig { log_format: "Text".to_owned(), log_group: log_group(&function.name) },
    }
}

/// Who has said nothing reads what Lambda says then, also where there are templates: clients that compare what is with what
/// they have asked for find no difference.
fn snap_start(choice: TemplateChoice) -> SnapStartResponse {
    let (apply_on, optimization_status) = match choice {
        TemplateChoice::Default | TemplateChoice::Off => (APPLY_ON_NONE, "Off"),
        TemplateChoice::On => (APPLY_ON_PUBLISHED_VERSIONS, "On"),
    };
    SnapStartResponse { apply_on: apply_on.to_owned(), optimization_status: optimization_status.to_owned() }
}

fn last_modified(time: OffsetDateTime) -> String {
    time.to_offset(offset!(UTC)).format(&LAST_MODIFIED).expect("every UTC time has these components")
}

/// The `Marker` of the page that follows the function of this name.
pub(crate) fn marker_after(name: &FunctionName) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(name.as_str())
}

/// The name in a `Marker`.
pub(crate) fn name_from_marker(marker: &str) -> Result<FunctionName, InvalidParameter> {
    let name = BASE64_URL_SAFE_NO_PAD.decode(marker).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    name.and_then(|name| name.parse().ok()).ok_or_else(|| InvalidParameter::Malformed {
        member: "marker",
        value: shortened(marker),
        expected: "the NextMarker of an earlier response",
    })
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn times_have_lambdas_form() {
        assert_eq!(last_modified(datetime!(2026-11-24 8:00:05.25 UTC)), "2026-11-24T08:00:05.250+0000");
        assert_eq!(last_modified(datetime!(2026-11-24 1:00 +2)), "2026-11-23T23:00:00.000+0000");
    }

    #[test]
    fn markers_are_opaque_and_checked() {
        let name: FunctionName = "my-function_1".parse().unwrap();
        assert_eq!(name_from_marker(&marker_after(&name)), Ok(name));
        for bad in ["", "my-function_1", "%%", "Li4v"] {
            assert!(name_from_marker(bad).is_err(), "{bad:?}");
        }
    }
}
