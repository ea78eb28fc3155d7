//! What the gateway keeps in a tenant's vhost to send messages round, made when it is first needed and again when it is
//! missing: the exchange `wg.delay` with a queue for each delay, and `wg.return`, through which a message whose delay is
//! over comes back to its queue. A step and a queue enter; they stand when nothing is wrong. A message is never in one of
//! these queues without a way out: what `wg.return` cannot route goes to the dead letters.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use lapin::{
    Channel, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use tokio::time::Instant;

use crate::{
    broker::{
        Error,
        handle::Links,
        message::retained::DELAY,
        topology::{DEAD_LETTERS, on_channel, text},
    },
    names::QueueName,
};

/// Routes by the header [`DELAY`] to the queue of that delay.
pub(in crate::broker) const DELAY_EXCHANGE: &str = "wg.delay";
/// Routes by the queue's name.
pub(in crate::broker) const RETURN_EXCHANGE: &str = "wg.return";

/// Deliveries of one message before RabbitMQ gives it up by itself (4.x would after 20). On 3.10 each hand-back counts, so
/// it is out of reach of anything but a loop; attempts are the gateway's to count.
pub(in crate::broker) const DELIVERY_LIMIT: i64 = 1_000_000;
/// Each look at the dead letters is a delivery of all of them, and after the last one they would be dropped.
pub const DEAD_LETTER_DELIVERY_LIMIT: i64 = 1_000_000_000_000;
/// Dead letters are kept up to here; then messages stay where they are.
pub const DEAD_LETTER_BYTES: i64 = 1 << 30;

/// Queues of the gateway's own in a tenant's vhost, at most: the plan's limit is on the tenant's.
pub const OWN_QUEUES: u32 = 256;

/// RabbitMQ (3.10 and 4.0) forgets a quorum queue's messages when it is killed in the first seconds after the declaration.
/// Whoever made it: a queue that was there already may be a moment old.
const NEW_QUEUE: Duration = Duration::from_secs(5);
/// A delay queue that confirms nothing (it has no leader) is left alone so long.
const UNRESPONSIVE_BACKOFF: Duration = Duration::from_secs(60);

/// What this gateway knows of a tenant's delay queues, by their step.
#[derive(Default)]
pub(in crate::broker) struct Delays(Mutex<HashMap<u64, Known>>);

#[derive(Clone, Copy)]
struct Known {
    first_seen: Instant,
    silent_until: Option<Instant>,
}

impl Delays {
    fn known(&self) -> MutexGuard<'_, HashMap<u64, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It is there.
    pub(in crate::broker) fn stands(&self, step: u64) {
        self.known().entry(step).or_insert_with(|| Known { first_seen: Instant::now(), silent_until: None });
    }

    /// It was not there after all.
    pub(in crate::broker) fn is_missing(&self, step: u64) {
        self.known().remove(&step);
    }

    /// It did not answer.
    pub(in crate::broker) fn is_silent(&self, step: u64) {
        let until = Instant::now() + UNRESPONSIVE_BACKOFF;
        self.known().entry(step).and_modify(|known| known.silent_until = Some(until));
    }

    /// Whether it did not answer a moment ago.
    pub(in crate::broker) fn was_silent(&self, step: u64) -> bool {
        self.known().get(&step).and_then(|known| known.silent_until).is_some_and(|until| until > Instant::now())
    }

    /// Until when the broker may forget what it has; none when that is over.
    pub(in crate::broker) fn new_until(&self, step: u64) -> Option<Instant> {
        let until = self.known().get(&step).map_or_else(Instant::now, |known| known.first_seen) + NEW_QUEUE;
        (until > Instant::now()).then_some(until)
    }
}

/// Makes what a delay of this step, in milliseconds, needs to bring a message back to this queue.
///
/// # Errors
/// When the queue is missing, a limit is reached, or the broker is away.
pub(in crate::broker) async fn ensure_delay(links: &Links, step: u64, queue: &QueueName) -> Result<(), Error> {
    let name = format!("wg.delay.{step}");
    on_channel(links, async |channel| {
        ensure_return(&channel, queue).await?;
        exchange(&channel, DELAY_EXCHANGE, ExchangeKind::Headers, FieldTable::default()).await?;
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), text("quorum"));
        arguments.insert("x-message-ttl".into(), AMQPValue::LongLongInt(i64::try_from(step).unwrap_or(i64::MAX)));
        arguments.insert("x-overflow".into(), text("reject-publish"));
        arguments.insert("x-dead-letter-exchange".into(), text(RETURN_EXCHANGE));
        arguments.insert("x-dead-letter-strategy".into(), text("at-least-once"));
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(name.as_str().into(), durable, arguments).await?;
        let mut matching = FieldTable::default();
        matching.insert("x-match".into(), text("all"));
        matching.insert(DELAY.into(), text(&step.to_string()));
        let options = QueueBindOptions::default();
        Ok(channel.queue_bind(name.as_str().into(), DELAY_EXCHANGE.into(), "".into(), options, matching).await?)
    })
    .await
}

/// Makes the way back to this queue.
pub(in crate::broker) async fn ensure_return(channel: &Channel, queue: &QueueName) -> Result<(), Error> {
    let mut arguments = FieldTable::default();
    arguments.insert("alternate-exchange".into(), text(DEAD_LETTERS));
    exchange(channel, RETURN_EXCHANGE, ExchangeKind::Direct, arguments).await?;
    let (name, key) = (queue.as_str().into(), queue.as_str().into());
    let options = QueueBindOptions::default();
    Ok(channel.queue_bind(name, RETURN_EXCHANGE.into(), key, options, FieldTable::default()).await?)
}

/// Makes the dead letters, as the room `provision` does.
///
/// # Errors
/// When the broker is away.
pub(in crate::broker) async fn ensure_dead_letters(links: &Links) -> Result<(), Error> {
    on_channel(links, async |channel| {
        exchange(&channel, DEAD_LETTERS, ExchangeKind::Fanout, FieldTable::default()).await?;
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(DEAD_LETTERS.into(), durable, dead_letter_arguments()).await?;
        let options = QueueBindOptions::default();
        Ok(channel
            .queue_bind(DEAD_LETTERS.into(), DEAD_LETTERS.into(), "".into(), options, FieldTable::default())
            .await?)
    })
    .await
}

fn dead_letter_arguments() -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), text("quorum"));
    arguments.insert("x-overflow".into(), text("reject-publish"));
    arguments.insert("x-max-length-bytes".into(), AMQPValue::LongLongInt(DEAD_LETTER_BYTES));
    arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(DEAD_LETTER_DELIVERY_LIMIT));
    // Who lists or sends them again takes turns with all others, on all gateways.
    arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
    arguments
}

async fn exchange(channel: &Channel, name: &str, kind: ExchangeKind, arguments: FieldTable) -> Result<(), Error> {
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    Ok(channel.exchange_declare(name.into(), kind, durable, arguments).await?)
}
