//! What operators see: logs, traces, metrics. Settings enter, and a guard that flushes when the process ends leaves; the
//! rooms below get [`Traces`] and [`Metrics`], whose handles are looked up once a call or a stream.
//! Nothing here decides anything, and no message body or secret reaches a log.

mod error;
mod logs;
mod metrics;
mod propagation;
mod traces;

pub use error::Error;
pub use logs::{LogFilter, init};
pub use metrics::{
    BrokerMetrics, BrokerPurpose, Certificate, CloseReason, DeadLetterReason, Described, Limit, ListenerKind, METRICS,
    MetricKind, Metrics, MetricsFormat, MetricsPush, OpenGuard, OpenStream, ProcessMetrics, RpcMetrics, Settlement,
    StoreMetrics, StoreOperation, StreamKind, TenantMetrics, TokenCheck,
};
pub use propagation::{TraceContext, strip_baggage};
pub use traces::{Call, CallKind, DeliverySpans, MessageTracer, Sending, Settling, Traces};
