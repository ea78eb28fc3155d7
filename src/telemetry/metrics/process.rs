//! What one gateway counts whoever its tenants are: calls, tokens, certificates, spans, and its ways to the broker and the
//! store. Each part is a handle that its room holds; label values are from closed lists.

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
    /// What an access token was.
    TokenCheck {
        /// One of ours, and in time.
        Valid = "valid",
        /// One of ours, too late.
        Expired = "expired",
        /// Anything else.
        Invalid = "invalid",
        /// There was none.
        Missing = "missing",
    }
}

labels! {
    /// What a connection to the broker is for.
    BrokerPurpose {
        /// In.
        Publish = "publish",
        /// Out.
        Consume = "consume",
    }
}

labels! {
    /// What is asked of the store.
    StoreOperation {
        /// Whether something changed: asked twice a second.
        Revision = "revision",
        /// Everything that admission needs.
        Snapshot = "snapshot",
        /// A client, to check its secret.
        Client = "client",
        /// Other rows, for administrators and at the start.
        Read = "read",
        /// A transaction that makes, changes or deletes a tenant, a client, a plan or a key.
        Change = "change",
        /// What a creation was answered, kept and looked up.
        Answer = "answer",
        /// A line of the audit trail, written.
        Audit = "audit",
        /// The audit trail, read or pruned.
        Trail = "trail",
    }
}

labels! {
    /// A certificate whose end is watched.
    Certificate {
        /// The gateway's own, on the tenants' side.
        Gateway = "gateway",
        /// The gateway's own, on the ops side.
        Ops = "ops",
        /// The broker's authority, as it is used.
        BrokerCa = "broker_ca",
        /// One that is trusted beside it, while the two change places.
        BrokerCaBeside = "broker_ca_beside",
        /// The provisioner's.
        Provisioner = "provisioner",
        /// Of the tenants' client certificates in use, the one that ends first.
        Tenants = "tenants_earliest",
    }
}

labels! {
    /// A port that the gateway listens on.
    ListenerKind {
        /// gRPC.
        Grpc = "grpc",
        /// Tokens, keys and probes.
        Ops = "ops",
        /// Metrics and probes, on a port of their own.
        Metrics = "metrics",
    }
}

labels! {
    /// Why a connection has ended; all but the first two are the gateway's doing.
    CloseReason {
        /// The peer has closed it, or it broke.
        Peer = "peer",
        /// The gateway stops.
        Shutdown = "shutdown",
        /// No call ran on it for too long.
        Idle = "idle",
        /// No call with a token ran on it for too long.
        Unauthenticated = "unauthenticated",
        /// The peer does not answer pings.
        Unresponsive = "unresponsive",
        /// The TLS handshake failed, or took too long.
        Handshake = "handshake",
        /// The first bytes or the headers of a request did not come in time.
        Timeout = "timeout",
        /// The peer broke the rules of HTTP.
        Protocol = "protocol",
        /// The peer sent too many resets, small frames or the like.
        Flood = "flood",
        /// There are too many connections.
        Limit = "limit",
        /// A proxy's header is missing or malformed.
        Proxy = "proxy",
    }
}

/// gRPC's codes, by their numbers.
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
/// The method of a call whose path is none of ours.
const OTHER: &str = "other";

/// One gateway's handles.
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

    /// The handles of a method, by its path (`/package.Service/Method`); those of `other` for a path that is none.
    pub fn rpc(&self, path: &str) -> &Arc<RpcMetrics> {
        self.rpc.get(path).unwrap_or(&self.other_rpc)
    }

    /// A request came with such a token.
    pub fn token_checked(&self, what: TokenCheck) {
        self.tokens[what as usize].inc();
    }

    /// How many secrets are being checked, and how many wait.
    pub fn secret_checks(&self, running: usize, waiting: usize) {
        self.secrets_running.set(i64::try_from(running).unwrap_or(i64::MAX));
        self.secrets_waiting.set(i64::try_from(waiting).unwrap_or(i64::MAX));
    }

    /// A client's connection is open; it counts until the guard is dropped.
    pub fn connection(&self, listener: ListenerKind) -> OpenGuard {
        OpenGuard::new(&self.connections[listener as usize])
    }

    /// A client's connection has ended, or was refused.
    pub fn connection_closed(&self, listener: ListenerKind, reason: CloseReason) {
        self.closed[listener as usize][reason as usize].inc();
    }

    /// How many bytes are buffered for peers, and how many may be.
    pub fn buffered(&self, bytes: usize, limit: usize) {
        self.buffered.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        self.buffered_limit.set(i64::try_from(limit).unwrap_or(i64::MAX));
    }

    /// The handles of one kind of connection.
    pub fn broker(&self, purpose: BrokerPurpose) -> &Arc<BrokerMetrics> {
        &self.broker[purpose as usize]
    }

    /// The store's handles.
    pub fn store(&self) -> &Arc<StoreMetrics> {
        &self.store
    }

    /// So many spans did not reach the collector, all in all.
    pub fn spans_dropped(&self, total: u64) {
        self.spans_dropped.store(total, Ordering::Relaxed);
    }

    /// When a certificate ends.
    pub fn certificate_ends(&self, which: Certificate, at: SystemTime) {
        let seconds = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        self.expiry[which as usize].set(i64::try_from(seconds).unwrap_or(i64::MAX));
    }

    /// There is no such certificate now.
    pub fn certificate_is_none(&self, which: Certificate) {
        self.expiry[which as usize].set(0);
    }

    /// Whether the gateway may be sent work.
    pub fn ready(&self, ready: bool) {
        self.ready.set(ready.into());
    }
}

/// One method's handles.
#[derive(Debug)]
pub struct RpcMetrics {
    ended: [Counter; CODES.len()],
    duration: Latency,
}

impl RpcMetrics {
    fn new() -> Self {
        Self { ended: Default::default(), duration: Latency::new(&SHORT) }
    }

    /// A call ended with this gRPC status after this time.
    pub fn ended(&self, code: i32, duration: Duration) {
        // A code that is none counts as "unknown", as gRPC wants it.
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
    /// A connection was opened; it counts until the guard is dropped.
    pub fn connection(&self) -> OpenGuard {
        self.opened.inc();
        OpenGuard::new(&self.connections)
    }

    /// A channel was opened; it counts until the guard is dropped.
    pub fn channel(&self) -> OpenGuard {
        OpenGuard::new(&self.channels)
    }

    /// A connection ended that we had not closed.
    pub fn connection_lost(&self) {
        self.lost.inc();
    }

    /// No endpoint let us in.
    pub fn connection_failed(&self) {
        self.failed.inc();
    }
}

/// Counts something open for as long as it lives.
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

/// The store's handles.
#[derive(Debug)]
pub struct StoreMetrics {
    duration: [Latency; StoreOperation::WORDS.len()],
    errors: [Counter; StoreOperation::WORDS.len()],
}

impl StoreMetrics {
    fn new() -> Self {
        Self { duration: std::array::from_fn(|_| Latency::new(&SHORT)), errors: Default::default() }
    }

    /// Does it, and counts how long it took and whether it failed, which `failed` tells from its error. What is given up
    /// half-way is not counted.
    ///
    /// # Errors
    /// As `what`.
    pub async fn timed<T, E>(
        &self,
        operation: StoreOperation,
        failed: impl FnOnce(&E) -> bool,
        what: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let begun = Instant::now();
        let result = what.await;
        self.duration[operation as usize].observe(begun.elapsed(), None);
        if result.as_ref().is_err_and(failed) {
            self.errors[operation as usize].inc();
        }
        result
    }
}

/// Writes everything that is no tenant's.
pub(super) fn encode(encoder: &mut Encoder<'_>, process: &ProcessMetrics) -> fmt::Result {
    // What was never called has no series: there are many more pairs than are ever seen.
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
        BROKER_CONNECTIONS: BrokerPurpose, broker.iter().map(|link| &link.connections);
        BROKER_CHANNELS: BrokerPurpose, broker.iter().map(|link| &link.channels);
        BROKER_OPENED: BrokerPurpose, broker.iter().map(|link| &link.opened);
        BROKER_LOST: BrokerPurpose, broker.iter().map(|link| &link.lost);
        BROKER_FAILED: BrokerPurpose, broker.iter().map(|link| &link.failed);
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
