//! Room for what is published and not answered, over all streams of a tenant. Messages are handed out in the order of asking, so
//! that no stream starves another. A stream holds its [`Share`]; what it took goes back when it is answered, and when the
//! stream ends. A changed limit makes a new [`Flight`]: what took off from the old one lands there, and counts no more.

use std::{pin::Pin, sync::Arc};

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

use crate::tenant::live::LiveTenant;

/// What a tenant may have in flight; none is unlimited.
#[derive(Debug)]
pub(in crate::tenant) struct Flight {
    /// As the plan has them.
    spec: (u32, u64),
    messages: Option<Arc<Semaphore>>,
    bytes: Option<Arc<Semaphore>>,
}

type Permits = (Option<OwnedSemaphorePermit>, Option<OwnedSemaphorePermit>);
type Waiting = Pin<Box<dyn Future<Output = Result<Permits, AcquireError>> + Send>>;

impl Flight {
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

    /// Sends those who wait here to the one that came after it.
    pub(in crate::tenant) fn close(&self) {
        self.messages.iter().chain(&self.bytes).for_each(|semaphore| semaphore.close());
    }

    fn is_closed(&self) -> bool {
        self.messages.iter().chain(&self.bytes).any(|semaphore| semaphore.is_closed())
    }

    /// What a body counts: one that is larger than the limit takes all of it, since it must be possible at all.
    fn cost(&self, bytes: usize) -> u32 {
        let max = if self.spec.1 == 0 { u64::MAX } else { self.spec.1 };
        u32::try_from((bytes as u64).min(max)).unwrap_or(u32::MAX)
    }

    /// Takes it at once, or nothing.
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
        // Always in this order: who waits for bytes holds up nobody who has them.
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

    fn give_back(&self, messages: u64, bytes: u64) {
        let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        self.messages.iter().for_each(|semaphore| semaphore.add_permits(count(messages)));
        self.bytes.iter().for_each(|semaphore| semaphore.add_permits(count(bytes)));
    }
}

/// What one stream has in flight of its tenant's room.
pub struct Share {
    tenant: Arc<LiveTenant>,
    flight: Arc<Flight>,
    /// The first message that took off from `flight`.
    since: u64,
    /// What took off from `flight`, as it counts there.
    held: (u64, u64),
    /// All that is in flight, in real bytes.
    used: (u64, u64),
    waiting: Option<(u32, Waiting)>,
}

impl Share {
    pub(in crate::tenant) fn new(tenant: Arc<LiveTenant>) -> Self {
        let flight = Arc::clone(tenant.budget().flight());
        Self { tenant, flight, since: 0, held: (0, 0), used: (0, 0), waiting: None }
    }

    /// Takes room for as many of these messages as there is for now, in their order; how many. `first` is the stream's number
    /// for the first of them, and they are all that wait.
    pub fn take(&mut self, first: u64, sizes: impl Iterator<Item = usize> + Clone) -> usize {
        if self.waiting.is_some() {
            return 0;
        }
        self.renew(first);
        let (mut messages, mut bytes, mut cost) = (0_u32, 0_u64, 0_u64);
        for size in sizes.clone() {
            (messages, bytes) = (messages + 1, bytes + size as u64);
            cost += u64::from(self.flight.cost(size));
        }
        // All at once, as it nearly always goes.
        if u32::try_from(cost).is_ok_and(|cost| self.flight.try_take(messages, cost)) {
            self.took(messages.into(), bytes, cost);
            return messages as usize;
        }
        let mut taken = 0;
        for size in sizes {
            let cost = self.flight.cost(size);
            if !self.flight.try_take(1, cost) {
                break;
            }
            self.took(1, size as u64, cost.into());
            taken += 1;
        }
        taken
    }

    /// Waits for room for one message, the stream's next, and takes it. Cancel safe: the place in the queue is kept.
    pub async fn wait(&mut self, order: u64, size: usize) {
        loop {
            if self.waiting.is_none() {
                self.renew(order);
                let cost = self.flight.cost(size);
                self.waiting = Some((cost, Box::pin(Arc::clone(&self.flight).take(cost))));
            }
            let Some((cost, waiting)) = &mut self.waiting else { continue };
            let (cost, got) = (*cost, waiting.await);
            self.waiting = None;
            match got {
                Ok((message, bytes)) => {
                    message.into_iter().chain(bytes).for_each(OwnedSemaphorePermit::forget);
                    self.took(1, size as u64, cost.into());
                    return;
                }
                Err(_) => {
                    self.renew(order);
                    if self.flight.is_closed() {
                        // This tenant's life has ended and another one's has begun: the stream is about to hear of it.
                        std::future::pending::<()>().await;
                    }
                }
            }
        }
    }

    /// Gives back what messages took: the stream's number and the body bytes of each.
    pub fn settled(&mut self, messages: impl Iterator<Item = (u64, usize)>) {
        let (mut all, mut held) = ((0, 0), (0, 0));
        for (order, size) in messages {
            all = (all.0 + 1, all.1 + size as u64);
            if order >= self.since {
                held = (held.0 + 1, held.1 + u64::from(self.flight.cost(size)));
            }
        }
        self.held = (self.held.0.saturating_sub(held.0), self.held.1.saturating_sub(held.1));
        self.flight.give_back(held.0, held.1);
        self.used = (self.used.0.saturating_sub(all.0), self.used.1.saturating_sub(all.1));
        self.tenant.used().lands(all.0, all.1);
    }

    fn took(&mut self, messages: u64, bytes: u64, cost: u64) {
        self.held = (self.held.0 + messages, self.held.1 + cost);
        self.used = (self.used.0 + messages, self.used.1 + bytes);
        self.tenant.used().takes_off(messages, bytes);
    }

    /// Turns to the plan's room of now.
    fn renew(&mut self, next: u64) {
        let budget = self.tenant.budget();
        if !Arc::ptr_eq(budget.flight(), &self.flight) {
            self.flight.give_back(self.held.0, self.held.1);
            self.flight = Arc::clone(budget.flight());
            (self.since, self.held) = (next, (0, 0));
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.flight.give_back(self.held.0, self.held.1);
        self.tenant.used().lands(self.used.0, self.used.1);
    }
}
