//! Retries: the policy of a queue, the disposition of a failed delivery, and its return to the queue.

pub(super) mod delay_queues;
pub(super) mod disposition;
mod job;
pub(super) mod policy;
pub(super) mod redeliverer;
