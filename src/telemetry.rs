//! Telemetry: logs, traces and metrics. Handles of [`Traces`] and [`Metrics`] are resolved once per call or stream.
//! Telemetry never influences the data path, and no message body or secret is logged.

mod error;
mod logs;
mod metrics;
mod panics;
mod propagation;
mod traces;

pub use error::Error;
pub use logs::{LogFilter, init};
pub use metrics::{
    BrokerMetrics, BrokerPurpose, Certificate, CloseReason, DeadLetterReason, Described, Limit, ListenerKind, METRICS,
    MetricKind, Metrics, MetricsFormat, MetricsPush, OpenGuard, OpenStream, ProcessMetrics, RpcMetrics, Settlement,
    StoreMetrics, StoreOperation, StreamKind, TenantMetrics, TenantQueues, TokenCheck,
};
pub use panics::{log_panics, named_task, panic_text};
pub use propagation::{TraceContext, strip_baggage};
pub use traces::{Call, CallKind, DeliverySpans, MessageTracer, Sending, Settling, Traces};
