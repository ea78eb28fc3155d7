//! A plan's limits as flags and as text. Flags enter; the API's fields and the mask that names them leave.

use crate::{
    cli::{json, values},
    pb,
};

/// The flags of a plan's limits; 0 is unlimited.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Limits {
    /// Connections to the broker, all gateways together
    #[arg(long, value_name = "N")]
    connections: Option<u32>,
    /// Queues
    #[arg(long, value_name = "N")]
    queues: Option<u32>,
    /// Exchanges
    #[arg(long, value_name = "N")]
    exchanges: Option<u32>,
    /// Bindings
    #[arg(long, value_name = "N")]
    bindings: Option<u32>,
    /// Clients that are not revoked
    #[arg(long, value_name = "N")]
    clients: Option<u32>,
    /// Open streams on one gateway
    #[arg(long, value_name = "N")]
    streams: Option<u32>,
    /// Largest message, like 256KiB
    #[arg(long, value_name = "BYTES", value_parser = values::bytes)]
    message_size: Option<u64>,
    /// Messages a second on one gateway
    #[arg(long, value_name = "N")]
    messages_per_second: Option<u32>,
    /// How many of them at once, after a pause [default: as many as in a second]
    #[arg(long, value_name = "N")]
    messages_burst: Option<u32>,
    /// Bytes a second on one gateway, like 1MiB; needs --message-size
    #[arg(long, value_name = "BYTES", value_parser = values::bytes)]
    bytes_per_second: Option<u64>,
    /// How many of them at once, after a pause [default: as many as in a second]
    #[arg(long, value_name = "BYTES", value_parser = values::bytes)]
    bytes_burst: Option<u64>,
    /// Messages in flight on one gateway
    #[arg(long, value_name = "N")]
    in_flight_messages: Option<u32>,
    /// Bytes in flight on one gateway
    #[arg(long, value_name = "BYTES", value_parser = values::bytes)]
    in_flight_bytes: Option<u64>,
    /// Messages in all queues together
    #[arg(long, value_name = "N")]
    stored_messages: Option<u64>,
    /// Bytes in all queues together, like 10GiB
    #[arg(long, value_name = "BYTES", value_parser = values::bytes)]
    stored_bytes: Option<u64>,
    /// Longest life of a message in a queue, like 7days (0s: unlimited)
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    message_ttl: Option<std::time::Duration>,
    /// After how long an unused queue is deleted, like 14days (0s: never)
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    queue_expires: Option<std::time::Duration>,
    /// The part of the tenants' traces to keep, 0 to 1
    #[arg(long, value_name = "RATIO")]
    sampling_ratio: Option<f64>,
}

impl Limits {
    /// The plan of this name with these limits, and the names of those that were given.
    pub(super) fn plan(self, name: String) -> (pb::Plan, Vec<String>) {
        let mut plan = pb::Plan { name, ..pb::Plan::default() };
        let mut given = Vec::new();
        macro_rules! take {
            ($($flag:ident => $field:ident),* $(,)?) => {
                $(if let Some(value) = self.$flag {
                    plan.$field = value.into();
                    given.push(stringify!($field).to_owned());
                })*
            };
        }
        take!(
            connections => max_connections,
            queues => max_queues,
            exchanges => max_exchanges,
            bindings => max_bindings,
            clients => max_clients,
            streams => max_streams,
            message_size => max_message_bytes,
            messages_per_second => max_publish_messages_per_second,
            messages_burst => publish_messages_burst,
            bytes_per_second => max_publish_bytes_per_second,
            bytes_burst => publish_bytes_burst,
            in_flight_messages => max_in_flight_messages,
            in_flight_bytes => max_in_flight_bytes,
            stored_messages => max_stored_messages,
            stored_bytes => max_stored_bytes,
            sampling_ratio => sampling_ratio,
        );
        if let Some(ttl) = self.message_ttl {
            plan.max_message_ttl = Some(values::api_duration(ttl));
            given.push("max_message_ttl".to_owned());
        }
        if let Some(expires) = self.queue_expires {
            plan.queue_expires = Some(values::api_duration(expires));
            given.push("queue_expires".to_owned());
        }
        (plan, given)
    }
}

/// All of a plan, a line each.
pub(super) fn lines(plan: &pb::Plan) -> Vec<(&'static str, String)> {
    let rate = |rate: String, burst: String| if rate == UNLIMITED { rate } else { format!("{rate}, {burst} at once") };
    let length = |length| json::length(length).unwrap_or_else(|| UNLIMITED.to_owned());
    vec![
        ("plan", plan.name.clone()),
        ("connections", number(plan.max_connections.into())),
        ("queues", number(plan.max_queues.into())),
        ("exchanges", number(plan.max_exchanges.into())),
        ("bindings", number(plan.max_bindings.into())),
        ("clients", number(plan.max_clients.into())),
        ("streams", number(plan.max_streams.into())),
        ("message size", size(plan.max_message_bytes)),
        (
            "messages a second",
            rate(number(plan.max_publish_messages_per_second.into()), number(plan.publish_messages_burst.into())),
        ),
        ("bytes a second", rate(size(plan.max_publish_bytes_per_second), size(plan.publish_bytes_burst))),
        ("messages in flight", number(plan.max_in_flight_messages.into())),
        ("bytes in flight", size(plan.max_in_flight_bytes)),
        ("messages stored", number(plan.max_stored_messages)),
        ("bytes stored", size(plan.max_stored_bytes)),
        ("message ttl", length(plan.max_message_ttl)),
        ("unused queue goes after", length(plan.queue_expires)),
        ("traces kept", plan.sampling_ratio.map(|ratio| ratio.to_string()).unwrap_or_default()),
    ]
}

const UNLIMITED: &str = "unlimited";

/// A limit as a number.
pub(in crate::cli) fn number(limit: u64) -> String {
    if limit == 0 { UNLIMITED.to_owned() } else { limit.to_string() }
}

/// A limit in bytes.
pub(in crate::cli) fn size(limit: u64) -> String {
    if limit == 0 { UNLIMITED.to_owned() } else { amount(limit) }
}

/// Bytes, for people.
pub(in crate::cli) fn amount(bytes: u64) -> String {
    let units = [(1_u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.into_iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) if bytes.is_multiple_of(unit) => format!("{} {name}", bytes / unit),
        Some((unit, name)) => format!("{:.1} {name}", bytes as f64 / unit as f64),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_that_were_given_are_named_as_the_api_does() {
        let limits = Limits { streams: Some(0), message_ttl: Some(std::time::Duration::ZERO), ..Limits::default() };
        let (plan, given) = limits.plan("gold".into());
        assert_eq!(given, ["max_streams", "max_message_ttl"]);
        assert_eq!((plan.name.as_str(), plan.max_streams), ("gold", 0));
    }

    #[test]
    fn amounts_read_well() {
        assert_eq!(
            [0, 512, 1 << 10, 3 << 19, 1 << 34].map(amount),
            ["0 B", "512 B", "1 KiB", "1.5 MiB", "16 GiB"].map(str::to_owned)
        );
        assert_eq!((number(0), size(0)), ("unlimited".to_owned(), "unlimited".to_owned()));
    }
}
