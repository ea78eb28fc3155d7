//! The limits of a tenant's plan. 0 always means unlimited. A plan from the API is validated: every message that it
//! allows fits into its other limits.

use crate::{
    error::Failure,
    names::{self, PlanName},
    pb,
    store::PlanRow,
};

/// The maximum duration that a queue may set itself.
const MAX_MILLIS: u64 = 366 * 24 * 3600 * 1000;
const MIN_MILLIS: u64 = 1000;
/// Far more than a broker can store, and far less than a counter can represent.
const LARGEST: u64 = 1 << 50;

/// A plan's limits, with the fields of its row; 0 means unlimited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan(PlanRow);

impl std::ops::Deref for Plan {
    type Target = PlanRow;

    fn deref(&self) -> &PlanRow {
        &self.0
    }
}

impl From<PlanRow> for Plan {
    fn from(row: PlanRow) -> Self {
        Self(row)
    }
}

impl Plan {
    /// Validates a plan of the API. A missing burst becomes the amount of one second, and at least one message.
    ///
    /// # Errors
    /// With the field (`plan.…`) that is invalid or contradicts another one.
    pub fn parse(plan: &pb::Plan) -> Result<Self, Failure> {
        let name = PlanName::parse(&plan.name);
        let name = name.map_err(|error: names::Error| Failure::from(error).on_field("plan.name"))?;
        let mut row = PlanRow {
            name,
            max_connections: plan.max_connections,
            max_queues: plan.max_queues,
            max_exchanges: plan.max_exchanges,
            max_bindings: plan.max_bindings,
            max_clients: plan.max_clients,
            max_message_bytes: bounded("plan.max_message_bytes", plan.max_message_bytes)?,
            max_streams: plan.max_streams,
            max_in_flight_messages: plan.max_in_flight_messages,
            max_in_flight_bytes: bounded("plan.max_in_flight_bytes", plan.max_in_flight_bytes)?,
            max_publish_messages_per_second: plan.max_publish_messages_per_second,
            publish_messages_burst: plan.publish_messages_burst,
            max_publish_bytes_per_second: bounded(
                "plan.max_publish_bytes_per_second",
                plan.max_publish_bytes_per_second,
            )?,
            publish_bytes_burst: bounded("plan.publish_bytes_burst", plan.publish_bytes_burst)?,
            max_stored_messages: bounded("plan.max_stored_messages", plan.max_stored_messages)?,
            max_stored_bytes: bounded("plan.max_stored_bytes", plan.max_stored_bytes)?,
            max_message_ttl: millis("plan.max_message_ttl", plan.max_message_ttl.as_ref())?,
            queue_expires: millis("plan.queue_expires", plan.queue_expires.as_ref())?,
            sampling_ppm: plan.sampling_ratio.map(ppm).transpose()?,
        };
        bursts(&mut row)?;
        if row.max_in_flight_bytes > 0 && row.max_in_flight_bytes < row.max_message_bytes {
            return Err(Failure::invalid("plan.max_in_flight_bytes", "must be at least max_message_bytes"));
        }
        Ok(Self(row))
    }

    /// The sampling ratio of the tenant's traces, 0 to 1; `None` for the gateway's default.
    pub fn sampling_ratio(&self) -> Option<f64> {
        self.sampling_ppm.map(|ppm| f64::from(ppm) / 1e6)
    }

    /// The plan in the API's form.
    pub fn to_pb(&self) -> pb::Plan {
        pb::Plan {
            name: self.name.to_string(),
            max_connections: self.max_connections,
            max_queues: self.max_queues,
            max_exchanges: self.max_exchanges,
            max_bindings: self.max_bindings,
            max_clients: self.max_clients,
            max_message_bytes: self.max_message_bytes,
            max_streams: self.max_streams,
            max_in_flight_messages: self.max_in_flight_messages,
            max_in_flight_bytes: self.max_in_flight_bytes,
            max_publish_messages_per_second: self.max_publish_messages_per_second,
            publish_messages_burst: self.publish_messages_burst,
            max_publish_bytes_per_second: self.max_publish_bytes_per_second,
            publish_bytes_burst: self.publish_bytes_burst,
            max_stored_messages: self.max_stored_messages,
            max_stored_bytes: self.max_stored_bytes,
            max_message_ttl: duration(self.max_message_ttl),
            queue_expires: duration(self.queue_expires),
            sampling_ratio: self.sampling_ratio(),
        }
    }

    /// The plan in the store's form.
    pub fn into_row(self) -> PlanRow {
        self.0
    }
}

fn bursts(row: &mut PlanRow) -> Result<(), Failure> {
    let without_rate = |field| Failure::invalid(field, "requires its rate");
    match (row.max_publish_messages_per_second, row.publish_messages_burst) {
        (0, 0) => {}
        (0, _) => return Err(without_rate("plan.publish_messages_burst")),
        (rate, 0) => row.publish_messages_burst = rate,
        _ => {}
    }
    match (row.max_publish_bytes_per_second, row.publish_bytes_burst) {
        (0, 0) => return Ok(()),
        (0, _) => return Err(without_rate("plan.publish_bytes_burst")),
        (rate, 0) => row.publish_bytes_burst = rate.max(row.max_message_bytes),
        _ => {}
    }
    // A message that exceeds the burst could never be sent.
    if row.max_message_bytes == 0 {
        return Err(Failure::invalid("plan.max_message_bytes", "is required if bytes per second are limited"));
    }
    if row.publish_bytes_burst < row.max_message_bytes {
        return Err(Failure::invalid("plan.publish_bytes_burst", "must be at least max_message_bytes"));
    }
    Ok(())
}

fn bounded(field: &'static str, value: u64) -> Result<u64, Failure> {
    if value <= LARGEST { Ok(value) } else { Err(Failure::invalid(field, format!("must be at most {LARGEST}"))) }
}

fn millis(field: &'static str, value: Option<&prost_types::Duration>) -> Result<u64, Failure> {
    let Some(value) = value else { return Ok(0) };
    let millis = value.seconds.saturating_mul(1000).saturating_add(i64::from(value.nanos / 1_000_000));
    match u64::try_from(millis) {
        Ok(0) if value.nanos == 0 => Ok(0),
        Ok(millis @ MIN_MILLIS..=MAX_MILLIS) if value.nanos % 1_000_000 == 0 => Ok(millis),
        _ => Err(Failure::invalid(field, "must be between 1 s and 366 days in whole milliseconds, or 0 for no limit")),
    }
}

fn duration(millis: u64) -> Option<prost_types::Duration> {
    if millis == 0 { None } else { prost_types::Duration::try_from(std::time::Duration::from_millis(millis)).ok() }
}

fn ppm(ratio: f64) -> Result<u32, Failure> {
    if (0.0..=1.0).contains(&ratio) {
        // Between 0 and one million.
        Ok((ratio * 1e6).round() as u32)
    } else {
        Err(Failure::invalid("plan.sampling_ratio", "must be between 0 and 1"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(plan: pb::Plan) -> pb::Plan {
        pb::Plan { name: "gold".into(), ..plan }
    }

    fn field(plan: pb::Plan) -> String {
        Plan::parse(&named(plan)).expect_err("refused").field.expect("a field").into_owned()
    }

    #[test]
    fn a_plan_is_the_same_after_each_conversion() {
        let length = |seconds| Some(prost_types::Duration { seconds, nanos: 500_000_000 });
        let plan = named(pb::Plan {
            max_connections: 1,
            max_queues: 2,
            max_exchanges: 3,
            max_bindings: 4,
            max_clients: 5,
            max_message_bytes: 6,
            max_streams: 7,
            max_in_flight_messages: 8,
            max_in_flight_bytes: 9,
            max_publish_messages_per_second: 10,
            publish_messages_burst: 11,
            max_publish_bytes_per_second: 12,
            publish_bytes_burst: 13,
            max_stored_messages: 14,
            max_stored_bytes: 15,
            max_message_ttl: length(16),
            queue_expires: length(17),
            sampling_ratio: Some(0.25),
            ..Default::default()
        });
        assert_eq!(Plan::parse(&plan).expect("a plan").to_pb(), plan);
        let nothing = Plan::parse(&named(pb::Plan::default())).expect("a plan");
        assert_eq!((nothing.sampling_ratio(), nothing.to_pb()), (None, named(pb::Plan::default())));
    }

    #[test]
    fn a_missing_burst_is_large_enough_for_one_second_and_one_message() {
        let plan = pb::Plan {
            max_message_bytes: 5000,
            max_publish_messages_per_second: 7,
            max_publish_bytes_per_second: 100,
            ..Default::default()
        };
        let plan = Plan::parse(&named(plan)).expect("a plan");
        assert_eq!((plan.publish_messages_burst, plan.publish_bytes_burst), (7, 5000));
    }

    #[test]
    fn limits_that_contradict_each_other_are_reported() {
        let given = pb::Plan { max_message_bytes: 100, max_publish_bytes_per_second: 10, ..Default::default() };
        assert_eq!(field(pb::Plan { publish_bytes_burst: 99, ..given.clone() }), "plan.publish_bytes_burst");
        assert_eq!(field(pb::Plan { max_message_bytes: 0, ..given.clone() }), "plan.max_message_bytes");
        assert_eq!(field(pb::Plan { max_in_flight_bytes: 99, ..given }), "plan.max_in_flight_bytes");
        assert_eq!(field(pb::Plan { publish_messages_burst: 1, ..Default::default() }), "plan.publish_messages_burst");
        assert_eq!(field(pb::Plan { max_stored_bytes: u64::MAX, ..Default::default() }), "plan.max_stored_bytes");
        for ratio in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            assert_eq!(field(pb::Plan { sampling_ratio: Some(ratio), ..Default::default() }), "plan.sampling_ratio");
        }
        for (seconds, nanos) in [(0, 1), (0, 999_000_000), (-1, 0), (1, 1), (367 * 24 * 3600, 0), (i64::MAX, 0)] {
            let ttl = Some(prost_types::Duration { seconds, nanos });
            assert_eq!(field(pb::Plan { max_message_ttl: ttl, ..Default::default() }), "plan.max_message_ttl");
        }
        assert!(Plan::parse(&pb::Plan { name: "Gold".into(), ..Default::default() }).is_err());
    }
}
