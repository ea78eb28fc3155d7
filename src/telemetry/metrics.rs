//! Counters for each tenant. A tenant enters once and gets handles that cost an atomic addition; what Prometheus reads
//! leaves. The number of tenants with a label of their own is bounded: all others share the label `other`.

use std::{
    collections::HashMap,
    sync::{Arc, RwLock},
};

use prometheus::{Encoder as _, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};

use super::Error;
use crate::{names::TenantId, pb::Outcome};

/// Tenants with a label of their own.
const MAX_TENANTS: usize = 1000;
/// Shared by all others; a tenant of this name shares it too.
const OTHER: &str = "other";

const OUTCOMES: [(Outcome, &str); 6] = [
    (Outcome::Confirmed, "confirmed"),
    (Outcome::Unroutable, "unroutable"),
    (Outcome::Rejected, "rejected"),
    (Outcome::Denied, "denied"),
    (Outcome::Throttled, "throttled"),
    (Outcome::Unknown, "unknown"),
];

/// How a delivery was settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Settlement {
    /// It is done.
    Ack,
    /// It comes again.
    Retry,
    /// It went to the dead letters.
    DeadLetter,
    /// It was thrown away.
    Drop,
    /// It was taken back: the stream ended, or its lease did.
    TakenBack,
}

const SETTLEMENTS: [(Settlement, &str); 5] = [
    (Settlement::Ack, "ack"),
    (Settlement::Retry, "retry"),
    (Settlement::DeadLetter, "dead_letter"),
    (Settlement::Drop, "drop"),
    (Settlement::TakenBack, "taken_back"),
];

/// Which way a stream's messages go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StreamKind {
    /// In.
    Publish,
    /// Out.
    Subscribe,
}

const STREAMS: [(StreamKind, &str); 2] = [(StreamKind::Publish, "publish"), (StreamKind::Subscribe, "subscribe")];

/// All metrics of one gateway. Cloning is cheap.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    published: IntCounterVec,
    delivered: IntCounterVec,
    settled: IntCounterVec,
    open_streams: IntGaugeVec,
    tenants: RwLock<HashMap<TenantId, Arc<TenantMetrics>>>,
    other: Arc<TenantMetrics>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics(..)")
    }
}

impl Metrics {
    /// Metrics in a registry of their own, so that two gateways in one process do not share any.
    ///
    /// # Errors
    /// When a metric's name is none or taken: a fault of the program.
    pub fn new() -> Result<Self, Error> {
        Self::register().map_err(Error::Metrics)
    }

    fn register() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let metric = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(metric.clone())).map(|()| metric)
        };
        let published =
            counter("warrengate_published_total", "Messages published, by outcome.", &["tenant", "outcome"])?;
        let delivered = counter("warrengate_delivered_total", "Messages delivered to subscribers.", &["tenant"])?;
        let settled =
            counter("warrengate_settled_total", "Deliveries settled, by settlement.", &["tenant", "settlement"])?;
        let open_streams =
            IntGaugeVec::new(Opts::new("warrengate_open_streams", "Open streams, by kind."), &["tenant", "kind"])?;
        registry.register(Box::new(open_streams.clone()))?;
        let other = Arc::new(TenantMetrics::new(OTHER, &published, &delivered, &settled, &open_streams));
        let tenants = RwLock::default();
        Ok(Self(Arc::new(Inner { registry, published, delivered, settled, open_streams, tenants, other })))
    }

    /// A tenant's handles; to be asked for once a stream, not once a message.
    pub fn tenant(&self, tenant: &TenantId) -> Arc<TenantMetrics> {
        let known = |tenants: &HashMap<TenantId, Arc<TenantMetrics>>| tenants.get(tenant).cloned();
        // A poisoned lock holds a map that is whole all the same.
        if let Some(metrics) = known(&self.0.tenants.read().unwrap_or_else(|poison| poison.into_inner())) {
            return metrics;
        }
        let mut tenants = self.0.tenants.write().unwrap_or_else(|poison| poison.into_inner());
        if let Some(metrics) = known(&tenants) {
            return metrics;
        }
        // A tenant that is called like the shared label shares it.
        if tenants.len() >= MAX_TENANTS || tenant.as_str() == OTHER {
            return self.0.other.clone();
        }
        let Inner { published, delivered, settled, open_streams, .. } = &*self.0;
        let metrics = Arc::new(TenantMetrics::new(tenant.as_str(), published, delivered, settled, open_streams));
        tenants.insert(tenant.clone(), metrics.clone());
        metrics
    }

    /// All metrics in Prometheus' text format.
    pub fn render(&self) -> String {
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.0.registry.gather(), &mut text) {
            tracing::error!(%error, "metrics cannot be rendered");
        }
        String::from_utf8(text).unwrap_or_default()
    }
}

/// One tenant's handles.
#[derive(Debug)]
pub struct TenantMetrics {
    published: [IntCounter; OUTCOMES.len()],
    delivered: IntCounter,
    settled: [IntCounter; SETTLEMENTS.len()],
    open: [IntGauge; STREAMS.len()],
}

impl TenantMetrics {
    fn new(
        tenant: &str,
        published: &IntCounterVec,
        delivered: &IntCounterVec,
        settled: &IntCounterVec,
        open: &IntGaugeVec,
    ) -> Self {
        Self {
            published: OUTCOMES.map(|(_, name)| published.with_label_values(&[tenant, name])),
            delivered: delivered.with_label_values(&[tenant]),
            settled: SETTLEMENTS.map(|(_, name)| settled.with_label_values(&[tenant, name])),
            open: STREAMS.map(|(_, name)| open.with_label_values(&[tenant, name])),
        }
    }

    /// Messages had this outcome.
    pub fn published(&self, outcome: Outcome, count: u64) {
        for ((which, _), counter) in OUTCOMES.iter().zip(&self.published) {
            if *which == outcome {
                counter.inc_by(count);
            }
        }
    }

    /// Messages were delivered.
    pub fn delivered(&self, count: u64) {
        self.delivered.inc_by(count);
    }

    /// Deliveries were settled.
    pub fn settled(&self, settlement: Settlement, count: u64) {
        for ((which, _), counter) in SETTLEMENTS.iter().zip(&self.settled) {
            if *which == settlement {
                counter.inc_by(count);
            }
        }
    }

    /// A stream is open until the guard is dropped.
    pub fn open_stream(&self, kind: StreamKind) -> OpenStream {
        let gauge = match kind {
            StreamKind::Publish => &self.open[0],
            StreamKind::Subscribe => &self.open[1],
        };
        gauge.inc();
        OpenStream(gauge.clone())
    }
}

/// Counts an open stream for as long as it lives.
#[derive(Debug)]
pub struct OpenStream(IntGauge);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_counts_under_its_own_label_and_open_streams_close() {
        let metrics = Metrics::new().expect("metrics");
        let acme = metrics.tenant(&TenantId::parse("acme").expect("an id"));
        acme.published(Outcome::Confirmed, 3);
        acme.published(Outcome::Unspecified, 1);
        acme.settled(Settlement::DeadLetter, 1);
        acme.delivered(2);
        let open = acme.open_stream(StreamKind::Subscribe);
        let text = metrics.render();
        for line in [
            r#"warrengate_published_total{outcome="confirmed",tenant="acme"} 3"#,
            r#"warrengate_settled_total{settlement="dead_letter",tenant="acme"} 1"#,
            r#"warrengate_delivered_total{tenant="acme"} 2"#,
            r#"warrengate_open_streams{kind="subscribe",tenant="acme"} 1"#,
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        drop(open);
        assert!(metrics.render().contains(r#"warrengate_open_streams{kind="subscribe",tenant="acme"} 0"#));
    }

    #[test]
    fn tenants_beyond_the_bound_share_a_label() {
        let metrics = Metrics::new().expect("metrics");
        for i in 0..MAX_TENANTS + 5 {
            metrics.tenant(&TenantId::parse(&format!("t-{i}")).expect("an id")).delivered(1);
        }
        let text = metrics.render();
        assert!(text.contains(r#"warrengate_delivered_total{tenant="other"} 5"#));
        assert!(!text.contains("t-1000"));
    }
}
