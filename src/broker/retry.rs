//! Retries: a queue's policy, what is to become of a failed delivery, and how it returns to its queue.

pub(super) mod delay_queues;
pub(super) mod disposition;
mod job;
pub(super) mod policy;
pub(super) mod redeliverer;
