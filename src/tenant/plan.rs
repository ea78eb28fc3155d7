//! What a tenant may use. Rows of the store enter; a [`Plan`] of plain numbers leaves, of which 0 always means unlimited.

use crate::{names::PlanName, pb, store::PlanRow};

/// A plan's limits; 0 means unlimited, everywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Its name.
    pub name: PlanName,
    /// Connections to the broker, all gateways together.
    pub max_connections: u32,
    /// Queues; those of the gateway's own (`wg.…`) come on top.
    pub max_queues: u32,
    /// Bytes of a message's body.
    pub max_message_bytes: u64,
    /// Open streams on one gateway.
    pub max_streams: u32,
    /// Published messages in flight on one gateway: read from the stream and not answered.
    pub max_in_flight_messages: u32,
    /// Their bytes.
    pub max_in_flight_bytes: u64,
}

impl Plan {
    /// As the API shows it.
    pub fn to_pb(&self) -> pb::Plan {
        pb::Plan {
            name: self.name.to_string(),
            max_connections: self.max_connections,
            max_queues: self.max_queues,
            max_message_bytes: self.max_message_bytes,
            max_streams: self.max_streams,
            max_in_flight_messages: self.max_in_flight_messages,
            max_in_flight_bytes: self.max_in_flight_bytes,
        }
    }
}

impl From<PlanRow> for Plan {
    fn from(row: PlanRow) -> Self {
        Self {
            name: row.name,
            max_connections: row.max_connections,
            max_queues: row.max_queues,
            max_message_bytes: row.max_message_bytes,
            max_streams: row.max_streams,
            max_in_flight_messages: row.max_in_flight_messages,
            max_in_flight_bytes: row.max_in_flight_bytes,
        }
    }
}
