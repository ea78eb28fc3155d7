//! Consuming: one consumer for each stream, on a channel of its own, and its acknowledgements.

mod acks;
mod consumer;
mod inbox;

pub use self::consumer::{Capacity, ConsumeSpec, Consumer, Incoming, Sharing, SharingLookup, StartAt};
