//! The data path to RabbitMQ. A [`crate::tenant::TenantScope`] and messages enter; outcomes and deliveries leave. Every
//! door of [`Broker`] needs the scope, so nothing reaches a vhost but on behalf of an admitted caller, and every connection
//! is mutual TLS with that tenant's own certificate. Only this room knows lapin.
//!
//! Publishing and consuming have a connection each, since a broker under alarm reads nothing from a connection that
//! publishes, acknowledgements included; topology goes with consuming. A stream has a channel of its own, so that a
//! channel error touches no other stream.

mod connection;
mod consume;
mod dead_letters;
pub mod diagnose;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod handle;
mod message;
mod publish;
mod retry;
mod topology;

pub use consume::{Capacity, ConsumeSpec, Consumer, Incoming, Sharing, SharingLookup, StartAt};
pub use dead_letters::{DeadLetter, DeadLetters, Redriven};
pub use error::Error;
pub use handle::Broker;
pub use message::retained::Held;
pub use publish::{Outgoing, Publisher, Settled, Verdict};
pub use retry::{
    Code, Fate, MAX_DELAY, MIN_DELAY, Resender, RetryPolicy,
    delay_queues::{DEAD_LETTER_BYTES, DEAD_LETTER_DELIVERY_LIMIT, OWN_QUEUES},
};
pub use topology::{BindingSpec, Destination, ExchangeKind, ExchangeSpec, QueueKind, QueueSpec, QueueState, Topology};
