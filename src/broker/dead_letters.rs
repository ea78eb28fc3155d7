//! A tenant's dead letters: looking at them, sending them to their queues again, deleting them. A choice enters as a
//! predicate; what it chose leaves. Both kinds are read alike: those that the gateway gave up and those that the broker did
//! (a time to live that ran out). Invariant: a dead letter leaves its queue only by an acknowledgement after a confirm of
//! its new copy, or when it was chosen to be deleted; a look at them takes none.

mod exclusive_session;
mod redrive;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use lapin::{
    message::Delivery,
    types::{AMQPValue, FieldTable},
};
use sha2::{Digest as _, Sha256};

use self::exclusive_session::Turn;
pub use self::redrive::Redriven;
use super::{
    Error,
    handle::Links,
    message::{properties, retained::Held},
};
use crate::pb::Message;

/// Body bytes of a page: clients take 4 MiB by default. A larger one comes alone.
const PAGE_BYTES: usize = 3 << 20;

/// A message that was given up.
pub struct DeadLetter {
    /// Names it among the tenant's dead letters.
    pub id: String,
    /// The queue that gave it up.
    pub queue: String,
    /// The exchange it was published to.
    pub exchange: String,
    /// The routing key it was published with.
    pub routing_key: String,
    /// Why, for programs: `rejected`, `delivery_limit`, `queue_deleted`, `expired` or another word of the broker's.
    pub code: String,
    /// Why, in the words of its last consumer; empty when it said nothing.
    pub reason: String,
    /// How often it was tried.
    pub attempts: u32,
    /// Milliseconds since the epoch.
    pub first_failure: Option<u64>,
    /// Milliseconds since the epoch.
    pub last_failure: Option<u64>,
    /// Milliseconds since the epoch.
    pub died: u64,
    /// How often it came back from the dead letters before.
    pub redrives: u32,
    held: Held,
}

impl std::fmt::Debug for DeadLetter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeadLetter").field("id", &self.id).field("queue", &self.queue).finish_non_exhaustive()
    }
}

impl DeadLetter {
    /// The message, as its producer wrote it.
    pub fn message(&self) -> Message {
        properties::from_amqp(self.held.properties(), self.held.body().clone())
    }

    /// Where it stands among the others: the oldest first.
    pub fn place(&self) -> (u64, &str) {
        (self.died, &self.id)
    }

    fn read(delivery: Delivery) -> Self {
        let Delivery { exchange, routing_key, properties, data, .. } = delivery;
        let held = Held::new(properties, Bytes::from(data), exchange, routing_key);
        let death = held.death();
        let broker = match &death.code {
            Some(_) => BrokerDeath::default(),
            None => BrokerDeath::read(&held),
        };
        let (exchange, routing_key) = match held.came_by() {
            // What the broker gave up itself has lost its origin, but for the broker's own record of it.
            came if held.origin() == came => {
                (broker.exchange.unwrap_or_default(), broker.routing_key.unwrap_or_default())
            }
            _ => (held.origin().0.to_owned(), held.origin().1.to_owned()),
        };
        let queue = death.queue.or(broker.queue).unwrap_or_default();
        let died = death.died.or(broker.died).unwrap_or_default();
        let id = death.id.unwrap_or_else(|| derived(&[held.message_id(), &queue, &died.to_string()]));
        Self {
            id,
            queue,
            exchange,
            routing_key,
            code: death.code.or(broker.code).unwrap_or_default(),
            reason: death.reason.unwrap_or_default(),
            attempts: held.failures(),
            first_failure: death.first_failure,
            last_failure: death.last_failure,
            died,
            redrives: death.redrives,
            held,
        }
    }
}

/// What RabbitMQ says of a death that was its own doing, in the first entry of `x-death`.
#[derive(Default)]
struct BrokerDeath {
    queue: Option<String>,
    code: Option<String>,
    exchange: Option<String>,
    routing_key: Option<String>,
    died: Option<u64>,
}

impl BrokerDeath {
    fn read(held: &Held) -> Self {
        let death = held.properties().headers().as_ref().and_then(|headers| headers.inner().get("x-death"));
        let Some(AMQPValue::FieldArray(deaths)) = death else { return Self::default() };
        let Some(AMQPValue::FieldTable(last)) = deaths.as_slice().first() else { return Self::default() };
        let queue = text(last, "queue");
        let routing_key = match last.inner().get("routing-keys") {
            Some(AMQPValue::FieldArray(keys)) => keys.as_slice().first().and_then(as_text),
            _ => None,
        };
        let died = match last.inner().get("time") {
            Some(AMQPValue::Timestamp(seconds)) => Some(seconds.saturating_mul(1_000)),
            _ => None,
        };
        let exchange = text(last, "exchange");
        if queue.as_deref().is_some_and(|queue| queue.starts_with("wg.delay.")) {
            // Its delay was over, and its queue was not there any more: it came by that queue's name.
            let (queue, code) = (Some(held.came_by().1.to_owned()), Some("queue_deleted".to_owned()));
            return Self { queue, code, exchange, routing_key, died };
        }
        Self { queue, code: text(last, "reason"), exchange, routing_key, died }
    }
}

fn text(table: &FieldTable, name: &str) -> Option<String> {
    as_text(table.inner().get(name)?)
}

fn as_text(value: &AMQPValue) -> Option<String> {
    match value {
        AMQPValue::LongString(text) => Some(text.to_string()),
        _ => None,
    }
}

/// The broker gives its dead letters no name: the same one always gets the same from us, at every gateway.
fn derived(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// A tenant's dead letters.
pub struct DeadLetters {
    links: Arc<Links>,
    publish_deadline: Duration,
}

impl DeadLetters {
    pub(super) fn new(links: Arc<Links>, publish_deadline: Duration) -> Self {
        Self { links, publish_deadline }
    }

    /// The oldest of those that are chosen, from the first one after `after` (its place) on, at most so many and 3 MiB of
    /// bodies; and whether there are more. Takes none. Every call looks through all dead letters.
    ///
    /// # Errors
    /// When others are busy with them, or the broker is away.
    pub async fn list(
        &self,
        after: Option<(u64, String)>,
        most: usize,
        chosen: impl Fn(&DeadLetter) -> bool,
    ) -> Result<(Vec<DeadLetter>, bool), Error> {
        let mut turn = Turn::begin(&self.links).await?;
        let mut page = BTreeMap::new();
        let (mut bytes, mut more) = (0, false);
        while let Some((_, letter)) = turn.next().await? {
            let place = (letter.died, letter.id.clone());
            if after.as_ref().is_some_and(|after| place <= *after) || !chosen(&letter) {
                continue;
            }
            bytes += letter.held.body().len();
            if let Some(same) = page.insert(place, letter) {
                let same: DeadLetter = same;
                bytes -= same.held.body().len();
            }
            // Only the page is kept, whatever is looked through.
            while page.len() > most || (bytes > PAGE_BYTES && page.len() > 1) {
                more = true;
                bytes -= page.pop_last().map_or(0, |(_, letter)| letter.held.body().len());
            }
        }
        turn.end().await;
        Ok((page.into_values().collect(), more))
    }

    /// Deletes those that are chosen; how many.
    ///
    /// # Errors
    /// As [`Self::list`]; some may be deleted then.
    pub async fn purge(&self, chosen: impl Fn(&DeadLetter) -> bool) -> Result<u64, Error> {
        let mut turn = Turn::begin(&self.links).await?;
        let mut purged = 0;
        while let Some((tag, letter)) = turn.next().await? {
            if chosen(&letter) {
                turn.ack(tag).await?;
                purged += 1;
            }
        }
        turn.end().await;
        Ok(purged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_derived_id_is_stable_and_tells_its_parts_apart() {
        assert_eq!(derived(&["a", "b"]), derived(&["a", "b"]));
        assert_ne!(derived(&["ab", ""]), derived(&["a", "b"]));
        assert_eq!(derived(&["a"]).len(), 32);
    }
}
