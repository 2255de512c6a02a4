//! Identifiers with one canonical text form each. A value of one of these types is known to be well formed.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text is not the identifier it was taken for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Account ids are twelve decimal digits, as AWS account ids are.
    #[error("account id {0:?} is not twelve digits")]
    Account(String),
    /// Function names are 1 to 64 letters, digits, `-` and `_`.
    #[error("function name {0:?} is not 1 to 64 letters, digits, '-' or '_'")]
    FunctionName(String),
    /// Blob ids are SHA-256 digests in lower-case hexadecimal.
    #[error("blob id {0:?} is not 64 hexadecimal digits")]
    Blob(String),
    /// Request ids are UUIDs.
    #[error("request id {0:?} is not a UUID")]
    Request(String),
    /// Access key ids are 1 to 128 letters, digits and `_`.
    #[error("access key id {0:?} is not 1 to 128 letters, digits and '_'")]
    AccessKey(String),
}

macro_rules! text_id {
    ($name:ident, $doc:literal) => {
        #[doc = $doc]
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The canonical text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }
    };
}

text_id!(AccountId, "The owner of functions and keys: twelve decimal digits.");
text_id!(FunctionName, "The name of a function within its account.");
text_id!(BlobId, "The SHA-256 digest of a stored blob, in lower-case hexadecimal.");

impl FromStr for AccountId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        if text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit()) {
            Ok(Self(text.to_owned()))
        } else {
            Err(IdError::Account(text.to_owned()))
        }
    }
}

impl FromStr for FunctionName {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if (1..=64).contains(&text.len()) && text.bytes().all(is_allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err(IdError::FunctionName(text.to_owned()))
        }
    }
}

impl BlobId {
    /// The id of the blob whose SHA-256 digest this is.
    pub fn from_digest(digest: [u8; 32]) -> Self {
        Self(digest.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// The digest that this id names.
    pub fn to_digest(&self) -> [u8; 32] {
        let nibble = |digit: u8| if digit <= b'9' { digit - b'0' } else { digit - b'a' + 10 };
        let digits = self.0.as_bytes();
        std::array::from_fn(|index| nibble(digits[2 * index]) << 4 | nibble(digits[2 * index + 1]))
    }
}

impl FromStr for BlobId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let is_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() == 64 && text.bytes().all(is_hex) {
            Ok(Self(text.to_owned()))
        } else {
            Err(IdError::Blob(text.to_owned()))
        }
    }
}

/// The id of one invocation: a UUID, shown in lower case with hyphens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RequestId(uuid::Uuid);

impl RequestId {
    /// A new random id.
    #[allow(clippy::new_without_default, reason = "a default value that differs at every call would surprise")]
    pub fn new() -> Self {
        Self(uuid::Uuid::new_v4())
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl FromStr for RequestId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        uuid::Uuid::try_parse(text).map(Self).map_err(|_| IdError::Request(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_accept_their_own_text_and_nothing_else() {
        assert!("123456789012".parse::<AccountId>().is_ok());
        for bad in ["", "12345678901", "1234567890123", "12345678901x", "١٢٣٤٥٦٧٨٩٠١٢"] {
            assert!(bad.parse::<AccountId>().is_err(), "{bad:?}");
        }
        assert!("my-function_1".parse::<FunctionName>().is_ok());
        for bad in ["", "a/b", "a b", "..", &"x".repeat(65)] {
            assert!(bad.parse::<FunctionName>().is_err(), "{bad:?}");
        }
        let blob = BlobId::from_digest([0xab; 32]);
        assert_eq!(blob.as_str().parse::<BlobId>(), Ok(blob.clone()));
        let digest = std::array::from_fn(|index| index as u8 * 7);
        assert_eq!(BlobId::from_digest(digest).to_digest(), digest);
        assert!(blob.as_str().to_uppercase().parse::<BlobId>().is_err());
        let request = RequestId::new();
        assert_eq!(request.to_string().parse::<RequestId>(), Ok(request));
    }
}
