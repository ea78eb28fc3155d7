//! Limits on what a tenant may publish on this gateway: rates ([`RateCheck`]) and messages in flight
//! ([`InFlightPermit`]).
//!
//! The hot path takes no lock, and allocates nothing unless a message is refused. A budget belongs to one plan. A
//! changed plan creates a new budget, which takes over the levels of the old one; every stream uses it from its next
//! frame on.

mod bucket;
mod in_flight;
mod usage;

use std::{sync::Arc, time::Duration};

use self::bucket::Bucket;
pub(super) use self::{in_flight::InFlightLimiter, usage::UsageCounters};
pub use self::{in_flight::InFlightPermit, usage::Usage};
use super::{Error, Plan};

/// How often the stored messages of a publishing tenant are measured, and when to retry if there were too many.
pub const STORED_INTERVAL: Duration = Duration::from_secs(3);
/// The maximum pause in reading a stream after one of its messages was throttled, so that a client that keeps sending
/// at full speed does not noticeably affect other tenants.
const MAX_PAUSE: Duration = Duration::from_millis(10);

/// A tenant's budget on this gateway.
#[derive(Debug)]
pub struct Budget {
    plan: Arc<Plan>,
    messages: Option<Arc<Bucket>>,
    bytes: Option<Arc<Bucket>>,
    flight: Arc<InFlightLimiter>,
    used: Arc<UsageCounters>,
}

impl Budget {
    /// The budget of a plan. Limits that did not change keep the level of the previous budget.
    pub(super) fn next(before: Option<&Self>, plan: Arc<Plan>) -> Self {
        let messages = (plan.max_publish_messages_per_second.into(), plan.publish_messages_burst.into());
        let bytes = (plan.max_publish_bytes_per_second, plan.publish_bytes_burst);
        let flight = (plan.max_in_flight_messages, plan.max_in_flight_bytes);
        Self {
            messages: Bucket::next(before.and_then(|before| before.messages.as_ref()), messages),
            bytes: Bucket::next(before.and_then(|before| before.bytes.as_ref()), bytes),
            flight: InFlightLimiter::next(before.map(|before| &before.flight), flight),
            used: before.map_or_else(Arc::default, |before| Arc::clone(&before.used)),
            plan,
        }
    }

    /// The plan.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// Starts the check of a frame with this number of messages and bytes in total, including properties and headers.
    /// [`RateCheck::take`] then decides for each message.
    pub fn rate_check(&self, messages: usize, bytes: u64) -> RateCheck<'_> {
        let stored = self.stored();
        let mut turn = RateCheck { budget: self, stored, messages_paid: false, bytes_paid: false, throttled: (0, 0) };
        if turn.stored.is_none() {
            turn.messages_paid = self.messages.as_ref().is_none_or(|bucket| bucket.take_all(messages as u64));
            turn.bytes_paid = self.bytes.as_ref().is_none_or(|bucket| bucket.take_all(bytes));
        }
        turn
    }

    /// Takes the rates for a stored message that is published again.
    ///
    /// # Errors
    /// The time after which to retry.
    pub fn take_again(&self, bytes: usize) -> Result<(), Duration> {
        let turn = RateCheck { budget: self, stored: None, messages_paid: false, bytes_paid: false, throttled: (0, 0) };
        turn.take_rates(bytes as u64).map_err(|(_, wait)| wait.max(Duration::from_millis(1)))?;
        self.used.published(1, bytes as u64, 0);
        Ok(())
    }

    /// The limit on stored messages that was exceeded in the last measurement.
    fn stored(&self) -> Option<Limit> {
        let (messages, bytes) = self.used.stored();
        let is_over = |max: u64, used: u64| max > 0 && used >= max;
        if is_over(self.plan.max_stored_messages, messages) {
            Some(Limit::StoredMessages)
        } else if is_over(self.plan.max_stored_bytes, bytes) {
            Some(Limit::StoredBytes)
        } else {
            None
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.stored().is_some()
    }

    /// How long not to read a stream after one of its messages was throttled. No bucket fills up in that time, so the
    /// full rate of the plan remains available.
    pub fn pause(&self) -> Duration {
        let half = |bucket: &Arc<Bucket>| bucket.fill_time() / 2;
        let shortest = [&self.messages, &self.bytes].into_iter().flatten().map(half).min();
        shortest.map_or(MAX_PAUSE, |shortest| shortest.min(MAX_PAUSE))
    }

    pub(super) fn limiter(&self) -> &Arc<InFlightLimiter> {
        &self.flight
    }

    pub(super) fn used(&self) -> &Arc<UsageCounters> {
        &self.used
    }
}

/// The check of one frame. Its messages are checked in order.
#[derive(Debug)]
pub struct RateCheck<'a> {
    budget: &'a Budget,
    stored: Option<Limit>,
    /// Whether the rate was taken for the whole frame at once.
    messages_paid: bool,
    bytes_paid: bool,
    /// Throttled messages and bytes of this frame: when they are sent again, each needs its share of the rate.
    throttled: (u64, u64),
}

impl RateCheck<'_> {
    /// Takes the rate for a message with this number of bytes.
    ///
    /// # Errors
    /// [`Error::Throttled`], with the time after which this message and the throttled ones before it in the frame can
    /// be sent.
    pub fn take(&mut self, bytes: usize) -> Result<(), Error> {
        if let Some(limit) = self.stored {
            return Err(Error::Throttled { limit, retry_after: STORED_INTERVAL });
        }
        let bytes = bytes as u64;
        let refused = self.take_rates(bytes);
        if let Err((limit, wait)) = refused {
            let before =
                |bucket: &Option<Arc<Bucket>>, amount| bucket.as_ref().map_or(Duration::ZERO, |b| b.time(amount));
            let queue =
                before(&self.budget.messages, self.throttled.0).max(before(&self.budget.bytes, self.throttled.1));
            self.throttled = (self.throttled.0 + 1, self.throttled.1 + bytes);
            // Never zero, which would cause a busy loop.
            let retry_after = (wait + queue).max(Duration::from_millis(1));
            return Err(Error::Throttled { limit, retry_after });
        }
        Ok(())
    }

    /// Takes both or none: if one limit refuses, nothing is taken from the other.
    fn take_rates(&self, bytes: u64) -> Result<(), (Limit, Duration)> {
        let Budget { messages: message_rate, bytes: byte_rate, .. } = self.budget;
        if let Some(bucket) = message_rate.as_ref().filter(|_| !self.messages_paid) {
            bucket.take(1).map_err(|wait| {
                byte_rate.iter().filter(|_| self.bytes_paid).for_each(|bucket| bucket.return_amount(bytes));
                (Limit::MessageRate, wait)
            })?;
        }
        if let Some(bucket) = byte_rate.as_ref().filter(|_| !self.bytes_paid) {
            bucket.take(bytes).map_err(|wait| {
                message_rate.iter().for_each(|bucket| bucket.return_amount(1));
                (Limit::ByteRate, wait)
            })?;
        }
        Ok(())
    }

    /// Adds the accepted messages to the tenant's usage, once per frame. `bodies` is the part of the bytes that the
    /// broker counts as stored.
    pub fn count(self, messages: usize, bytes: u64, bodies: u64) {
        if messages > 0 {
            self.budget.used.published(messages as u64, bytes, bytes.saturating_sub(bodies));
        }
    }

    /// Whether a message of the frame was throttled.
    pub fn is_throttled(&self) -> bool {
        self.stored.is_some() || self.throttled.0 > 0
    }
}

/// A limit of the plan that a message can exceed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Messages per second.
    MessageRate,
    /// Bytes per second.
    ByteRate,
    /// Messages in all queues.
    StoredMessages,
    /// Bytes in all queues.
    StoredBytes,
}

#[cfg(test)]
mod tests;
