//! `calypte rm`: removes functions.

use std::process::ExitCode;

use http::Method;
use serde_json::{Value, json};

use super::Global;
use crate::lambda::{EndpointOption, Lambda, function_path};

/// Options.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Names of the functions
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    endpoint: EndpointOption,
}

/// Removes them.
pub(crate) async fn run(arguments: Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let lambda = Lambda::find(&arguments.endpoint, global)?;
    for name in &arguments.names {
        if let Err(error) = lambda.call_json(Method::DELETE, &function_path(name), &Value::Null).await {
            return Err(lambda.explain(error, name).await);
        }
        global.output().result(|| format!("Removed {name}."), &json!({ "removed": name }))?;
    }
    Ok(ExitCode::SUCCESS)
}
