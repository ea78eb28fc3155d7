//! The data path to RabbitMQ. A [`crate::tenant::TenantScope`] and messages enter; outcomes and deliveries leave. Every
//! door of [`Broker`] needs the scope, so nothing reaches a vhost but on behalf of an admitted caller, and every connection
//! is mutual TLS with that tenant's own certificate. Only this room knows lapin.
//!
//! Publishing and consuming have a connection each, since a broker under alarm reads nothing from a connection that
//! publishes, acknowledgements included; topology goes with consuming. A stream has a channel of its own, so that a
//! channel error touches no other stream.

mod acks;
mod connect;
mod consumer;
mod dead_letters;
mod delays;
mod error;
mod headers;
mod held;
mod link;
mod live;
mod pool;
pub mod probe;
mod properties;
mod publisher;
pub mod reach;
mod resender;
mod retry;
mod shared;
mod time;
mod topology;
mod tracker;

pub use consumer::{ConsumeSpec, Consumer, Incoming, StartAt};
pub use dead_letters::{DeadLetter, DeadLetters, Redriven};
pub use delays::{DEAD_LETTER_BYTES, DEAD_LETTER_DELIVERY_LIMIT, OWN_QUEUES};
pub use error::Error;
pub use held::Held;
pub use pool::Broker;
pub use publisher::{Outgoing, Publisher, Settled, Verdict};
pub use resender::{Code, Fate, Resender};
pub use retry::{LONGEST_DELAY, RetryPolicy, SHORTEST_DELAY};
pub use topology::{BindingSpec, Destination, ExchangeKind, ExchangeSpec, QueueKind, QueueSpec, QueueState, Topology};

#[cfg(test)]
mod tests;
