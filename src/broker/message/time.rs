//! Times between protobuf, which has fractions, and AMQP 0-9-1, which has whole seconds since the epoch.
//!
//! Invariant: both directions produce only times that protobuf's `Timestamp` allows (until the year 9999), because
//! libraries fail with others, some of them with a panic.

use crate::error::Failure;

/// 9999-12-31T23:59:59Z.
const LAST_SECOND: u64 = 253_402_300_799;

/// Converts a time of the API; `field` names it in errors.
pub(in crate::broker) fn seconds(field: &str, time: &prost_types::Timestamp) -> Result<u64, Failure> {
    if time.nanos != 0 {
        return Err(Failure::invalid(
            field.to_owned(),
            "must be in whole seconds, because AMQP 0-9-1 has no fractions",
        ));
    }
    match u64::try_from(time.seconds) {
        Ok(seconds @ ..=LAST_SECOND) => Ok(seconds),
        Ok(_) => Err(Failure::invalid(
            field.to_owned(),
            "must not be after the year 9999; is it in milliseconds instead of seconds?",
        )),
        Err(_) => Err(Failure::invalid(field.to_owned(), "must not be before 1970")),
    }
}

/// Converts a delivered time. That of a message from outside the gateway may be later than the API can represent, and
/// is then replaced by the latest one.
pub(in crate::broker) fn timestamp(seconds: u64) -> prost_types::Timestamp {
    let seconds = seconds.min(LAST_SECOND);
    prost_types::Timestamp { seconds: i64::try_from(seconds).unwrap_or(i64::MAX), nanos: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_years_1970_to_9999_pass_in_both_directions() {
        let at = |seconds, nanos| prost_types::Timestamp { seconds, nanos };
        for good in [0, 1_700_000_000, LAST_SECOND as i64] {
            assert_eq!(seconds("f", &at(good, 0)).map(timestamp), Ok(at(good, 0)));
        }
        for bad in [at(-1, 0), at(LAST_SECOND as i64 + 1, 0), at(1_700_000_000_000, 0), at(i64::MAX, 0), at(0, 1)] {
            let failure = seconds("message.publish_time", &bad).expect_err("out of range");
            assert_eq!(failure.field.as_deref(), Some("message.publish_time"));
        }
        assert_eq!(timestamp(u64::MAX).seconds, LAST_SECOND as i64);
    }
}
