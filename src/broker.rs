//! The data path to RabbitMQ. Every method of [`Broker`] that reaches a vhost requires a
//! [`crate::tenant::TenantScope`], so it can be called only on behalf of an admitted caller, and every connection is
//! mutual TLS with that tenant's own certificate. Only this module uses lapin.
//!
//! Publishing and consuming use separate connections, because a broker under alarm stops reading from a connection that
//! publishes, including acknowledgements; topology operations use the consuming one. Each consumer has a channel of its
//! own; publishers share a few, and an error that closes one costs the others no message (docs/adr/0017).
//!
//! Files import each other by their full path, so that tests/architecture.rs can find cycles; the list of public items
//! below is for other modules.

mod connection;
mod consume;
mod dead_letters;
pub mod diagnose;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod gateway_objects;
mod handle;
mod message;
mod peek;
mod publish;
mod recent_queues;
mod retry;
mod topology;

pub use self::{
    consume::{
        charge::UnreadFrame,
        consumer::{ConsumeSpec, Consumer, Sharing, SharingLookup, StartAt},
        incoming::{Capacity, Incoming},
    },
    dead_letters::{
        edit::{DeadLetterEdit, NewDestination},
        handle::{
            DeadLetters, PAGE_BYTES as DEAD_LETTER_PAGE_BYTES, Page as DeadLetterPage,
            PageRequest as DeadLetterPageRequest,
        },
        letter::DeadLetter,
        redrive::Redriven,
    },
    error::Error,
    gateway_objects::{Argument, DEAD_LETTER_QUEUE_ARGUMENTS, DEAD_LETTERS, OWN_QUEUES},
    handle::Broker,
    message::{
        delay_bucket::{MAX_DELAY, MIN_DELAY},
        retained::RetainedDelivery,
        typed_json::headers_from_text,
    },
    peek::{PeekSpec, Peeked},
    publish::{
        outcome::{PublishOutcome, PublishStatus},
        pending::PendingPublish,
        publisher::Publisher,
    },
    recent_queues::WORKER_START,
    retry::{
        disposition::{DeadLetterCode, Disposition},
        policy::RetryPolicy,
        redeliverer::Redeliverer,
    },
    topology::{
        BindingSpec, DeleteCondition, Destination, ExchangeKind, ExchangeSpec, QueueKind, QueueSpec, QueueState,
        TYPED_HEADERS_ARGUMENT, Topology,
    },
};
