//! `NAME=VALUE` on the command line.

use std::str::FromStr;

/// An environment variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EnvironmentVariable {
    /// Its name.
    pub(crate) name: String,
    /// Its value.
    pub(crate) value: String,
}

impl FromStr for EnvironmentVariable {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok(Self { name: name.to_owned(), value: value.to_owned() }),
            _ => Err("an environment variable is given as NAME=VALUE".to_owned()),
        }
    }
}
