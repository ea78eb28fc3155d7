//! Parsers for command-line values. An error is a sentence that shows the expected form.

use std::time::SystemTime;

use base64::{Engine as _, prelude::BASE64_STANDARD};

use crate::{
    pb::{self, value::Kind},
    units,
};

/// A duration, with the grammar of the configuration file.
pub(super) fn duration(text: &str) -> Result<std::time::Duration, String> {
    units::parse_duration(text).ok_or_else(|| format!("write {}", units::DURATION_FORM))
}

/// The same as a value of the API, which can represent every duration that humantime parses.
pub(super) fn api_duration(duration: std::time::Duration) -> prost_types::Duration {
    duration.try_into().unwrap_or(prost_types::Duration { seconds: i64::MAX, nanos: 0 })
}

/// A number of bytes, with the grammar of the configuration file.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    units::parse_size(text).ok_or_else(|| format!("write {}", units::SIZE_FORM))
}

/// A time in RFC 3339, with or without `T` and `Z`.
pub(super) fn moment(text: &str) -> Result<SystemTime, String> {
    humantime::parse_rfc3339_weak(text).map_err(|_| "write a time like 2026-11-21T12:00:00Z (UTC)".to_owned())
}

/// A time, or a duration before now: `2026-11-21T12:00:00Z`, `1h`.
pub(super) fn past(text: &str) -> Result<SystemTime, String> {
    let ago = |text| SystemTime::now().checked_sub(duration(text).ok()?);
    moment(text)
        .ok()
        .or_else(|| ago(text))
        .ok_or_else(|| "write a time like 2026-11-21T12:00:00Z (UTC), or how long ago, like 1h".to_owned())
}

/// A typed header: `NAME=TEXT` or `NAME:TYPE=VALUE`.
pub(super) fn header(text: &str) -> Result<(String, pb::Value), String> {
    let form = "write NAME=TEXT or NAME:TYPE=VALUE, with a type of string, int, double, bool, time, base64 or null";
    let (name, value) = text.split_once('=').ok_or(form)?;
    let (name, kind) = name.rsplit_once(':').unwrap_or((name, "string"));
    if name.is_empty() {
        return Err(form.to_owned());
    }
    let kind = match kind {
        "string" => Kind::StringValue(value.to_owned()),
        "int" => Kind::IntValue(value.parse().map_err(|_| format!("{value:?} is not a 64-bit integer"))?),
        "double" => Kind::DoubleValue(value.parse().map_err(|_| format!("{value:?} is not a number"))?),
        "bool" => Kind::BoolValue(value.parse().map_err(|_| format!("{value:?} is neither true nor false"))?),
        "time" => Kind::TimestampValue(whole_seconds(moment(value)?)),
        "base64" => {
            Kind::BytesValue(BASE64_STANDARD.decode(value).map_err(|_| format!("{value:?} is not base64"))?.into())
        }
        "null" if value.is_empty() => Kind::NullValue(0),
        "null" => return Err("null has no value: write NAME:null=".to_owned()),
        other => return Err(format!("there is no type {other:?}: {form}")),
    };
    Ok((name.to_owned(), pb::Value { kind: Some(kind) }))
}

fn whole_seconds(moment: SystemTime) -> prost_types::Timestamp {
    prost_types::Timestamp { nanos: 0, ..moment.into() }
}

/// Where to start in a stream queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StartPosition {
    First,
    Last,
    Next,
    Offset(u64),
    Time(SystemTime),
}

/// `first`, `last`, `next`, an offset, a time, or how long ago.
pub(super) fn from(text: &str) -> Result<StartPosition, String> {
    match text {
        "first" => Ok(StartPosition::First),
        "last" => Ok(StartPosition::Last),
        "next" => Ok(StartPosition::Next),
        _ => text.parse().map(StartPosition::Offset).or_else(|_| past(text).map(StartPosition::Time)).map_err(|_| {
            "write first, last, next, an offset like 1000, a time like 2026-11-21T12:00:00Z, or how long ago, like 1h"
                .to_owned()
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(text: &str) -> Kind {
        header(text).expect(text).1.kind.expect("a kind")
    }

    #[test]
    fn headers_have_types() {
        assert_eq!(header("a=b=c").expect("valid").0, "a");
        assert_eq!(kind("a=b=c"), Kind::StringValue("b=c".into()));
        assert_eq!(kind("a="), Kind::StringValue(String::new()));
        assert_eq!(kind("n:int=-3"), Kind::IntValue(-3));
        assert_eq!(kind("n:string=3"), Kind::StringValue("3".into()));
        assert_eq!(kind("n:double=0.5"), Kind::DoubleValue(0.5));
        assert_eq!(kind("n:bool=true"), Kind::BoolValue(true));
        assert_eq!(kind("n:base64=AAE="), Kind::BytesValue(vec![0, 1].into()));
        assert_eq!(kind("n:null="), Kind::NullValue(0));
        let whole = prost_types::Timestamp { seconds: 1, nanos: 0 };
        assert_eq!(kind("n:time=1970-01-01T00:00:01.5Z"), Kind::TimestampValue(whole));
        assert_eq!(header("a:b:int=1").expect("valid").0, "a:b");
        for bad in ["a", "=b", ":int=1", "n:int=x", "n:int=1.5", "n:bool=yes", "n:long=1", "n:base64=?", "n:null=x"] {
            assert!(header(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn lengths_sizes_and_positions_are_read() {
        assert_eq!(duration("1h 30m").expect("valid").as_secs(), 5_400);
        assert_eq!(duration("10").expect_err("no unit"), "write a duration like 500ms, 30s, 5m, \"1h 30m\" or 90d");
        assert_eq!(bytes("10 MB"), Ok(10_000_000));
        assert_eq!(bytes("1.5GiB").expect_err("no whole number"), format!("write {}", units::SIZE_FORM));
        assert_eq!((from("first"), from("17")), (Ok(StartPosition::First), Ok(StartPosition::Offset(17))));
        assert!(matches!(from("2026-11-21 12:00:00"), Ok(StartPosition::Time(_))));
        let hour = std::time::Duration::from_secs(3_600);
        let Ok(StartPosition::Time(start)) = from("1h") else { panic!("an hour ago") };
        let age = SystemTime::now().duration_since(start).expect("past");
        assert!(age >= hour && age < 2 * hour, "{age:?}");
        assert!(from("yesterday").is_err() && past("yesterday").is_err());
    }
}
