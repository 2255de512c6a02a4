//! Worker ↔ zygote: one Unix socket with message boundaries (`SOCK_SEQPACKET`), which the zygote finds at its standard
//! input. Each message is one packet of `postcard` data, without a length before it: [`encode`] and [`decode`].
//!
//! The worker sends [`ToZygote::Fork`] together with three file descriptors (`SCM_RIGHTS`), the monitor's ends of an
//! environment's sockets, that of [`crate::monitor`] and that of [`crate::descriptor`], and of a pipe that becomes its
//! standard error. The zygote forks a monitor that owns them and answers with [`FromZygote::Forked`].
//! When a monitor ends the zygote reaps it and sends [`FromZygote::Ended`]. The zygote ends when the socket closes;
//! the monitors that it forked go on until their own sockets close.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::frame::{FrameError, decode_whole};

/// Longest message in either direction.
pub const MESSAGE_BYTES_MAX: usize = 4096;

/// From the worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToZygote {
    /// Fork a monitor that owns the attached file descriptors.
    Fork {
        /// Chosen by the worker; repeated in the answer.
        environment_id: u64,
    },
}

/// From the zygote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromZygote {
    /// A monitor runs.
    Forked {
        /// As in the request.
        environment_id: u64,
        /// Process id.
        pid: i32,
    },
    /// `fork` failed.
    ForkFailed {
        /// As in the request.
        environment_id: u64,
        /// `errno`.
        errno: i32,
    },
    /// A monitor has ended and has been reaped.
    Ended {
        /// As in the request.
        environment_id: u64,
        /// Exit status, or 128 + signal.
        status: i32,
    },
}

/// A message as the content of one packet.
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    postcard::to_stdvec(message).expect("messages are plain data, which postcard always encodes")
}

/// The message in one packet.
pub fn decode<T: DeserializeOwned>(packet: &[u8]) -> Result<T, FrameError> {
    if packet.len() > MESSAGE_BYTES_MAX {
        return Err(FrameError::TooLong { length: packet.len(), maximum: MESSAGE_BYTES_MAX });
    }
    decode_whole(packet)
}
