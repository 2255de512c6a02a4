//! Amazon Resource Names of functions, as clients write them.

use std::fmt;
use std::str::FromStr;

use crate::{AccountId, FunctionName};

/// `arn:aws:lambda:REGION:ACCOUNT:function:NAME[:QUALIFIER]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Arn {
    /// The region, for example `us-east-1`.
    pub region: String,
    /// The owner.
    pub account: AccountId,
    /// The function.
    pub function: FunctionName,
    /// A version number, an alias or `$LATEST`.
    pub qualifier: Option<String>,
}

/// Why a text is not a function's ARN.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not of the form arn:aws:lambda:REGION:ACCOUNT:function:NAME[:QUALIFIER]")]
pub struct ArnError(String);

impl fmt::Display for Arn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "arn:aws:lambda:{}:{}:function:{}", self.region, self.account, self.function)?;
        match &self.qualifier {
            Some(qualifier) => write!(f, ":{qualifier}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Arn {
    type Err = ArnError;
    fn from_str(text: &str) -> Result<Self, ArnError> {
        let parts: Vec<&str> = text.split(':').collect();
        let parsed = match parts.as_slice() {
            ["arn", "aws", "lambda", region, account, "function", name, rest @ ..] if rest.len() <= 1 => {
                account.parse().ok().zip(name.parse().ok()).map(|(account, function)| Arn {
                    region: (*region).to_owned(),
                    account,
                    function,
                    qualifier: rest.first().map(|q| (*q).to_owned()),
                })
            }
            _ => None,
        };
        parsed.ok_or_else(|| ArnError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arn_survives_its_text_form() {
        for text in [
            "arn:aws:lambda:us-east-1:123456789012:function:hello",
            "arn:aws:lambda:eu-west-1:123456789012:function:hello:$LATEST",
        ] {
            assert_eq!(text.parse::<Arn>().unwrap().to_string(), text);
        }
        for bad in ["", "hello", "arn:aws:s3:::bucket", "arn:aws:lambda:r:1:function:x"] {
            assert!(bad.parse::<Arn>().is_err(), "{bad:?}");
        }
    }
}
