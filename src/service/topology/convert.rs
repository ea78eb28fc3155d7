//! Conversion of topology between protobuf, the broker's specifications and the management API's answers.
//!
//! Invariant: a specification made of a request is within the limits. A property that the type of a queue does not
//! support is refused by name, because the broker would ignore it.

use std::time::Duration;

use serde_json::{Map, Value as Json};

use crate::{
    broker::{
        BindingSpec, Destination, ExchangeKind, ExchangeSpec, QueueKind, QueueSpec, RetryPolicy,
        TYPED_HEADERS_ARGUMENT, headers_from_text,
    },
    error::Failure,
    names::{self, ExchangeName, QueueName, RoutingKey},
    pb::{self, DestinationType, ExchangeType, HeadersMatch, QueueType, value::Kind},
    provision::{BindingInfo, ExchangeInfo, QueueInfo},
};

const MAX_MS: i64 = 366 * 24 * 3600 * 1000;

/// Adds the name of the request's field to the error of a name.
pub(super) trait Named<T> {
    fn named(self, field: &'static str) -> Result<T, Failure>;
}

impl<T> Named<T> for Result<T, names::Error> {
    fn named(self, field: &'static str) -> Result<T, Failure> {
        self.map_err(|error| Failure::from(error).on_field(field))
    }
}

/// `None` for an empty text.
pub(super) fn optional<T>(
    text: &str,
    parse: impl FnOnce(&str) -> Result<T, names::Error>,
) -> Result<Option<T>, names::Error> {
    if text.is_empty() { Ok(None) } else { parse(text).map(Some) }
}

pub(super) fn exchange_spec(exchange: Option<pb::Exchange>) -> Result<ExchangeSpec, Failure> {
    let exchange = exchange.ok_or_else(|| Failure::invalid("exchange", "is required"))?;
    let kind = match ExchangeType::try_from(exchange.r#type) {
        Ok(ExchangeType::Direct) => ExchangeKind::Direct,
        Ok(ExchangeType::Topic) => ExchangeKind::Topic,
        Ok(ExchangeType::Fanout) => ExchangeKind::Fanout,
        Ok(ExchangeType::Headers) => ExchangeKind::Headers,
        _ => return Err(Failure::invalid("exchange.type", "must be DIRECT, TOPIC, FANOUT or HEADERS")),
    };
    Ok(ExchangeSpec {
        name: ExchangeName::own(&exchange.name).named("exchange.name")?,
        kind,
        auto_delete: exchange.auto_delete,
        internal: exchange.internal,
        alternate: optional(&exchange.alternate_exchange, ExchangeName::own).named("exchange.alternate_exchange")?,
    })
}

pub(super) fn exchange(spec: &ExchangeSpec) -> pb::Exchange {
    let kind = match spec.kind {
        ExchangeKind::Direct => ExchangeType::Direct,
        ExchangeKind::Topic => ExchangeType::Topic,
        ExchangeKind::Fanout => ExchangeType::Fanout,
        ExchangeKind::Headers => ExchangeType::Headers,
    };
    pb::Exchange {
        name: spec.name.to_string(),
        r#type: kind.into(),
        auto_delete: spec.auto_delete,
        internal: spec.internal,
        alternate_exchange: spec.alternate.as_ref().map(ToString::to_string).unwrap_or_default(),
    }
}

pub(super) fn exchange_entry(info: &ExchangeInfo) -> pb::Exchange {
    let kind = match info.kind.as_str() {
        "direct" => ExchangeType::Direct,
        "topic" => ExchangeType::Topic,
        "fanout" => ExchangeType::Fanout,
        "headers" => ExchangeType::Headers,
        _ => ExchangeType::Unspecified,
    };
    pb::Exchange {
        name: info.name.clone(),
        r#type: kind.into(),
        auto_delete: info.auto_delete,
        internal: info.internal,
        alternate_exchange: info.alternate.clone().unwrap_or_default(),
    }
}

pub(super) fn queue_spec(queue: Option<pb::Queue>) -> Result<QueueSpec, Failure> {
    let queue = queue.ok_or_else(|| Failure::invalid("queue", "is required"))?;
    let kind = match QueueType::try_from(queue.r#type) {
        Ok(QueueType::Unspecified | QueueType::Quorum) => QueueKind::Quorum,
        Ok(QueueType::Classic) => QueueKind::Classic,
        Ok(QueueType::Stream) => QueueKind::Stream,
        Err(_) => return Err(Failure::invalid("queue.type", "must be QUORUM, CLASSIC or STREAM")),
    };
    let (stream, classic) = (kind == QueueKind::Stream, kind == QueueKind::Classic);
    let only = |field, given: bool, fits: bool, text| match given && !fits {
        true => Err(Failure::invalid(field, text)),
        false => Ok(()),
    };
    let not_streams = "is not supported by stream queues";
    let only_streams = "is only supported by stream queues";
    only("queue.max_length", queue.max_length != 0, !stream, not_streams)?;
    only("queue.message_ttl", queue.message_ttl.is_some(), !stream, not_streams)?;
    only("queue.expires", queue.expires.is_some(), !stream, not_streams)?;
    only("queue.max_delivery_attempts", queue.max_delivery_attempts != 0, !stream, not_streams)?;
    only("queue.retry_policy", queue.retry_policy.is_some(), !stream, not_streams)?;
    only("queue.max_priority", queue.max_priority != 0, classic, "is only supported by classic queues")?;
    only("queue.single_active_consumer", queue.single_active_consumer, !stream, not_streams)?;
    only("queue.max_age", queue.max_age.is_some(), stream, only_streams)?;
    only("queue.stream_max_segment_bytes", queue.stream_max_segment_bytes != 0, stream, only_streams)?;
    if queue.max_priority > 10 {
        return Err(Failure::invalid("queue.max_priority", "must be from 0 to 10"));
    }
    let segment = number("queue.stream_max_segment_bytes", queue.stream_max_segment_bytes)?;
    if segment.is_some_and(|bytes| !(1 << 20..=3 << 30).contains(&bytes)) {
        return Err(Failure::invalid("queue.stream_max_segment_bytes", "must be from 1 MiB to 3 GiB"));
    }
    let max_age = millis("queue.max_age", queue.max_age, 1_000)?;
    if max_age.is_some_and(|millis| millis % 1_000 != 0) {
        return Err(Failure::invalid("queue.max_age", "must be in whole seconds"));
    }
    Ok(QueueSpec {
        name: QueueName::parse(&queue.name).named("queue.name")?,
        kind,
        max_length: number("queue.max_length", queue.max_length)?,
        max_length_bytes: number("queue.max_length_bytes", queue.max_length_bytes)?,
        message_ttl: millis("queue.message_ttl", queue.message_ttl, 0)?,
        expires: millis("queue.expires", queue.expires, 1_000)?,
        retry: if stream { None } else { Some(retry(queue.max_delivery_attempts, queue.retry_policy)?) },
        max_priority: (queue.max_priority != 0).then(|| queue.max_priority.into()),
        single_active_consumer: queue.single_active_consumer,
        max_age: max_age.map(|millis| millis / 1_000),
        stream_max_segment_bytes: segment,
    })
}

fn number(field: &'static str, value: u64) -> Result<Option<i64>, Failure> {
    match i64::try_from(value) {
        Ok(0) => Ok(None),
        Ok(value) => Ok(Some(value)),
        Err(_) => Err(Failure::invalid(field, "is too large")),
    }
}

fn millis(field: &'static str, value: Option<prost_types::Duration>, least: i64) -> Result<Option<i64>, Failure> {
    let Some(value) = value else { return Ok(None) };
    if value.nanos % 1_000_000 != 0 {
        return Err(Failure::invalid(field, "must be in whole milliseconds"));
    }
    let millis = value.seconds.saturating_mul(1_000).saturating_add(i64::from(value.nanos / 1_000_000));
    if !(least..=MAX_MS).contains(&millis) {
        return Err(Failure::invalid(field, format!("must be from {least} ms to 366 days")));
    }
    Ok(Some(millis))
}

fn duration(millis: i64) -> prost_types::Duration {
    // Always below a second, so it fits.
    prost_types::Duration { seconds: millis / 1_000, nanos: (millis % 1_000) as i32 * 1_000_000 }
}

fn retry(attempts: u32, policy: Option<pb::RetryPolicy>) -> Result<RetryPolicy, Failure> {
    let pb::RetryPolicy { min_backoff, max_backoff, multiplier, jitter } = policy.unwrap_or_default();
    let given = |field: &'static str, value: Option<prost_types::Duration>| {
        let millis = millis(field, value, 0)?;
        Ok::<_, Failure>(millis.and_then(|millis| u64::try_from(millis).ok()).map(Duration::from_millis))
    };
    let min = given("queue.retry_policy.min_backoff", min_backoff)?;
    let max = given("queue.retry_policy.max_backoff", max_backoff)?;
    let policy = RetryPolicy::default().with_backoff(min, max, multiplier, jitter)?;
    if attempts == 0 { Ok(policy) } else { policy.with_max_attempts(attempts) }
}

fn retry_entry(policy: &RetryPolicy) -> pb::RetryPolicy {
    // At most a day.
    let short = |time: Duration| duration(i64::try_from(time.as_millis()).unwrap_or(i64::MAX));
    pb::RetryPolicy {
        min_backoff: Some(short(policy.min_backoff())),
        max_backoff: Some(short(policy.max_backoff())),
        multiplier: Some(policy.multiplier()),
        jitter: Some(policy.jitter()),
    }
}

pub(super) fn queue(spec: &QueueSpec) -> pb::Queue {
    let kind = match spec.kind {
        QueueKind::Quorum => QueueType::Quorum,
        QueueKind::Classic => QueueType::Classic,
        QueueKind::Stream => QueueType::Stream,
    };
    let count = |value: Option<i64>| value.and_then(|value| u64::try_from(value).ok()).unwrap_or_default();
    let small = |value: Option<i64>| value.and_then(|value| u32::try_from(value).ok()).unwrap_or_default();
    pb::Queue {
        name: spec.name.to_string(),
        r#type: kind.into(),
        max_length: count(spec.max_length),
        max_length_bytes: count(spec.max_length_bytes),
        message_ttl: spec.message_ttl.map(duration),
        expires: spec.expires.map(duration),
        max_delivery_attempts: spec.retry.map_or(0, |policy| policy.max_attempts()),
        retry_policy: spec.retry.as_ref().map(retry_entry),
        max_priority: small(spec.max_priority),
        single_active_consumer: spec.single_active_consumer,
        max_age: spec.max_age.map(|seconds| duration(seconds * 1_000)),
        stream_max_segment_bytes: count(spec.stream_max_segment_bytes),
    }
}

pub(super) fn queue_entry(info: &QueueInfo) -> (pb::Queue, pb::QueueStatus) {
    let kind = match info.queue_type.as_str() {
        "quorum" => QueueType::Quorum,
        "classic" => QueueType::Classic,
        "stream" => QueueType::Stream,
        _ => QueueType::Unspecified,
    };
    let argument = |name: &str| info.arguments.get(name).and_then(Json::as_i64);
    let count = |name: &str| argument(name).and_then(|value| u64::try_from(value).ok()).unwrap_or_default();
    let small = |value: Option<i64>| value.and_then(|value| u32::try_from(value).ok()).unwrap_or_default();
    let policy = (kind != QueueType::Stream).then(|| info.retry_policy());
    let max_age = info.arguments.get("x-max-age").and_then(Json::as_str).and_then(|text| text.strip_suffix('s'));
    let queue = pb::Queue {
        name: info.name.clone(),
        r#type: kind.into(),
        max_length: count("x-max-length"),
        max_length_bytes: count("x-max-length-bytes"),
        message_ttl: argument("x-message-ttl").map(duration),
        expires: argument("x-expires").map(duration),
        max_delivery_attempts: policy.map_or(0, |policy| policy.max_attempts()),
        retry_policy: policy.as_ref().map(retry_entry),
        max_priority: small(argument("x-max-priority")),
        single_active_consumer: info.arguments.get("x-single-active-consumer") == Some(&Json::Bool(true)),
        max_age: max_age.and_then(|text| text.parse::<i64>().ok()).map(|seconds| duration(seconds * 1_000)),
        stream_max_segment_bytes: count("x-stream-max-segment-size-bytes"),
    };
    let status = pb::QueueStatus {
        messages_ready: info.messages_ready,
        messages_unacknowledged: info.messages_unacknowledged,
        consumers: info.consumers,
        publish_rate: info.publish_rate,
        deliver_rate: info.deliver_rate,
    };
    (queue, status)
}

pub(super) fn binding_spec(binding: Option<pb::Binding>) -> Result<BindingSpec, Failure> {
    let binding = binding.ok_or_else(|| Failure::invalid("binding", "is required"))?;
    let source = ExchangeName::parse(&binding.source).named("binding.source")?;
    if source.is_default() {
        return Err(Failure::invalid("binding.source", "is required; the default exchange cannot be bound"));
    }
    let destination = match DestinationType::try_from(binding.destination_type) {
        Ok(DestinationType::Unspecified | DestinationType::Queue) => {
            Destination::Queue(QueueName::parse(&binding.destination).named("binding.destination")?)
        }
        Ok(DestinationType::Exchange) => {
            Destination::Exchange(ExchangeName::own(&binding.destination).named("binding.destination")?)
        }
        Err(_) => return Err(Failure::invalid("binding.destination_type", "must be QUEUE or EXCHANGE")),
    };
    let any = match HeadersMatch::try_from(binding.headers_match) {
        Ok(HeadersMatch::Unspecified | HeadersMatch::All) => false,
        Ok(HeadersMatch::Any) => true,
        Err(_) => return Err(Failure::invalid("binding.headers_match", "must be ALL or ANY")),
    };
    let key = RoutingKey::parse(&binding.routing_key).named("binding.routing_key")?;
    BindingSpec::new(source, destination, key, &binding.headers, any)
}

pub(super) fn binding_entry(info: &BindingInfo) -> pb::Binding {
    let kind = if info.destination_is_queue { DestinationType::Queue } else { DestinationType::Exchange };
    let headers_match = match info.arguments.get("x-match").and_then(Json::as_str) {
        Some("all") => HeadersMatch::All,
        Some("any") => HeadersMatch::Any,
        _ => HeadersMatch::Unspecified,
    };
    let typed = info.arguments.get(TYPED_HEADERS_ARGUMENT).and_then(Json::as_str).and_then(headers_from_text);
    pb::Binding {
        source: info.source.clone(),
        destination: info.destination.clone(),
        destination_type: kind.into(),
        routing_key: info.routing_key.clone(),
        headers: typed.unwrap_or_else(|| {
            values(&info.arguments).filter(|(name, _)| name != "x-match" && name != TYPED_HEADERS_ARGUMENT).collect()
        }),
        headers_match: headers_match.into(),
    }
}

/// Whether a binding of the broker equals the requested one.
pub(super) fn is_same_binding(existing: &BindingInfo, requested: &pb::Binding) -> bool {
    let existing = binding_entry(existing);
    existing.routing_key == requested.routing_key && existing.headers == requested.headers
}

/// Values of bindings that did not come through a gateway: JSON has no timestamps and no bytes.
fn values(map: &Map<String, Json>) -> impl Iterator<Item = (String, pb::Value)> {
    map.iter().map(|(name, value)| (name.clone(), from_json(value)))
}

fn from_json(value: &Json) -> pb::Value {
    let kind = match value {
        Json::Null => Kind::NullValue(0),
        Json::Bool(truth) => Kind::BoolValue(*truth),
        Json::Number(number) => match number.as_i64() {
            Some(int) => Kind::IntValue(int),
            None => Kind::DoubleValue(number.as_f64().unwrap_or_default()),
        },
        Json::String(text) => Kind::StringValue(text.clone()),
        Json::Array(values) => Kind::ListValue(pb::ValueList { values: values.iter().map(from_json).collect() }),
        Json::Object(map) => Kind::TableValue(pb::ValueTable { entries: values(map).collect() }),
    };
    pb::Value { kind: Some(kind) }
}
