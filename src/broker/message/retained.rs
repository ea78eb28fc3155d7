//! A delivery that is retained until it is settled, so that it can be published again, and the headers that the gateway
//! writes into it for that. Headers of the broker (`x-…`) are never published again, since RabbitMQ 3.10 would trust
//! them; headers of the gateway (`wg.…`) are hidden from tenants, who cannot set them.

use std::{
    collections::BTreeMap,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, ShortString},
};

use super::{
    delay_bucket::DelayBucket,
    size::{entry, fits_a_frame},
};

/// Failed attempts so far.
const FAILURES: &str = "wg.failures";
/// The times of the first and the last failure, in milliseconds since the epoch.
const FIRST_FAILURE: &str = "wg.first-failure";
const LAST_FAILURE: &str = "wg.last-failure";
/// The reason of the last failure.
const REASON: &str = "wg.reason";
/// Its original exchange and routing key.
const EXCHANGE: &str = "wg.exchange";
const ROUTING_KEY: &str = "wg.routing-key";
/// Selects the delay queue.
pub(in crate::broker) const DELAY_HEADER: &str = "wg.delay";
/// The id of a dead letter.
const DEAD_LETTER_ID: &str = "wg.dead-letter-id";
/// The queue that dead-lettered it, why, and when.
const QUEUE: &str = "wg.queue";
const CODE: &str = "wg.code";
const DEAD_LETTERED_AT: &str = "wg.died";
/// How often it was redriven from the dead letters.
const REDRIVES: &str = "wg.redrives";

/// A delivery that is not settled.
pub struct RetainedDelivery {
    properties: BasicProperties,
    body: Bytes,
    exchange: ShortString,
    routing_key: ShortString,
}

impl std::fmt::Debug for RetainedDelivery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RetainedDelivery").field("failures", &self.failures()).finish_non_exhaustive()
    }
}

/// Why and when an attempt failed.
#[derive(Debug, Clone)]
pub(in crate::broker) struct Failure {
    pub(in crate::broker) reason: String,
    pub(in crate::broker) at: SystemTime,
}

/// The contents of a dead letter's headers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::broker) struct DeadLetterRecord {
    pub(in crate::broker) id: Option<String>,
    pub(in crate::broker) queue: Option<String>,
    pub(in crate::broker) code: Option<String>,
    pub(in crate::broker) reason: Option<String>,
    pub(in crate::broker) died: Option<u64>,
    pub(in crate::broker) first_failure: Option<u64>,
    pub(in crate::broker) last_failure: Option<u64>,
    pub(in crate::broker) redrives: u32,
}

impl RetainedDelivery {
    pub(in crate::broker) fn new(
        properties: BasicProperties,
        body: Bytes,
        exchange: ShortString,
        routing_key: ShortString,
    ) -> Self {
        Self { properties, body, exchange, routing_key }
    }

    /// Failed attempts before this delivery.
    pub fn failures(&self) -> u32 {
        failures(&self.properties)
    }

    /// The body.
    pub(in crate::broker) fn body(&self) -> &Bytes {
        &self.body
    }

    pub(in crate::broker) fn remove_body(&mut self) {
        self.body = Bytes::new();
    }

    pub(in crate::broker) fn properties(&self) -> &BasicProperties {
        &self.properties
    }

    /// The exchange and routing key of this delivery, which differ from the original ones after a retry.
    pub(in crate::broker) fn delivered_via(&self) -> (&str, &str) {
        (self.exchange.as_str(), self.routing_key.as_str())
    }

    pub(in crate::broker) fn message_id(&self) -> &str {
        self.properties.message_id().as_ref().map_or("", ShortString::as_str)
    }

    /// The exchange and routing key that it was originally published with.
    pub(in crate::broker) fn origin(&self) -> (&str, &str) {
        let (exchange, routing_key) = origin(&self.properties);
        (exchange.unwrap_or(self.exchange.as_str()), routing_key.unwrap_or(self.routing_key.as_str()))
    }

    /// The record in its headers, if it is a dead letter.
    pub(in crate::broker) fn dead_letter_record(&self) -> DeadLetterRecord {
        let number = |name| integer(&self.properties, name).and_then(|value| u64::try_from(value).ok());
        let text = |name| text(&self.properties, name).map(str::to_owned);
        DeadLetterRecord {
            id: text(DEAD_LETTER_ID),
            queue: text(QUEUE),
            code: text(CODE),
            reason: text(REASON),
            died: number(DEAD_LETTERED_AT),
            first_failure: number(FIRST_FAILURE),
            last_failure: number(LAST_FAILURE),
            redrives: number(REDRIVES).and_then(|count| u32::try_from(count).ok()).unwrap_or_default(),
        }
    }

    /// The properties of a copy after one more failed attempt, for the delay queue of `delay` when there is one.
    pub(in crate::broker) fn after_failure(&self, failure: &Failure, delay: Option<DelayBucket>) -> BasicProperties {
        let mut headers = self.headers_after(failure);
        let Some(delay) = delay else { return self.copy(headers) };
        set(&mut headers, DELAY_HEADER, long(&delay.to_string()));
        // The delay queue has the same time to live. But a quorum queue that is being declared accepts messages before
        // it applies its own: a message without an expiration would remain at its head forever and block all messages
        // behind it.
        self.copy(headers).with_expiration(delay.millis().to_string().into())
    }

    /// The properties of a copy that is a dead letter of this queue, after one more failed attempt.
    pub(in crate::broker) fn as_dead_letter(&self, failure: &Failure, queue: &str, code: &str) -> BasicProperties {
        let mut headers = self.headers_after(failure);
        set(&mut headers, DEAD_LETTER_ID, long(&uuid::Uuid::now_v7().to_string()));
        set(&mut headers, QUEUE, long(queue));
        set(&mut headers, CODE, long(code));
        set(&mut headers, DEAD_LETTERED_AT, millis(failure.at));
        self.copy_that_fits(headers)
    }

    /// The properties of a copy that has never failed, except for the number of its redrives.
    pub(in crate::broker) fn redriven(&self, exchange: &str, routing_key: &str) -> BasicProperties {
        let redrives = i64::from(self.dead_letter_record().redrives.saturating_add(1));
        let mut headers = self.own_headers();
        headers.retain(|name, _| !name.as_str().starts_with("wg."));
        set(&mut headers, EXCHANGE, long(exchange));
        set(&mut headers, ROUTING_KEY, long(routing_key));
        set(&mut headers, REDRIVES, AMQPValue::LongLongInt(redrives));
        self.copy(headers)
    }

    fn headers_after(&self, failure: &Failure) -> BTreeMap<ShortString, AMQPValue> {
        let (exchange, routing_key) = self.origin();
        let mut headers = self.own_headers();
        set(&mut headers, EXCHANGE, long(exchange));
        set(&mut headers, ROUTING_KEY, long(routing_key));
        set(&mut headers, FAILURES, AMQPValue::LongLongInt(i64::from(self.failures().saturating_add(1))));
        headers.entry(FIRST_FAILURE.into()).or_insert_with(|| millis(failure.at));
        set(&mut headers, LAST_FAILURE, millis(failure.at));
        set(&mut headers, REASON, long(&failure.reason));
        headers
    }

    /// The headers of the producer and the gateway, without those of the broker and of a past delay.
    fn own_headers(&self) -> BTreeMap<ShortString, AMQPValue> {
        let is_kept = |name: &str| {
            let is_of_broker = name.get(..2).is_some_and(|head| head.eq_ignore_ascii_case("x-"));
            !is_of_broker && !matches!(name, "CC" | "BCC" | DELAY_HEADER)
        };
        let Some(headers) = self.properties.headers() else { return BTreeMap::new() };
        let kept = headers.inner().iter().filter(|(name, _)| is_kept(name.as_str()));
        kept.map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    /// As [`Self::copy`], but the largest headers of the producer are omitted until the rest fits into a frame. Only a
    /// message that was not published through the gateway can have headers of this size.
    fn copy_that_fits(&self, mut headers: BTreeMap<ShortString, AMQPValue>) -> BasicProperties {
        loop {
            let copy = self.copy(headers.clone());
            let of_producer = headers.iter().filter(|(name, _)| !name.as_str().starts_with("wg."));
            let largest = of_producer.max_by_key(|(name, value)| entry(name, value)).map(|(name, _)| name.clone());
            match largest {
                Some(name) if !fits_a_frame(&copy) => headers.remove(&name),
                _ => return copy,
            };
        }
    }

    /// Copies all properties except the time to live, which limits the wait for the first attempt and could end a delay
    /// too early.
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

/// Failed attempts so far.
pub(in crate::broker) fn failures(properties: &BasicProperties) -> u32 {
    integer(properties, FAILURES).and_then(|count| u32::try_from(count).ok()).unwrap_or_default()
}

/// The original exchange and routing key of a message that was published again.
pub(in crate::broker) fn origin(properties: &BasicProperties) -> (Option<&str>, Option<&str>) {
    (text(properties, EXCHANGE), text(properties, ROUTING_KEY))
}

/// An integer header of any width.
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

    fn delivered(properties: BasicProperties) -> RetainedDelivery {
        RetainedDelivery::new(properties, Bytes::from_static(b"body"), "orders".into(), "eu.new".into())
    }

    fn failure(reason: &str, millis: u64) -> Failure {
        Failure { reason: reason.into(), at: UNIX_EPOCH + Duration::from_millis(millis) }
    }

    #[test]
    fn a_copy_keeps_its_origin_and_history_and_drops_the_headers_of_the_broker() {
        let mut headers = FieldTable::default();
        headers.insert("x-death".into(), AMQPValue::Boolean(true));
        headers.insert("X-Delivery-Count".into(), AMQPValue::LongInt(7));
        headers.insert("mine".into(), long("kept"));
        let properties = BasicProperties::default()
            .with_headers(headers)
            .with_expiration("5".into())
            .with_message_id("id".into())
            .with_priority(3);
        let first = delivered(properties)
            .after_failure(&failure("one", 1_000), Some(DelayBucket::of(Duration::from_millis(200), Some(3))));
        assert_eq!(failures(&first), 1);
        assert_eq!(origin(&first), (Some("orders"), Some("eu.new")));
        assert_eq!(text(&first, DELAY_HEADER), Some("200"));
        let names: Vec<_> = first.headers().iter().flat_map(|table| table.inner().keys()).collect();
        assert!(names.iter().all(|name| !name.as_str().to_ascii_lowercase().starts_with("x-")), "{names:?}");
        let expiration = first.expiration().as_ref().map(ShortString::as_str);
        assert_eq!((expiration, *first.priority()), (Some("200"), Some(3)));

        // It is delivered again via another exchange and key.
        let again = RetainedDelivery::new(first, Bytes::new(), "wg.return".into(), "jobs".into());
        let dead = again.as_dead_letter(&failure("two", 2_000), "jobs", "rejected");
        assert_eq!((failures(&dead), origin(&dead)), (2, (Some("orders"), Some("eu.new"))));
        assert_eq!(dead.expiration(), &None);
        assert_eq!((text(&dead, DELAY_HEADER), text(&dead, "mine")), (None, Some("kept")));
        let dead = RetainedDelivery::new(dead, Bytes::new(), "wg.dead-letters".into(), "".into());
        let death = dead.dead_letter_record();
        assert_eq!((death.first_failure, death.last_failure, death.died), (Some(1_000), Some(2_000), Some(2_000)));
        assert_eq!((death.queue.as_deref(), death.code.as_deref()), (Some("jobs"), Some("rejected")));
        assert_eq!(death.reason.as_deref(), Some("two"));

        let back = dead.redriven("orders", "eu.new");
        assert_eq!((failures(&back), origin(&back)), (0, (Some("orders"), Some("eu.new"))));
        let back = delivered(back);
        let record = back.dead_letter_record();
        assert_eq!((record.redrives, record.first_failure, back.message_id()), (1, None, "id"));
    }
}
