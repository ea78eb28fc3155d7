//! Moments between protobuf, which has fractions, and AMQP 0-9-1, which has whole seconds since the epoch and no more.

use crate::error::Failure;

/// AMQP 0-9-1 keeps whole seconds since the epoch.
pub(in crate::broker) fn seconds(field: &str, time: &prost_types::Timestamp) -> Result<u64, Failure> {
    if time.nanos != 0 {
        return Err(Failure::invalid(field.to_owned(), "must be in whole seconds: AMQP 0-9-1 keeps no fraction"));
    }
    u64::try_from(time.seconds).map_err(|_| Failure::invalid(field.to_owned(), "must not be before 1970"))
}

pub(in crate::broker) fn timestamp(seconds: u64) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: i64::try_from(seconds).unwrap_or(i64::MAX), nanos: 0 }
}
