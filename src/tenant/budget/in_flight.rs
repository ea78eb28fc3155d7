//! The limit on published messages without an outcome, for all streams of a tenant together.
//!
//! Permits are granted in the order of requests, so that no stream starves another. A stream owns an
//! [`InFlightPermit`], which returns its permits when messages have outcomes and when the stream ends. A changed limit
//! creates a new [`InFlightLimiter`]: permits taken from the replaced one are returned to it and do not count against
//! the new one.

use std::{pin::Pin, sync::Arc};

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

use crate::tenant::state::TenantEntry;

/// The limits of a tenant; `None` for unlimited.
#[derive(Debug)]
pub(in crate::tenant) struct InFlightLimiter {
    /// The limits of the plan.
    spec: (u32, u64),
    messages: Option<Arc<Semaphore>>,
    bytes: Option<Arc<Semaphore>>,
}

type Permits = (Option<OwnedSemaphorePermit>, Option<OwnedSemaphorePermit>);
type Waiting = Pin<Box<dyn Future<Output = Result<Permits, AcquireError>> + Send>>;

impl InFlightLimiter {
    pub(super) fn next(before: Option<&Arc<Self>>, spec: (u32, u64)) -> Arc<Self> {
        if let Some(before) = before.filter(|before| before.spec == spec) {
            return Arc::clone(before);
        }
        let limit = |max: u64| {
            let max = usize::try_from(max).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
            (max > 0).then(|| Arc::new(Semaphore::new(max)))
        };
        Arc::new(Self { spec, messages: limit(spec.0.into()), bytes: limit(spec.1) })
    }

    /// Redirects the waiting streams to the limiter that replaced this one.
    pub(in crate::tenant) fn close(&self) {
        self.messages.iter().chain(&self.bytes).for_each(|semaphore| semaphore.close());
    }

    fn is_closed(&self) -> bool {
        self.messages.iter().chain(&self.bytes).any(|semaphore| semaphore.is_closed())
    }

    /// The permits for a message. One that exceeds the limit takes all of them, because it could never be sent
    /// otherwise.
    fn cost(&self, bytes: usize) -> u32 {
        let max = if self.spec.1 == 0 { u64::MAX } else { self.spec.1 };
        u32::try_from((bytes as u64).min(max)).unwrap_or(u32::MAX)
    }

    /// Takes all permits at once, or none.
    fn try_take(&self, messages: u32, bytes: u32) -> bool {
        let taken = match &self.messages {
            Some(semaphore) => match semaphore.try_acquire_many(messages) {
                Ok(permit) => Some(permit),
                Err(_) => return false,
            },
            None => None,
        };
        if let Some(semaphore) = &self.bytes {
            match semaphore.try_acquire_many(bytes) {
                Ok(permit) => permit.forget(),
                Err(_) => return false,
            }
        }
        taken.into_iter().for_each(|permit| permit.forget());
        true
    }

    async fn take(self: Arc<Self>, bytes: u32) -> Result<Permits, AcquireError> {
        // Always in this order, so that a stream that waits for bytes does not block one that has them.
        let message = match &self.messages {
            Some(semaphore) => Some(Arc::clone(semaphore).acquire_owned().await?),
            None => None,
        };
        let bytes = match &self.bytes {
            Some(semaphore) => Some(Arc::clone(semaphore).acquire_many_owned(bytes).await?),
            None => None,
        };
        Ok((message, bytes))
    }

    fn return_permits(&self, messages: u64, bytes: u64) {
        let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        self.messages.iter().for_each(|semaphore| semaphore.add_permits(count(messages)));
        self.bytes.iter().for_each(|semaphore| semaphore.add_permits(count(bytes)));
    }
}

/// A number of messages and their bytes.
#[derive(Debug, Clone, Copy, Default)]
struct Amount {
    messages: u64,
    bytes: u64,
}

impl Amount {
    fn plus(self, other: Self) -> Self {
        Self { messages: self.messages + other.messages, bytes: self.bytes + other.bytes }
    }

    fn minus(self, other: Self) -> Self {
        let Self { messages, bytes } = other;
        Self { messages: self.messages.saturating_sub(messages), bytes: self.bytes.saturating_sub(bytes) }
    }
}

/// The permits of one stream.
pub struct InFlightPermit {
    tenant: Arc<TenantEntry>,
    limiter: Arc<InFlightLimiter>,
    /// The number of the first message whose permits are from the current limiter.
    since: u64,
    /// Permits taken from the current limiter.
    permits: Amount,
    /// All messages in flight, in actual bytes.
    in_flight: Amount,
    waiting: Option<(u32, Waiting)>,
}

impl InFlightPermit {
    pub(in crate::tenant) fn new(tenant: Arc<TenantEntry>) -> Self {
        let limiter = Arc::clone(tenant.budget().limiter());
        Self { tenant, limiter, since: 0, permits: Amount::default(), in_flight: Amount::default(), waiting: None }
    }

    /// Takes permits for as many of these messages as possible, in order; returns their number. `first` is the number
    /// of the first one on the stream.
    pub fn take(&mut self, first: u64, sizes: impl Iterator<Item = usize> + Clone) -> usize {
        if self.waiting.is_some() {
            return 0;
        }
        self.renew(first);
        let (mut messages, mut bytes, mut cost) = (0_u32, 0_u64, 0_u64);
        for size in sizes.clone() {
            (messages, bytes) = (messages + 1, bytes + size as u64);
            cost += u64::from(self.limiter.cost(size));
        }
        // All at once in the usual case.
        if u32::try_from(cost).is_ok_and(|cost| self.limiter.try_take(messages, cost)) {
            self.record_taken(messages.into(), bytes, cost);
            return messages as usize;
        }
        let mut taken = 0;
        for size in sizes {
            let cost = self.limiter.cost(size);
            if !self.limiter.try_take(1, cost) {
                break;
            }
            self.record_taken(1, size as u64, cost.into());
            taken += 1;
        }
        taken
    }

    /// Waits for the permits of the stream's next message. Cancel safe: its position in the queue is kept.
    pub async fn wait(&mut self, order: u64, size: usize) {
        loop {
            if self.waiting.is_none() {
                self.renew(order);
                let cost = self.limiter.cost(size);
                self.waiting = Some((cost, Box::pin(Arc::clone(&self.limiter).take(cost))));
            }
            let Some((cost, waiting)) = &mut self.waiting else { continue };
            let (cost, got) = (*cost, waiting.await);
            self.waiting = None;
            match got {
                Ok((message, bytes)) => {
                    message.into_iter().chain(bytes).for_each(OwnedSemaphorePermit::forget);
                    self.record_taken(1, size as u64, cost.into());
                    return;
                }
                Err(_) => {
                    self.renew(order);
                    if self.limiter.is_closed() {
                        // The tenant was suspended and resumed, so the stream is about to end.
                        std::future::pending::<()>().await;
                    }
                }
            }
        }
    }

    /// Returns the permits of messages, given by number and size.
    pub fn settled(&mut self, messages: impl Iterator<Item = (u64, usize)>) {
        let (mut settled, mut returned) = (Amount::default(), Amount::default());
        for (order, size) in messages {
            settled = settled.plus(Amount { messages: 1, bytes: size as u64 });
            if order >= self.since {
                returned = returned.plus(Amount { messages: 1, bytes: self.limiter.cost(size).into() });
            }
        }
        self.permits = self.permits.minus(returned);
        self.limiter.return_permits(returned.messages, returned.bytes);
        self.in_flight = self.in_flight.minus(settled);
        self.tenant.used().released(settled.messages, settled.bytes);
    }

    fn record_taken(&mut self, messages: u64, bytes: u64, cost: u64) {
        self.permits = self.permits.plus(Amount { messages, bytes: cost });
        self.in_flight = self.in_flight.plus(Amount { messages, bytes });
        self.tenant.used().acquired(messages, bytes);
    }

    /// Switches to the limits of the current plan.
    fn renew(&mut self, next: u64) {
        let budget = self.tenant.budget();
        if !Arc::ptr_eq(budget.limiter(), &self.limiter) {
            self.limiter.return_permits(self.permits.messages, self.permits.bytes);
            self.limiter = Arc::clone(budget.limiter());
            (self.since, self.permits) = (next, Amount::default());
        }
    }
}

impl Drop for InFlightPermit {
    fn drop(&mut self) {
        self.limiter.return_permits(self.permits.messages, self.permits.bytes);
        self.tenant.used().released(self.in_flight.messages, self.in_flight.bytes);
    }
}
