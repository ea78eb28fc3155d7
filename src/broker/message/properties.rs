//! Message properties between protobuf and AMQP.
//!
//! Invariant: lapin can write all properties that are sent. Properties that the broker and the gateway have added are
//! removed from delivered messages, so that a consumer receives what the producer wrote.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lapin::{BasicProperties, types::ShortString};

use super::{
    headers,
    time::{seconds, timestamp},
};
use crate::{
    error::Failure,
    pb::{Durability, Message},
};

const MAX_TTL: Duration = Duration::from_secs(366 * 24 * 3600);
const PERSISTENT: u8 = 2;
const TRANSIENT: u8 = 1;

/// The properties of a message to publish, with this id.
///
/// # Errors
/// Names the field that is too long, negative, out of range or reserved.
pub(in crate::broker) fn to_amqp(message: &Message, id: &str, now: SystemTime) -> Result<BasicProperties, Failure> {
    let mut properties = BasicProperties::default().with_message_id(short("message.message_id", id)?);
    let delivery_mode = match Durability::try_from(message.durability) {
        Ok(Durability::Unspecified | Durability::Persistent) => PERSISTENT,
        Ok(Durability::Transient) => TRANSIENT,
        Err(_) => return Err(Failure::invalid("message.durability", "is not a known value")),
    };
    properties = properties.with_delivery_mode(delivery_mode);
    if !message.correlation_id.is_empty() {
        properties = properties.with_correlation_id(short("message.correlation_id", &message.correlation_id)?);
    }
    if !message.reply_to.is_empty() {
        // "amq.rabbitmq.reply-to" means the publishing channel, which is the gateway's.
        crate::names::QueueName::parse(&message.reply_to)
            .map_err(|error| Failure::from(error).on_field("message.reply_to"))?;
        properties = properties.with_reply_to(short("message.reply_to", &message.reply_to)?);
    }
    if !message.content_type.is_empty() {
        properties = properties.with_content_type(short("message.content_type", &message.content_type)?);
    }
    if !message.content_encoding.is_empty() {
        properties = properties.with_content_encoding(short("message.content_encoding", &message.content_encoding)?);
    }
    if !message.r#type.is_empty() {
        properties = properties.with_type(short("message.type", &message.r#type)?);
    }
    if !message.app_id.is_empty() {
        properties = properties.with_app_id(short("message.app_id", &message.app_id)?);
    }
    properties = properties.with_timestamp(match &message.publish_time {
        Some(time) => seconds("message.publish_time", time)?,
        None => now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
    });
    if let Some(ttl) = &message.ttl {
        properties = properties.with_expiration(millis("message.ttl", ttl, MAX_TTL)?.to_string().into());
    }
    let priority = u8::try_from(message.priority)
        .map_err(|_| Failure::invalid("message.priority", format!("is {}; at most 255", message.priority)))?;
    // Also if it is 0, because quorum queues of RabbitMQ 4.3 treat a message without a priority like one of priority 4.
    properties = properties.with_priority(priority);
    if !message.headers.is_empty() {
        properties = properties.with_headers(headers::to_table(&message.headers)?);
    }
    Ok(properties)
}

/// A delivered message as its producer wrote it.
pub(in crate::broker) fn from_amqp(properties: &BasicProperties, body: bytes::Bytes) -> Message {
    let text = |value: &Option<ShortString>| value.as_ref().map_or_else(String::new, ToString::to_string);
    Message {
        body,
        message_id: text(properties.message_id()),
        correlation_id: text(properties.correlation_id()),
        reply_to: text(properties.reply_to()),
        content_type: text(properties.content_type()),
        content_encoding: text(properties.content_encoding()),
        r#type: text(properties.kind()),
        publish_time: properties.timestamp().map(timestamp),
        ttl: properties.expiration().as_ref().and_then(|millis| millis.as_str().parse().ok()).map(|millis: u64| {
            prost_types::Duration {
                seconds: i64::try_from(millis / 1000).unwrap_or(i64::MAX),
                // Below 1,000 times 1,000,000, so it fits.
                nanos: (millis % 1000) as i32 * 1_000_000,
            }
        }),
        priority: properties.priority().unwrap_or_default().into(),
        durability: match properties.delivery_mode() {
            Some(TRANSIENT) => Durability::Transient,
            _ => Durability::Persistent,
        }
        .into(),
        headers: properties.headers().as_ref().map(|table| headers::from_table(table).collect()).unwrap_or_default(),
        app_id: text(properties.app_id()),
    }
}

fn short(field: &'static str, text: &str) -> Result<ShortString, Failure> {
    ShortString::try_new(text)
        .map_err(|_| Failure::invalid(field, format!("has {} bytes; at most 255 are allowed", text.len())))
}

fn millis(field: &'static str, duration: &prost_types::Duration, max: Duration) -> Result<u64, Failure> {
    if duration.seconds < 0 || duration.nanos < 0 {
        return Err(Failure::invalid(field, "must not be negative"));
    }
    if duration.nanos % 1_000_000 != 0 {
        return Err(Failure::invalid(field, "must be in whole milliseconds"));
    }
    // Both are known to be positive here.
    let whole = (duration.seconds as u64).saturating_mul(1_000);
    let millis = whole.saturating_add(u64::from(duration.nanos as u32) / 1_000_000);
    if u128::from(millis) > max.as_millis() {
        return Err(Failure::invalid(field, format!("is longer than {} days", max.as_secs() / 86_400)));
    }
    Ok(millis)
}

#[cfg(test)]
mod tests {
    use proptest::strategy::Strategy as _;

    use super::*;

    #[test]
    fn a_full_message_survives_the_round_trip() {
        let message = Message {
            body: "body".into(),
            message_id: "id".into(),
            correlation_id: "c".into(),
            reply_to: "answers".into(),
            content_type: "text/plain".into(),
            content_encoding: "identity".into(),
            r#type: "t".into(),
            publish_time: Some(timestamp(1_700_000_000)),
            ttl: Some(prost_types::Duration { seconds: 61, nanos: 5_000_000 }),
            priority: 200,
            durability: Durability::Transient.into(),
            app_id: "app".into(),
            ..Message::default()
        };
        let properties = to_amqp(&message, "id", SystemTime::now()).expect("valid");
        assert_eq!(from_amqp(&properties, bytes::Bytes::from_static(b"body")), message);
    }

    #[test]
    fn the_default_priority_is_sent_as_zero() {
        let properties = to_amqp(&Message::default(), "id", SystemTime::now()).expect("valid");
        assert_eq!(*properties.priority(), Some(0));
    }

    #[test]
    fn a_delivered_time_after_the_year_9999_is_the_last_second_of_it() {
        let properties = BasicProperties::default().with_timestamp(u64::MAX);
        let time = from_amqp(&properties, bytes::Bytes::new()).publish_time.expect("a time");
        assert_eq!(time.seconds, 253_402_300_799);
    }

    #[test]
    fn each_bad_property_is_named() {
        let long = "x".repeat(256);
        let cases = [
            ("message.message_id", Message { message_id: long.clone(), ..Message::default() }),
            ("message.type", Message { r#type: long, ..Message::default() }),
            ("message.priority", Message { priority: 256, ..Message::default() }),
            ("message.reply_to", Message { reply_to: "amq.rabbitmq.reply-to".into(), ..Message::default() }),
            ("message.durability", Message { durability: 9, ..Message::default() }),
            (
                "message.ttl",
                Message { ttl: Some(prost_types::Duration { seconds: -1, nanos: 0 }), ..Message::default() },
            ),
            (
                "message.ttl",
                Message {
                    ttl: Some(prost_types::Duration { seconds: i64::MAX, nanos: 999_000_000 }),
                    ..Message::default()
                },
            ),
            (
                "message.publish_time",
                Message {
                    publish_time: Some(prost_types::Timestamp { seconds: 1_700_000_000_000, nanos: 0 }),
                    ..Message::default()
                },
            ),
            (
                "message.publish_time",
                Message { publish_time: Some(prost_types::Timestamp { seconds: 1, nanos: 1 }), ..Message::default() },
            ),
        ];
        for (field, message) in cases {
            let failure = to_amqp(&message, &message.message_id, SystemTime::now()).expect_err(field);
            assert_eq!(failure.field.as_deref(), Some(field));
        }
    }

    proptest::proptest! {
        #[test]
        fn a_time_to_live_is_kept_exactly_or_refused(
            seconds in proptest::prelude::prop_oneof![
                proptest::prelude::Just(i64::MAX), proptest::prelude::Just(i64::MIN),
                i64::MAX - 10..i64::MAX, i64::MAX / 1_000 - 10..i64::MAX / 1_000 + 10,
                -2_i64..400 * 24 * 3_600, proptest::prelude::any::<i64>(),
            ],
            nanos in proptest::prelude::prop_oneof![
                proptest::prelude::Just(0), proptest::prelude::Just(999_000_000), proptest::prelude::Just(i32::MAX),
                proptest::prelude::Just(i32::MIN), (0_i32..1_000).prop_map(|millis| millis * 1_000_000),
                proptest::prelude::any::<i32>(),
            ],
        ) {
            let ttl = prost_types::Duration { seconds, nanos };
            let taken = to_amqp(&Message { ttl: Some(ttl), ..Message::default() }, "id", SystemTime::now());
            let exact = i128::from(seconds) * 1_000 + i128::from(nanos / 1_000_000);
            let is_valid = seconds >= 0 && nanos >= 0 && nanos % 1_000_000 == 0 && exact <= MAX_TTL.as_millis() as i128;
            match taken {
                Ok(properties) => {
                    proptest::prop_assert!(is_valid);
                    let expiration = properties.expiration().as_ref().map(|millis| millis.as_str().parse::<i128>());
                    proptest::prop_assert_eq!(expiration, Some(Ok(exact)));
                }
                Err(failure) => {
                    proptest::prop_assert!(!is_valid);
                    proptest::prop_assert_eq!(failure.field.as_deref(), Some("message.ttl"));
                }
            }
        }
    }
}
