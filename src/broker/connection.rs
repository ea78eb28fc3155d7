//! Connections to the broker: how one is made, one established connection, and the slot that keeps one for a tenant and a
//! purpose.

pub(super) mod connect;
pub(super) mod context;
pub(super) mod live;
mod runtime;
pub(super) mod slot;
