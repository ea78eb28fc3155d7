//! The encoded size of a message's properties. The broker ends a connection that sends a header frame larger than
//! `frame_max`, and with it all streams of the tenant.

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, ShortString},
};

/// The largest frame of a connection: RabbitMQ's default. It is negotiated explicitly, because otherwise lapin writes
/// to all of its buffers (7.8 MiB instead of 0.16 MiB for each idle connection; measured in docs/performance.md).
pub(in crate::broker) const FRAME_MAX: u32 = 131_072;
/// The rest of a header frame besides these properties, rounded up, including the publisher's sequence number.
const FRAME_OVERHEAD: usize = 256;

/// The bytes of a value's type, and of the length of a long string, an array or a table.
const TYPE: usize = 1;
const LENGTH: usize = 4;

/// Whether the properties fit into one frame, which is required.
pub(in crate::broker) fn fits_a_frame(properties: &BasicProperties) -> bool {
    encoded_size(properties) + FRAME_OVERHEAD <= FRAME_MAX as usize
}

/// The size of the properties in a header frame.
pub(in crate::broker) fn encoded_size(properties: &BasicProperties) -> usize {
    let short = |text: &Option<ShortString>| text.as_ref().map_or(0, |text| 1 + text.as_str().len());
    let texts = [
        properties.content_type(),
        properties.content_encoding(),
        properties.correlation_id(),
        properties.reply_to(),
        properties.expiration(),
        properties.message_id(),
        properties.kind(),
        properties.user_id(),
        properties.app_id(),
        properties.cluster_id(),
    ];
    let texts: usize = texts.into_iter().map(short).sum();
    let numbers = usize::from(properties.delivery_mode().is_some())
        + usize::from(properties.priority().is_some())
        + if properties.timestamp().is_some() { 8 } else { 0 };
    let headers = properties.headers().as_ref().map_or(0, table_size);
    // Two bytes are flags for the properties that are present.
    2 + texts + numbers + headers
}

/// The size of a table in bytes.
pub(in crate::broker) fn table_size(table: &FieldTable) -> usize {
    LENGTH + table.inner().iter().map(|(name, content)| entry(name, content)).sum::<usize>()
}

/// The size of one header in bytes.
pub(super) fn entry(name: &ShortString, content: &AMQPValue) -> usize {
    1 + name.as_str().len() + value_size(content)
}

fn value_size(value: &AMQPValue) -> usize {
    TYPE + match value {
        AMQPValue::Boolean(_) | AMQPValue::ShortShortInt(_) | AMQPValue::ShortShortUInt(_) => 1,
        AMQPValue::ShortInt(_) | AMQPValue::ShortUInt(_) => 2,
        AMQPValue::LongInt(_) | AMQPValue::LongUInt(_) | AMQPValue::Float(_) => 4,
        AMQPValue::DecimalValue(_) => 5,
        AMQPValue::LongLongInt(_) | AMQPValue::Double(_) | AMQPValue::Timestamp(_) => 8,
        AMQPValue::ShortString(text) => 1 + text.as_str().len(),
        AMQPValue::LongString(text) => LENGTH + text.as_bytes().len(),
        AMQPValue::ByteArray(bytes) => LENGTH + bytes.as_slice().len(),
        AMQPValue::FieldArray(values) => LENGTH + values.as_slice().iter().map(value_size).sum::<usize>(),
        AMQPValue::FieldTable(inner) => table_size(inner),
        AMQPValue::Void => 0,
    }
}
