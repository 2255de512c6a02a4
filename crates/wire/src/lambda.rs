//! JSON shapes of the AWS Lambda API, as in botocore's service model (`lambda/2015-03-31/service-2.json`).
//!
//! Requests name the members that are implemented; every other member lands in `other`, so that the caller can refuse
//! what would silently not work. Responses carry the members that this system has values for.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Members of a request that are not implemented, by name.
pub type OtherMembers = BTreeMap<String, Value>;

/// `CreateFunctionRequest`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct CreateFunctionRequest {
    /// A name or an ARN without a qualifier.
    pub function_name: Option<String>,
    /// Identifier of the runtime.
    pub runtime: Option<String>,
    /// ARN of the execution role.
    pub role: Option<String>,
    /// What the runtime calls.
    pub handler: Option<String>,
    /// The deployment package.
    pub code: Option<FunctionCode>,
    /// Free text.
    pub description: Option<String>,
    /// Seconds.
    pub timeout: Option<i64>,
    /// MiB.
    pub memory_size: Option<i64>,
    /// Whether to publish a version.
    pub publish: Option<bool>,
    /// `Zip` or `Image`.
    pub package_type: Option<String>,
    /// Environment variables.
    pub environment: Option<Environment>,
    /// Names and values for people.
    pub tags: Option<BTreeMap<String, String>>,
    /// Instruction sets.
    pub architectures: Option<Vec<String>>,
    /// Size of `/tmp`.
    pub ephemeral_storage: Option<EphemeralStorage>,
    /// Whether environments start from a saved one.
    pub snap_start: Option<SnapStart>,
    /// Every other member.
    #[serde(flatten)]
    pub other: OtherMembers,
}

/// `FunctionCode`: the deployment package of a new function.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct FunctionCode {
    /// The bytes of a zip file; base64 in JSON.
    #[serde(default, deserialize_with = "base64_blob")]
    pub zip_file: Option<Vec<u8>>,
    /// Every other member.
    #[serde(flatten)]
    pub other: OtherMembers,
}

/// Body of `UpdateFunctionCodeRequest`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct UpdateFunctionCodeRequest {
    /// The bytes of a zip file; base64 in JSON.
    #[serde(default, deserialize_with = "base64_blob")]
    pub zip_file: Option<Vec<u8>>,
    /// Whether to publish a version.
    pub publish: Option<bool>,
    /// Whether to only check the request.
    pub dry_run: Option<bool>,
    /// The revision that the caller expects to change.
    pub revision_id: Option<String>,
    /// Instruction sets.
    pub architectures: Option<Vec<String>>,
    /// Every other member.
    #[serde(flatten)]
    pub other: OtherMembers,
}

/// Body of `UpdateFunctionConfigurationRequest`. A member that is absent stays as it is.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct UpdateFunctionConfigurationRequest {
    /// ARN of the execution role.
    pub role: Option<String>,
    /// What the runtime calls.
    pub handler: Option<String>,
    /// Free text.
    pub description: Option<String>,
    /// Seconds.
    pub timeout: Option<i64>,
    /// MiB.
    pub memory_size: Option<i64>,
    /// Environment variables; replaces all.
    pub environment: Option<Environment>,
    /// Identifier of the runtime.
    pub runtime: Option<String>,
    /// The revision that the caller expects to change.
    pub revision_id: Option<String>,
    /// Size of `/tmp`.
    pub ephemeral_storage: Option<EphemeralStorage>,
    /// Whether environments start from a saved one.
    pub snap_start: Option<SnapStart>,
    /// Every other member.
    #[serde(flatten)]
    pub other: OtherMembers,
}

/// `Environment` and `EnvironmentResponse`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Environment {
    /// Names and values.
    #[serde(default)]
    pub variables: Option<BTreeMap<String, String>>,
}

/// `EphemeralStorage`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct EphemeralStorage {
    /// MiB.
    pub size: i64,
}

/// `FunctionConfiguration`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct FunctionConfiguration {
    /// The name.
    pub function_name: String,
    /// The ARN, with a qualifier if the caller gave one.
    pub function_arn: String,
    /// Identifier of the runtime.
    pub runtime: String,
    /// ARN of the execution role.
    pub role: String,
    /// What the runtime calls.
    pub handler: String,
    /// Bytes of the deployment package.
    pub code_size: u64,
    /// Free text.
    pub description: String,
    /// Seconds.
    pub timeout: u32,
    /// MiB.
    pub memory_size: u32,
    /// `2026-11-24T08:00:00.000+0000`.
    pub last_modified: String,
    /// Base64 of the package's SHA-256.
    pub code_sha256: String,
    /// `$LATEST` or a number.
    pub version: String,
    /// Environment variables, absent when there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment: Option<Environment>,
    /// Always `PassThrough`.
    pub tracing_config: TracingConfig,
    /// Changes with every update.
    pub revision_id: String,
    /// `Pending`, `Active`, … Absent in lists, as in Lambda.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// `Successful`, … Absent in lists, as in Lambda.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_update_status: Option<String>,
    /// Always `Zip`.
    pub package_type: String,
    /// Instruction sets.
    pub architectures: Vec<String>,
    /// Size of `/tmp`.
    pub ephemeral_storage: EphemeralStorage,
    /// Whether environments start from a saved one.
    pub snap_start: SnapStartResponse,
    /// Where and how logs are kept.
    pub logging_config: LoggingConfig,
}

/// `TracingConfigResponse`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct TracingConfig {
    /// `Active` or `PassThrough`.
    pub mode: String,
}

/// `SnapStart`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct SnapStart {
    /// `PublishedVersions` or `None`.
    #[serde(default)]
    pub apply_on: Option<String>,
}

/// `SnapStartResponse`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct SnapStartResponse {
    /// `PublishedVersions` or `None`.
    pub apply_on: String,
    /// `On` or `Off`.
    pub optimization_status: String,
}

/// `LoggingConfig`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct LoggingConfig {
    /// `Text` or `JSON`.
    pub log_format: String,
    /// Name of the log group.
    pub log_group: String,
}

/// `GetFunctionResponse`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct GetFunctionResponse {
    /// The configuration.
    pub configuration: FunctionConfiguration,
    /// Where the code can be downloaded.
    pub code: FunctionCodeLocation,
    /// Tags, absent when there are none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
}

/// `FunctionCodeLocation`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct FunctionCodeLocation {
    /// The service that holds the package.
    pub repository_type: String,
    /// A presigned URL.
    pub location: String,
}

/// `ListFunctionsResponse`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ListFunctionsResponse {
    /// One page, ordered by name.
    pub functions: Vec<FunctionConfiguration>,
    /// The `Marker` of the next page, absent after the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_marker: Option<String>,
}

/// The body of an error response. The model spells the text `message` for some errors and `Message` for others.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// `User` or `Service`: whose mistake it is.
    #[serde(rename = "Type", default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// The text, in errors that spell it `message`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The text, in errors that spell it `Message`.
    #[serde(rename = "Message", default, skip_serializing_if = "Option::is_none")]
    pub message_capital: Option<String>,
    /// Which limit was reached (`TooManyRequestsException`).
    #[serde(rename = "Reason", default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Bytes that JSON carries as base64, decoded without an intermediate copy of the text.
fn base64_blob<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<u8>>, D::Error> {
    struct Blob;
    impl<'de> Visitor<'de> for Blob {
        type Value = Option<Vec<u8>>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a base64 string")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
            BASE64_STANDARD.decode(text).map(Some).map_err(|error| E::custom(format_args!("not base64: {error}")))
        }

        fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }
    }
    deserializer.deserialize_any(Blob)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unimplemented_members_are_kept_by_name() {
        let request: CreateFunctionRequest = serde_json::from_str(
            r#"{"FunctionName":"f","Code":{"ZipFile":"UEs=","S3Bucket":"b"},"Layers":["l"],"MemorySize":null}"#,
        )
        .unwrap();
        assert_eq!(request.function_name.as_deref(), Some("f"));
        assert_eq!(request.memory_size, None);
        assert_eq!(request.other.keys().collect::<Vec<_>>(), ["Layers"]);
        let code = request.code.unwrap();
        assert_eq!(code.zip_file.as_deref(), Some(&b"PK"[..]));
        assert_eq!(code.other.keys().collect::<Vec<_>>(), ["S3Bucket"]);
    }

    #[test]
    fn zip_files_are_base64_or_absent() {
        let parse = |text| serde_json::from_str::<UpdateFunctionCodeRequest>(text).map(|request| request.zip_file);
        assert_eq!(parse("{}").unwrap(), None);
        assert_eq!(parse(r#"{"ZipFile":null}"#).unwrap(), None);
        assert_eq!(parse(r#"{"ZipFile":""}"#).unwrap(), Some(vec![]));
        assert_eq!(parse(r#"{"ZipFile":"U\u0045s="}"#).unwrap(), Some(b"PK".to_vec()));
        for bad in [r#"{"ZipFile":"U"}"#, r#"{"ZipFile":"%%%%"}"#, r#"{"ZipFile":7}"#, r#"{"ZipFile":["U"]}"#] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn errors_spell_the_text_as_the_model_says() {
        let body = ErrorBody { fault: Some("User".into()), message_capital: Some("no".into()), ..Default::default() };
        assert_eq!(serde_json::to_string(&body).unwrap(), r#"{"Type":"User","Message":"no"}"#);
    }
}
