//! A plan's limits as flags, as fields of the API, and as text.

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
    /// Messages per second on one gateway
    #[arg(long, value_name = "N")]
    messages_per_second: Option<u32>,
    /// Burst size [default: the rate of one second]
    #[arg(long, value_name = "N")]
    messages_burst: Option<u32>,
    /// Bytes per second on one gateway, like 1MiB; requires --message-size
    #[arg(long, value_name = "BYTES", value_parser = values::bytes)]
    bytes_per_second: Option<u64>,
    /// Burst size [default: the rate of one second]
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
    /// Maximum TTL of a message in a queue, like 7days (0s: unlimited)
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    message_ttl: Option<std::time::Duration>,
    /// Unused queues are deleted after this time, like 14days (0s: never)
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    queue_expires: Option<std::time::Duration>,
    /// Sampling ratio of the tenants' traces, 0 to 1
    #[arg(long, value_name = "RATIO")]
    sampling_ratio: Option<f64>,
}

impl Limits {
    /// The plan of this name, with the limits of `base` where no flag was given, and the names of the given limits.
    pub(super) fn plan(self, name: String, base: pb::Plan) -> (pb::Plan, Vec<String>) {
        let mut plan = pb::Plan { name, ..base };
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

/// All limits of a plan, one per line.
pub(super) fn lines(plan: &pb::Plan) -> Vec<(&'static str, String)> {
    let rate = |rate: String, burst: String| if rate == UNLIMITED { rate } else { format!("{rate}, burst {burst}") };
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
            "messages per second",
            rate(number(plan.max_publish_messages_per_second.into()), number(plan.publish_messages_burst.into())),
        ),
        ("bytes per second", rate(size(plan.max_publish_bytes_per_second), size(plan.publish_bytes_burst))),
        ("messages in flight", number(plan.max_in_flight_messages.into())),
        ("bytes in flight", size(plan.max_in_flight_bytes)),
        ("messages stored", number(plan.max_stored_messages)),
        ("bytes stored", size(plan.max_stored_bytes)),
        ("message ttl", length(plan.max_message_ttl)),
        ("unused queue expires", length(plan.queue_expires)),
        ("sampling ratio", plan.sampling_ratio.map(|ratio| ratio.to_string()).unwrap_or_default()),
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

/// Bytes in a readable form.
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
    fn given_flags_are_listed_by_their_api_names() {
        let limits = Limits { streams: Some(0), message_ttl: Some(std::time::Duration::ZERO), ..Limits::default() };
        let (plan, given) = limits.plan("gold".into(), pb::Plan { max_queues: 7, ..pb::Plan::default() });
        assert_eq!(given, ["max_streams", "max_message_ttl"]);
        assert_eq!((plan.name.as_str(), plan.max_streams, plan.max_queues), ("gold", 0, 7));
    }

    #[test]
    fn amounts_have_readable_units() {
        assert_eq!(
            [0, 512, 1 << 10, 3 << 19, 1 << 34].map(amount),
            ["0 B", "512 B", "1 KiB", "1.5 MiB", "16 GiB"].map(str::to_owned)
        );
        assert_eq!((number(0), size(0)), ("unlimited".to_owned(), "unlimited".to_owned()));
    }
}
