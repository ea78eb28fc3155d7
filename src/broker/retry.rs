//! Retries: a queue's policy, what is to become of a failed delivery, and the publisher and queues that bring it back.

pub(super) mod delay_queues;
mod disposition;
mod policy;
mod redeliverer;

pub use self::{
    disposition::{Code, Fate},
    policy::{MAX_DELAY, MIN_DELAY, RetryPolicy},
    redeliverer::Resender,
};
