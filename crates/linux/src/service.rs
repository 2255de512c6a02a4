//! Services that the monitor offers inside the guest on 127.0.0.1, without a network.

use serde::{Deserialize, Serialize};

/// One connection of a guest to a service, unique within the guest for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ConnectionId(pub u64);

/// A server on a port of the guest's loopback interface: a state machine without I/O. The kernel calls it when the guest
/// does something, and collects what it has to say with [`LoopbackService::drain`] after each call.
pub trait LoopbackService: Send {
    /// A guest program has connected.
    fn connected(&mut self, connection: ConnectionId);
    /// Bytes from the guest, split anywhere. The service bounds what it keeps.
    fn received(&mut self, connection: ConnectionId, bytes: &[u8]);
    /// The guest has closed the connection, or its sending side.
    fn closed(&mut self, connection: ConnectionId);
    /// What is to be sent to the guest, in order.
    fn drain(&mut self) -> Vec<ServiceOutput>;
    /// Everything that the service knows, for another instance to go on from: with a version of the service's own.
    fn save(&self) -> Vec<u8>;
    /// Becomes what [`LoopbackService::save`] has described. The bytes may be anybody's.
    fn restore(&mut self, state: &[u8]) -> Result<(), BadServiceState>;
    /// Questions about names that are to be asked outside; only the resolver has any.
    fn take_questions(&mut self) -> Vec<(ConnectionId, Vec<u8>)> {
        Vec::new()
    }
    /// The answer to a question of a connection.
    fn answered(&mut self, _connection: ConnectionId, _answer: &[u8]) {}
}

/// A service cannot go on from the state that it was given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadServiceState(pub String);

/// Something that a service does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceOutput {
    /// Send these bytes. The kernel queues them whatever the guest's receive buffer holds: services answer requests
    /// one at a time, which bounds the queue.
    Send(ConnectionId, Vec<u8>),
    /// Close the connection once everything sent before has been read.
    Close(ConnectionId),
}
