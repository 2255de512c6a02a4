//! Members of requests that this version does not act on. Accepting them would leave a function without what its owner
//! asked for, so they are refused by name, except with values that ask for nothing.

use calypte_wire::lambda::OtherMembers;
use serde_json::Value;

use crate::error::{InvalidParameter, shortened};

/// Values that name Lambda's default instead of leaving the member out: `(member, field, value)`.
const DEFAULTS: &[(&str, &str, &str)] =
    &[("TracingConfig", "Mode", "PassThrough"), ("LoggingConfig", "LogFormat", "Text")];

/// Refuses the first member that asks for something. `parent` is the structure that they are in, or empty.
pub(crate) fn refuse_unsupported(parent: &str, members: &OtherMembers) -> Result<(), InvalidParameter> {
    match members.iter().find(|(member, value)| !is_default(member, value)) {
        None => Ok(()),
        Some((member, _)) if parent.is_empty() => Err(InvalidParameter::Unsupported { member: shortened(member) }),
        Some((member, _)) => Err(InvalidParameter::Unsupported { member: format!("{parent}.{}", shortened(member)) }),
    }
}

fn is_default(member: &str, value: &Value) -> bool {
    let fields_are_default = |fields: &serde_json::Map<String, Value>| {
        fields.iter().all(|(field, value)| {
            asks_for_nothing(value) || value.as_str().is_some_and(|value| DEFAULTS.contains(&(member, field, value)))
        })
    };
    value.as_object().map_or_else(|| asks_for_nothing(value), fields_are_default)
}

/// Null, false and anything empty, at any depth (`serde_json` bounds the depth of what it parses).
fn asks_for_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) | Value::Number(_) => false,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.values().all(asks_for_nothing),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_members_that_ask_for_something_are_refused() {
        let check = |members: &str| refuse_unsupported("", &serde_json::from_str(members).unwrap());
        for harmless in [
            "{}",
            r#"{"Layers":[],"KMSKeyArn":"","VpcConfig":{"SubnetIds":[],"SecurityGroupIds":[]},"DeadLetterConfig":{}}"#,
            r#"{"VpcConfig":{"SubnetIds":[],"Ipv6AllowedForDualStack":false},"ImageConfig":null}"#,
            r#"{"TracingConfig":{"Mode":"PassThrough"},"LoggingConfig":{"LogFormat":"Text"}}"#,
        ] {
            assert_eq!(check(harmless), Ok(()), "{harmless}");
        }
        for (refused, member) in [
            (r#"{"Layers":["arn:aws:lambda:us-east-1:123456789012:layer:l:1"]}"#, "Layers"),
            (r#"{"VpcConfig":{"SubnetIds":["subnet-1"]}}"#, "VpcConfig"),
            (r#"{"FileSystemConfigs":[{"Arn":"a","LocalMountPath":"/mnt/a"}]}"#, "FileSystemConfigs"),
            (r#"{"DeadLetterConfig":{"TargetArn":"arn:aws:sqs:us-east-1:123456789012:q"}}"#, "DeadLetterConfig"),
            (r#"{"TracingConfig":{"Mode":"Active"}}"#, "TracingConfig"),
            (r#"{"LoggingConfig":{"LogFormat":"JSON"}}"#, "LoggingConfig"),
            (r#"{"DurableConfig":{"ExecutionTimeout":60}}"#, "DurableConfig"),
            (r#"{"NoSuchMember":1}"#, "NoSuchMember"),
        ] {
            assert_eq!(check(refused), Err(InvalidParameter::Unsupported { member: member.to_owned() }));
        }
        let nested = serde_json::from_str(r#"{"S3Bucket":"b"}"#).unwrap();
        assert_eq!(
            refuse_unsupported("Code", &nested).unwrap_err().to_string().split(' ').next(),
            Some("Code.S3Bucket")
        );
    }
}
