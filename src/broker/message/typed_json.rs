//! Headers as JSON that keeps the type of each value. The broker lists the arguments of a binding as plain JSON, in
//! which timestamps are numbers, bytes are strings, and RabbitMQ 3.10 writes a null as a string. A binding with such
//! values therefore gets this text as one more argument, so that it can be listed and removed with exactly the values
//! with which it was declared.

use std::collections::HashMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use lapin::types::{AMQPValue, FieldTable};
use serde_json::{Map, Value as Json, json};

use crate::pb::{Value, ValueList, ValueTable, value::Kind};

/// The text, if plain JSON would lose a type. Equal tables have equal texts.
pub(in crate::broker) fn text_if_needed(table: &FieldTable) -> Option<String> {
    let loses_a_type = table.inner().values().any(loses_its_type);
    loses_a_type.then(|| Json::Object(entries(table)).to_string())
}

/// Reads the text; `None` if it is not such a text.
pub fn headers_from_text(text: &str) -> Option<HashMap<String, Value>> {
    let Json::Object(entries) = serde_json::from_str(text).ok()? else { return None };
    entries.into_iter().map(|(name, value)| Some((name, parse(value)?))).collect()
}

fn loses_its_type(value: &AMQPValue) -> bool {
    match value {
        AMQPValue::ByteArray(_) | AMQPValue::Timestamp(_) | AMQPValue::Double(_) | AMQPValue::Void => true,
        AMQPValue::FieldArray(values) => values.as_slice().iter().any(loses_its_type),
        AMQPValue::FieldTable(table) => table.inner().values().any(loses_its_type),
        _ => false,
    }
}

fn entries(table: &FieldTable) -> Map<String, Json> {
    table.inner().iter().map(|(name, value)| (name.to_string(), typed(value))).collect()
}

/// A pair of type and value. Only the types that the API has occur here.
fn typed(value: &AMQPValue) -> Json {
    match value {
        AMQPValue::Boolean(value) => json!(["bool", value]),
        AMQPValue::LongLongInt(value) => json!(["int", value]),
        // As bits, so that every number is read exactly as it was written.
        AMQPValue::Double(value) => json!(["double", value.to_bits()]),
        AMQPValue::LongString(value) => json!(["string", value.to_string()]),
        AMQPValue::ByteArray(value) => json!(["bytes", STANDARD.encode(value.as_slice())]),
        AMQPValue::Timestamp(value) => json!(["time", value]),
        AMQPValue::FieldArray(values) => json!(["list", values.as_slice().iter().map(typed).collect::<Vec<_>>()]),
        AMQPValue::FieldTable(table) => json!(["table", entries(table)]),
        _ => json!(["null", null]),
    }
}

fn parse(typed: Json) -> Option<Value> {
    let Json::Array(pair) = typed else { return None };
    let [Json::String(kind), value] = <[Json; 2]>::try_from(pair).ok()? else { return None };
    let kind = match (kind.as_str(), value) {
        ("bool", Json::Bool(value)) => Kind::BoolValue(value),
        ("int", value) => Kind::IntValue(value.as_i64()?),
        ("double", value) => Kind::DoubleValue(f64::from_bits(value.as_u64()?)),
        ("string", Json::String(value)) => Kind::StringValue(value),
        ("bytes", Json::String(value)) => Kind::BytesValue(STANDARD.decode(value).ok()?.into()),
        ("time", value) => Kind::TimestampValue(super::time::timestamp(value.as_u64()?)),
        ("list", Json::Array(values)) => {
            Kind::ListValue(ValueList { values: values.into_iter().map(parse).collect::<Option<_>>()? })
        }
        ("table", Json::Object(entries)) => {
            let entries = entries.into_iter().map(|(name, value)| Some((name, parse(value)?)));
            Kind::TableValue(ValueTable { entries: entries.collect::<Option<_>>()? })
        }
        ("null", _) => Kind::NullValue(0),
        _ => return None,
    };
    Some(Value { kind: Some(kind) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::message::headers;

    fn value(kind: Kind) -> Value {
        Value { kind: Some(kind) }
    }

    #[test]
    fn every_kind_of_value_is_read_as_it_was_written() {
        let leaves = [
            Kind::StringValue("é".into()),
            Kind::IntValue(i64::MIN),
            Kind::DoubleValue(0.1),
            Kind::DoubleValue(2.0),
            Kind::BoolValue(true),
            Kind::BytesValue(vec![0, 255].into()),
            Kind::TimestampValue(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 0 }),
            Kind::NullValue(0),
        ];
        let mut given: HashMap<_, _> =
            leaves.into_iter().enumerate().map(|(index, kind)| (format!("h{index}"), value(kind))).collect();
        let list = ValueList { values: given.values().cloned().collect() };
        given.insert("list".into(), value(Kind::ListValue(list)));
        given.insert("table".into(), value(Kind::TableValue(ValueTable { entries: given.clone() })));
        let text =
            text_if_needed(&headers::to_table(&given).expect("within the limits")).expect("bytes lose their type");
        assert_eq!(headers_from_text(&text), Some(given));
    }

    #[test]
    fn values_that_plain_json_keeps_need_no_text() {
        let given = [Kind::StringValue("s".into()), Kind::IntValue(1), Kind::BoolValue(false)];
        let given: HashMap<_, _> =
            given.into_iter().enumerate().map(|(index, kind)| (format!("h{index}"), value(kind))).collect();
        assert_eq!(text_if_needed(&headers::to_table(&given).expect("within the limits")), None);
    }

    #[test]
    fn other_texts_are_not_read() {
        for text in ["", "[]", "{\"a\":1}", "{\"a\":[\"int\",\"x\"]}", "{\"a\":[\"int\"]}", "{\"a\":[\"odd\",1]}"] {
            assert_eq!(headers_from_text(text), None, "{text}");
        }
    }
}
