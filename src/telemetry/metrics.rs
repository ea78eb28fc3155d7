//! Metrics. A stream obtains its tenant's handles once, and each event costs an atomic addition.
//!
//! The number of tenants with a label of their own is bounded: all others share the label `other`, and the label of a
//! deleted tenant becomes free again.

mod encode;
mod latency;
mod names;
mod os;
mod otlp;
mod process;
mod push;
mod queues;
mod tenant;
mod values;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, OnceLock, PoisonError, RwLock},
};

use opentelemetry_proto::tonic::metrics::v1::Metric;

use self::encode::{Encoder, metric};
use crate::names::TenantId;

pub use names::{Described, METRICS, MetricKind};
pub use process::{
    BrokerMetrics, BrokerPurpose, Certificate, CloseReason, ListenerKind, OpenGuard, ProcessMetrics, RpcMetrics,
    StoreMetrics, StoreOperation, TokenCheck,
};
pub use push::MetricsPush;
pub use queues::TenantQueues;
pub use tenant::{DeadLetterReason, Limit, OpenStream, Settlement, StreamKind, TenantMetrics};

/// The maximum number of tenants with a label of their own.
const MAX_TENANTS: usize = 1000;
/// The label that all other tenants share; a tenant of this name shares it as well.
const OTHER: &str = "other";

/// The format of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricsFormat {
    /// Prometheus' text format, version 0.0.4, for browsers and old scrapers.
    Prometheus,
    /// OpenMetrics 1.0: the same with exemplars, which refer from a bucket to a trace.
    OpenMetrics,
}

impl MetricsFormat {
    /// The format for an `Accept` header.
    pub fn accepted_by(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") { Self::OpenMetrics } else { Self::Prometheus }
    }

    /// The content type.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// All metrics of one gateway, separate from those of other gateways in the process. Cloning is cheap.
#[derive(Clone)]
pub struct Metrics {
    all: Arc<All>,
}

type Hook = Box<dyn Fn(&Metrics) + Send + Sync>;

struct All {
    process: Arc<ProcessMetrics>,
    tenants: RwLock<HashMap<TenantId, Arc<TenantMetrics>>>,
    other: OnceLock<Arc<TenantMetrics>>,
    queues: RwLock<Vec<(String, TenantQueues)>>,
    hooks: Mutex<Vec<Hook>>,
}

impl fmt::Debug for All {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("All(..)")
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics(..)")
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new([])
    }
}

impl Metrics {
    /// Creates all metrics. Calls are counted by the paths of these methods (`/package.Service/Method`).
    pub fn new(methods: impl IntoIterator<Item = String>) -> Self {
        let all = Arc::new(All {
            process: Arc::new(ProcessMetrics::new(methods)),
            tenants: RwLock::default(),
            other: OnceLock::new(),
            queues: RwLock::default(),
            hooks: Mutex::default(),
        });
        Self { all }
    }

    /// The gateway's own handles.
    pub fn process(&self) -> &Arc<ProcessMetrics> {
        &self.all.process
    }

    /// Adds a function that runs before each reading and sets metrics that are cheaper to read then than to update
    /// continuously. It must not wait.
    pub fn before_each_reading(&self, hook: impl Fn(&Self) + Send + Sync + 'static) {
        self.all.hooks.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(hook));
    }

    /// A tenant's handles, to be obtained once for each stream and not for each message.
    pub fn tenant(&self, tenant: &TenantId) -> Arc<TenantMetrics> {
        let known = |tenants: &HashMap<TenantId, Arc<TenantMetrics>>| tenants.get(tenant).cloned();
        // The map is consistent even if the lock is poisoned.
        if let Some(metrics) = known(&self.all.tenants.read().unwrap_or_else(PoisonError::into_inner)) {
            return metrics;
        }
        let mut tenants = self.all.tenants.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(metrics) = known(&tenants) {
            return metrics;
        }
        // A tenant with the name of the shared label shares it.
        if tenants.len() >= MAX_TENANTS || tenant.as_str() == OTHER {
            return Arc::clone(self.all.other.get_or_init(|| Arc::new(TenantMetrics::new())));
        }
        let metrics = Arc::new(TenantMetrics::new());
        tenants.insert(tenant.clone(), metrics.clone());
        metrics
    }

    /// Removes the metrics of deleted tenants, so that other tenants can have a label of their own.
    pub fn retain_tenants(&self, is_known: impl Fn(&TenantId) -> bool) {
        self.all.tenants.write().unwrap_or_else(PoisonError::into_inner).retain(|tenant, _| is_known(tenant));
    }

    /// Replaces the figures of all tenants' queues.
    pub fn set_queues(&self, tenants: Vec<(TenantId, TenantQueues)>) {
        let labelled = {
            let own = self.all.tenants.read().unwrap_or_else(PoisonError::into_inner);
            queues::labelled(tenants, |tenant| own.contains_key(tenant))
        };
        *self.all.queues.write().unwrap_or_else(PoisonError::into_inner) = labelled;
    }

    /// All metrics with their current values.
    pub fn render(&self, format: MetricsFormat) -> String {
        let mut text = String::new();
        self.encode(&mut Encoder::Text(&mut text, format));
        if format == MetricsFormat::OpenMetrics {
            text.push_str("# EOF\n");
        }
        text
    }

    fn otlp(&self, period: otlp::Period) -> Vec<Metric> {
        let mut metrics = Vec::new();
        self.encode(&mut Encoder::Otlp(&mut metrics, period));
        metrics
    }

    fn encode(&self, encoder: &mut Encoder<'_>) {
        self.all.hooks.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(|hook| hook(self));
        if self.all.encode(encoder).is_err() {
            // Writing to memory does not fail.
            tracing::error!("cannot encode metrics");
        }
    }
}

impl All {
    fn encode(&self, encoder: &mut Encoder<'_>) -> fmt::Result {
        let tenants = self.tenants.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut each: Vec<_> = tenants.iter().map(|(tenant, metrics)| (tenant.as_str(), &**metrics)).collect();
        each.sort_unstable_by_key(|(tenant, _)| *tenant);
        each.extend(self.other.get().map(|metrics| (OTHER, &**metrics)));
        tenant::encode(encoder, &each)?;
        queues::encode(encoder, &self.queues.read().unwrap_or_else(PoisonError::into_inner))?;
        metric(encoder, &names::TENANTS, |samples| samples.gauge(tenants.len() as f64))?;
        process::encode(encoder, &self.process)?;
        metric(encoder, &names::BUILD, |samples| {
            let revision = option_env!("WARRENGATE_REVISION").unwrap_or("unknown");
            samples.gauge_with([("version", env!("CARGO_PKG_VERSION")), ("revision", revision)], 1.0)
        })?;
        os::encode(encoder)
    }
}

#[cfg(test)]
mod tests;
