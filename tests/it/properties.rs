//! Message properties and headers arrive unchanged.

use std::collections::HashMap;

use warrengate::{
    client::SubscribeOptions,
    pb::{self, Durability, Message, Outcome, QueueType, Value, ValueList, ValueTable, value::Kind},
};

use crate::harness::{
    Tenant, to_queue,
    values::{headers, int, text},
    wait::within,
};

const KINDS: [(&str, QueueType); 3] =
    [("quorum", QueueType::Quorum), ("classic", QueueType::Classic), ("stream", QueueType::Stream)];

fn value(kind: Kind) -> Value {
    Value { kind: Some(kind) }
}

fn time(seconds: i64) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds, nanos: 0 }
}

/// A message with every property.
fn full() -> Message {
    Message {
        body: vec![0, 255, 1, 128].into(),
        message_id: "order-1".into(),
        correlation_id: "request-1".into(),
        reply_to: "answers".into(),
        content_type: "application/json".into(),
        content_encoding: "gzip".into(),
        r#type: "order.created".into(),
        publish_time: Some(time(1_700_000_000)),
        ttl: Some(prost_types::Duration { seconds: 3_600, nanos: 7_000_000 }),
        priority: 7,
        durability: Durability::Transient.into(),
        headers: every_kind(),
        app_id: "shop".into(),
    }
}

/// Headers of every type with boundary values.
fn every_kind() -> HashMap<String, Value> {
    let list = vec![text("a"), int(-1), value(Kind::BoolValue(true)), value(Kind::NullValue(0))];
    let table =
        ValueTable { entries: headers([("inner", value(Kind::ListValue(ValueList { values: list.clone() })))]) };
    headers([
        ("text", text("grüße, 世界")),
        ("empty text", text("")),
        ("zero", int(0)),
        ("small", int(-3)),
        ("largest", int(i64::MAX)),
        ("smallest", int(i64::MIN)),
        ("double", value(Kind::DoubleValue(-1.25e-300))),
        ("negative zero", value(Kind::DoubleValue(-0.0))),
        ("true", value(Kind::BoolValue(true))),
        ("false", value(Kind::BoolValue(false))),
        ("bytes", value(Kind::BytesValue(vec![0, 159, 146, 150].into()))),
        ("utf-8 bytes", value(Kind::BytesValue("plain".into()))),
        ("moment", value(Kind::TimestampValue(time(1_600_000_000)))),
        ("list", value(Kind::ListValue(ValueList { values: list }))),
        ("empty list", value(Kind::ListValue(ValueList::default()))),
        ("table", value(Kind::TableValue(table))),
        ("empty table", value(Kind::TableValue(ValueTable::default()))),
        ("nothing", value(Kind::NullValue(0))),
    ])
}

/// The message as a queue of this type stores it. A stream stores AMQP 1.0, whose application properties are simple
/// values.
fn as_stored_by(kind: QueueType, mut message: Message) -> Message {
    if kind == QueueType::Stream {
        message.headers.retain(|_, value| !matches!(value.kind, Some(Kind::ListValue(_) | Kind::TableValue(_))));
    }
    message
}

/// Publishes a message to a queue of this type and returns the delivered one.
async fn through(tenant: &Tenant, (name, kind): (&str, QueueType), message: Message) -> Message {
    tenant.queue_typed(name, kind).await;
    let publication =
        pb::Publication { routing_key: name.into(), message: Some(message), ..pb::Publication::default() };
    tenant.publish(publication).await;
    let options = SubscribeOptions::queue(name);
    let options = if kind == QueueType::Stream { options.from_last() } else { options };
    let mut subscription = within("a subscription", tenant.client.subscribe(options)).await.unwrap();
    let delivery = within("the message", subscription.next()).await.unwrap().unwrap();
    assert_eq!((delivery.details().exchange.as_str(), delivery.details().routing_key.as_str()), ("", name));
    subscription.ack(&delivery).unwrap();
    subscription.close().await.unwrap();
    delivery.into_message()
}

/// Whether one value is text with the bytes of the other.
fn is_same_text(text: &Value, bytes: &Value) -> bool {
    use warrengate::pb::value::Kind::{BytesValue, StringValue};
    match (&text.kind, &bytes.kind) {
        (Some(StringValue(text)), Some(BytesValue(bytes))) => text.as_bytes() == bytes,
        _ => false,
    }
}

#[tokio::test]
async fn every_property_and_header_is_preserved_except_lists_and_tables_in_a_stream() {
    let tenant = Tenant::fresh().await;
    for kind in KINDS {
        let got = through(&tenant, kind, full()).await;
        let mut expected = as_stored_by(kind.1, full());
        if kind.1 == QueueType::Stream {
            // RabbitMQ 4 does not distinguish bytes from text in a stream; 3.10 does. Both are documented.
            for (name, value) in &mut expected.headers {
                if let Some(got) = got.headers.get(name).filter(|got| is_same_text(got, value)) {
                    *value = got.clone();
                }
            }
        }
        for (name, value) in &expected.headers {
            assert_eq!(got.headers.get(name), Some(value), "header {name:?} of a {} queue", kind.0);
        }
        assert_eq!(got, expected, "{} queue", kind.0);
    }
}

#[tokio::test]
async fn unset_properties_stay_unset_except_the_id_and_the_time() {
    let tenant = Tenant::fresh().await;
    for kind in KINDS {
        let got = through(&tenant, kind, Message::default()).await;
        assert!(uuid::Uuid::parse_str(&got.message_id).is_ok_and(|id| id.get_version_num() == 7), "{got:?}");
        assert!(got.publish_time.is_some_and(|time| time.seconds > 1_700_000_000));
        let rest = Message { message_id: String::new(), publish_time: None, ..got };
        let expected = Message { durability: Durability::Persistent.into(), ..Message::default() };
        assert_eq!(rest, expected, "{} queue", kind.0);
    }
}

#[tokio::test]
async fn a_body_of_4_mib_is_preserved() {
    let tenant = Tenant::fresh().await;
    // Not constant, so that a misplaced part is detected.
    let body: bytes::Bytes = (0..4_000_000).map(|i: u32| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect::<Vec<_>>().into();
    for kind in KINDS {
        let got = through(&tenant, kind, Message { body: body.clone(), ..Message::default() }).await;
        assert!(got.body == body, "{} queue: {} bytes", kind.0, got.body.len());
    }
}

#[tokio::test]
async fn headers_of_64_kib_are_preserved_and_one_byte_more_is_refused() {
    let tenant = Tenant::fresh().await;
    // Each header counts its name, its content and 8 bytes.
    let most = |more: usize| headers([("h", text("x".repeat(64 * 1024 - 9 + more)))]);
    for kind in KINDS {
        let got = through(&tenant, kind, Message { headers: most(0), ..Message::default() }).await;
        assert!(got.headers == most(0), "{} queue", kind.0);
    }
    let message = Message { headers: most(1), ..Message::default() };
    let publication =
        pb::Publication { routing_key: "quorum".into(), message: Some(message), ..pb::Publication::default() };
    let results = tenant.client.publish_batch(vec![publication]).await.unwrap();
    assert_eq!(results[0].outcome(), Outcome::Rejected);
    assert!(results[0].reason.contains("message.headers: the headers are larger than 64 KiB"), "{}", results[0].reason);
}

#[tokio::test]
async fn a_thousand_headers_are_preserved() {
    let tenant = Tenant::fresh().await;
    let many: HashMap<_, _> = (0..1_000).map(|i| (format!("h{i}"), int(i))).collect();
    for kind in KINDS {
        let got = through(&tenant, kind, Message { headers: many.clone(), ..Message::default() }).await;
        assert!(got.headers == many, "{} queue: {} headers", kind.0, got.headers.len());
    }
}

#[tokio::test]
async fn a_number_that_is_not_finite_is_refused_without_effect_on_others() {
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    for double in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let headers = headers([("ratio", value(Kind::DoubleValue(double)))]);
        let message = Some(Message { headers, ..Message::default() });
        let odd = pb::Publication { routing_key: "jobs".into(), message, ..pb::Publication::default() };
        let outcomes = tenant.outcomes(vec![odd, to_queue("jobs", "even")]).await;
        assert_eq!(outcomes, [Outcome::Rejected, Outcome::Confirmed]);
    }
}
