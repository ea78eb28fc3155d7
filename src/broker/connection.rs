//! Connections to the broker. Each tenant has at most one connection for each [`purpose::Purpose`], stored in a
//! [`slot::ConnectionSlot`]; everything else in `broker` obtains its channels from there.

pub(super) mod channel_op;
pub(super) mod connect;
pub(super) mod context;
mod endpoints;
pub(super) mod live;
pub(super) mod purpose;
mod runtime;
pub(super) mod slot;
pub(super) mod tenant_connections;
mod valid_text;
