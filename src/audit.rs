//! The audit trail of the running gateway.
//!
//! Invariant: an administrative operation is recorded before it is answered. Refusals, issued tokens and destructive
//! calls of the data plane never wait: their events are put into bounded queues, and events that do not fit or occur
//! too often are only counted (`aggregator`), so that they fill neither memory nor the disk. Text of callers is
//! sanitized.

mod aggregator;
mod context;
mod writer;

pub use context::AuditContext;
pub use writer::AuditWriter;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::mpsc;

use crate::{
    backoff::Backoff,
    config::AuditConfig,
    store::{BegunOperation, Error, NewAudit, Store},
};

/// The maximum number of events that wait to be written, for recognised clients and for unauthenticated callers each.
const WAITING: usize = 1024;
/// How often writing the outcome of an administrative operation is tried.
const TRIES: u32 = 4;
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(150), Duration::from_secs(1));

/// The audit trail. Cloning is cheap.
#[derive(Clone)]
pub struct Audit(Arc<Inner>);

struct Inner {
    store: Store,
    of_recognised: mpsc::Sender<NewAudit>,
    of_unauthenticated: mpsc::Sender<NewAudit>,
    /// The number of events that did not fit into their queue and are not counted in the store yet.
    dropped: AtomicU64,
}

impl std::fmt::Debug for Audit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Audit").field("dropped", &self.0.dropped).finish_non_exhaustive()
    }
}

impl Audit {
    /// The audit trail and its writer. Aggregated events are stored only while [`AuditWriter::run`] runs.
    pub fn new(store: Store, config: &AuditConfig) -> (Self, AuditWriter) {
        let (of_recognised, recognised) = mpsc::channel(WAITING);
        let (of_unauthenticated, unauthenticated) = mpsc::channel(WAITING);
        let dropped = AtomicU64::new(0);
        let audit = Self(Arc::new(Inner { store: store.clone(), of_recognised, of_unauthenticated, dropped }));
        let writer = AuditWriter::new(store, config.clone(), audit.clone(), [recognised, unauthenticated]);
        (audit, writer)
    }

    /// Records that an operation begins. If this fails, the operation must not be done.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn begin(&self, event: &NewAudit) -> Result<BegunOperation, Error> {
        self.0.store.begin_operation(event).await
    }

    /// Records the outcome of an operation. If this fails, the caller must be informed; the operation is reported as
    /// unfinished later.
    ///
    /// # Errors
    /// When the store fails repeatedly.
    pub async fn finish(&self, operation: &BegunOperation, event: &NewAudit) -> Result<(), Error> {
        let mut backoff = BACKOFF;
        for _ in 1..TRIES {
            match self.0.store.finish_operation(operation, event).await {
                Ok(()) => return Ok(()),
                Err(error) => tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "cannot record the outcome of an operation, retrying"
                ),
            }
            tokio::time::sleep(backoff.pause()).await;
        }
        self.0.store.finish_operation(operation, event).await
    }

    /// Deletes the record of an operation that was refused, because the refusal is recorded instead.
    pub async fn cancel(&self, operation: &BegunOperation) {
        if let Err(error) = self.0.store.cancel_operation(operation).await {
            // It will be reported as unfinished, in addition to the refusal.
            tracing::warn!(error = &error as &dyn std::error::Error, "cannot delete the record of a refused operation");
        }
    }

    /// Records an event in the background, together with others of its kind if there are many. Never waits.
    pub(crate) fn aggregate(&self, event: NewAudit) {
        let times = event.times;
        let queue = if event.client.is_empty() { &self.0.of_unauthenticated } else { &self.0.of_recognised };
        if queue.try_send(NewAudit { aggregated: true, ..event }).is_err() {
            self.0.dropped.fetch_add(times, Ordering::Relaxed);
        }
    }

    /// The number of events that did not fit into their queue since the last call.
    fn take_dropped(&self) -> u64 {
        self.0.dropped.swap(0, Ordering::Relaxed)
    }
}

/// Text of a caller, with a limited length, and without control characters or anything else that a terminal, a log or a
/// database could interpret.
pub fn sanitize(text: &str) -> String {
    text.chars().take(100).flat_map(char::escape_default).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_a_caller_is_limited_and_escaped() {
        let sanitized = sanitize(&format!("acme.\n\0\u{1b}[31m\u{202e}ä{}", "x".repeat(10_000)));
        assert!(sanitized.len() < 1_100 && sanitized.bytes().all(|b| (0x20..0x7f).contains(&b)), "{sanitized}");
    }
}
