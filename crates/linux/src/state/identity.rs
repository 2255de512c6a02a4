//! What has written a state, and what a machine must offer to go on from it.

use calypte_platform::Machine;
use serde::{Deserialize, Serialize};

use super::StateError;

/// The body of the section `identity`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The version of calypte that has written the state, for people.
    pub writer: String,
    /// What executed the guest ([`Machine::platform`]).
    pub platform: String,
    /// Features of the processor that the guest may use, sorted.
    pub features: Vec<String>,
}

macro_rules! features {
    ($($name:tt),* $(,)?) => {
        /// Those features of this processor that programs choose their code by.
        fn features() -> Vec<String> {
            let found = [$(($name, std::arch::is_x86_feature_detected!($name))),*];
            found.iter().filter(|(_, is_there)| *is_there).map(|(name, _)| (*name).to_owned()).collect()
        }
    };
}

// Nothing beyond AVX2: larger registers are not enabled for guests.
features!(
    "adx",
    "aes",
    "avx",
    "avx2",
    "bmi1",
    "bmi2",
    "cmpxchg16b",
    "f16c",
    "fma",
    "fxsr",
    "gfni",
    "lzcnt",
    "movbe",
    "pclmulqdq",
    "popcnt",
    "rdrand",
    "rdseed",
    "sha",
    "sse",
    "sse2",
    "sse3",
    "sse4.1",
    "sse4.2",
    "sse4a",
    "ssse3",
    "tbm",
    "vaes",
    "vpclmulqdq",
    "xsave",
);

impl Identity {
    /// Of a guest on this machine.
    pub(super) fn of(machine: &dyn Machine) -> Self {
        Self {
            writer: env!("CARGO_PKG_VERSION").to_owned(),
            platform: machine.platform().to_owned(),
            features: features(),
        }
    }

    /// Whether a guest can go on on this machine.
    pub(super) fn check(&self, machine: &dyn Machine) -> Result<(), StateError> {
        let here = Self::of(machine);
        if self.platform != here.platform {
            return Err(StateError::OtherPlatform { found: self.platform.clone(), here: here.platform });
        }
        let missing: Vec<&str> =
            self.features.iter().filter(|feature| !here.features.contains(feature)).map(String::as_str).collect();
        if missing.is_empty() { Ok(()) } else { Err(StateError::Processor { missing: missing.join(", ") }) }
    }
}
