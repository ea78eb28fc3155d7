//! Consuming over a stream.
//!
//! A subscription survives its streams: when one breaks or its gateway drains, the next is opened. A settlement of a
//! delivery of an earlier stream has no effect, because that message is delivered again. Heartbeats, token renewal and
//! changes of the gateway are handled here.

mod consumer;
mod delivery;
mod driver;
mod options;
mod window;

pub(crate) use consumer::State as ConsumerState;
pub use consumer::{Consumer, HandlerError};
pub use delivery::{Delivery, Event, Nack};
pub use options::SubscribeOptions;

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::Stream;
use tokio::{sync::mpsc, task::JoinHandle};

use super::{Client, Error};
use crate::pb;
use driver::{Driver, Item};
use window::Settlement;

/// Few, because a batch contains many messages.
const BATCHES: usize = 4;
/// How long a gateway may take to end a stream that the client closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// An open subscription. [`Subscription::close`] returns unsettled messages without counting an attempt. Dropping it is
/// a disconnect for the gateway and counts as an attempt of each unsettled message.
#[derive(Debug)]
pub struct Subscription {
    items: mpsc::Receiver<Item>,
    ready: VecDeque<Delivery>,
    settler: Settler,
    progress: Arc<Progress>,
    started: pb::SubscribeStarted,
    driver: JoinHandle<Result<(), Error>>,
}

/// What the application has started. Deliveries are started in the order of their ids.
#[derive(Debug, Default)]
struct Progress(Mutex<Started>);

#[derive(Debug, Default)]
struct Started {
    /// Incremented whenever all delivery ids become invalid.
    epoch: u64,
    /// The last delivery of this epoch that the application has started.
    last: u64,
    /// Set when the stream is about to end: deliveries that were not started are delivered again.
    discard: bool,
}

impl Progress {
    fn lock(&self) -> std::sync::MutexGuard<'_, Started> {
        // Each change is a single assignment, so that a panic cannot leave it half-changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the application may start this delivery.
    fn start(&self, delivery: &Delivery) -> bool {
        let mut started = self.lock();
        let is_valid = started.epoch == delivery.epoch() && !started.discard;
        if is_valid {
            started.last = delivery.id();
        }
        is_valid
    }

    fn next_epoch(&self, epoch: u64) {
        *self.lock() = Started { epoch, last: 0, discard: false };
    }

    fn discard(&self) {
        self.lock().discard = true;
    }

    fn last(&self) -> u64 {
        self.lock().last
    }
}

/// Settles deliveries of a subscription from any task. Settlements are queued and written in batches, without waiting
/// for the gateway. Acknowledgements without effect are reported as [`Event::Settled`].
#[derive(Debug, Clone)]
pub struct Settler {
    settlements: mpsc::UnboundedSender<Settlement>,
}

impl Subscription {
    pub(super) async fn open(client: Client, options: SubscribeOptions) -> Result<Self, Error> {
        let (settlements, orders) = mpsc::unbounded_channel();
        let (sender, mut items) = mpsc::channel(BATCHES);
        let progress = Arc::new(Progress::default());
        let tasks = client.shared.tasks.clone();
        let driver = tasks.spawn(Driver::new(client, options, orders, sender, Arc::clone(&progress)).run());
        let started = match items.recv().await {
            Some(Item::Started(started)) => started,
            Some(Item::Failed(error)) => return Err(error),
            _ => return Err(Error::Protocol("a subscription that did not start")),
        };
        Ok(Self { items, ready: VecDeque::new(), settler: Settler { settlements }, progress, started, driver })
    }

    /// The windows and times in effect.
    pub fn started(&self) -> &pb::SubscribeStarted {
        &self.started
    }

    /// The next delivery; other events are skipped. Cancel-safe.
    ///
    /// # Errors
    /// When the subscription ended: the gateway refused it, its queue was deleted, or the gateway was unavailable for
    /// too long. After an error the result is `None`.
    pub async fn next(&mut self) -> Result<Option<Delivery>, Error> {
        loop {
            match self.next_event().await? {
                Some(Event::Delivery(delivery)) => return Ok(Some(delivery)),
                Some(_) => {}
                None => return Ok(None),
            }
        }
    }

    /// The next delivery or event. Cancel-safe.
    ///
    /// # Errors
    /// As [`Subscription::next`].
    pub async fn next_event(&mut self) -> Result<Option<Event>, Error> {
        std::future::poll_fn(|context| self.poll_event(context)).await
    }

    fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Event>, Error>> {
        loop {
            while let Some(delivery) = self.ready.pop_front() {
                // A delivery whose id has become invalid is delivered again.
                if self.progress.start(&delivery) {
                    return Poll::Ready(Ok(Some(Event::Delivery(delivery))));
                }
            }
            match ready!(self.items.poll_recv(context)) {
                Some(Item::Deliveries(epoch, deliveries)) => {
                    let settler = &self.settler;
                    let new = |delivery| Delivery::new(epoch, delivery, settler.clone());
                    self.ready.extend(deliveries.into_iter().map(new));
                }
                Some(Item::Event(event)) => return Poll::Ready(Ok(Some(*event))),
                Some(Item::Started(_)) => {}
                Some(Item::Failed(error)) => return Poll::Ready(Err(error)),
                None => return Poll::Ready(Ok(None)),
            }
        }
    }

    /// A handle that settles from other tasks.
    pub fn settler(&self) -> Settler {
        self.settler.clone()
    }

    /// [`Settler::ack`].
    ///
    /// # Errors
    /// When the subscription has ended.
    pub fn ack(&self, delivery: &Delivery) -> Result<(), Error> {
        self.settler.ack(delivery)
    }

    /// [`Settler::nack`].
    ///
    /// # Errors
    /// When the subscription has ended.
    pub fn nack(&self, delivery: &Delivery, nack: Nack) -> Result<(), Error> {
        self.settler.nack(delivery, nack)
    }

    /// [`Settler::extend`].
    ///
    /// # Errors
    /// When the subscription has ended.
    pub fn extend(&self, delivery: &Delivery, lease: Option<Duration>) -> Result<(), Error> {
        self.settler.extend(delivery, lease)
    }

    /// Writes queued settlements, returns unsettled messages, and waits at most 10 s for the gateway to end the stream.
    ///
    /// # Errors
    /// When the stream failed; the messages settled last may be delivered again.
    pub async fn close(self) -> Result<(), Error> {
        let Self { mut items, settler, driver, .. } = self;
        // The task notices this, and writes the queued settlements before it closes the stream.
        items.close();
        drop(settler);
        // A task that panicked has printed that to standard error. It limits its own waiting time.
        driver.await.unwrap_or(Err(Error::Closed))
    }
}

/// The deliveries; other events are skipped. An error is the last item.
impl Stream for Subscription {
    type Item = Result<Delivery, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match ready!(self.poll_event(context)) {
                Ok(Some(Event::Delivery(delivery))) => return Poll::Ready(Some(Ok(delivery))),
                Ok(Some(_)) => {}
                Ok(None) => return Poll::Ready(None),
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
    }
}

impl Settler {
    /// Acknowledges this message.
    ///
    /// # Errors
    /// When the subscription has ended; the message is delivered again.
    pub fn ack(&self, delivery: &Delivery) -> Result<(), Error> {
        self.send(Settlement::ack(delivery.epoch(), delivery.id()))
    }

    /// Acknowledges this message and all that were delivered before it.
    ///
    /// # Errors
    /// When the subscription has ended; the messages are delivered again.
    pub fn ack_through(&self, delivery: &Delivery) -> Result<(), Error> {
        self.send(Settlement::ack_through(delivery.epoch(), delivery.id()))
    }

    /// Rejects this message.
    ///
    /// # Errors
    /// When the subscription has ended; the message is delivered again.
    pub fn nack(&self, delivery: &Delivery, nack: Nack) -> Result<(), Error> {
        self.send(Settlement::nack(delivery.epoch(), nack.into_frame(delivery.id())))
    }

    /// Extends this message's lease to this time from now; by default, to the subscription's lease.
    ///
    /// # Errors
    /// When the subscription has ended; the message is delivered again.
    pub fn extend(&self, delivery: &Delivery, lease: Option<Duration>) -> Result<(), Error> {
        let ack_deadline = lease.and_then(|lease| lease.try_into().ok());
        let frame = pb::ExtendLease { delivery_ids: vec![delivery.id()], ack_deadline };
        self.send(Settlement::extend(delivery.epoch(), frame))
    }

    fn send(&self, settlement: Settlement) -> Result<(), Error> {
        self.settlements.send(settlement).map_err(|_| Error::Closed)
    }
}

#[cfg(test)]
mod tests;
