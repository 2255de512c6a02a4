//! From a function's record to what the worker starts. Pure.

use std::path::PathBuf;

use calypte_store::Function;
use calypte_types::Arn;
use calypte_worker::image::RuntimeImage;
use calypte_worker::{FunctionSpec, Isolation};

use crate::environment::{ISOLATION_FRESH, ISOLATION_VARIABLE};
use crate::function_name::LATEST;
use crate::runtime;

/// Where the function's code is in the guest.
const TASK_ROOT: &str = "/var/task";
/// Where the runtime's own files are in the guest.
const RUNTIME_DIRECTORY: &str = "/var/runtime";
/// As in Lambda's environments.
const PATH: &str = "/var/lang/bin:/usr/local/bin:/usr/bin/:/bin:/opt/bin";
/// What of Lambda's value is a function's own. The rest names the system's directories, which are searched anyway, and
/// some that only AWS's images have, which bring a value of their own: a start of Python would spend 200 system calls more.
const LIBRARY_PATH: &str = "/var/task:/var/task/lib:/opt/lib";

/// Directories on this host that a function runs on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Directories {
    /// The guest's `/`.
    pub(crate) root: PathBuf,
    /// The extracted package.
    pub(crate) code: PathBuf,
}

/// What the worker needs to start environments of this function. `image` is `None` for a function that brings its own
/// runtime where none is installed under that name.
pub(crate) fn function_spec(
    function: &Function,
    region: &str,
    image: Option<&RuntimeImage>,
    directories: Directories,
) -> FunctionSpec {
    let arn = Arn {
        region: region.to_owned(),
        account: function.account.clone(),
        function: function.name.clone(),
        qualifier: None,
    };
    FunctionSpec {
        account: function.account.clone(),
        arn,
        version: LATEST.to_owned(),
        revision_id: function.revision_id.clone(),
        mounts: vec![("/".to_owned(), directories.root), (TASK_ROOT.to_owned(), directories.code)],
        arguments: runtime::bootstrap(image),
        environment: environment(function, region, image),
        memory_mib: function.configuration.memory_mib,
        tmp_mib: function.configuration.tmp_mib,
        timeout_s: function.configuration.timeout_s,
        has_template: function.configuration.template.has_template(),
        isolation: isolation(&function.configuration.environment),
    }
}

/// What the owner has asked for with [`ISOLATION_VARIABLE`].
fn isolation(variables: &std::collections::BTreeMap<String, String>) -> Isolation {
    match variables.get(ISOLATION_VARIABLE).map(String::as_str) {
        Some(ISOLATION_FRESH) => Isolation::Fresh,
        _ => Isolation::Reuse,
    }
}

/// `/aws/lambda/NAME`.
pub(crate) fn log_group(function: &calypte_types::FunctionName) -> String {
    format!("/aws/lambda/{function}")
}

/// `2026/11/24/[$LATEST]…`, from the revision, because environments of one revision share their variables.
fn log_stream(function: &Function) -> String {
    let date = function.modified_at.date();
    let revision = function.revision_id.replace('-', "");
    format!("{:04}/{:02}/{:02}/[{LATEST}]{revision}", date.year(), u8::from(date.month()), date.day())
}

/// Later ones replace earlier ones: the image's, what the owner may change, the owner's, what only the system sets.
fn environment(function: &Function, region: &str, image: Option<&RuntimeImage>) -> Vec<(String, String)> {
    let mut variables = std::collections::BTreeMap::new();
    let mut set = |name: &str, value: &str| variables.insert(name.to_owned(), value.to_owned());
    set("LANG", "en_US.UTF-8");
    set("LD_LIBRARY_PATH", LIBRARY_PATH);
    set("PATH", PATH);
    set("TZ", ":UTC");
    for (name, value) in image.map_or(&[][..], |image| &image.environment) {
        set(name, value);
    }
    let configuration = &function.configuration;
    for (name, value) in &configuration.environment {
        set(name, value);
    }
    if !runtime::is_provided(&configuration.runtime) {
        set("AWS_EXECUTION_ENV", &format!("AWS_Lambda_{}", configuration.runtime));
    }
    set("AWS_DEFAULT_REGION", region);
    set("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", &configuration.memory_mib.to_string());
    set("AWS_LAMBDA_FUNCTION_NAME", function.name.as_str());
    set("AWS_LAMBDA_FUNCTION_VERSION", LATEST);
    set("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand");
    set("AWS_LAMBDA_LOG_GROUP_NAME", &log_group(&function.name));
    set("AWS_LAMBDA_LOG_STREAM_NAME", &log_stream(function));
    set("AWS_REGION", region);
    set("LAMBDA_RUNTIME_DIR", RUNTIME_DIRECTORY);
    set("LAMBDA_TASK_ROOT", TASK_ROOT);
    set("_HANDLER", &configuration.handler);
    variables.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use calypte_store::{Code, FunctionConfiguration, FunctionState, TemplateChoice};
    use time::macros::datetime;

    use super::*;

    fn function(runtime: &str, variables: &[(&str, &str)]) -> Function {
        Function {
            account: "123456789012".parse().unwrap(),
            name: "hello".parse().unwrap(),
            configuration: FunctionConfiguration {
                runtime: runtime.to_owned(),
                handler: "app.handler".to_owned(),
                role: "arn:aws:iam::123456789012:role/r".to_owned(),
                description: String::new(),
                memory_mib: 256,
                tmp_mib: 512,
                timeout_s: 3,
                environment: variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
                tags: BTreeMap::new(),
                template: TemplateChoice::Default,
            },
            code: Code { blob: calypte_types::BlobId::from_digest([1; 32]), size_bytes: 10 },
            state: FunctionState::Active,
            revision_id: "0b2c4f1e-0000-4000-8000-000000000000".to_owned(),
            created_at: datetime!(2026-01-01 0:00 UTC),
            modified_at: datetime!(2026-11-24 8:00 UTC),
        }
    }

    fn spec(function: &Function, image: Option<&RuntimeImage>) -> FunctionSpec {
        let directories = Directories { root: "/images/root".into(), code: "/code/x".into() };
        function_spec(function, "eu-west-1", image, directories)
    }

    fn variable<'s>(spec: &'s FunctionSpec, name: &str) -> Option<&'s str> {
        let mut values = spec.environment.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let value = values.next();
        assert_eq!(values.next(), None, "{name} is set twice");
        value
    }

    fn image() -> RuntimeImage {
        RuntimeImage {
            name: "python3.11".into(),
            digest: "0".repeat(64),
            root: "/images/root".into(),
            bootstrap: vec!["/usr/bin/python3.11".into(), "/var/runtime/bootstrap.py".into()],
            environment: vec![("PATH".into(), "/image/bin".into()), ("AWS_REGION".into(), "nowhere".into())],
            working_directory: None,
            python_version: Some("3.11.7".into()),
            source: "test".into(),
            size_bytes: 0,
            entry_count: 0,
            created_s: 0,
        }
    }

    #[test]
    fn a_managed_runtime_starts_its_own_bootstrap() {
        let spec = spec(&function("python3.11", &[("TABLE", "t"), ("LANG", "C")]), Some(&image()));
        assert_eq!(spec.arguments, ["/usr/bin/python3.11", "/var/runtime/bootstrap.py"]);
        assert_eq!(spec.mounts[0], ("/".to_owned(), PathBuf::from("/images/root")));
        assert_eq!(spec.mounts[1], ("/var/task".to_owned(), PathBuf::from("/code/x")));
        for (name, value) in [
            ("AWS_EXECUTION_ENV", "AWS_Lambda_python3.11"),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256"),
            ("AWS_LAMBDA_FUNCTION_NAME", "hello"),
            ("AWS_LAMBDA_LOG_GROUP_NAME", "/aws/lambda/hello"),
            ("AWS_LAMBDA_LOG_STREAM_NAME", "2026/11/24/[$LATEST]0b2c4f1e000040008000000000000000"),
            ("AWS_REGION", "eu-west-1"),
            ("LANG", "C"),
            ("PATH", "/image/bin"),
            ("TABLE", "t"),
            ("_HANDLER", "app.handler"),
        ] {
            assert_eq!(variable(&spec, name), Some(value), "{name}");
        }
    }

    #[test]
    fn only_who_refuses_templates_has_none() {
        let mut function = function("python3.11", &[]);
        for (choice, has_template) in
            [(TemplateChoice::Default, true), (TemplateChoice::On, true), (TemplateChoice::Off, false)]
        {
            function.configuration.template = choice;
            assert_eq!(spec(&function, Some(&image())).has_template, has_template, "{choice:?}");
        }
    }

    #[test]
    fn a_provided_runtime_starts_the_functions_bootstrap() {
        let spec = spec(&function("provided.al2023", &[]), None);
        assert_eq!(spec.arguments, [runtime::BOOTSTRAP]);
        assert_eq!(variable(&spec, "AWS_EXECUTION_ENV"), None);
        assert_eq!(variable(&spec, "PATH"), Some(PATH));
    }
}
