//! What is put on record. Acts and refusals enter; rows of the store leave. An act waits for its row before it is answered. A
//! refusal never waits for anything: it goes into a bounded queue, and what finds no room there, or comes too often, is
//! folded into counts (`fold`), so that being refused fills neither memory nor the disk. What callers wrote is made
//! harmless before it is kept.

mod fold;
mod keeper;
mod witness;

pub use keeper::Keeper;
pub use witness::Witness;

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
    store::{BegunAct, Error, NewAudit, Store},
};

/// Refusals that may wait to be written.
const WAITING: usize = 1024;
/// How often the row of an administrative operation is tried.
const TRIES: u32 = 4;
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(150), Duration::from_secs(1));

/// Where acts and refusals go. Cloning is cheap.
#[derive(Clone)]
pub struct Audit(Arc<Inner>);

struct Inner {
    store: Store,
    queue: mpsc::Sender<NewAudit>,
    /// Refusals that found no room in the queue and are not in the store yet.
    unheard: AtomicU64,
}

impl std::fmt::Debug for Audit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Audit").field("unheard", &self.0.unheard).finish_non_exhaustive()
    }
}

impl Audit {
    /// The way to the record, and the one who writes: [`Keeper::run`] must run for refusals to be kept.
    pub fn new(store: Store, config: &AuditConfig) -> (Self, Keeper) {
        let (queue, waiting) = mpsc::channel(WAITING);
        let audit = Self(Arc::new(Inner { store: store.clone(), queue, unheard: AtomicU64::new(0) }));
        let keeper = Keeper::new(store, config.clone(), audit.clone(), waiting);
        (audit, keeper)
    }

    /// Writes down that an act begins. The act must not be done when this fails.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn begin(&self, event: &NewAudit) -> Result<BegunAct, Error> {
        self.0.store.begin_act(event).await
    }

    /// Keeps what came of an act. Its caller should not be answered as if nothing had happened when this fails; the act is
    /// reported as unfinished later.
    ///
    /// # Errors
    /// When the store cannot be asked, tried several times.
    pub async fn finish(&self, act: &BegunAct, event: &NewAudit) -> Result<(), Error> {
        let mut backoff = BACKOFF;
        for _ in 1..TRIES {
            match self.0.store.finish_act(act, event).await {
                Ok(()) => return Ok(()),
                Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "act not kept yet"),
            }
            tokio::time::sleep(backoff.pause()).await;
        }
        self.0.store.finish_act(act, event).await
    }

    /// Forgets an act that was refused: the refusal is its record.
    pub async fn cancel(&self, act: &BegunAct) {
        if let Err(error) = self.0.store.cancel_act(act).await {
            // It will be reported as unfinished, beside the refusal.
            tracing::warn!(error = &error as &dyn std::error::Error, "refused act stays begun");
        }
    }

    /// Puts a refusal on record, soon. Never waits.
    pub(crate) fn refused(&self, event: NewAudit) {
        let times = event.times;
        if self.0.queue.try_send(event).is_err() {
            self.0.unheard.fetch_add(times, Ordering::Relaxed);
        }
    }

    /// The refusals that found no room since this was asked last.
    fn take_unheard(&self) -> u64 {
        self.0.unheard.swap(0, Ordering::Relaxed)
    }
}

/// Text that a caller wrote, bounded, and without control characters or anything else that a terminal, a log or a database
/// would take for more than text.
pub fn harmless(text: &str) -> String {
    text.chars().take(100).flat_map(char::escape_default).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_caller_wrote_is_kept_harmless() {
        let kept = harmless(&format!("acme.\n\0\u{1b}[31m\u{202e}ä{}", "x".repeat(10_000)));
        assert!(kept.len() < 1_100 && kept.bytes().all(|b| (0x20..0x7f).contains(&b)), "{kept}");
    }
}
