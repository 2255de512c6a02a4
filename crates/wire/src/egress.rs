//! Monitor ↔ egress, and worker → egress: Unix sockets with message boundaries (`SOCK_SEQPACKET`), one packet of `postcard`
//! data for each message: [`crate::zygote::encode`] and [`decode`].
//!
//! Egress finds the worker's socket at its standard input. The worker sends [`ToEgress::Register`] together with one end of a
//! socket pair, the other end of which it hands to a monitor: whoever speaks at that end *is* that environment. No message
//! of a monitor says who it is.
//!
//! The monitor asks with [`Question`] and gets one [`Answer`] for each, in any order; [`Answer::Connected`] comes with the
//! connected socket (`SCM_RIGHTS`). Egress ends when the worker's socket closes, and forgets an environment when that one's
//! does.

use std::net::SocketAddr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::frame::{FrameError, decode_whole};

/// Longest message in any direction: the longest DNS answer and its envelope.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024 + 64;
/// Longest question that a monitor may send.
pub const QUESTION_BYTES_MAX: usize = 2048;

/// From the worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToEgress {
    /// Serve an environment on the attached socket.
    Register {
        /// Its id.
        environment_id: u64,
        /// Whose it is: limits and counts are for the account too.
        account: String,
    },
}

/// To the worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromEgress {
    /// An environment has closed its socket.
    Ended {
        /// Its id.
        environment_id: u64,
        /// What it has asked for in all.
        counts: Counts,
    },
}

/// What an environment has asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Connections that were made, those for datagrams included.
    pub connected: u64,
    /// Connections that the policy refused.
    pub refused: u64,
    /// Connections that failed.
    pub failed: u64,
    /// Requests over a limit.
    pub limited: u64,
    /// Names that were looked up.
    pub resolved: u64,
}

/// What is to be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Transport {
    /// A stream.
    Tcp,
    /// Datagrams to and from one address.
    Udp,
}

/// From a monitor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    /// Open a connection.
    Connect {
        /// Repeated in the answer.
        request: u64,
        /// Which kind.
        transport: Transport,
        /// Where to.
        target: SocketAddr,
    },
    /// Resolve a name.
    Resolve {
        /// Repeated in the answer.
        request: u64,
        /// A DNS message.
        #[serde(with = "serde_bytes")]
        query: Vec<u8>,
    },
    /// The answer is not wanted any more; there may be one all the same.
    Cancel {
        /// Of which request.
        request: u64,
    },
}

/// To a monitor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The attached socket is connected.
    Connected {
        /// As in the question.
        request: u64,
    },
    /// There is no connection.
    Refused {
        /// As in the question.
        request: u64,
        /// `errno`.
        errno: i32,
    },
    /// The answer to a question about a name.
    Resolved {
        /// As in the question.
        request: u64,
        /// A DNS message; empty if there is none.
        #[serde(with = "serde_bytes")]
        answer: Vec<u8>,
    },
}

/// The message in one packet of at most `bytes_max`.
pub fn decode<T: DeserializeOwned>(packet: &[u8], bytes_max: usize) -> Result<T, FrameError> {
    if packet.len() > bytes_max {
        return Err(FrameError::TooLong { length: packet.len(), maximum: bytes_max });
    }
    decode_whole(packet)
}
