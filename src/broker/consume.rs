//! Consuming: one consumer for each stream, on a channel of its own, and its acknowledgements.

mod acks;
mod consumer;

pub use self::consumer::{ConsumeSpec, Consumer, Incoming, StartAt};
