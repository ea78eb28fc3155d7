//! Exchanges, queues and bindings as the management API describes them. Their JSON is read leniently, because 3.10 and
//! 4.x differ and a new queue has no statistics yet.

use std::collections::HashMap;

use serde_json::{Map, Value};

use crate::broker::RetryPolicy;

/// Ready and unacknowledged messages by the name of the queue.
pub(super) type QueueTotals = HashMap<String, (u64, u64)>;

/// A queue and its state. Depths and rates are from the broker's statistics: up to 5 s old.
#[derive(Debug, Clone, PartialEq)]
pub struct QueueInfo {
    /// Its name.
    pub name: String,
    /// The arguments it was declared with.
    pub arguments: Map<String, Value>,
    /// `quorum`, `classic` or `stream`.
    pub queue_type: String,
    /// Whether it survives a broker restart.
    pub durable: bool,
    /// Whether it belongs to one connection.
    pub exclusive: bool,
    /// Whether it is deleted with its last consumer.
    pub auto_delete: bool,
    /// Ready messages.
    pub messages_ready: u64,
    /// Delivered messages that are not acknowledged.
    pub messages_unacknowledged: u64,
    /// Consumers.
    pub consumers: u32,
    /// Published messages per second.
    pub publish_rate: f64,
    /// Delivered messages per second.
    pub deliver_rate: f64,
    /// Whether the broker has statistics for it, which are missing for a new queue and if their collection is disabled.
    pub(super) has_statistics: bool,
}

/// An exchange.
#[derive(Debug, Clone, PartialEq)]
pub struct ExchangeInfo {
    /// Its name.
    pub name: String,
    /// `direct`, `topic`, `fanout`, `headers`, or a plugin's.
    pub kind: String,
    /// Whether it survives a broker restart.
    pub durable: bool,
    /// Whether it is deleted with its last binding.
    pub auto_delete: bool,
    /// Whether it accepts messages from other exchanges only.
    pub internal: bool,
    /// The exchange that receives messages that this one cannot route.
    pub alternate: Option<String>,
    /// The arguments it was declared with.
    pub arguments: Map<String, Value>,
}

/// A binding.
#[derive(Debug, Clone, PartialEq)]
pub struct BindingInfo {
    /// The exchange that messages come from.
    pub source: String,
    /// The queue or exchange that they are routed to.
    pub destination: String,
    /// Whether the destination is a queue; otherwise it is an exchange.
    pub destination_is_queue: bool,
    /// The key or pattern.
    pub routing_key: String,
    /// The arguments of a headers binding, including `x-match`.
    pub arguments: Map<String, Value>,
    /// The broker's key, which differs between bindings with equal source, destination and routing key.
    pub properties_key: String,
}

/// Whether a name belongs to the gateway or the broker (including the empty name of the default exchange) and is not
/// listed.
pub(super) fn is_hidden(name: &str) -> bool {
    let starts = |prefix: &str| name.get(..prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(prefix));
    name.is_empty() || starts("wg.") || starts("amq.")
}

impl QueueInfo {
    pub(super) fn with_totals(self, totals: &QueueTotals) -> Self {
        match totals.get(&self.name) {
            Some((ready, unacknowledged)) if !self.has_statistics => {
                Self { messages_ready: *ready, messages_unacknowledged: *unacknowledged, ..self }
            }
            _ => self,
        }
    }

    /// When and how often a message is retried.
    pub fn retry_policy(&self) -> RetryPolicy {
        RetryPolicy::from_arguments(|name| self.arguments.get(name).and_then(Value::as_i64))
    }

    /// The columns that [`Self::read`] needs.
    pub(super) const COLUMNS: &str = "name,type,arguments,durable,exclusive,auto_delete,messages_ready,messages_unacknowledged,\
         consumers,message_stats.publish_details.rate,message_stats.deliver_get_details.rate";

    pub(super) fn read(value: &Value) -> Option<Self> {
        let arguments = map(value, "arguments");
        let declared = arguments.get("x-queue-type").and_then(Value::as_str);
        let queue_type = value.get("type").and_then(Value::as_str).or(declared).unwrap_or("classic").to_owned();
        Some(Self {
            name: value.get("name")?.as_str()?.to_owned(),
            queue_type,
            durable: flag(value, "durable"),
            exclusive: flag(value, "exclusive"),
            auto_delete: flag(value, "auto_delete"),
            has_statistics: value.get("messages_ready").is_some(),
            messages_ready: count(value, "messages_ready"),
            messages_unacknowledged: count(value, "messages_unacknowledged"),
            consumers: u32::try_from(count(value, "consumers")).unwrap_or(u32::MAX),
            publish_rate: rate(value, "/message_stats/publish_details/rate"),
            deliver_rate: rate(value, "/message_stats/deliver_get_details/rate"),
            arguments,
        })
    }
}

impl ExchangeInfo {
    /// The columns that [`Self::read`] needs.
    pub(super) const COLUMNS: &str = "name,type,durable,auto_delete,internal,arguments";

    pub(super) fn read(value: &Value) -> Option<Self> {
        let arguments = map(value, "arguments");
        Some(Self {
            name: value.get("name")?.as_str()?.to_owned(),
            kind: value.get("type")?.as_str()?.to_owned(),
            durable: flag(value, "durable"),
            auto_delete: flag(value, "auto_delete"),
            internal: flag(value, "internal"),
            alternate: arguments.get("alternate-exchange").and_then(Value::as_str).map(str::to_owned),
            arguments,
        })
    }
}

impl BindingInfo {
    pub(super) fn read(value: &Value) -> Option<Self> {
        let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
        Some(Self {
            source: text("source")?,
            destination: text("destination")?,
            destination_is_queue: text("destination_type")? == "queue",
            routing_key: text("routing_key").unwrap_or_default(),
            arguments: map(value, "arguments"),
            properties_key: text("properties_key").unwrap_or_default(),
        })
    }

    /// The order in which bindings are listed.
    pub(super) fn order(&self) -> (&str, &str, bool, &str, &str) {
        (&self.source, &self.destination, !self.destination_is_queue, &self.routing_key, &self.properties_key)
    }
}

/// Some versions write an empty map as an empty list.
fn map(value: &Value, key: &str) -> Map<String, Value> {
    value.get(key).and_then(Value::as_object).cloned().unwrap_or_default()
}

fn flag(value: &Value, key: &str) -> bool {
    value.get(key).and_then(Value::as_bool).unwrap_or(false)
}

fn count(value: &Value, key: &str) -> u64 {
    value.get(key).and_then(Value::as_u64).unwrap_or(0)
}

fn rate(value: &Value, pointer: &str) -> f64 {
    value.pointer(pointer).and_then(Value::as_f64).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_queue_without_statistics_can_be_read() {
        let queue = QueueInfo::read(&json!({
            "name": "orders", "durable": true, "arguments": {"x-queue-type": "quorum"}, "message_stats": [],
        }))
        .expect("a queue");
        assert_eq!((queue.queue_type.as_str(), queue.messages_ready, queue.publish_rate), ("quorum", 0, 0.0));
    }

    #[test]
    fn an_empty_list_of_arguments_is_an_empty_map() {
        let exchange =
            ExchangeInfo::read(&json!({"name": "e", "type": "topic", "arguments": []})).expect("an exchange");
        assert!(exchange.arguments.is_empty());
    }

    #[test]
    fn names_of_the_gateway_and_the_broker_are_hidden() {
        for name in ["", "wg.dead-letters", "WG.x", "amq.topic", "amq.gen-1"] {
            assert!(is_hidden(name), "{name}");
        }
        assert!(!is_hidden("wg"));
        assert!(!is_hidden("orders"));
    }
}
