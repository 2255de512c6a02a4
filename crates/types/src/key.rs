//! Access keys as AWS clients know them: a public id and a secret.

use std::fmt;
use std::str::FromStr;

use crate::IdError;

/// The public half of an access key: `AKIA` and sixteen capital letters and digits `2` to `7`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AccessKeyId(String);

/// The random bytes that an access key id encodes.
pub const ACCESS_KEY_ID_ENTROPY_BYTES: usize = 10;
/// The random bytes that a secret access key encodes; thirty bytes are forty characters of base64 without padding.
pub const SECRET_ENTROPY_BYTES: usize = 30;
/// Longest access key id that is looked at. AWS's own have 16 to 128 characters; its test suite's has 11.
const ACCESS_KEY_ID_CHARACTERS_MAX: usize = 128;

impl AccessKeyId {
    /// The id that encodes these random bytes.
    pub fn from_entropy(entropy: [u8; ACCESS_KEY_ID_ENTROPY_BYTES]) -> Self {
        const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
        let bits = entropy.iter().fold(0_u128, |bits, byte| bits << 8 | u128::from(*byte));
        let digit = |index: usize| char::from(ALPHABET[(bits >> (5 * index) & 31) as usize]);
        Self(format!("AKIA{}", (0..16).map(digit).collect::<String>()))
    }

    /// The canonical text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AccessKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for AccessKeyId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let is_word = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if (1..=ACCESS_KEY_ID_CHARACTERS_MAX).contains(&text.len()) && is_word {
            Ok(Self(text.to_owned()))
        } else {
            Err(IdError::AccessKey(text.chars().take(ACCESS_KEY_ID_CHARACTERS_MAX).collect()))
        }
    }
}

/// The secret half of an access key. Shown only on request ([`SecretAccessKey::expose`]), never by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretAccessKey(String);

impl SecretAccessKey {
    /// Takes the text of a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret's text. The name marks every place that handles it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretAccessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretAccessKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_ids_have_the_shape_that_clients_expect() {
        let id = AccessKeyId::from_entropy([0x5a; ACCESS_KEY_ID_ENTROPY_BYTES]);
        assert_eq!(id.as_str().len(), 20);
        assert_eq!(id.as_str().parse::<AccessKeyId>(), Ok(id));
        assert_ne!(AccessKeyId::from_entropy([0; 10]), AccessKeyId::from_entropy([0, 0, 0, 0, 0, 0, 0, 0, 0, 1]));
        for bad in ["", "AKIA/IOSFODNN7EXAMPLE", "AKIAIOSFODNN7 EXAMPLE", &"A".repeat(129)] {
            assert!(bad.parse::<AccessKeyId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_secret_does_not_show_in_debug_output() {
        assert!(!format!("{:?}", SecretAccessKey::new("hush")).contains("hush"));
    }
}
