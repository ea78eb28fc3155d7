//! Consuming: one consumer for each stream, on a channel of its own, and its acknowledgements.

mod acks;
pub(super) mod charge;
pub(super) mod consumer;
mod inbox;
pub(super) mod incoming;
