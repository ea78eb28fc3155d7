//! The list of all metrics: name, kind, labels and help. The encoder takes names only from here, so that this list,
//! the page at `/metrics`, the dashboards and the alerts are consistent (checked by tests/observability.rs).
//!
//! Names follow Prometheus' conventions: a base unit (`_seconds`, `_bytes`) where applicable, `_total` for counters.
//! Label values come from fixed lists, from validated tenant ids (bounded in number), and from the API's method names,
//! never from other input of a peer.

/// The kind of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// Only increases, until the process ends.
    Counter,
    /// Increases and decreases.
    Gauge,
    /// Counts by upper bound, with sum and total count.
    Histogram,
}

/// The description of a metric for operators.
#[derive(Debug)]
pub struct Described {
    /// The name in `/metrics`.
    pub name: &'static str,
    /// The kind.
    pub kind: MetricKind,
    /// The names of its labels, in order.
    pub labels: &'static [&'static str],
    /// A description in one sentence.
    pub help: &'static str,
}

impl Described {
    /// The names of its samples; a histogram has three.
    pub fn samples(&self) -> Vec<String> {
        match self.kind {
            MetricKind::Histogram => ["_bucket", "_sum", "_count"].map(|end| format!("{}{end}", self.name)).into(),
            MetricKind::Counter | MetricKind::Gauge => vec![self.name.to_owned()],
        }
    }
}

macro_rules! metrics {
    ($($id:ident: $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(pub(super) const $id: Described =
            Described { name: $name, kind: MetricKind::$kind, labels: &[$($label),*], help: $help };)*
        /// All metrics, in the order of the page.
        pub const METRICS: &[&Described] = &[$(&$id),*];
    };
}

metrics! {
    // By tenant.
    PUBLISHED: Counter "warrengate_published_total" ["tenant", "outcome"]
        "Messages published, by the outcome reported to the producer.";
    PUBLISHED_BYTES: Counter "warrengate_published_bytes_total" ["tenant"]
        "Body bytes of messages accepted for publishing, regardless of their outcome.";
    DELIVERED: Counter "warrengate_delivered_total" ["tenant"] "Messages delivered to subscribers, redeliveries included.";
    DELIVERED_BYTES: Counter "warrengate_delivered_bytes_total" ["tenant"] "Body bytes delivered to subscribers.";
    REDELIVERED: Counter "warrengate_redelivered_total" ["tenant"]
        "Deliveries of messages that may have been delivered before.";
    SETTLED: Counter "warrengate_settled_total" ["tenant", "settlement"] "Deliveries settled, by settlement.";
    DEAD_LETTERED: Counter "warrengate_dead_lettered_total" ["tenant", "reason"]
        "Messages moved to the dead letters by the gateway, by reason.";
    THROTTLED: Counter "warrengate_throttled_total" ["tenant", "limit"]
        "Streams and messages refused because a limit of the plan was reached, by limit.";
    REAUTHENTICATED: Counter "warrengate_reauthentications_total" ["tenant"]
        "Renewals of an open stream's token.";
    OPEN_STREAMS: Gauge "warrengate_open_streams" ["tenant", "kind"] "Open streams, by kind.";
    IN_FLIGHT: Gauge "warrengate_in_flight_messages" ["tenant", "kind"]
        "Messages published without an outcome (publish), or delivered and not settled (subscribe).";
    IN_FLIGHT_BYTES: Gauge "warrengate_in_flight_bytes" ["tenant", "kind"] "Body bytes of the messages in flight.";
    PLAN_LIMIT: Gauge "warrengate_plan_limit" ["tenant", "limit"]
        "The limits of the tenant's plan on one gateway, when its last stream was opened; absent for unlimited.";
    CONFIRM: Histogram "warrengate_confirm_duration_seconds" ["tenant"]
        "Time from a message's arrival to the broker's confirm.";
    END_TO_END: Histogram "warrengate_end_to_end_duration_seconds" ["tenant"]
        "Time from a message's arrival to its first delivery, waiting in the queue included.";
    QUEUE_MESSAGES: Gauge "warrengate_queue_messages" ["tenant", "state"]
        "Messages in the tenant's queues at the broker: ready, unsettled, or delayed until their next attempt.";
    QUEUE_CONSUMERS: Gauge "warrengate_queue_consumers" ["tenant"] "Consumers of the tenant's queues, of all gateways.";
    OLDEST_MESSAGE: Gauge "warrengate_queue_oldest_message_age_seconds" ["tenant"]
        "The largest age of a queue's oldest message, estimated; absent while it is unknown.";
    DEAD_LETTERS_STORED: Gauge "warrengate_dead_letters_stored" ["tenant"] "Dead letters stored.";

    // By process.
    TENANTS: Gauge "warrengate_metrics_tenants" [] "Tenants with a label of their own; further tenants share one.";
    RPC: Counter "warrengate_rpc_total" ["method", "code"] "Calls ended, by method and gRPC status.";
    RPC_DURATION: Histogram "warrengate_rpc_duration_seconds" ["method"] "Duration of calls.";
    TOKEN_CHECKS: Counter "warrengate_token_checks_total" ["result"] "Access tokens verified, by result.";
    CONNECTIONS: Gauge "warrengate_connections" ["listener"] "Open client connections, by listener.";
    CONNECTIONS_CLOSED: Counter "warrengate_connections_closed_total" ["listener", "reason"]
        "Client connections that ended or were refused, by reason; the gateway is the cause of all but peer and shutdown.";
    BUFFERED: Gauge "warrengate_buffered_bytes" [] "Bytes buffered for peers, as charged to the memory budget.";
    BUFFERED_LIMIT: Gauge "warrengate_buffered_bytes_limit" [] "Bytes that may be buffered for peers.";
    SECRET_CHECKS_RUNNING: Gauge "warrengate_secret_checks_running" [] "Client secrets being checked (argon2id).";
    SECRET_CHECKS_WAITING: Gauge "warrengate_secret_checks_waiting" [] "Client secrets waiting to be checked.";
    BROKER_CONNECTIONS: Gauge "warrengate_broker_connections" ["purpose"] "Open connections to the broker.";
    BROKER_CHANNELS: Gauge "warrengate_broker_channels" ["purpose"] "Open channels to the broker.";
    BROKER_OPENED: Counter "warrengate_broker_connections_opened_total" ["purpose"] "Connections to the broker opened.";
    BROKER_LOST: Counter "warrengate_broker_connections_lost_total" ["purpose"]
        "Connections to the broker that were lost.";
    BROKER_FAILED: Counter "warrengate_broker_connection_failures_total" ["purpose"]
        "Attempts to connect to the broker that failed on every endpoint.";
    STORE_DURATION: Histogram "warrengate_store_duration_seconds" ["operation"] "Duration of store operations.";
    STORE_ERRORS: Counter "warrengate_store_errors_total" ["operation"] "Failed store operations.";
    SPANS_DROPPED: Counter "warrengate_spans_dropped_total" []
        "Spans that did not reach the collector because the queue was full or an export failed.";
    CERTIFICATE_EXPIRY: Gauge "warrengate_certificate_expiry_timestamp_seconds" ["certificate"]
        "When a certificate expires, in seconds since 1970.";
    READY: Gauge "warrengate_ready" [] "Whether the gateway is ready: 1 or 0.";
    BUILD: Gauge "warrengate_build_info" ["version", "revision"] "Version and revision of the build; always 1.";

    // Standard process metrics, where the operating system has them.
    PROCESS_CPU: Counter "process_cpu_seconds_total" [] "Total user and system CPU time spent in seconds.";
    PROCESS_OPEN_FDS: Gauge "process_open_fds" [] "Number of open file descriptors.";
    PROCESS_MAX_FDS: Gauge "process_max_fds" [] "Maximum number of open file descriptors.";
    PROCESS_VIRTUAL: Gauge "process_virtual_memory_bytes" [] "Virtual memory size in bytes.";
    PROCESS_RESIDENT: Gauge "process_resident_memory_bytes" [] "Resident memory size in bytes.";
    PROCESS_START: Gauge "process_start_time_seconds" [] "Start time of the process since unix epoch in seconds.";
    PROCESS_THREADS: Gauge "process_threads" [] "Number of threads of the process.";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_follow_the_conventions() {
        let names: BTreeSet<_> = METRICS.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), METRICS.len(), "duplicate name");
        for metric in METRICS {
            let name = metric.name;
            assert!(name.starts_with("warrengate_") || name.starts_with("process_"), "{name}");
            assert_eq!(metric.kind == MetricKind::Counter, name.ends_with("_total"), "{name}");
            assert!(metric.kind != MetricKind::Histogram || name.ends_with("_seconds"), "{name}");
            assert!(metric.help.ends_with('.') && !metric.help.contains(['\n', '\\', '"']), "{name}");
        }
    }
}
