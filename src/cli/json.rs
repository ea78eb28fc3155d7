//! Conversion of API values to JSON: field names as in the protobuf files, enum values in lower case without their
//! prefix, times in RFC 3339, durations in readable form. Unset values are omitted or null.

use std::time::Duration;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Map, Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::pb::{self, value::Kind};

/// An enum value's name without its prefix: `QUEUE_TYPE_QUORUM` is `quorum`.
pub(super) fn short(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).trim_start_matches('_').to_ascii_lowercase()
}

/// A time in RFC 3339, in UTC, to the millisecond. RFC 3339 ends with the year 9999; messages that did not pass
/// through the gateway may have other values, which are shown in seconds since 1970.
pub(super) fn time(moment: Option<prost_types::Timestamp>) -> Option<String> {
    let moment = moment?;
    let nanos = u32::try_from(moment.nanos).unwrap_or_default().min(999_999_999);
    let exact = OffsetDateTime::from_unix_timestamp(moment.seconds).ok();
    let exact = exact.and_then(|time| time.replace_nanosecond(nanos / 1_000_000 * 1_000_000).ok());
    let text = exact.and_then(|time| time.format(&Rfc3339).ok());
    Some(text.unwrap_or_else(|| format!("{} seconds since 1970", moment.seconds)))
}

pub(super) fn length(duration: Option<prost_types::Duration>) -> Option<String> {
    let duration = Duration::try_from(duration?).ok()?;
    Some(humantime::format_duration(duration).to_string())
}

pub(super) fn tenant(tenant: &pb::Tenant) -> Value {
    json!({
        "id": tenant.id,
        "display_name": tenant.display_name,
        "plan": tenant.plan,
        "state": short(tenant.state().as_str_name(), "TENANT_STATE"),
        "created": time(tenant.created),
    })
}

pub(super) fn audit(event: &pb::AuditEvent) -> Value {
    json!({
        "id": event.id,
        "time": time(event.time),
        "client_id": event.client_id,
        "peer_address": event.peer_address,
        "method": event.method,
        "tenant": event.tenant,
        "object": event.object,
        "rule": event.rule,
        "outcome": event.outcome,
        "times": event.times,
        "trace_id": event.trace_id,
    })
}

pub(super) fn plan(plan: &pb::Plan) -> Value {
    json!({
        "name": plan.name,
        "max_connections": plan.max_connections,
        "max_queues": plan.max_queues,
        "max_message_bytes": plan.max_message_bytes,
        "max_streams": plan.max_streams,
        "max_in_flight_messages": plan.max_in_flight_messages,
        "max_in_flight_bytes": plan.max_in_flight_bytes,
        "max_exchanges": plan.max_exchanges,
        "max_bindings": plan.max_bindings,
        "max_clients": plan.max_clients,
        "max_publish_messages_per_second": plan.max_publish_messages_per_second,
        "publish_messages_burst": plan.publish_messages_burst,
        "max_publish_bytes_per_second": plan.max_publish_bytes_per_second,
        "publish_bytes_burst": plan.publish_bytes_burst,
        "max_stored_messages": plan.max_stored_messages,
        "max_stored_bytes": plan.max_stored_bytes,
        "max_message_ttl": length(plan.max_message_ttl),
        "queue_expires": length(plan.queue_expires),
        "sampling_ratio": plan.sampling_ratio,
    })
}

pub(super) fn grants(grants: Option<&pb::Grants>) -> Value {
    let Some(grants) = grants else { return Value::Null };
    let publish = |grant: &pb::PublishGrant| json!({"exchange": grant.exchange, "routing_key": grant.routing_key});
    json!({
        "publish": grants.publish.iter().map(publish).collect::<Vec<_>>(),
        "subscribe": grants.subscribe,
        "configure": grants.configure,
        "administer": grants.administer,
        "observe": grants.observe,
    })
}

pub(super) fn client(client: &pb::Client) -> Value {
    json!({
        "client_id": client.client_id,
        "display_name": client.display_name,
        "grants": grants(client.grants.as_ref()),
        "revoked": client.revoked,
        "created": time(client.created),
        "issuer": client.issuer,
        "external_id": client.external_id,
    })
}

pub(super) fn exchange(exchange: &pb::Exchange) -> Value {
    json!({
        "name": exchange.name,
        "type": short(exchange.r#type().as_str_name(), "EXCHANGE_TYPE"),
        "auto_delete": exchange.auto_delete,
        "internal": exchange.internal,
        "alternate_exchange": exchange.alternate_exchange,
    })
}

pub(super) fn queue(queue: &pb::Queue, status: Option<&pb::QueueStatus>) -> Value {
    let status = status.map(|status| {
        json!({
            "messages_ready": status.messages_ready,
            "messages_unacknowledged": status.messages_unacknowledged,
            "consumers": status.consumers,
            "publish_rate": status.publish_rate,
            "deliver_rate": status.deliver_rate,
        })
    });
    json!({
        "name": queue.name,
        "type": short(queue.r#type().as_str_name(), "QUEUE_TYPE"),
        "max_length": queue.max_length,
        "max_length_bytes": queue.max_length_bytes,
        "message_ttl": length(queue.message_ttl),
        "expires": length(queue.expires),
        "max_delivery_attempts": queue.max_delivery_attempts,
        "retry_policy": queue.retry_policy.as_ref().map(retry_policy),
        "max_priority": queue.max_priority,
        "single_active_consumer": queue.single_active_consumer,
        "max_age": length(queue.max_age),
        "stream_max_segment_bytes": queue.stream_max_segment_bytes,
        "status": status,
    })
}

fn retry_policy(policy: &pb::RetryPolicy) -> Value {
    json!({
        "min_backoff": length(policy.min_backoff),
        "max_backoff": length(policy.max_backoff),
        "multiplier": policy.multiplier,
        "jitter": policy.jitter,
    })
}

pub(super) fn binding(binding: &pb::Binding) -> Value {
    json!({
        "source": binding.source,
        "destination": binding.destination,
        "destination_type": short(binding.destination_type().as_str_name(), "DESTINATION_TYPE"),
        "routing_key": binding.routing_key,
        "headers": table(&binding.headers),
        "headers_match": short(binding.headers_match().as_str_name(), "HEADERS_MATCH"),
    })
}

pub(super) fn publish_result(result: &pb::PublishResult) -> Value {
    json!({
        "outcome": short(result.outcome().as_str_name(), "OUTCOME"),
        "message_id": result.message_id,
        "reason": result.reason,
        "trace_id": result.trace_id,
        "retry_after": length(result.retry_after),
    })
}

/// A delivery with its message. The body is in `body` if it is UTF-8, and in `body_base64` otherwise.
pub(super) fn delivery(details: &pb::Delivery, message: &pb::Message) -> Value {
    let own = json!({
        "exchange": details.exchange,
        "routing_key": details.routing_key,
        "redelivered": details.redelivered,
        "attempt": details.attempt,
        "stream_offset": details.stream_offset,
    });
    with_message(own, message)
}

/// A dead letter with its message.
pub(super) fn dead_letter(letter: &pb::DeadLetter) -> Value {
    let own = json!({
        "dead_letter_id": letter.dead_letter_id,
        "queue": letter.queue,
        "exchange": letter.exchange,
        "routing_key": letter.routing_key,
        "code": letter.code,
        "reason": letter.reason,
        "attempts": letter.attempts,
        "first_failure": time(letter.first_failure),
        "last_failure": time(letter.last_failure),
        "died": time(letter.died),
        "redrives": letter.redrives,
    });
    with_message(own, &letter.message.clone().unwrap_or_default())
}

fn with_message(mut object: Value, message: &pb::Message) -> Value {
    let properties = json!({
        "message_id": message.message_id,
        "correlation_id": message.correlation_id,
        "reply_to": message.reply_to,
        "content_type": message.content_type,
        "content_encoding": message.content_encoding,
        "type": message.r#type,
        "app_id": message.app_id,
        "publish_time": time(message.publish_time),
        "ttl": length(message.ttl),
        "priority": message.priority,
        "durability": short(message.durability().as_str_name(), "DURABILITY"),
        "headers": table(&message.headers),
    });
    if let (Value::Object(object), Value::Object(properties)) = (&mut object, properties) {
        object.extend(properties);
    }
    match std::str::from_utf8(&message.body) {
        Ok(text) => object["body"] = text.into(),
        Err(_) => object["body_base64"] = BASE64_STANDARD.encode(&message.body).into(),
    }
    object
}

/// Header values: native JSON values where possible, bytes as `{"base64": ...}`, times as `{"time": ...}`.
pub(super) fn value(value: &pb::Value) -> Value {
    match &value.kind {
        Some(Kind::StringValue(text)) => text.as_str().into(),
        Some(Kind::IntValue(number)) => (*number).into(),
        Some(Kind::DoubleValue(number)) => (*number).into(),
        Some(Kind::BoolValue(truth)) => (*truth).into(),
        Some(Kind::BytesValue(bytes)) => json!({"base64": BASE64_STANDARD.encode(bytes)}),
        Some(Kind::TimestampValue(moment)) => json!({"time": time(Some(*moment))}),
        Some(Kind::ListValue(list)) => list.values.iter().map(self::value).collect(),
        Some(Kind::TableValue(entries)) => table(&entries.entries),
        Some(Kind::NullValue(_)) | None => Value::Null,
    }
}

fn table(entries: &std::collections::HashMap<String, pb::Value>) -> Value {
    // serde_json's map sorts its keys, so that the same table always has the same text.
    entries.iter().map(|(name, entry)| (name.clone(), value(entry))).collect::<Map<_, _>>().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::values::header;

    #[test]
    fn names_are_short_and_times_readable() {
        let queue = pb::Queue {
            name: "orders".into(),
            r#type: pb::QueueType::Stream.into(),
            max_age: Some(prost_types::Duration { seconds: 5_400, nanos: 0 }),
            ..Default::default()
        };
        let json = self::queue(&queue, None);
        assert_eq!(
            (&json["type"], &json["max_age"], &json["status"]),
            (&json!("stream"), &json!("1h 30m"), &Value::Null)
        );
        let created = Some(prost_types::Timestamp { seconds: 0, nanos: 0 });
        let tenant = pb::Tenant { state: pb::TenantState::Active.into(), created, ..Default::default() };
        let json = self::tenant(&tenant);
        assert_eq!((&json["state"], &json["created"]), (&json!("active"), &json!("1970-01-01T00:00:00Z")));
    }

    #[test]
    fn times_have_milliseconds_and_every_number_can_be_shown() {
        let shown = |seconds, nanos| time(Some(prost_types::Timestamp { seconds, nanos })).expect("shown");
        assert_eq!(shown(0, 615_999_999), "1970-01-01T00:00:00.615Z");
        assert_eq!(shown(-1, 0), "1969-12-31T23:59:59Z");
        assert_eq!(shown(253_402_300_799, 0), "9999-12-31T23:59:59Z");
        assert_eq!(shown(253_402_300_800, 0), "253402300800 seconds since 1970");
        assert_eq!(shown(1_700_000_000_000, -1), "1700000000000 seconds since 1970");
        assert_eq!(shown(i64::MIN, i32::MAX), format!("{} seconds since 1970", i64::MIN));
    }

    #[test]
    fn header_values_keep_their_kinds() {
        let shown = |text| value(&header(text).expect("valid").1);
        assert_eq!(shown("a=3"), json!("3"));
        assert_eq!(shown("a:int=3"), json!(3));
        assert_eq!(shown("a:base64=AAE="), json!({"base64": "AAE="}));
        assert_eq!(shown("a:time=1970-01-01T00:00:00Z"), json!({"time": "1970-01-01T00:00:00Z"}));
        assert_eq!(shown("a:null="), Value::Null);
    }
}
