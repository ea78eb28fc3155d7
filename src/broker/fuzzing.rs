//! Fuzzing entry points for conversions that are private to this module; see `crate::fuzzing`.

use std::{collections::HashMap, time::SystemTime};

use lapin::protocol::{AMQPError, AMQPSoftError};

use super::{
    Error,
    message::{headers, properties},
};
use crate::{
    error::Classify as _,
    pb::{self, value::Kind},
};

/// Headers that are accepted must be unchanged after both conversions, except for values that AMQP cannot represent.
pub(crate) fn headers(message: &pb::Message) {
    if let Ok(table) = headers::to_table(&message.headers) {
        let back: HashMap<_, _> = headers::from_table(&table).collect();
        let expected: HashMap<_, _> =
            message.headers.iter().map(|(name, value)| (name.clone(), representable(value))).collect();
        assert_eq!(back, expected);
    }
    if let Ok(written) = properties::to_amqp(message, &message.message_id, SystemTime::UNIX_EPOCH) {
        let _ = properties::from_amqp(&written, bytes::Bytes::new());
    }
}

/// AMQP has one null value.
fn representable(value: &pb::Value) -> pb::Value {
    let kind = value.kind.as_ref().map(|kind| match kind {
        Kind::NullValue(_) => Kind::NullValue(0),
        Kind::ListValue(list) => {
            Kind::ListValue(pb::ValueList { values: list.values.iter().map(representable).collect() })
        }
        Kind::TableValue(table) => Kind::TableValue(pb::ValueTable {
            entries: table.entries.iter().map(|(name, value)| (name.clone(), representable(value))).collect(),
        }),
        other => other.clone(),
    });
    pb::Value { kind }
}

/// Every AMQP error text becomes an error with a message.
pub(crate) fn error_text(text: &str) {
    for kind in [
        AMQPSoftError::ACCESSREFUSED,
        AMQPSoftError::NOTFOUND,
        AMQPSoftError::PRECONDITIONFAILED,
        AMQPSoftError::RESOURCELOCKED,
    ] {
        let error = lapin::Error::from(lapin::ErrorKind::ProtocolError(AMQPError::new(kind.into(), text.into())));
        assert!(!Error::from(error).message().is_empty());
    }
}
