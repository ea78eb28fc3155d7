//! Header values between protobuf and AMQP field tables. Only tables within the limits are sent: lapin panics on long
//! names, and a header frame over `frame_max` would cost the tenant its connection.

use std::collections::BTreeMap;

use lapin::types::{AMQPValue, FieldArray, FieldTable, LongString, ShortString};

use crate::{
    error::Failure,
    pb::{NullValue, Value, ValueList, ValueTable, value::Kind},
    telemetry::TraceContext,
};

const MAX_ENTRIES: usize = 1_000;
const MAX_BYTES: usize = 64 * 1024;
const MAX_DEPTH: usize = 8;
/// The cost of each entry in addition to its content: a value's type tag, a table's length.
const ENTRY_OVERHEAD: usize = 8;

/// The maximum size of a trace context header with its name.
const MAX_TRACE_CONTEXT: usize = 640;

/// Whether the gateway may have written this header: it does not count against the limits.
fn is_trace_context(name: &str, value: &Value) -> bool {
    let limit = MAX_TRACE_CONTEXT.saturating_sub(name.len() + ENTRY_OVERHEAD);
    matches!(name, TraceContext::TRACEPARENT | TraceContext::TRACESTATE)
        && matches!(&value.kind, Some(Kind::StringValue(text)) if text.len() <= limit)
}

/// The remainder of the limits while a table is converted.
struct Budget {
    entries: usize,
    bytes: usize,
}

impl Budget {
    fn take(&mut self, bytes: usize) -> Result<(), Failure> {
        self.entries = self.entries.checked_sub(1).ok_or_else(|| {
            Failure::invalid("message.headers", format!("there are more than {MAX_ENTRIES} headers and values"))
        })?;
        self.bytes = self.bytes.checked_sub(bytes + ENTRY_OVERHEAD).ok_or_else(|| {
            Failure::invalid("message.headers", format!("the headers are larger than {} KiB", MAX_BYTES / 1024))
        })?;
        Ok(())
    }
}

/// Converts a publisher's headers, or a binding's.
///
/// # Errors
/// When there are more than 1,000 headers, when they are larger than 64 KiB or nested deeper than 8, when one has no
/// value or a number that is not finite, or when a name is empty, longer than 255 bytes or reserved.
pub(in crate::broker) fn to_table<'a>(
    headers: impl IntoIterator<Item = (&'a String, &'a Value)>,
) -> Result<FieldTable, Failure> {
    let mut budget = Budget { entries: MAX_ENTRIES, bytes: MAX_BYTES };
    let mut table = BTreeMap::new();
    for (name, value) in headers {
        own(name)?;
        // The gateway's own context must not decide whether a message is accepted.
        let mut trace_context = Budget { entries: 1, bytes: MAX_TRACE_CONTEXT };
        let budget = if is_trace_context(name, value) { &mut trace_context } else { &mut budget };
        table.insert(short(name)?, to_amqp(name, value, budget, 1)?);
    }
    Ok(table.into())
}

/// Refuses reserved names: `x-…` is the broker's, `wg.…` the gateway's; `CC` and `BCC` would bypass the grants on
/// routing keys.
fn own(name: &str) -> Result<(), Failure> {
    let lower = name.get(..3).unwrap_or(name).to_ascii_lowercase();
    if lower.starts_with("x-") || lower == "wg." || matches!(name, "CC" | "BCC") {
        return Err(Failure::invalid(
            "message.headers",
            format!(
                "header {name:?} is reserved for the broker or the gateway; choose a name that is not CC or BCC and does not \
                 begin with \"x-\" or \"wg.\""
            ),
        ));
    }
    Ok(())
}

fn short(name: &str) -> Result<ShortString, Failure> {
    if name.is_empty() {
        return Err(Failure::invalid("message.headers", "a header has no name"));
    }
    ShortString::try_new(name).map_err(|_| {
        Failure::invalid("message.headers", format!("a header's name has {} bytes; at most 255 fit", name.len()))
    })
}

fn to_amqp(name: &str, value: &Value, budget: &mut Budget, depth: usize) -> Result<AMQPValue, Failure> {
    if depth > MAX_DEPTH {
        return Err(Failure::invalid("message.headers", format!("the headers are nested deeper than {MAX_DEPTH}")));
    }
    let Some(kind) = &value.kind else {
        return Err(Failure::invalid("message.headers", format!("header {name:?} has no value")));
    };
    let size = match kind {
        Kind::StringValue(text) => text.len(),
        Kind::BytesValue(bytes) => bytes.len(),
        _ => 8,
    };
    budget.take(name.len() + size)?;
    Ok(match kind {
        Kind::StringValue(text) => AMQPValue::LongString(LongString::from(text.as_bytes())),
        Kind::IntValue(int) => AMQPValue::LongLongInt(*int),
        // The broker does not support other numbers and would close the connection, and with it the tenant's other
        // streams.
        Kind::DoubleValue(double) if !double.is_finite() => {
            let text = format!("header {name:?} is {double}; a number must be finite");
            return Err(Failure::invalid("message.headers", text));
        }
        Kind::DoubleValue(double) => AMQPValue::Double(*double),
        Kind::BoolValue(truth) => AMQPValue::Boolean(*truth),
        Kind::BytesValue(bytes) => AMQPValue::ByteArray(bytes.to_vec().into()),
        Kind::TimestampValue(time) => AMQPValue::Timestamp(super::time::seconds(name, time)?),
        Kind::ListValue(list) => {
            let values = list.values.iter().map(|value| to_amqp("", value, budget, depth + 1));
            AMQPValue::FieldArray(FieldArray::from(values.collect::<Result<Vec<_>, _>>()?))
        }
        Kind::TableValue(table) => {
            let mut entries = BTreeMap::new();
            for (name, value) in &table.entries {
                entries.insert(short(name)?, to_amqp(name, value, budget, depth + 1)?);
            }
            AMQPValue::FieldTable(entries.into())
        }
        Kind::NullValue(_) => AMQPValue::Void,
    })
}

/// Converts a delivered message's headers, without those of the broker and the gateway.
pub(in crate::broker) fn from_table(table: &FieldTable) -> impl Iterator<Item = (String, Value)> {
    table
        .into_iter()
        .filter(|(name, _)| own(name.as_str()).is_ok())
        .map(|(name, value)| (name.to_string(), from_amqp(value)))
}

/// Converts one value; all integer widths become 64 bits.
pub(in crate::broker) fn from_amqp(value: &AMQPValue) -> Value {
    let kind = match value {
        AMQPValue::Boolean(truth) => Kind::BoolValue(*truth),
        AMQPValue::ShortShortInt(int) => Kind::IntValue((*int).into()),
        AMQPValue::ShortShortUInt(int) => Kind::IntValue((*int).into()),
        AMQPValue::ShortInt(int) => Kind::IntValue((*int).into()),
        AMQPValue::ShortUInt(int) => Kind::IntValue((*int).into()),
        AMQPValue::LongInt(int) => Kind::IntValue((*int).into()),
        AMQPValue::LongUInt(int) => Kind::IntValue((*int).into()),
        AMQPValue::LongLongInt(int) => Kind::IntValue(*int),
        AMQPValue::Float(float) => Kind::DoubleValue((*float).into()),
        AMQPValue::Double(double) => Kind::DoubleValue(*double),
        AMQPValue::DecimalValue(decimal) => {
            // AMQP 0-9-1 specifies an unsigned value, but Java, Go and pamqp write a signed one.
            Kind::DoubleValue(f64::from(decimal.value.cast_signed()) / 10f64.powi(decimal.scale.into()))
        }
        AMQPValue::ShortString(text) => Kind::StringValue(text.to_string()),
        AMQPValue::LongString(text) => text_or_bytes(text.as_bytes()),
        AMQPValue::FieldArray(values) => {
            Kind::ListValue(ValueList { values: values.as_slice().iter().map(from_amqp).collect() })
        }
        AMQPValue::Timestamp(seconds) => Kind::TimestampValue(super::time::timestamp(*seconds)),
        AMQPValue::FieldTable(table) => Kind::TableValue(ValueTable {
            entries: table.into_iter().map(|(name, value)| (name.to_string(), from_amqp(value))).collect(),
        }),
        AMQPValue::ByteArray(bytes) => Kind::BytesValue(bytes.as_slice().to_vec().into()),
        AMQPValue::Void => Kind::NullValue(NullValue::Unspecified.into()),
    };
    Value { kind: Some(kind) }
}

/// AMQP's long string may contain any bytes, protobuf's string only UTF-8.
fn text_or_bytes(bytes: &[u8]) -> Kind {
    match std::str::from_utf8(bytes) {
        Ok(text) => Kind::StringValue(text.to_owned()),
        Err(_) => Kind::BytesValue(bytes.to_vec().into()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn text(text: &str) -> Value {
        Value { kind: Some(Kind::StringValue(text.into())) }
    }

    #[test]
    fn every_kind_of_value_survives_the_round_trip() {
        let kinds = [
            Kind::StringValue("é".into()),
            Kind::IntValue(i64::MIN),
            Kind::DoubleValue(1.5),
            Kind::BoolValue(true),
            Kind::BytesValue(vec![0, 255].into()),
            Kind::TimestampValue(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 0 }),
            Kind::ListValue(ValueList { values: vec![text("a"), Value { kind: Some(Kind::IntValue(1)) }] }),
            Kind::TableValue(ValueTable { entries: HashMap::from([("k".into(), text("v"))]) }),
            Kind::NullValue(0),
        ];
        let headers: HashMap<String, Value> =
            kinds.into_iter().enumerate().map(|(i, kind)| (format!("h{i}"), Value { kind: Some(kind) })).collect();
        let table = to_table(&headers).expect("within the limits");
        assert_eq!(from_table(&table).collect::<HashMap<_, _>>(), headers);
    }

    #[test]
    fn a_negative_decimal_keeps_its_sign() {
        let decimal = lapin::types::DecimalValue { scale: 1, value: (-15_i32).cast_unsigned() };
        assert_eq!(from_amqp(&AMQPValue::DecimalValue(decimal)).kind, Some(Kind::DoubleValue(-1.5)));
    }

    #[test]
    fn headers_over_a_limit_and_reserved_headers_are_refused_and_named() {
        let many: HashMap<_, _> = (0..10_000).map(|i| (format!("h{i}"), text(""))).collect();
        let mut traced: HashMap<_, _> =
            many.iter().take(MAX_ENTRIES).map(|(name, value)| (name.clone(), value.clone())).collect();
        traced.insert("traceparent".to_owned(), text(&"0".repeat(55)));
        traced.insert("tracestate".to_owned(), text(&"a".repeat(512)));
        assert!(to_table(&traced).is_ok(), "a trace context counts nothing");
        traced.insert("traceparent".to_owned(), text(&"0".repeat(1000)));
        assert!(to_table(&traced).expect_err("not a trace context").message.contains("1000"));
        assert!(to_table(&many).expect_err("too many").message.contains("1000"));
        let large = HashMap::from([("h".to_owned(), text(&"x".repeat(70_000)))]);
        assert!(to_table(&large).expect_err("too large").message.contains("64 KiB"));
        for name in ["x-death", "X-Delay", "wg.mark", "CC", "BCC", "", &"n".repeat(256)] {
            assert!(to_table(&HashMap::from([(name.to_owned(), text(""))])).is_err(), "{name}");
        }
        for double in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let value = Value { kind: Some(Kind::DoubleValue(double)) };
            assert!(to_table(&HashMap::from([("h".to_owned(), value)])).is_err(), "{double}");
        }
        let mut deep = text("bottom");
        for _ in 0..10 {
            deep = Value { kind: Some(Kind::ListValue(ValueList { values: vec![deep] })) };
        }
        assert!(to_table(&HashMap::from([("deep".to_owned(), deep)])).is_err());
        assert!(to_table(&HashMap::from([("none".to_owned(), Value { kind: None })])).is_err());
    }
}
