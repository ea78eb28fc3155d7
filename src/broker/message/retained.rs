//! A delivery as it is kept until it is settled, so that it can be sent round again, and what the gateway writes into a
//! message for that. A lapin delivery enters, moved and not copied; properties of a new copy leave. Invariants: what the
//! broker wrote into the message (`x-…`) never goes back in, since RabbitMQ 3.10 would believe it; and what the gateway
//! writes (`wg.…`) is hidden from tenants, who cannot write it themselves.

use std::{
    collections::BTreeMap,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, ShortString},
};

/// How often the message was tried and not done.
const FAILURES: &str = "wg.failures";
/// When it failed first and last, in milliseconds since the epoch.
const FIRST_FAILURE: &str = "wg.first-failure";
const LAST_FAILURE: &str = "wg.last-failure";
/// Why it failed last.
const REASON: &str = "wg.reason";
/// Where it was published to, before it went round.
const EXCHANGE: &str = "wg.exchange";
const ROUTING_KEY: &str = "wg.routing-key";
/// Which delay queue takes it.
pub(in crate::broker) const DELAY: &str = "wg.delay";
/// Names a dead letter.
const DEAD_LETTER_ID: &str = "wg.dead-letter-id";
/// The queue that gave it up, why, and when.
const QUEUE: &str = "wg.queue";
const CODE: &str = "wg.code";
const DIED: &str = "wg.died";
/// How often it came back from the dead letters.
const REDRIVES: &str = "wg.redrives";

/// A delivery that is not settled.
pub struct Held {
    properties: BasicProperties,
    body: Bytes,
    exchange: ShortString,
    routing_key: ShortString,
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Held").field("failures", &self.failures()).finish_non_exhaustive()
    }
}

/// Why and when an attempt failed.
#[derive(Debug, Clone)]
pub(in crate::broker) struct Failed {
    pub(in crate::broker) reason: String,
    pub(in crate::broker) at: SystemTime,
}

/// What a dead letter says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::broker) struct Death {
    pub(in crate::broker) id: Option<String>,
    pub(in crate::broker) queue: Option<String>,
    pub(in crate::broker) code: Option<String>,
    pub(in crate::broker) reason: Option<String>,
    pub(in crate::broker) died: Option<u64>,
    pub(in crate::broker) first_failure: Option<u64>,
    pub(in crate::broker) last_failure: Option<u64>,
    pub(in crate::broker) redrives: u32,
}

impl Held {
    pub(in crate::broker) fn new(
        properties: BasicProperties,
        body: Bytes,
        exchange: ShortString,
        routing_key: ShortString,
    ) -> Self {
        Self { properties, body, exchange, routing_key }
    }

    /// How often it was tried before this time.
    pub fn failures(&self) -> u32 {
        failures(&self.properties)
    }

    /// Body bytes.
    pub(in crate::broker) fn body(&self) -> &Bytes {
        &self.body
    }

    pub(in crate::broker) fn properties(&self) -> &BasicProperties {
        &self.properties
    }

    /// Where the broker had it from.
    pub(in crate::broker) fn came_by(&self) -> (&str, &str) {
        (self.exchange.as_str(), self.routing_key.as_str())
    }

    pub(in crate::broker) fn message_id(&self) -> &str {
        self.properties.message_id().as_ref().map_or("", ShortString::as_str)
    }

    /// The exchange and routing key that it was published with.
    pub(in crate::broker) fn origin(&self) -> (&str, &str) {
        let (exchange, routing_key) = origin(&self.properties);
        (exchange.unwrap_or(self.exchange.as_str()), routing_key.unwrap_or(self.routing_key.as_str()))
    }

    /// What it says of its death, when it is a dead letter.
    pub(in crate::broker) fn death(&self) -> Death {
        let number = |name| integer(&self.properties, name).and_then(|value| u64::try_from(value).ok());
        let text = |name| text(&self.properties, name).map(str::to_owned);
        Death {
            id: text(DEAD_LETTER_ID),
            queue: text(QUEUE),
            code: text(CODE),
            reason: text(REASON),
            died: number(DIED),
            first_failure: number(FIRST_FAILURE),
            last_failure: number(LAST_FAILURE),
            redrives: number(REDRIVES).and_then(|count| u32::try_from(count).ok()).unwrap_or_default(),
        }
    }

    /// The same message after one more failed attempt; with the step of its delay, when it has one.
    pub(in crate::broker) fn after_failure(&self, failed: &Failed, delay: Option<u64>) -> BasicProperties {
        let mut headers = self.failed_headers(failed);
        let Some(delay) = delay.map(|step| step.to_string()) else { return self.copy(headers) };
        set(&mut headers, DELAY, long(&delay));
        // The delay queue says the same. But a quorum queue that another stream or gateway makes in this moment takes messages
        // before it knows its own time to live: one without an end would stay at its head, and keep all behind it, for ever.
        self.copy(headers).with_expiration(delay.as_str().into())
    }

    /// The same message as a dead letter of this queue, after one more failed attempt.
    pub(in crate::broker) fn as_dead_letter(&self, failed: &Failed, queue: &str, code: &str) -> BasicProperties {
        let mut headers = self.failed_headers(failed);
        set(&mut headers, DEAD_LETTER_ID, long(&uuid::Uuid::now_v7().to_string()));
        set(&mut headers, QUEUE, long(queue));
        set(&mut headers, CODE, long(code));
        set(&mut headers, DIED, millis(failed.at));
        self.copy(headers)
    }

    /// The same message as if it had never failed, but for the count of its returns from the dead letters.
    pub(in crate::broker) fn redriven(&self, exchange: &str, routing_key: &str) -> BasicProperties {
        let redrives = i64::from(self.death().redrives.saturating_add(1));
        let mut headers = self.own_headers();
        headers.retain(|name, _| !name.as_str().starts_with("wg."));
        set(&mut headers, EXCHANGE, long(exchange));
        set(&mut headers, ROUTING_KEY, long(routing_key));
        set(&mut headers, REDRIVES, AMQPValue::LongLongInt(redrives));
        self.copy(headers)
    }

    fn failed_headers(&self, failed: &Failed) -> BTreeMap<ShortString, AMQPValue> {
        let (exchange, routing_key) = self.origin();
        let mut headers = self.own_headers();
        set(&mut headers, EXCHANGE, long(exchange));
        set(&mut headers, ROUTING_KEY, long(routing_key));
        set(&mut headers, FAILURES, AMQPValue::LongLongInt(i64::from(self.failures().saturating_add(1))));
        headers.entry(FIRST_FAILURE.into()).or_insert_with(|| millis(failed.at));
        set(&mut headers, LAST_FAILURE, millis(failed.at));
        set(&mut headers, REASON, long(&failed.reason));
        headers
    }

    /// Without the broker's, and without the delay that is over.
    fn own_headers(&self) -> BTreeMap<ShortString, AMQPValue> {
        let is_kept = |name: &str| {
            let is_brokers = name.get(..2).is_some_and(|head| head.eq_ignore_ascii_case("x-"));
            !is_brokers && !matches!(name, "CC" | "BCC" | DELAY)
        };
        let Some(headers) = self.properties.headers() else { return BTreeMap::new() };
        let kept = headers.inner().iter().filter(|(name, _)| is_kept(name.as_str()));
        kept.map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    /// Without the time to live: it would cut a delay short, and a message that was tried has been waited for long enough.
    fn copy(&self, headers: BTreeMap<ShortString, AMQPValue>) -> BasicProperties {
        let mut copy = BasicProperties::default().with_headers(FieldTable::from(headers));
        let from = &self.properties;
        macro_rules! keep {
            ($($get:ident $with:ident),+ $(,)?) => {
                $(if let Some(value) = from.$get().clone() { copy = copy.$with(value); })+
            };
        }
        keep!(
            message_id with_message_id,
            correlation_id with_correlation_id,
            reply_to with_reply_to,
            content_type with_content_type,
            content_encoding with_content_encoding,
            kind with_type,
            timestamp with_timestamp,
            priority with_priority,
            delivery_mode with_delivery_mode,
            app_id with_app_id,
        );
        copy
    }
}

/// How often a message was tried and not done.
pub(in crate::broker) fn failures(properties: &BasicProperties) -> u32 {
    integer(properties, FAILURES).and_then(|count| u32::try_from(count).ok()).unwrap_or_default()
}

/// Where a message that went round was published to.
pub(in crate::broker) fn origin(properties: &BasicProperties) -> (Option<&str>, Option<&str>) {
    (text(properties, EXCHANGE), text(properties, ROUTING_KEY))
}

/// A number in the headers, of any width.
pub(in crate::broker) fn integer(properties: &BasicProperties, name: &str) -> Option<i64> {
    match properties.headers().as_ref()?.inner().get(name)? {
        AMQPValue::LongLongInt(int) => Some(*int),
        AMQPValue::LongInt(int) => Some((*int).into()),
        AMQPValue::LongUInt(int) => Some((*int).into()),
        AMQPValue::ShortInt(int) => Some((*int).into()),
        AMQPValue::ShortUInt(int) => Some((*int).into()),
        AMQPValue::ShortShortInt(int) => Some((*int).into()),
        AMQPValue::ShortShortUInt(int) => Some((*int).into()),
        _ => None,
    }
}

fn text<'a>(properties: &'a BasicProperties, name: &str) -> Option<&'a str> {
    match properties.headers().as_ref()?.inner().get(name)? {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok(),
        _ => None,
    }
}

fn set(headers: &mut BTreeMap<ShortString, AMQPValue>, name: &'static str, value: AMQPValue) {
    headers.insert(name.into(), value);
}

fn long(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

fn millis(time: SystemTime) -> AMQPValue {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    AMQPValue::LongLongInt(i64::try_from(since).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn delivered(properties: BasicProperties) -> Held {
        Held::new(properties, Bytes::from_static(b"body"), "orders".into(), "eu.new".into())
    }

    fn failed(reason: &str, millis: u64) -> Failed {
        Failed { reason: reason.into(), at: UNIX_EPOCH + Duration::from_millis(millis) }
    }

    #[test]
    fn a_message_goes_round_with_its_origin_and_its_history_and_without_the_brokers_words() {
        let mut headers = FieldTable::default();
        headers.insert("x-death".into(), AMQPValue::Boolean(true));
        headers.insert("X-Delivery-Count".into(), AMQPValue::LongInt(7));
        headers.insert("mine".into(), long("kept"));
        let properties = BasicProperties::default()
            .with_headers(headers)
            .with_expiration("5".into())
            .with_message_id("id".into())
            .with_priority(3);
        let first = delivered(properties).after_failure(&failed("one", 1_000), Some(200));
        assert_eq!(failures(&first), 1);
        assert_eq!(origin(&first), (Some("orders"), Some("eu.new")));
        assert_eq!(text(&first, DELAY), Some("200"));
        let names: Vec<_> = first.headers().iter().flat_map(|table| table.inner().keys()).collect();
        assert!(names.iter().all(|name| !name.as_str().to_ascii_lowercase().starts_with("x-")), "{names:?}");
        let expiration = first.expiration().as_ref().map(ShortString::as_str);
        assert_eq!((expiration, *first.priority()), (Some("200"), Some(3)));

        // It comes back by another exchange and key.
        let again = Held::new(first, Bytes::new(), "wg.return".into(), "jobs".into());
        let dead = again.as_dead_letter(&failed("two", 2_000), "jobs", "rejected");
        assert_eq!((failures(&dead), origin(&dead)), (2, (Some("orders"), Some("eu.new"))));
        assert_eq!(dead.expiration(), &None);
        assert_eq!((text(&dead, DELAY), text(&dead, "mine")), (None, Some("kept")));
        let dead = Held::new(dead, Bytes::new(), "wg.dead-letters".into(), "".into());
        let death = dead.death();
        assert_eq!((death.first_failure, death.last_failure, death.died), (Some(1_000), Some(2_000), Some(2_000)));
        assert_eq!((death.queue.as_deref(), death.code.as_deref()), (Some("jobs"), Some("rejected")));
        assert_eq!(death.reason.as_deref(), Some("two"));

        let back = dead.redriven("orders", "eu.new");
        assert_eq!((failures(&back), origin(&back)), (0, (Some("orders"), Some("eu.new"))));
        let back = delivered(back);
        assert_eq!((back.death().redrives, back.death().first_failure, back.message_id()), (1, None, "id"));
    }
}
