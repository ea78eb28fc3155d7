//! Short constructors for header values.

use std::collections::HashMap;

use warrengate::pb::{self, Value, value::Kind};

pub fn text(text: impl Into<String>) -> Value {
    Value { kind: Some(Kind::StringValue(text.into())) }
}

pub fn int(int: i64) -> Value {
    Value { kind: Some(Kind::IntValue(int)) }
}

pub fn headers<const N: usize>(entries: [(&str, Value); N]) -> HashMap<String, Value> {
    entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// A publication to an exchange.
pub fn to_exchange(exchange: &str, routing_key: &str, body: impl Into<bytes::Bytes>) -> pb::Publication {
    pb::Publication {
        exchange: exchange.into(),
        routing_key: routing_key.into(),
        message: Some(pb::Message { body: body.into(), ..pb::Message::default() }),
        ..pb::Publication::default()
    }
}
