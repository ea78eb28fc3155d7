//! For each limit of a plan: a plan with this limit alone, and how to exceed it tenfold. Rates are exceeded tenfold per
//! second, counts are requested tenfold each second, and sizes are ten times as large, all evenly spread.
//!
//! For connections, thirty clients each try again 5 s after a refusal, as RabbitMQ's clients for Java and .NET do: a
//! handshake is work of the broker, which has no limit for handshakes per second.

use warrengate::pb;

/// One limit.
pub(super) struct Case {
    /// As the plan has it.
    pub(super) limit: &'static str,
    pub(super) plan: pb::Plan,
    pub(super) tries: Tries,
}

/// How ten times as much is tried.
#[derive(Clone, Copy)]
pub(super) enum Tries {
    /// By messages on one publish stream.
    Messages { frames_a_second: u32, messages_a_frame: u64, bytes: usize, over: Over },
    /// By asking for one more, again and again; what is got is kept.
    Asking { a_second: u32, thing: Thing, over: &'static str },
    /// By connections straight to the broker, which says no by itself.
    Connecting { a_second: u32 },
}

/// What becomes of a message that is over the limit.
#[derive(Clone, Copy)]
pub(super) enum Over {
    /// It is throttled, by this reason.
    Throttled(&'static str),
    /// It is rejected, by this reason.
    Rejected(&'static str),
    /// It waits at the gateway until there is room: so many are in flight at a time.
    HeldBack(u64),
}

/// What there can be too many of.
#[derive(Clone, Copy)]
pub(super) enum Thing {
    Stream,
    Queue,
    Exchange,
    Binding,
    Client,
}

pub(super) fn all() -> Vec<Case> {
    let plan = pb::Plan::default;
    let case = |limit, plan, tries| Case { limit, plan, tries };
    let messages = |frames_a_second, messages_a_frame, bytes, over| Tries::Messages {
        frames_a_second,
        messages_a_frame,
        bytes,
        over,
    };
    let asking = |thing, over| Tries::Asking { a_second: 100, thing, over };
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
            messages(10, 100, 256, Over::HeldBack(10)),
        ),
        case(
            "max_in_flight_bytes",
            pb::Plan { max_message_bytes: 1_000, max_in_flight_bytes: 10_000, ..plan() },
            messages(10, 100, 1_000, Over::HeldBack(10)),
        ),
        case("max_streams", pb::Plan { max_streams: 10, ..plan() }, asking(Thing::Stream, "TOO_MANY_STREAMS")),
        case("max_queues", pb::Plan { max_queues: 10, ..plan() }, asking(Thing::Queue, "TOO_MANY_QUEUES")),
        case("max_exchanges", pb::Plan { max_exchanges: 10, ..plan() }, asking(Thing::Exchange, "TOO_MANY_EXCHANGES")),
        case("max_bindings", pb::Plan { max_bindings: 10, ..plan() }, asking(Thing::Binding, "TOO_MANY_BINDINGS")),
        case("max_clients", pb::Plan { max_clients: 10, ..plan() }, asking(Thing::Client, "TOO_MANY_CLIENTS")),
        case("max_connections", pb::Plan { max_connections: 3, ..plan() }, Tries::Connecting { a_second: 6 }),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_plan_has_the_limit_that_its_case_is_about() {
        let cases = all();
        assert_eq!(cases.len(), 13);
        for Case { limit, plan, .. } in cases {
            let fields = format!("{plan:?}");
            assert!(fields.contains(&format!(" {limit}: ")), "{limit} is a field of {fields}");
            assert!(!fields.contains(&format!(" {limit}: 0")), "{limit} is set in {fields}");
        }
    }
}
