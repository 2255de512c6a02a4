//! Questions about names that come by streams (RFC 7766): each with its length before it. Those by datagrams need no state.

use std::collections::BTreeMap;

use crate::net::egress::QUERY_BYTES_MAX;
use crate::service::{BadServiceState, ConnectionId, LoopbackService, ServiceOutput};

/// Questions of one connection that wait for answers; more are read when these are answered.
const QUESTIONS_MAX: usize = 16;
/// Bytes of the length before a message.
const LENGTH_BYTES: usize = 2;

/// The server's side of those streams.
#[derive(Debug, Default)]
pub(super) struct Resolver {
    /// What has arrived and is not a whole question yet.
    partial: BTreeMap<ConnectionId, Vec<u8>>,
    questions: Vec<(ConnectionId, Vec<u8>)>,
    output: Vec<ServiceOutput>,
}

impl LoopbackService for Resolver {
    fn connected(&mut self, connection: ConnectionId) {
        self.partial.insert(connection, Vec::new());
    }

    fn received(&mut self, connection: ConnectionId, bytes: &[u8]) {
        let Some(partial) = self.partial.get_mut(&connection) else { return };
        partial.extend_from_slice(bytes);
        let mut at = 0;
        while let Some(length) = partial.get(at..at + LENGTH_BYTES) {
            let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
            let is_too_much = length > QUERY_BYTES_MAX || self.questions.len() >= QUESTIONS_MAX;
            if is_too_much {
                self.partial.remove(&connection);
                self.output.push(ServiceOutput::Close(connection));
                return;
            }
            let Some(question) = partial.get(at + LENGTH_BYTES..at + LENGTH_BYTES + length) else { break };
            self.questions.push((connection, question.to_vec()));
            at += LENGTH_BYTES + length;
        }
        partial.drain(..at);
    }

    fn closed(&mut self, connection: ConnectionId) {
        self.partial.remove(&connection);
        self.output.push(ServiceOutput::Close(connection));
    }

    fn drain(&mut self) -> Vec<ServiceOutput> {
        std::mem::take(&mut self.output)
    }

    /// Nothing: a question on its way is asked again by whoever has asked it.
    fn save(&self) -> Vec<u8> {
        Vec::new()
    }

    fn restore(&mut self, _state: &[u8]) -> Result<(), BadServiceState> {
        Ok(())
    }

    fn take_questions(&mut self) -> Vec<(ConnectionId, Vec<u8>)> {
        std::mem::take(&mut self.questions)
    }

    fn answered(&mut self, connection: ConnectionId, answer: &[u8]) {
        // Somebody who has closed the connection, or is closed for asking too much, hears nothing.
        if self.partial.contains_key(&connection)
            && let Ok(length) = u16::try_from(answer.len())
        {
            let message = [&length.to_be_bytes()[..], answer].concat();
            self.output.push(ServiceOutput::Send(connection, message));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_come_in_pieces_and_answers_have_their_length() {
        let mut resolver = Resolver::default();
        let connection = ConnectionId(1);
        resolver.connected(connection);
        for byte in [0, 2, b'a', b'b', 0, 1] {
            resolver.received(connection, &[byte]);
        }
        assert_eq!(resolver.take_questions(), [(connection, b"ab".to_vec())]);
        resolver.received(connection, b"c");
        assert_eq!(resolver.take_questions(), [(connection, b"c".to_vec())]);
        resolver.answered(connection, b"xyz");
        assert_eq!(resolver.drain(), [ServiceOutput::Send(connection, b"\0\x03xyz".to_vec())]);
        resolver.received(connection, &[0xff, 0xff]);
        assert_eq!(resolver.drain(), [ServiceOutput::Close(connection)]);
        resolver.answered(connection, b"late");
        assert_eq!(resolver.drain(), []);
    }
}
