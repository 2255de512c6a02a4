//! The forms in which a client may name a function, and whose function that is.

use calypte_types::{AccountId, Arn, FunctionName};

use crate::error::{ControlError, InvalidParameter, shortened};

/// Longest text that is looked at; the service model's bound for names, ARNs and qualifiers together.
const REFERENCE_CHARACTERS_MAX: usize = 256;
/// The version that a function's code and configuration can still change in.
pub const LATEST: &str = "$LATEST";

/// A function as a client wrote it: `name`, `ACCOUNT:function:name`, or an ARN, each with or without `:qualifier`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionReference {
    /// The region, if the text has one.
    pub region: Option<String>,
    /// The owner, if the text has one.
    pub account: Option<AccountId>,
    /// The name.
    pub name: FunctionName,
    /// The version or alias, if the text has one.
    pub qualifier: Option<String>,
}

/// A function of the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The owner, who is also the caller.
    pub account: AccountId,
    /// The name.
    pub name: FunctionName,
    /// The version or alias, if the caller gave one.
    pub qualifier: Option<String>,
}

impl FunctionReference {
    /// Reads any of the forms that the service model's pattern for function names allows.
    pub fn parse(text: &str) -> Result<Self, InvalidParameter> {
        let malformed = || InvalidParameter::Malformed {
            member: "functionName",
            value: shortened(text),
            expected: "a function name of 1 to 64 letters, digits, '-' and '_', or ACCOUNT:function:NAME, or \
                       arn:aws:lambda:REGION:ACCOUNT:function:NAME, each optionally followed by :QUALIFIER",
        };
        if text.len() > REFERENCE_CHARACTERS_MAX {
            return Err(malformed());
        }
        let mut parts: Vec<&str> = text.split(':').collect();
        let mut is_region: fn(&str) -> bool = is_aws_region;
        if let ["arn", partition, "lambda", rest @ ..] = parts.as_slice() {
            if !partition.starts_with("aws") {
                return Err(malformed());
            }
            parts = rest.to_vec();
            // In an ARN its place says that it is one; a server's own region may be called anything.
            is_region = is_word;
        }
        let mut parts = parts.as_slice();
        let region = take_prefix(&mut parts, is_region).map(str::to_owned);
        let account = take_prefix(&mut parts, |part| part.parse::<AccountId>().is_ok());
        take_prefix(&mut parts, |part| part == "function");
        let (name, qualifier) = match parts {
            [name] => (name, None),
            [name, qualifier] if is_qualifier(qualifier) => (name, Some((*qualifier).to_owned())),
            _ => return Err(malformed()),
        };
        Ok(Self {
            region,
            account: account.and_then(|account| account.parse().ok()),
            name: name.parse().map_err(|_| malformed())?,
            qualifier,
        })
    }

    /// The function that `caller` means, given the `Qualifier` of the query string.
    pub fn resolve(
        self,
        caller: &AccountId,
        region: &str,
        action: &'static str,
        query_qualifier: Option<&str>,
    ) -> Result<Target, ControlError> {
        if let Some(other) = self.region.filter(|other| other != region) {
            return Err(ControlError::OtherRegion { region: other, here: region.to_owned() });
        }
        if let Some(owner) = self.account.filter(|owner| owner != caller) {
            let function =
                Arn { region: region.to_owned(), account: owner, function: self.name, qualifier: self.qualifier };
            return Err(ControlError::OtherAccount { caller: caller.clone(), action, function: function.to_string() });
        }
        let qualifier = match (self.qualifier, query_qualifier) {
            (Some(named), Some(given)) if named != given => {
                return Err(InvalidParameter::QualifiersDiffer { named, given: shortened(given) }.into());
            }
            (_, Some(given)) if !is_qualifier(given) => {
                return Err(InvalidParameter::Malformed {
                    member: "qualifier",
                    value: shortened(given),
                    expected: "$LATEST, or 1 to 128 letters, digits, '-' and '_'",
                }
                .into());
            }
            (named, given) => named.or(given.map(str::to_owned)),
        };
        Ok(Target { account: caller.clone(), name: self.name, qualifier })
    }
}

impl Target {
    /// The ARN as the client wrote it: with its qualifier if there was one.
    pub fn arn(&self, region: &str) -> Arn {
        Arn {
            region: region.to_owned(),
            account: self.account.clone(),
            function: self.name.clone(),
            qualifier: self.qualifier.clone(),
        }
    }

    /// Versions and aliases come with a later release: only `$LATEST` exists.
    pub fn require_latest(&self, region: &str) -> Result<(), ControlError> {
        match self.qualifier.as_deref() {
            None | Some(LATEST) => Ok(()),
            Some(_) => Err(ControlError::NotFound { arn: self.arn(region).to_string() }),
        }
    }

    /// Creating and changing a function takes its name without a qualifier.
    pub fn require_unqualified(&self) -> Result<(), ControlError> {
        match &self.qualifier {
            None => Ok(()),
            Some(qualifier) => Err(InvalidParameter::QualifierNotAllowed { qualifier: qualifier.clone() }.into()),
        }
    }
}

/// Takes the first part away if it fits and is not the only one.
fn take_prefix<'t>(parts: &mut &[&'t str], fits: impl Fn(&str) -> bool) -> Option<&'t str> {
    match parts {
        [first, rest @ ..] if !rest.is_empty() && fits(first) => {
            *parts = rest;
            Some(first)
        }
        _ => None,
    }
}

/// Such as `us-east-1`, `us-gov-west-1`: lower-case words and a final digit.
fn is_aws_region(text: &str) -> bool {
    let mut words = text.split('-');
    let is_lower = |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase());
    let ends_in_digit = words.next_back().is_some_and(|last| matches!(last.as_bytes(), [b'0'..=b'9']));
    let words: Vec<&str> = words.collect();
    ends_in_digit && (2..=3).contains(&words.len()) && words[0].len() == 2 && words.into_iter().all(is_lower)
}

fn is_qualifier(text: &str) -> bool {
    text == LATEST || is_word(text)
}

/// 1 to 128 letters, digits, `-` and `_`.
fn is_word(text: &str) -> bool {
    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    (1..=128).contains(&text.len()) && text.bytes().all(is_allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_name_is_read() {
        for (text, region, account, name, qualifier) in [
            ("hello", None, None, "hello", None),
            ("hello:$LATEST", None, None, "hello", Some("$LATEST")),
            ("hello:7", None, None, "hello", Some("7")),
            ("arn:aws:lambda:here:123456789012:function:hello", Some("here"), Some("123456789012"), "hello", None),
            ("function:hello", None, None, "hello", None),
            ("function", None, None, "function", None),
            ("us-east-1", None, None, "us-east-1", None),
            ("123456789012:function:hello", None, Some("123456789012"), "hello", None),
            ("123456789012:hello:live", None, Some("123456789012"), "hello", Some("live")),
            ("123456789012", None, None, "123456789012", None),
            ("us-gov-west-1:123456789012:function:hello", Some("us-gov-west-1"), Some("123456789012"), "hello", None),
            ("arn:aws:lambda:us-east-1:123456789012:function:h", Some("us-east-1"), Some("123456789012"), "h", None),
            (
                "arn:aws:lambda:eu-west-1:123456789012:function:h:1",
                Some("eu-west-1"),
                Some("123456789012"),
                "h",
                Some("1"),
            ),
        ] {
            let expected = FunctionReference {
                region: region.map(str::to_owned),
                account: account.map(|account: &str| account.parse().unwrap()),
                name: name.parse().unwrap(),
                qualifier: qualifier.map(str::to_owned),
            };
            assert_eq!(FunctionReference::parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        let long = "x".repeat(65);
        let very_long = "x:".repeat(100_000);
        for bad in [
            "",
            ":",
            "a:b:c",
            "a/b",
            "..",
            "hello:",
            "hello:a b",
            "arn:aws:s3:us-east-1:123456789012:h",
            &long,
            &very_long,
        ] {
            assert!(FunctionReference::parse(bad).is_err(), "{}", &bad[..bad.len().min(80)]);
        }
    }

    #[test]
    fn a_name_means_the_callers_own_function() {
        let caller: AccountId = "111111111111".parse().unwrap();
        let resolve = |text: &str, qualifier: Option<&str>| {
            FunctionReference::parse(text).unwrap().resolve(&caller, "us-east-1", "lambda:InvokeFunction", qualifier)
        };
        assert_eq!(resolve("f", None).unwrap().qualifier, None);
        assert_eq!(resolve("f", Some("live")).unwrap().qualifier.as_deref(), Some("live"));
        assert_eq!(resolve("f:live", Some("live")).unwrap().qualifier.as_deref(), Some("live"));
        assert!(matches!(
            resolve("f:a", Some("b")),
            Err(ControlError::Invalid(InvalidParameter::QualifiersDiffer { .. }))
        ));
        assert!(matches!(resolve("f", Some("a b")), Err(ControlError::Invalid(InvalidParameter::Malformed { .. }))));
        assert!(matches!(resolve("222222222222:function:f", None), Err(ControlError::OtherAccount { .. })));
        assert!(matches!(
            resolve("arn:aws:lambda:eu-west-1:111111111111:function:f", None),
            Err(ControlError::OtherRegion { .. })
        ));
        assert!(resolve("f:$LATEST", None).unwrap().require_latest("us-east-1").is_ok());
        assert!(matches!(
            resolve("f:1", None).unwrap().require_latest("us-east-1"),
            Err(ControlError::NotFound { .. })
        ));
    }
}
