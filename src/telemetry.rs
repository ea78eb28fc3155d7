//! What operators see: logs, traces, metrics. Settings enter, and a guard that flushes when the process ends leaves; the
//! rooms below get a [`TraceContext`] to carry along and [`Metrics`] whose handles are looked up once for each tenant.
//! Nothing here decides anything, and no message body or secret reaches a log.

mod error;
mod logs;
mod metrics;
mod propagation;

pub use error::Error;
pub use logs::{TelemetryGuard, init};
pub use metrics::{
    BrokerMetrics, BrokerPurpose, Certificate, DeadLetterReason, Described, Limit, METRICS, MetricKind, Metrics,
    MetricsFormat, OpenGuard, OpenStream, ProcessMetrics, RpcMetrics, Settlement, SpanDrop, StoreMetrics,
    StoreOperation, StreamKind, TenantMetrics, TokenCheck,
};
pub use propagation::TraceContext;
