//! For each limit of a plan: a plan with this limit alone, and how to exceed it tenfold. Rates are exceeded tenfold per
//! second, counts are requested tenfold each second, and sizes are ten times as large, all evenly spread.
//!
//! For connections, thirty clients each try again 5 s after a refusal, as RabbitMQ's clients for Java and .NET do: a
//! handshake is work of the broker, which has no limit for handshakes per second.

use warrengate::pb;

/// One limit.
pub(super) struct Case {
    /// The limit's name in the plan.
    pub(super) limit: &'static str,
    pub(super) plan: pb::Plan,
    pub(super) attempts: Attempts,
}

/// How the limit is exceeded tenfold.
#[derive(Clone, Copy)]
pub(super) enum Attempts {
    /// By messages on one publish stream.
    Messages { frames_per_second: u32, messages_per_frame: u64, bytes: usize, over: Over },
    /// By repeated requests for one more; what is granted is kept.
    Requests { per_second: u32, resource: Resource, over: &'static str },
    /// By direct connections to the broker, which refuses them itself.
    Connecting { per_second: u32 },
}

/// What happens to a message over the limit.
#[derive(Clone, Copy)]
pub(super) enum Over {
    /// It is throttled, with this reason.
    Throttled(&'static str),
    /// It is rejected, with this reason.
    Rejected(&'static str),
    /// It waits in the gateway; this number of messages can be in flight.
    Delayed(u64),
}

/// A resource whose number a plan limits.
#[derive(Clone, Copy)]
pub(super) enum Resource {
    Stream,
    Queue,
    Exchange,
    Binding,
    Client,
}

pub(super) fn all() -> Vec<Case> {
    let plan = pb::Plan::default;
    let case = |limit, plan, attempts| Case { limit, plan, attempts };
    let messages = |frames_per_second, messages_per_frame, bytes, over| Attempts::Messages {
        frames_per_second,
        messages_per_frame,
        bytes,
        over,
    };
    let requests = |resource, over| Attempts::Requests { per_second: 100, resource, over };
    vec![
        case(
            "max_publish_messages_per_second",
            pb::Plan { max_publish_messages_per_second: 200, ..plan() },
            messages(50, 40, 256, Over::Throttled("MESSAGE_RATE")),
        ),
        case(
            "max_publish_bytes_per_second",
            pb::Plan { max_message_bytes: 1_024, max_publish_bytes_per_second: 64 << 10, ..plan() },
            messages(40, 16, 1_024, Over::Throttled("BYTE_RATE")),
        ),
        case(
            "max_stored_messages",
            pb::Plan { max_stored_messages: 100, ..plan() },
            messages(50, 20, 256, Over::Throttled("STORED_MESSAGES")),
        ),
        case(
            "max_stored_bytes",
            pb::Plan { max_stored_bytes: 64 << 10, ..plan() },
            messages(40, 16, 1_024, Over::Throttled("STORED_BYTES")),
        ),
        case(
            "max_message_bytes",
            pb::Plan { max_message_bytes: 1_000, ..plan() },
            messages(50, 2, 10_000, Over::Rejected("MESSAGE_TOO_LARGE")),
        ),
        case(
            "max_in_flight_messages",
            pb::Plan { max_in_flight_messages: 10, ..plan() },
            messages(10, 100, 256, Over::Delayed(10)),
        ),
        case(
            "max_in_flight_bytes",
            pb::Plan { max_message_bytes: 1_000, max_in_flight_bytes: 10_000, ..plan() },
            messages(10, 100, 1_000, Over::Delayed(10)),
        ),
        case("max_streams", pb::Plan { max_streams: 10, ..plan() }, requests(Resource::Stream, "TOO_MANY_STREAMS")),
        case("max_queues", pb::Plan { max_queues: 10, ..plan() }, requests(Resource::Queue, "TOO_MANY_QUEUES")),
        case(
            "max_exchanges",
            pb::Plan { max_exchanges: 10, ..plan() },
            requests(Resource::Exchange, "TOO_MANY_EXCHANGES"),
        ),
        case("max_bindings", pb::Plan { max_bindings: 10, ..plan() }, requests(Resource::Binding, "TOO_MANY_BINDINGS")),
        case("max_clients", pb::Plan { max_clients: 10, ..plan() }, requests(Resource::Client, "TOO_MANY_CLIENTS")),
        case("max_connections", pb::Plan { max_connections: 3, ..plan() }, Attempts::Connecting { per_second: 6 }),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_plan_sets_the_limit_of_its_case() {
        let cases = all();
        assert_eq!(cases.len(), 13);
        for Case { limit, plan, .. } in cases {
            let fields = format!("{plan:?}");
            assert!(fields.contains(&format!(" {limit}: ")), "{limit} is a field of {fields}");
            assert!(!fields.contains(&format!(" {limit}: 0")), "{limit} is set in {fields}");
        }
    }
}
