//! One dead letter. Those that the gateway published and those that the broker moved itself (after their time to live)
//! have the same form.

use bytes::Bytes;
use lapin::{
    message::Delivery,
    types::{AMQPValue, FieldTable},
};
use sha2::{Digest as _, Sha256};

use crate::{
    broker::{
        gateway_objects::DELAY_QUEUE_PREFIX,
        message::{properties, retained::RetainedDelivery, size::encoded_size},
    },
    pb::Message,
};

/// A message that could not be handled.
pub struct DeadLetter {
    /// Its id among the tenant's dead letters.
    pub id: String,
    /// The queue that dead-lettered it.
    pub queue: String,
    /// The exchange it was published to.
    pub exchange: String,
    /// The routing key it was published with.
    pub routing_key: String,
    /// The code of the reason, for programs: `rejected`, `delivery_limit`, `queue_deleted`, `headers_too_large`,
    /// `expired` or another reason of the broker's.
    pub code: String,
    /// The reason that its last consumer gave; may be empty.
    pub reason: String,
    /// The number of failed attempts.
    pub attempts: u32,
    /// The first failure, in milliseconds since the epoch.
    pub first_failure: Option<u64>,
    /// The last failure, in milliseconds since the epoch.
    pub last_failure: Option<u64>,
    /// When it was dead-lettered, in milliseconds since the epoch.
    pub died: u64,
    /// How often it was redriven before.
    pub redrives: u32,
    pub(super) delivery: RetainedDelivery,
}

impl std::fmt::Debug for DeadLetter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeadLetter").field("id", &self.id).field("queue", &self.queue).finish_non_exhaustive()
    }
}

impl DeadLetter {
    /// The message, as its producer wrote it.
    pub fn message(&self) -> Message {
        properties::from_amqp(self.delivery.properties(), self.delivery.body().clone())
    }

    /// Removes the body, for lists.
    pub(super) fn remove_body(&mut self) {
        self.delivery.remove_body();
    }

    /// The size of the body and the properties in bytes.
    pub(super) fn size(&self) -> usize {
        self.delivery.body().len() + encoded_size(self.delivery.properties())
    }

    /// Its position in lists, which are sorted by age.
    pub fn position(&self) -> (u64, &str) {
        (self.died, &self.id)
    }

    pub(super) fn read(delivery: Delivery) -> Self {
        let Delivery { exchange, routing_key, properties, data, .. } = delivery;
        let delivery = RetainedDelivery::new(properties, Bytes::from(data), exchange, routing_key);
        let record = delivery.dead_letter_record();
        let broker = match &record.code {
            Some(_) => BrokerRecord::default(),
            None => BrokerRecord::read(&delivery),
        };
        let (exchange, routing_key) = match delivery.origin() {
            // For a message that the broker dead-lettered itself, only the broker's record contains the origin.
            origin if origin == delivery.delivered_via() => {
                (broker.exchange.unwrap_or_default(), broker.routing_key.unwrap_or_default())
            }
            (exchange, routing_key) => (exchange.to_owned(), routing_key.to_owned()),
        };
        let queue = record.queue.or(broker.queue).unwrap_or_default();
        let died = record.died.or(broker.died).unwrap_or_default();
        let id = record.id.unwrap_or_else(|| derived_id(&[delivery.message_id(), &queue, &died.to_string()]));
        Self {
            id,
            queue,
            exchange,
            routing_key,
            code: record.code.or(broker.code).unwrap_or_default(),
            reason: record.reason.unwrap_or_default(),
            attempts: delivery.failures(),
            first_failure: record.first_failure,
            last_failure: record.last_failure,
            died,
            redrives: record.redrives,
            delivery,
        }
    }
}

/// What RabbitMQ records about a message that it dead-lettered itself, in the first entry of `x-death`.
#[derive(Default)]
struct BrokerRecord {
    queue: Option<String>,
    code: Option<String>,
    exchange: Option<String>,
    routing_key: Option<String>,
    died: Option<u64>,
}

impl BrokerRecord {
    fn read(delivery: &RetainedDelivery) -> Self {
        let deaths = delivery.properties().headers().as_ref().and_then(|headers| headers.inner().get("x-death"));
        let Some(AMQPValue::FieldArray(deaths)) = deaths else { return Self::default() };
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
        if queue.as_deref().is_some_and(|queue| queue.starts_with(DELAY_QUEUE_PREFIX)) {
            // Its delay had ended, but its queue did not exist any more; the routing key is the name of that queue.
            let (queue, code) = (Some(delivery.delivered_via().1.to_owned()), Some("queue_deleted".to_owned()));
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

/// The id of a message that the broker dead-lettered without an id. It is the same on every gateway and in every call.
fn derived_id(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_derived_id_is_stable_and_depends_on_where_its_parts_end() {
        assert_eq!(derived_id(&["a", "b"]), derived_id(&["a", "b"]));
        assert_ne!(derived_id(&["ab", ""]), derived_id(&["a", "b"]));
        assert_eq!(derived_id(&["a"]).len(), 32);
    }
}
