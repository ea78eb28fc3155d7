//! The purpose of a connection: publishing or consuming.

use crate::telemetry::BrokerPurpose;

/// What a connection is used for. A broker under a resource alarm stops reading from connections that publish,
/// acknowledgements included, so publishing and consuming must not share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::broker) enum Purpose {
    Publish,
    Consume,
}

impl Purpose {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Consume => "consume",
        }
    }

    /// The label of this purpose in metrics.
    pub(super) fn metric_label(self) -> BrokerPurpose {
        match self {
            Self::Publish => BrokerPurpose::Publish,
            Self::Consume => BrokerPurpose::Consume,
        }
    }
}
