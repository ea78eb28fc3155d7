//! The audit trail of the running gateway. An administrative act is recorded before it is answered. Refusals, issued tokens and
//! destructive calls of the data plane never wait: they go into bounded queues, and what finds no place there, or comes too
//! often, is counted (`aggregator`), so that they fill neither memory nor the disk. Text that callers wrote is sanitized.

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

/// Events that may wait to be written: of recognised clients, and of unauthenticated callers.
const WAITING: usize = 1024;
/// How often the row of an administrative operation is tried.
const TRIES: u32 = 4;
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(150), Duration::from_secs(1));

/// The audit trail. Cloning is cheap.
#[derive(Clone)]
pub struct Audit(Arc<Inner>);

struct Inner {
    store: Store,
    of_recognised: mpsc::Sender<NewAudit>,
    of_unauthenticated: mpsc::Sender<NewAudit>,
    /// Events that found no place in their queue and are not in the store yet.
    dropped: AtomicU64,
}

impl std::fmt::Debug for Audit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Audit").field("dropped", &self.0.dropped).finish_non_exhaustive()
    }
}

impl Audit {
    /// The audit trail and its writer: [`AuditWriter::run`] must run for aggregated events to be kept.
    pub fn new(store: Store, config: &AuditConfig) -> (Self, AuditWriter) {
        let (of_recognised, recognised) = mpsc::channel(WAITING);
        let (of_unauthenticated, unauthenticated) = mpsc::channel(WAITING);
        let dropped = AtomicU64::new(0);
        let audit = Self(Arc::new(Inner { store: store.clone(), of_recognised, of_unauthenticated, dropped }));
        let writer = AuditWriter::new(store, config.clone(), audit.clone(), [recognised, unauthenticated]);
        (audit, writer)
    }

    /// Writes down that an act begins. The act must not be done when this fails.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn begin(&self, event: &NewAudit) -> Result<BegunOperation, Error> {
        self.0.store.begin_operation(event).await
    }

    /// Keeps what came of an act. Its caller should not be answered as if nothing had happened when this fails; the act is
    /// reported as unfinished later.
    ///
    /// # Errors
    /// When the store cannot be asked, tried several times.
    pub async fn finish(&self, act: &BegunOperation, event: &NewAudit) -> Result<(), Error> {
        let mut backoff = BACKOFF;
        for _ in 1..TRIES {
            match self.0.store.finish_operation(act, event).await {
                Ok(()) => return Ok(()),
                Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "act not kept yet"),
            }
            tokio::time::sleep(backoff.pause()).await;
        }
        self.0.store.finish_operation(act, event).await
    }

    /// Forgets an act that was refused: the refusal is its record.
    pub async fn cancel(&self, act: &BegunOperation) {
        if let Err(error) = self.0.store.cancel_operation(act).await {
            // It will be reported as unfinished, beside the refusal.
            tracing::warn!(error = &error as &dyn std::error::Error, "refused act stays begun");
        }
    }

    /// Records an event soon, together with others of its kind when there are many. Never waits.
    pub(crate) fn aggregate(&self, event: NewAudit) {
        let times = event.times;
        let queue = if event.client.is_empty() { &self.0.of_unauthenticated } else { &self.0.of_recognised };
        if queue.try_send(NewAudit { aggregated: true, ..event }).is_err() {
            self.0.dropped.fetch_add(times, Ordering::Relaxed);
        }
    }

    /// The events that found no place since the last call.
    fn take_dropped(&self) -> u64 {
        self.0.dropped.swap(0, Ordering::Relaxed)
    }
}

/// Text that a caller wrote, bounded, and without control characters or anything else that a terminal, a log or a database
/// would take for more than text.
pub fn sanitize(text: &str) -> String {
    text.chars().take(100).flat_map(char::escape_default).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_caller_wrote_is_kept_harmless() {
        let kept = sanitize(&format!("acme.\n\0\u{1b}[31m\u{202e}ä{}", "x".repeat(10_000)));
        assert!(kept.len() < 1_100 && kept.bytes().all(|b| (0x20..0x7f).contains(&b)), "{kept}");
    }
}
