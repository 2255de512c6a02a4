//! What a function's owner may set, from a request to the record that is stored. Pure: whether a runtime is installed
//! is asked of the caller.

use std::collections::BTreeMap;

use calypte_store::{FunctionConfiguration, TemplateChoice};
use calypte_types::limits;
use calypte_wire::lambda::{
    CreateFunctionRequest, Environment, EphemeralStorage, SnapStart, UpdateFunctionConfigurationRequest,
};

use crate::environment::check_variables;
use crate::error::{InvalidParameter, shortened};
use crate::members::refuse_unsupported;

/// Longest description, in characters.
const DESCRIPTION_CHARACTERS_MAX: usize = 256;
/// Longest handler, in characters.
const HANDLER_CHARACTERS_MAX: usize = 128;
/// Longest role ARN, in characters (ours; an IAM role's path and name end well before).
const ROLE_CHARACTERS_MAX: usize = 2048;
/// Most tags of a function.
const TAGS_MAX: usize = 50;
/// Longest name of a tag, in characters.
const TAG_NAME_CHARACTERS_MAX: usize = 128;
/// Longest value of a tag, in characters.
const TAG_VALUE_CHARACTERS_MAX: usize = 256;
/// `ApplyOn` of `SnapStart` for no templates.
pub(crate) const APPLY_ON_NONE: &str = "None";
/// `ApplyOn` of `SnapStart` for templates.
pub(crate) const APPLY_ON_PUBLISHED_VERSIONS: &str = "PublishedVersions";

/// The configuration of a new function. Its code and name are checked elsewhere.
pub(crate) fn from_request(request: CreateFunctionRequest) -> Result<FunctionConfiguration, InvalidParameter> {
    refuse_unsupported("", &request.other)?;
    refuse_publish(request.publish)?;
    check_architectures(request.architectures.as_deref())?;
    if let Some(value) = request.package_type.filter(|value| value != "Zip") {
        return Err(InvalidParameter::PackageType { value: shortened(&value) });
    }
    let (Some(runtime), Some(handler)) = (request.runtime, request.handler) else {
        return Err(InvalidParameter::RuntimeAndHandler);
    };
    let tags = request.tags.unwrap_or_default();
    check_tags(&tags)?;
    Ok(FunctionConfiguration {
        runtime,
        handler: handler_from(handler)?,
        role: role_from(request.role.ok_or(InvalidParameter::Missing { member: "role" })?)?,
        description: description_from(request.description.unwrap_or_default())?,
        memory_mib: memory_from(request.memory_size)?.unwrap_or(limits::MEMORY_MIB_DEFAULT),
        tmp_mib: tmp_from(request.ephemeral_storage)?.unwrap_or(limits::EPHEMERAL_STORAGE_MIB_MIN),
        timeout_s: timeout_from(request.timeout)?.unwrap_or(limits::TIMEOUT_S_DEFAULT),
        environment: variables_from(request.environment)?.unwrap_or_default(),
        tags,
        template: template_from(request.snap_start)?.unwrap_or_default(),
    })
}

/// The configuration after a change.
pub(crate) fn changed(
    current: &FunctionConfiguration,
    request: UpdateFunctionConfigurationRequest,
) -> Result<FunctionConfiguration, InvalidParameter> {
    refuse_unsupported("", &request.other)?;
    Ok(FunctionConfiguration {
        runtime: request.runtime.unwrap_or_else(|| current.runtime.clone()),
        handler: request.handler.map(handler_from).transpose()?.unwrap_or_else(|| current.handler.clone()),
        role: request.role.map(role_from).transpose()?.unwrap_or_else(|| current.role.clone()),
        description: request
            .description
            .map(description_from)
            .transpose()?
            .unwrap_or_else(|| current.description.clone()),
        memory_mib: memory_from(request.memory_size)?.unwrap_or(current.memory_mib),
        tmp_mib: tmp_from(request.ephemeral_storage)?.unwrap_or(current.tmp_mib),
        timeout_s: timeout_from(request.timeout)?.unwrap_or(current.timeout_s),
        environment: variables_from(request.environment)?.unwrap_or_else(|| current.environment.clone()),
        tags: current.tags.clone(),
        template: template_from(request.snap_start)?.unwrap_or(current.template),
    })
}

/// Versions come with a later release.
pub(crate) fn refuse_publish(publish: Option<bool>) -> Result<(), InvalidParameter> {
    if publish == Some(true) { Err(InvalidParameter::Publish) } else { Ok(()) }
}

/// Only x86-64 runs here.
pub(crate) fn check_architectures(architectures: Option<&[String]>) -> Result<(), InvalidParameter> {
    match architectures {
        None | Some([]) => Ok(()),
        Some([only]) if only == "x86_64" => Ok(()),
        Some(other) => Err(InvalidParameter::Architecture { value: shortened(&other.join(", ")) }),
    }
}

fn memory_from(value: Option<i64>) -> Result<Option<u32>, InvalidParameter> {
    in_range("memorySize", value, limits::MEMORY_MIB_MIN, limits::MEMORY_MIB_MAX)
}

fn timeout_from(value: Option<i64>) -> Result<Option<u32>, InvalidParameter> {
    in_range("timeout", value, limits::TIMEOUT_S_MIN, limits::TIMEOUT_S_MAX)
}

fn tmp_from(value: Option<EphemeralStorage>) -> Result<Option<u32>, InvalidParameter> {
    let size = value.map(|storage| storage.size);
    in_range("ephemeralStorage.size", size, limits::EPHEMERAL_STORAGE_MIB_MIN, limits::EPHEMERAL_STORAGE_MIB_MAX)
}

fn template_from(value: Option<SnapStart>) -> Result<Option<TemplateChoice>, InvalidParameter> {
    let Some(apply_on) = value.and_then(|snap_start| snap_start.apply_on) else { return Ok(None) };
    match apply_on.as_str() {
        APPLY_ON_NONE => Ok(Some(TemplateChoice::Off)),
        APPLY_ON_PUBLISHED_VERSIONS => Ok(Some(TemplateChoice::On)),
        _ => Err(InvalidParameter::NotOneOf {
            member: "snapStart.applyOn",
            value: shortened(&apply_on),
            allowed: &[APPLY_ON_PUBLISHED_VERSIONS, APPLY_ON_NONE],
        }),
    }
}

fn in_range(
    member: &'static str,
    value: Option<i64>,
    minimum: u32,
    maximum: u32,
) -> Result<Option<u32>, InvalidParameter> {
    let Some(value) = value else { return Ok(None) };
    match u32::try_from(value) {
        Ok(number) if (minimum..=maximum).contains(&number) => Ok(Some(number)),
        _ => Err(InvalidParameter::OutOfRange { member, value, minimum, maximum }),
    }
}

fn handler_from(text: String) -> Result<String, InvalidParameter> {
    if !is_within(&text, HANDLER_CHARACTERS_MAX) {
        return Err(InvalidParameter::TooLong { member: "handler", maximum: HANDLER_CHARACTERS_MAX });
    }
    if text.is_empty() || text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        let expected = "a text without white space, such as module.function";
        return Err(InvalidParameter::Malformed { member: "handler", value: shortened(&text), expected });
    }
    Ok(text)
}

fn role_from(text: String) -> Result<String, InvalidParameter> {
    if text.len() > ROLE_CHARACTERS_MAX || !is_role(&text) {
        let expected = "the ARN of a role, such as arn:aws:iam::123456789012:role/name";
        return Err(InvalidParameter::Malformed { member: "role", value: shortened(&text), expected });
    }
    Ok(text)
}

/// `arn:(aws[a-zA-Z-]*)?:iam::\d{12}:role/?[a-zA-Z_0-9+=,.@\-_/]+`
fn is_role(text: &str) -> bool {
    let parts: Vec<&str> = text.splitn(6, ':').collect();
    let ["arn", partition, "iam", "", account, resource] = parts.as_slice() else { return false };
    let is_partition = partition.is_empty()
        || partition
            .strip_prefix("aws")
            .is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'-'));
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_+=,.@-/".contains(&byte);
    let is_name = |name: &str| !name.is_empty() && name != "/" && name.bytes().all(is_allowed);
    is_partition
        && account.len() == 12
        && account.bytes().all(|byte| byte.is_ascii_digit())
        && resource.strip_prefix("role").is_some_and(is_name)
}

fn description_from(text: String) -> Result<String, InvalidParameter> {
    if is_within(&text, DESCRIPTION_CHARACTERS_MAX) {
        Ok(text)
    } else {
        Err(InvalidParameter::TooLong { member: "description", maximum: DESCRIPTION_CHARACTERS_MAX })
    }
}

fn variables_from(environment: Option<Environment>) -> Result<Option<BTreeMap<String, String>>, InvalidParameter> {
    let Some(variables) = environment.and_then(|environment| environment.variables) else { return Ok(None) };
    check_variables(&variables)?;
    Ok(Some(variables))
}

fn check_tags(tags: &BTreeMap<String, String>) -> Result<(), InvalidParameter> {
    if tags.len() > TAGS_MAX {
        return Err(InvalidParameter::TooLong { member: "tags", maximum: TAGS_MAX });
    }
    for (name, value) in tags {
        if name.is_empty() || !is_within(name, TAG_NAME_CHARACTERS_MAX) || name.starts_with("aws:") {
            let expected = "a tag name of 1 to 128 characters that does not begin with aws:";
            return Err(InvalidParameter::Malformed { member: "tags", value: shortened(name), expected });
        }
        if !is_within(value, TAG_VALUE_CHARACTERS_MAX) {
            return Err(InvalidParameter::TooLong { member: "tags", maximum: TAG_VALUE_CHARACTERS_MAX });
        }
    }
    Ok(())
}

fn is_within(text: &str, characters_max: usize) -> bool {
    text.chars().nth(characters_max).is_none()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const ROLE: &str = "arn:aws:iam::123456789012:role/lambda";

    fn create(changes: Value) -> Result<FunctionConfiguration, InvalidParameter> {
        let mut request = json!({"FunctionName": "f", "Runtime": "python3.11", "Role": ROLE, "Handler": "app.handler"});
        for (member, value) in changes.as_object().unwrap() {
            request[member] = value.clone();
        }
        from_request(serde_json::from_value(request).unwrap())
    }

    fn update(current: &FunctionConfiguration, request: Value) -> Result<FunctionConfiguration, InvalidParameter> {
        changed(current, serde_json::from_value(request).unwrap())
    }

    #[test]
    fn members_that_are_left_out_get_lambdas_defaults() {
        let configuration = create(json!({})).unwrap();
        assert_eq!((configuration.memory_mib, configuration.timeout_s, configuration.tmp_mib), (128, 3, 512));
        assert_eq!((configuration.description.as_str(), configuration.environment.len()), ("", 0));
    }

    #[test]
    fn values_at_the_limits_are_accepted() {
        for changes in [
            json!({"MemorySize": 128, "Timeout": 1, "EphemeralStorage": {"Size": 512}}),
            json!({"MemorySize": 10240, "Timeout": 900, "EphemeralStorage": {"Size": 10240}}),
            json!({"Handler": "x".repeat(128), "Description": "ä".repeat(256)}),
            json!({"Publish": false, "PackageType": "Zip", "Architectures": ["x86_64"], "Environment": {}}),
            json!({"Role": "arn:aws-cn:iam::123456789012:role/service-role/a+=,.@-_b"}),
            json!({"Tags": {"a": "", "b": "v".repeat(256)}}),
        ] {
            assert!(create(changes.clone()).is_ok(), "{changes}: {:?}", create(changes.clone()));
        }
    }

    #[test]
    fn a_refusal_names_the_member() {
        for (changes, named) in [
            (json!({"MemorySize": 127}), "'memorySize'"),
            (json!({"MemorySize": 10241}), "'memorySize'"),
            (json!({"MemorySize": -1}), "'memorySize'"),
            (json!({"MemorySize": i64::MAX}), "'memorySize'"),
            (json!({"Timeout": 0}), "'timeout'"),
            (json!({"Timeout": 901}), "'timeout'"),
            (json!({"EphemeralStorage": {"Size": 511}}), "'ephemeralStorage.size'"),
            (json!({"EphemeralStorage": {"Size": 10241}}), "'ephemeralStorage.size'"),
            (json!({"SnapStart": {"ApplyOn": "Always"}}), "enum value set: [PublishedVersions, None]"),
            (json!({"SnapStart": {"ApplyOn": "none"}}), "'snapStart.applyOn'"),
            (json!({"Handler": "a b"}), "'handler'"),
            (json!({"Handler": ""}), "'handler'"),
            (json!({"Handler": "x".repeat(129)}), "'handler'"),
            (json!({"Handler": null}), "Runtime and Handler"),
            (json!({"Runtime": null}), "Runtime and Handler"),
            (json!({"Role": null}), "'role'"),
            (json!({"Role": "admin"}), "'role'"),
            (json!({"Role": "arn:aws:iam::123456789012:user/me"}), "'role'"),
            (json!({"Role": "arn:aws:iam::12:role/me"}), "'role'"),
            (json!({"Description": "x".repeat(257)}), "'description'"),
            (json!({"Architectures": ["arm64"]}), "arm64"),
            (json!({"Architectures": ["x86_64", "arm64"]}), "arm64"),
            (json!({"PackageType": "Image"}), "PackageType"),
            (json!({"Publish": true}), "Publish"),
            (json!({"Layers": ["l"]}), "Layers"),
            (json!({"Environment": {"Variables": {"AWS_REGION": "x"}}}), "AWS_REGION"),
            (json!({"Tags": {"aws:x": "y"}}), "'tags'"),
        ] {
            let message = create(changes.clone()).expect_err(&changes.to_string()).to_string();
            assert!(message.contains(named), "{changes}: {message}");
        }
    }

    #[test]
    fn snap_start_is_said_on_said_off_or_not_said() {
        let on = json!({"SnapStart": {"ApplyOn": "PublishedVersions"}});
        let off = json!({"SnapStart": {"ApplyOn": "None"}});
        for (request, choice) in [
            (json!({}), TemplateChoice::Default),
            (json!({"SnapStart": null}), TemplateChoice::Default),
            (json!({"SnapStart": {}}), TemplateChoice::Default),
            (on.clone(), TemplateChoice::On),
            (off.clone(), TemplateChoice::Off),
        ] {
            let created = create(request.clone()).unwrap();
            assert_eq!(created.template, choice, "{request}");
            assert_eq!(update(&created, json!({"Timeout": 9})).unwrap().template, choice, "stays");
            assert_eq!(update(&created, json!({"SnapStart": {}})).unwrap().template, choice, "stays");
            assert_eq!(update(&created, on.clone()).unwrap().template, TemplateChoice::On);
            assert_eq!(update(&created, off.clone()).unwrap().template, TemplateChoice::Off);
        }
    }

    #[test]
    fn an_update_changes_what_it_names() {
        let before = create(json!({"Environment": {"Variables": {"AA": "1"}}, "Tags": {"t": "v"}})).unwrap();
        assert_eq!(update(&before, json!({})).unwrap(), before);
        let after = update(&before, json!({"MemorySize": 256, "Environment": {"Variables": {}}})).unwrap();
        assert_eq!(after, FunctionConfiguration { memory_mib: 256, environment: BTreeMap::new(), ..before.clone() });
        assert!(update(&before, json!({"Timeout": 0})).is_err());
        assert!(update(&before, json!({"Layers": ["l"]})).is_err());
    }
}
