//! The network as it is saved.

use std::net::IpAddr;
use std::sync::{Arc, Weak};

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::{Bound, Network, Protocol, Socket};
use crate::service::ConnectionId;
use crate::state::{Restorer, Saver, SectionId, StateError};

/// A [`Network`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedNetwork {
    /// What each service has said about itself.
    services: Vec<(u16, ByteBuf)>,
    connections: Vec<(ConnectionId, u32)>,
    last_connection: u64,
    closed: Vec<(u16, ConnectionId)>,
    bound: Vec<SavedBound>,
    abstract_names: Vec<(ByteBuf, u32)>,
    next_ephemeral: u16,
}

/// A [`Bound`] of a socket that lives.
#[derive(Debug, Serialize, Deserialize)]
struct SavedBound {
    protocol: Protocol,
    port: u16,
    address: IpAddr,
    is_v6_only: bool,
    is_port_shared: bool,
    socket: u32,
}

impl Network {
    pub(crate) fn save(&self, saver: &mut Saver<'_>) -> Result<SavedNetwork, StateError> {
        let Self {
            notifier: _,
            services,
            connections,
            last_connection,
            closed,
            bound,
            abstract_names,
            next_ephemeral,
            in_flight: _,
            // Not to be saved: sockets that wait for an answer from outside read that their connection is reset.
            way_out: _,
            requests: _,
        } = self;
        let mut number = |socket: &Weak<Socket>| socket.upgrade().map(|socket| saver.sockets.number(&socket));
        let mut saved_bound = Vec::new();
        for ((protocol, port), sockets) in bound {
            for Bound { address, is_v6_only, is_port_shared, socket } in sockets {
                let Some(socket) = number(socket) else { continue };
                saved_bound.push(SavedBound {
                    protocol: *protocol,
                    port: *port,
                    address: *address,
                    is_v6_only: *is_v6_only,
                    is_port_shared: *is_port_shared,
                    socket,
                });
            }
        }
        let connections = connections.iter().filter_map(|(id, socket)| Some((*id, number(socket)?))).collect();
        let named = |((_, name), socket): (&(i32, Vec<u8>), &Weak<Socket>)| {
            Some((ByteBuf::from(name.clone()), number(socket)?))
        };
        let abstract_names = abstract_names.iter().filter_map(named).collect();
        Ok(SavedNetwork {
            services: services.iter().map(|(port, service)| (*port, ByteBuf::from(service.save()))).collect(),
            connections,
            last_connection: *last_connection,
            closed: closed.lock().clone(),
            bound: saved_bound,
            abstract_names,
            next_ephemeral: *next_ephemeral,
        })
    }
}

impl SavedNetwork {
    /// Puts back into a new network what the guest had there. Its sockets exist.
    pub(crate) fn restore(self, network: &mut Network, restorer: &Restorer<'_>) -> Result<(), StateError> {
        let Self { services, connections, last_connection, closed, bound, abstract_names, next_ephemeral } = self;
        let broken = |rule| StateError::broken(SectionId::Network, rule);
        StateError::check_last_number(SectionId::Network, last_connection, u64::BITS)?;
        let weak = |number| restorer.socket(number).map(Arc::downgrade);
        if services.len() != network.services.len() {
            return Err(StateError::OtherServices);
        }
        for (port, state) in services {
            let service = network.services.get_mut(&port).ok_or(StateError::OtherServices)?;
            service.restore(&state).map_err(|source| StateError::Service { port, source })?;
        }
        for (id, socket) in connections {
            if id.0 > last_connection || network.connections.insert(id, weak(socket)?).is_some() {
                return Err(broken("a connection to a service that was never made"));
            }
        }
        for SavedBound { protocol, port, address, is_v6_only, is_port_shared, socket } in bound {
            let bound = Bound { address, is_v6_only, is_port_shared, socket: weak(socket)? };
            network.bound.entry((protocol, port)).or_default().push(bound);
        }
        for (name, socket) in abstract_names {
            let kind = restorer.socket(socket)?.kind();
            network.abstract_names.insert((kind.number(), name.into_vec()), weak(socket)?);
        }
        if !super::EPHEMERAL_PORTS.contains(&next_ephemeral) {
            return Err(broken("a port to be given next that is not one of those to be given"));
        }
        network.last_connection = last_connection;
        *network.closed.lock() = closed;
        network.next_ephemeral = next_ephemeral;
        Ok(())
    }
}
