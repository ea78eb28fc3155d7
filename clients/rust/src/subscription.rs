//! Consuming by a stream. Deliveries and events leave, settlements enter. A subscription outlives its streams: when one
//! breaks or its gateway drains, the next is opened, and a settlement of a delivery of before has no effect, since that
//! message comes again. Heartbeats, renewals of the token and the moves between gateways are not the application's
//! business.

mod delivery;
mod driver;
mod options;
mod window;

pub use delivery::{Delivery, Event, Nack};
pub use options::SubscribeOptions;

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::mpsc, task::JoinHandle};

use super::{Client, Error};
use crate::pb;
use driver::{Driver, Item};
use window::Settlement;

/// Few, because a batch holds many messages.
const BATCHES: usize = 4;
/// How long a gateway may take to end a stream that we closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// An open subscription. [`Subscription::close`] gives back what is not settled; dropping it looks to the gateway like a client
/// that went away, and uses up an attempt of what was delivered.
#[derive(Debug)]
pub struct Subscription {
    items: mpsc::Receiver<Item>,
    ready: VecDeque<Delivery>,
    settler: Settler,
    /// Counts the times when all delivery ids became void.
    epoch: Arc<AtomicU64>,
    started: pb::SubscribeStarted,
    driver: JoinHandle<Result<(), Error>>,
}

/// Settles deliveries of a subscription from anywhere. Settling is handed over at once and written together with others;
/// it does not wait for the gateway. Acknowledgements that had no effect come back as [`Event::Settled`].
#[derive(Debug, Clone)]
pub struct Settler {
    settlements: mpsc::UnboundedSender<Settlement>,
}

impl Subscription {
    pub(super) async fn open(client: Client, options: SubscribeOptions) -> Result<Self, Error> {
        let (settlements, orders) = mpsc::unbounded_channel();
        let (sender, mut items) = mpsc::channel(BATCHES);
        let epoch = Arc::new(AtomicU64::new(0));
        let driver = tokio::spawn(Driver::new(client, options, orders, sender, Arc::clone(&epoch)).run());
        let started = match items.recv().await {
            Some(Item::Started(started)) => started,
            Some(Item::Failed(error)) => return Err(error),
            _ => return Err(Error::Protocol("a subscription that did not start")),
        };
        Ok(Self { items, ready: VecDeque::new(), settler: Settler { settlements }, epoch, started, driver })
    }

    /// The windows and times in force.
    pub fn started(&self) -> &pb::SubscribeStarted {
        &self.started
    }

    /// The next delivery; other events are passed over. May be dropped and called again: nothing is lost.
    ///
    /// # Errors
    /// When the subscription ended: the gateway refused it, its queue was deleted, or the gateway stayed away for too
    /// long. After an error there is nothing more (`None`).
    pub async fn next(&mut self) -> Result<Option<Delivery>, Error> {
        loop {
            match self.next_event().await? {
                Some(Event::Delivery(delivery)) => return Ok(Some(delivery)),
                Some(_) => {}
                None => return Ok(None),
            }
        }
    }

    /// The next delivery or event. May be dropped and called again: nothing is lost.
    ///
    /// # Errors
    /// As [`Subscription::next`].
    pub async fn next_event(&mut self) -> Result<Option<Event>, Error> {
        loop {
            while let Some(delivery) = self.ready.pop_front() {
                // What became void while it waited here comes again.
                if delivery.epoch() == self.epoch.load(Ordering::Acquire) {
                    return Ok(Some(Event::Delivery(delivery)));
                }
            }
            match self.items.recv().await {
                Some(Item::Deliveries(epoch, deliveries)) => {
                    self.ready.extend(deliveries.into_iter().map(|delivery| Delivery::new(epoch, delivery)));
                }
                Some(Item::Event(event)) => return Ok(Some(*event)),
                Some(Item::Started(_)) => {}
                Some(Item::Failed(error)) => return Err(error),
                None => return Ok(None),
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

    /// Writes what was settled, gives back the rest, and waits for the gateway to end the stream, 10 s at most.
    ///
    /// # Errors
    /// When the stream ended otherwise; what was settled last may come again.
    pub async fn close(self) -> Result<(), Error> {
        let Self { mut items, settler, driver, .. } = self;
        // The driver sees this, and takes what is still in the queue of settlements before it closes.
        items.close();
        drop(settler);
        // A driver that panicked has said so on standard error. It bounds its own waiting.
        driver.await.unwrap_or(Err(Error::Closed))
    }
}

impl Settler {
    /// Done with this message.
    ///
    /// # Errors
    /// When the subscription has ended; the message comes again.
    pub fn ack(&self, delivery: &Delivery) -> Result<(), Error> {
        self.send(Settlement::ack(delivery.epoch(), delivery.id()))
    }

    /// Done with this message and with all that were delivered before it.
    ///
    /// # Errors
    /// When the subscription has ended; the messages come again.
    pub fn ack_through(&self, delivery: &Delivery) -> Result<(), Error> {
        self.send(Settlement::ack_through(delivery.epoch(), delivery.id()))
    }

    /// Not done with this message.
    ///
    /// # Errors
    /// When the subscription has ended; the message comes again.
    pub fn nack(&self, delivery: &Delivery, nack: Nack) -> Result<(), Error> {
        self.send(Settlement::nack(delivery.epoch(), nack.into_frame(delivery.id())))
    }

    /// More time for this message: this long from now, or the subscription's lease once more.
    ///
    /// # Errors
    /// When the subscription has ended; the message comes again.
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
