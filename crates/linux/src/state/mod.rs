//! The state of a guest as bytes: everything that it has, so that it can go on elsewhere and later.
//!
//! [`Guest::save`] makes a [`SavedGuest`]; its bytes, read again by [`State::parse`], make a guest in a new machine
//! ([`Guest::restore`]). `docs/state-format.md` describes the bytes.
//!
//! # Shape
//!
//! - `format` has the file: header, table, checksums.
//! - Each part of the kernel has a submodule `saved` with its saved form, which is plain data, and the way there and back.
//!   The way there takes the part to pieces by name, so that a field which is not thought of does not compile.
//! - What is shared (open files, sockets, inodes) is numbered by identity by the `Saver`, and made once by the
//!   `Restorer`.
//!
//! # Trust
//!
//! A state is nobody's word until it is checked: [`State::parse`] bounds and verifies what can be verified by itself,
//! and restoring checks that every number names something, that every frame has the users it says, and that areas, pages
//! and queues are in order. A guest is there only if all of that holds.

mod format;
mod identity;
mod restore;
mod save;
mod working_set;

use calypte_platform::PlatformError;

pub use format::{ALIGNMENT, FORMAT_VERSION, MAGIC, SECTION_BYTES_MAX, SECTIONS_MAX, SectionId};
pub use identity::Identity;
pub(crate) use restore::Restorer;
pub use restore::State;
pub use save::SavedGuest;
pub(crate) use save::Saver;
pub use working_set::WorkingSet;

use crate::fs::MountError;
use crate::service::BadServiceState;

#[allow(unused_imports, reason = "links of the documentation above")]
use crate::guest::Guest;

/// How a restored guest's clocks go on. CPU time never advances meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockPolicy {
    /// `CLOCK_MONOTONIC` goes on where it was, `CLOCK_REALTIME` is current: for a guest that starts from a template.
    Continue,
    /// Both advance by the time that has passed, so that a timeout ends when it would have ended: for a guest that was
    /// suspended.
    Advance,
}

/// Why a guest cannot be saved or restored.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The bytes are something else.
    #[error("this is not the state of a guest: it does not begin with its mark")]
    NotAState,
    /// Header and table are of another version.
    #[error("the state has format version {found}; this version of calypte reads {supported}")]
    Version {
        /// That of the state.
        found: u32,
        /// What can be read.
        supported: u32,
    },
    /// A section is of another version.
    #[error("section `{section}` of the state has version {found}; this version of calypte reads {supported}")]
    SectionVersion {
        /// Its name.
        section: &'static str,
        /// That of the state.
        found: u16,
        /// What can be read.
        supported: u16,
    },
    /// A section that matters is not known here.
    #[error("the state has a section number {number} that this version of calypte does not know")]
    UnknownSection {
        /// Its number.
        number: u32,
    },
    /// A section is missing.
    #[error("section `{section}` of the state is missing")]
    Missing {
        /// Its name.
        section: &'static str,
    },
    /// A section is there twice.
    #[error("section `{section}` of the state is there twice")]
    Repeated {
        /// Its name.
        section: &'static str,
    },
    /// A section does not lie where the table may say, or the state is cut off.
    #[error("section `{section}` (number {number}) of the state is cut off or too long")]
    Bounds {
        /// Its name.
        section: &'static str,
        /// Its number.
        number: u32,
    },
    /// Bytes that must be zero are not.
    #[error("the bytes before section `{section}` of the state are damaged")]
    Padding {
        /// Its name.
        section: &'static str,
    },
    /// A checksum does not fit.
    #[error("section `{section}` of the state is damaged: its checksum does not fit")]
    Checksum {
        /// Its name.
        section: &'static str,
    },
    /// Something stands behind the last section.
    #[error("the state has {found} bytes instead of {expected}")]
    Length {
        /// Where the last section ends.
        expected: u64,
        /// How long the state is.
        found: u64,
    },
    /// A section cannot be decoded.
    #[error("section `{section}` of the state cannot be decoded")]
    Encoding {
        /// Its name.
        section: &'static str,
        /// Why not.
        #[source]
        source: postcard::Error,
    },
    /// A section says something that cannot be.
    #[error("section `{section}` of the state is wrong: {rule}")]
    Broken {
        /// Its name.
        section: &'static str,
        /// What is wrong.
        rule: &'static str,
    },
    /// The processor lacks features that the guest may have seen.
    #[error("the guest was saved on a processor with {missing}, which this one does not have")]
    Processor {
        /// What is missing.
        missing: String,
    },
    /// Another platform executed the guest.
    #[error("the guest was saved on the platform `{found}`; this machine is of the platform `{here}`")]
    OtherPlatform {
        /// That of the state.
        found: String,
        /// That of the machine.
        here: String,
    },
    /// User addresses are others here.
    #[error("the machine gives programs other addresses than the one that the guest was saved on")]
    OtherAddresses,
    /// What is mounted is not what was mounted.
    #[error("the guest was saved with other mounts than those that it is restored with")]
    OtherMounts,
    /// Services are not those that there were.
    #[error("the guest was saved with services on other ports than those that it is restored with")]
    OtherServices,
    /// The guest does not fit.
    #[error("the guest uses {frames} pages of memory; the size that it is restored with allows {frames_max}")]
    TooLarge {
        /// Pages in use.
        frames: u32,
        /// Pages allowed.
        frames_max: u32,
    },
    /// A file of the host that the guest has open or mapped is not there any more.
    #[error("the guest needs the file `{path}` (below its mount), which is gone")]
    HostFileGone {
        /// Its path below the mount.
        path: String,
    },
    /// A file of the host that the guest has open or mapped is another one now.
    #[error("the guest needs the file `{path}` (below its mount), which has changed since it was saved")]
    HostFileChanged {
        /// Its path below the mount.
        path: String,
    },
    /// A service does not take its state.
    #[error("the service on port {port} cannot go on from its state")]
    Service {
        /// Its port.
        port: u16,
        /// Why not.
        #[source]
        source: BadServiceState,
    },
    /// The mounts of the configuration.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The platform.
    #[error("the platform cannot take the guest")]
    Platform(#[source] PlatformError),
    /// The file with the state.
    #[error("the file with the state cannot be read")]
    Read(#[source] std::io::Error),
    /// The file for the state.
    #[error("the state cannot be written to its file")]
    Write(#[source] std::io::Error),
    /// The guest has ended.
    #[error("the guest has ended: there is nothing to save")]
    Ended,
}

impl StateError {
    /// A rule that a section breaks.
    pub(crate) fn broken(section: SectionId, rule: &'static str) -> Self {
        Self::Broken { section: section.name(), rule }
    }

    /// Refuses the last of numbers that are given one after the other, if they would soon be used up: no guest lives as long.
    pub(crate) fn check_last_number(section: SectionId, last: u64, width: u32) -> Result<(), Self> {
        if last >> (width - 1) != 0 {
            return Err(Self::broken(section, "numbers that are nearly used up"));
        }
        Ok(())
    }
}
