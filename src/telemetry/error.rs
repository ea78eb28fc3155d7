//! Errors in setting up logs, traces or metrics. Only operators see them, at start.

use std::borrow::Cow;

use crate::error::{Classify, Kind};

/// Why telemetry cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The log filter is invalid.
    #[error("telemetry.log is not a filter such as \"info\" or \"warrengate=debug,info\"")]
    Filter(#[source] tracing_subscriber::filter::ParseError),
    /// The trace exporter cannot be created.
    #[error("traces cannot be sent to telemetry.otlp_endpoint: {0}")]
    Exporter(#[source] opentelemetry_otlp::ExporterBuildError),
    /// The metrics endpoint is invalid.
    #[error("metrics cannot be sent to telemetry.otlp_metrics_endpoint: {0}")]
    MetricsEndpoint(#[from] tonic::transport::Error),
    /// A subscriber has been set up already.
    #[error("logging was set up already")]
    AlreadySet(#[source] tracing_subscriber::util::TryInitError),
}

impl Classify for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Filter(_) | Self::Exporter(_) | Self::MetricsEndpoint(_) => Kind::Invalid,
            Self::AlreadySet(_) => Kind::Internal,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Filter(_) => "INVALID_LOG_FILTER",
            Self::Exporter(_) | Self::MetricsEndpoint(_) => "INVALID_OTLP_ENDPOINT",
            Self::AlreadySet(_) => "TELEMETRY_ALREADY_SET",
        }
    }

    fn message(&self) -> Cow<'static, str> {
        self.to_string().into()
    }
}
