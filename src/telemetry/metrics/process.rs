//! Metrics of the whole gateway: calls, tokens, certificates, spans, and connections to the broker and the store. Each
//! component holds a handle of its own; label values come from fixed lists.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use super::{
    encode::{Encoder, metric},
    latency::{Latency, SHORT},
    names,
    tenant::labels,
    values::{Counter, Gauge},
};

labels! {
    /// The result of verifying an access token.
    TokenCheck {
        /// A valid token.
        Valid = "valid",
        /// An expired token.
        Expired = "expired",
        /// An invalid token.
        Invalid = "invalid",
        /// No token.
        Missing = "missing",
    }
}

labels! {
    /// The purpose of a connection to the broker.
    BrokerPurpose {
        /// Publishing.
        Publish = "publish",
        /// Consuming.
        Consume = "consume",
    }
}

labels! {
    /// The kind of a store operation.
    StoreOperation {
        /// Reads the revision, twice a second.
        Revision = "revision",
        /// Reads all data that admission needs.
        Snapshot = "snapshot",
        /// Reads a client, to check its secret.
        Client = "client",
        /// Reads other rows, for administrators, for sessions of the console, and at start.
        Read = "read",
        /// A transaction that creates, changes or deletes a tenant, a client, a plan or a key.
        Change = "change",
        /// Stores or reads the response to a creation.
        Answer = "answer",
        /// Writes to the audit trail.
        Audit = "audit",
        /// Renews or deletes the gateway's entry.
        Gateway = "gateway",
        /// Reads or prunes the audit trail.
        Trail = "trail",
    }
}

labels! {
    /// A certificate whose expiry is monitored.
    Certificate {
        /// The gateway's certificate of the gRPC listener.
        Gateway = "gateway",
        /// The gateway's certificate of the operations listener.
        Ops = "ops",
        /// The certificate of the console's listener.
        Console = "console",
        /// The broker's authority in use.
        BrokerCa = "broker_ca",
        /// The authority that is also trusted during a rotation.
        AlsoTrustedBrokerCa = "broker_ca_beside",
        /// The provisioner's certificate.
        Provisioner = "provisioner",
        /// The tenants' client certificate in use that expires first.
        Tenants = "tenants_earliest",
    }
}

labels! {
    /// A listener of the gateway.
    ListenerKind {
        /// gRPC.
        Grpc = "grpc",
        /// Tokens, keys and probes.
        Ops = "ops",
        /// Metrics and probes, on a port of their own.
        Metrics = "metrics",
        /// The web console.
        Console = "console",
    }
}

labels! {
    /// Why a connection has ended; the gateway is the cause of all but the first two.
    CloseReason {
        /// The peer closed it, or it broke.
        Peer = "peer",
        /// The gateway is stopping.
        Shutdown = "shutdown",
        /// No call was running for too long.
        Idle = "idle",
        /// No authenticated call was running for too long.
        Unauthenticated = "unauthenticated",
        /// The peer did not respond to pings.
        Unresponsive = "unresponsive",
        /// The TLS handshake failed or took too long.
        Handshake = "handshake",
        /// The first bytes or the headers of a request did not arrive in time.
        Timeout = "timeout",
        /// The peer violated the HTTP protocol.
        Protocol = "protocol",
        /// The peer sent too many resets or small frames.
        Flood = "flood",
        /// There were too many connections.
        Limit = "limit",
        /// A proxy's header was missing or malformed.
        Proxy = "proxy",
    }
}

/// The gRPC status codes, by number.
const CODES: [&str; 17] = [
    "ok",
    "cancelled",
    "unknown",
    "invalid_argument",
    "deadline_exceeded",
    "not_found",
    "already_exists",
    "permission_denied",
    "resource_exhausted",
    "failed_precondition",
    "aborted",
    "out_of_range",
    "unimplemented",
    "internal",
    "unavailable",
    "data_loss",
    "unauthenticated",
];
/// The method label of calls with an unknown path.
const OTHER: &str = "other";

/// The metric handles of one gateway.
#[derive(Debug)]
pub struct ProcessMetrics {
    rpc: HashMap<String, Arc<RpcMetrics>>,
    other_rpc: Arc<RpcMetrics>,
    tokens: [Counter; TokenCheck::WORDS.len()],
    secrets_running: Gauge,
    secrets_waiting: Gauge,
    broker: [Arc<BrokerMetrics>; BrokerPurpose::WORDS.len()],
    connections: [Gauge; ListenerKind::WORDS.len()],
    closed: [[Counter; CloseReason::WORDS.len()]; ListenerKind::WORDS.len()],
    buffered: Gauge,
    buffered_limit: Gauge,
    store: Arc<StoreMetrics>,
    spans_dropped: AtomicU64,
    expiry: [Gauge; Certificate::WORDS.len()],
    ready: Gauge,
}

impl ProcessMetrics {
    pub(super) fn new(methods: impl IntoIterator<Item = String>) -> Self {
        Self {
            rpc: methods.into_iter().map(|method| (method, Arc::new(RpcMetrics::new()))).collect(),
            other_rpc: Arc::new(RpcMetrics::new()),
            tokens: Default::default(),
            secrets_running: Gauge::default(),
            secrets_waiting: Gauge::default(),
            broker: Default::default(),
            connections: Default::default(),
            closed: Default::default(),
            buffered: Gauge::default(),
            buffered_limit: Gauge::default(),
            store: Arc::new(StoreMetrics::new()),
            spans_dropped: AtomicU64::new(0),
            expiry: Default::default(),
            ready: Gauge::default(),
        }
    }

    /// The handles of a method, by its path (`/package.Service/Method`); those of `other` for an unknown path.
    pub fn rpc(&self, path: &str) -> &Arc<RpcMetrics> {
        self.rpc.get(path).unwrap_or(&self.other_rpc)
    }

    /// Counts a token by the result of its verification.
    pub fn token_checked(&self, what: TokenCheck) {
        self.tokens[what as usize].inc();
    }

    /// Sets the numbers of running and of waiting secret checks.
    pub fn secret_checks(&self, running: usize, waiting: usize) {
        self.secrets_running.set(i64::try_from(running).unwrap_or(i64::MAX));
        self.secrets_waiting.set(i64::try_from(waiting).unwrap_or(i64::MAX));
    }

    /// Counts an open client connection until the guard is dropped.
    pub fn connection(&self, listener: ListenerKind) -> OpenGuard {
        OpenGuard::new(&self.connections[listener as usize])
    }

    /// Counts a client connection that ended or was refused.
    pub fn connection_closed(&self, listener: ListenerKind, reason: CloseReason) {
        self.closed[listener as usize][reason as usize].inc();
    }

    /// Sets the number of bytes that are buffered for peers, and its limit.
    pub fn buffered(&self, bytes: usize, limit: usize) {
        self.buffered.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        self.buffered_limit.set(i64::try_from(limit).unwrap_or(i64::MAX));
    }

    /// The handles of one kind of connection.
    pub fn broker(&self, purpose: BrokerPurpose) -> &Arc<BrokerMetrics> {
        &self.broker[purpose as usize]
    }

    /// The handles of the store.
    pub fn store(&self) -> &Arc<StoreMetrics> {
        &self.store
    }

    /// Sets the total number of spans that did not reach the collector.
    pub fn spans_dropped(&self, total: u64) {
        self.spans_dropped.store(total, Ordering::Relaxed);
    }

    /// Sets the expiry of a certificate.
    pub fn certificate_ends(&self, which: Certificate, at: SystemTime) {
        let seconds = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        self.expiry[which as usize].set(i64::try_from(seconds).unwrap_or(i64::MAX));
    }

    /// Removes the expiry of a certificate that does not exist any more.
    pub fn certificate_removed(&self, which: Certificate) {
        self.expiry[which as usize].set(0);
    }

    /// Sets whether the gateway is ready.
    pub fn ready(&self, ready: bool) {
        self.ready.set(ready.into());
    }
}

/// The handles of one method.
#[derive(Debug)]
pub struct RpcMetrics {
    ended: [Counter; CODES.len()],
    duration: Latency,
}

impl RpcMetrics {
    fn new() -> Self {
        Self { ended: Default::default(), duration: Latency::new(&SHORT) }
    }

    /// Counts a call with its gRPC status and duration.
    pub fn ended(&self, code: i32, duration: Duration) {
        // Unrecognised status codes are counted as `unknown`, as gRPC requires.
        self.ended[usize::try_from(code).ok().filter(|code| *code < CODES.len()).unwrap_or(2)].inc();
        self.duration.observe(duration, None);
    }
}

/// The handles of one kind of connection to the broker.
#[derive(Debug, Default)]
pub struct BrokerMetrics {
    connections: Gauge,
    channels: Gauge,
    opened: Counter,
    lost: Counter,
    failed: Counter,
}

impl BrokerMetrics {
    /// Counts an opened connection until the guard is dropped.
    pub fn connection(&self) -> OpenGuard {
        self.opened.inc();
        OpenGuard::new(&self.connections)
    }

    /// Counts an opened channel until the guard is dropped.
    pub fn channel(&self) -> OpenGuard {
        OpenGuard::new(&self.channels)
    }

    /// Counts a connection that was lost.
    pub fn connection_lost(&self) {
        self.lost.inc();
    }

    /// Counts an attempt to connect that failed on every endpoint.
    pub fn connection_failed(&self) {
        self.failed.inc();
    }
}

/// Counts something open until it is dropped.
#[derive(Debug)]
pub struct OpenGuard(Gauge);

impl OpenGuard {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The handles of the store.
#[derive(Debug)]
pub struct StoreMetrics {
    duration: [Latency; StoreOperation::WORDS.len()],
    errors: [Counter; StoreOperation::WORDS.len()],
}

impl StoreMetrics {
    fn new() -> Self {
        Self { duration: std::array::from_fn(|_| Latency::new(&SHORT)), errors: Default::default() }
    }

    /// Runs an operation, and records its duration and whether it failed, as `failed` decides from its error. A
    /// cancelled operation is not recorded.
    ///
    /// # Errors
    /// The error of `what`.
    pub async fn timed<T, E>(
        &self,
        operation: StoreOperation,
        failed: impl FnOnce(&E) -> bool,
        what: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let started = Instant::now();
        let result = what.await;
        self.duration[operation as usize].observe(started.elapsed(), None);
        if result.as_ref().is_err_and(failed) {
            self.errors[operation as usize].inc();
        }
        result
    }
}

/// Writes all metrics without a tenant label.
pub(super) fn encode(encoder: &mut Encoder<'_>, process: &ProcessMetrics) -> fmt::Result {
    // Methods that were never called have no series, because most pairs never occur.
    let mut methods: Vec<_> = process.rpc.iter().map(|(path, rpc)| (path.trim_start_matches('/'), rpc)).collect();
    methods.push((OTHER, &process.other_rpc));
    methods.retain(|(_, rpc)| rpc.ended.iter().any(|counter| counter.get() > 0));
    methods.sort_unstable_by_key(|(method, _)| *method);
    metric(encoder, &names::RPC, |samples| {
        for (method, rpc) in &methods {
            for (code, count) in CODES.iter().zip(&rpc.ended).filter(|(_, count)| count.get() > 0) {
                samples.add([("method", method), ("code", code)], count)?;
            }
        }
        Ok(())
    })?;
    metric(encoder, &names::RPC_DURATION, |samples| {
        methods.iter().try_for_each(|(method, rpc)| samples.add([("method", method)], &rpc.duration))
    })?;
    macro_rules! labelled {
        ($($which:ident: $words:ident, $values:expr;)*) => {
            $(metric(encoder, &names::$which, |samples| {
                $words::WORDS.iter().zip($values).try_for_each(|(word, value)| {
                    samples.add([(names::$which.labels[0], *word)], value)
                })
            })?;)*
        };
    }
    let broker = &process.broker;
    labelled! {
        TOKEN_CHECKS: TokenCheck, &process.tokens;
        CONNECTIONS: ListenerKind, &process.connections;
        BROKER_CONNECTIONS: BrokerPurpose, broker.iter().map(|counters| &counters.connections);
        BROKER_CHANNELS: BrokerPurpose, broker.iter().map(|counters| &counters.channels);
        BROKER_OPENED: BrokerPurpose, broker.iter().map(|counters| &counters.opened);
        BROKER_LOST: BrokerPurpose, broker.iter().map(|counters| &counters.lost);
        BROKER_FAILED: BrokerPurpose, broker.iter().map(|counters| &counters.failed);
        STORE_DURATION: StoreOperation, &process.store.duration;
        STORE_ERRORS: StoreOperation, &process.store.errors;
    }
    metric(encoder, &names::CONNECTIONS_CLOSED, |samples| {
        for (listener, closed) in ListenerKind::WORDS.iter().zip(&process.closed) {
            for (reason, count) in CloseReason::WORDS.iter().zip(closed).filter(|(_, count)| count.get() > 0) {
                samples.add([("listener", *listener), ("reason", *reason)], count)?;
            }
        }
        Ok(())
    })?;
    let dropped = process.spans_dropped.load(Ordering::Relaxed);
    metric(encoder, &names::SPANS_DROPPED, |samples| samples.counter(dropped as f64))?;
    for (which, value) in [
        (&names::SECRET_CHECKS_RUNNING, &process.secrets_running),
        (&names::SECRET_CHECKS_WAITING, &process.secrets_waiting),
        (&names::BUFFERED, &process.buffered),
        (&names::BUFFERED_LIMIT, &process.buffered_limit),
        (&names::READY, &process.ready),
    ] {
        metric(encoder, which, |samples| samples.gauge(value.get() as f64))?;
    }
    metric(encoder, &names::CERTIFICATE_EXPIRY, |samples| {
        let known = Certificate::WORDS.iter().zip(&process.expiry).filter(|(_, ends)| ends.get() > 0);
        known.into_iter().try_for_each(|(word, ends)| samples.add([("certificate", *word)], ends))
    })
}
