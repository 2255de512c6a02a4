//! Length-prefixed messages: four bytes of length, little-endian, then that many bytes of `postcard` data.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes of the length before each message.
pub const HEADER_BYTES: usize = 4;

/// Why bytes from a peer are not a message.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The length is more than the receiver accepts.
    #[error("a message of {length} bytes is over the limit of {maximum}")]
    TooLong {
        /// Length in the header.
        length: usize,
        /// Most that the receiver accepts.
        maximum: usize,
    },
    /// The bytes are not a message of the expected type.
    #[error("the message cannot be decoded")]
    Malformed(#[from] postcard::Error),
    /// There is a message, and something behind it.
    #[error("{bytes} bytes follow the end of the message")]
    Trailing {
        /// How many.
        bytes: usize,
    },
}

/// A message with its header, ready to be written.
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    let mut bytes = vec![0; HEADER_BYTES];
    bytes = postcard::to_extend(message, bytes).expect("messages are plain data, which postcard always encodes");
    let length = u32::try_from(bytes.len() - HEADER_BYTES).expect("messages are far below 4 GiB");
    bytes[..HEADER_BYTES].copy_from_slice(&length.to_le_bytes());
    bytes
}

/// The message that these bytes are, from the first to the last.
pub(crate) fn decode_whole<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, FrameError> {
    match postcard::take_from_bytes(bytes)? {
        (message, []) => Ok(message),
        (_, rest) => Err(FrameError::Trailing { bytes: rest.len() }),
    }
}

/// Turns a stream of bytes into messages.
#[derive(Debug)]
pub struct Decoder {
    buffer: Vec<u8>,
    consumed: usize,
    message_bytes_max: usize,
}

impl Decoder {
    /// A decoder that refuses messages longer than `message_bytes_max`.
    pub fn new(message_bytes_max: usize) -> Self {
        Self { buffer: Vec::new(), consumed: 0, message_bytes_max }
    }

    /// Adds bytes that arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.consumed > 0 && (self.consumed == self.buffer.len() || self.consumed > 64 * 1024) {
            self.buffer.drain(..self.consumed);
            self.consumed = 0;
            if self.buffer.is_empty() {
                // One large payload must not be paid for by an idle connection for the rest of its life.
                self.buffer.shrink_to(64 * 1024);
            }
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next complete message, `None` if more bytes are needed. After an error the stream is unusable.
    #[expect(clippy::should_implement_trait, reason = "each message is decoded as the type that the caller expects")]
    pub fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        let pending = &self.buffer[self.consumed..];
        let Some(header) = pending.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let length = u32::from_le_bytes(*header) as usize;
        if length > self.message_bytes_max {
            return Err(FrameError::TooLong { length, maximum: self.message_bytes_max });
        }
        let Some(body) = pending.get(HEADER_BYTES..HEADER_BYTES + length) else { return Ok(None) };
        let message = decode_whole(body)?;
        self.consumed += HEADER_BYTES + length;
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_any_split_of_the_stream() {
        let messages: Vec<String> = vec![String::new(), "a".into(), "b".repeat(300)];
        let stream: Vec<u8> = messages.iter().flat_map(encode).collect();
        for step in 1..stream.len() {
            let mut decoder = Decoder::new(1000);
            let mut received: Vec<String> = Vec::new();
            for part in stream.chunks(step) {
                decoder.push(part);
                while let Some(message) = decoder.next().unwrap() {
                    received.push(message);
                }
            }
            assert_eq!(received, messages);
        }
    }

    #[test]
    fn long_and_malformed_messages_are_errors() {
        let mut decoder = Decoder::new(10);
        decoder.push(&11u32.to_le_bytes());
        assert!(matches!(decoder.next::<String>(), Err(FrameError::TooLong { length: 11, maximum: 10 })));
        let mut decoder = Decoder::new(10);
        decoder.push(&[2, 0, 0, 0, 200, 200]);
        assert!(matches!(decoder.next::<String>(), Err(FrameError::Malformed(_))));
        let mut decoder = Decoder::new(10);
        decoder.push(&[3, 0, 0, 0, 1, b'a', b'b']);
        assert!(matches!(decoder.next::<String>(), Err(FrameError::Trailing { bytes: 1 })));
    }
}
