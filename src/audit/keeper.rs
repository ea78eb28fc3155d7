//! The one who writes refusals down, a batch a transaction, beside everything else. While the store is away nothing is taken
//! out of the queue, which then fills and counts. It also forgets what retention allows, and reports acts whose gateway died.

use std::time::{Duration, SystemTime};

use tokio::{sync::mpsc, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::{
    Audit,
    fold::{Fold, WINDOW},
};
use crate::{
    config::AuditConfig,
    store::{NewAudit, Store},
};

const BATCH: usize = 256;
/// Between tries while the store is away.
const PAUSE: Duration = Duration::from_secs(1);
const HOUSEKEEPING: Duration = Duration::from_secs(60);
/// What one transaction forgets: short, so that others get their turn.
const FORGOTTEN_AT_ONCE: u32 = 500;
/// No act takes as long as this.
const ACTS_END_WITHIN: Duration = Duration::from_secs(300);

/// Writes refusals, forgets what is old, reports what never ended.
#[derive(Debug)]
pub struct Keeper {
    store: Store,
    config: AuditConfig,
    audit: Audit,
    waiting: mpsc::Receiver<NewAudit>,
    fold: Fold,
}

impl Keeper {
    pub(super) fn new(store: Store, config: AuditConfig, audit: Audit, waiting: mpsc::Receiver<NewAudit>) -> Self {
        Self { store, config, audit, waiting, fold: Fold::default() }
    }

    /// Works until stopped, and then writes what is left, if the store takes it.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut windows = tokio::time::interval(WINDOW);
        windows.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
        housekeeping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let rows = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = windows.tick() => self.fold.end(self.audit.take_unheard()),
                _ = housekeeping.tick() => {
                    self.keep_house().await;
                    continue;
                }
                _ = self.waiting.recv_many(&mut batch, BATCH) => {
                    batch.drain(..).filter_map(|event| self.fold.take(event)).collect()
                }
            };
            self.write(rows, &stop).await;
        }
        self.waiting.close();
        let mut rows = Vec::new();
        while let Ok(event) = self.waiting.try_recv() {
            rows.extend(self.fold.take(event));
        }
        rows.extend(self.fold.end(self.audit.take_unheard()));
        if let Err(error) = self.record(&rows).await {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                rows = rows.len(),
                "refusals not kept at the end"
            );
        }
    }

    /// Until the store has them, or the gateway stops.
    async fn write(&self, rows: Vec<NewAudit>, stop: &CancellationToken) {
        let mut is_away = false;
        while let Err(error) = self.record(&rows).await {
            if !is_away {
                tracing::warn!(error = &error as &dyn std::error::Error, "refusals not kept yet, trying again");
                is_away = true;
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = stop.cancelled() => {
                    tracing::error!(rows = rows.len(), "refusals not kept, the store is away");
                    return;
                }
            }
        }
    }

    async fn record(&self, rows: &[NewAudit]) -> Result<(), crate::store::Error> {
        if rows.is_empty() { Ok(()) } else { self.store.record(rows).await }
    }

    async fn keep_house(&self) {
        let now = SystemTime::now();
        let before = now.checked_sub(self.config.retention).unwrap_or(SystemTime::UNIX_EPOCH);
        let work = async {
            let unfinished = self.store.report_unfinished_acts(now - ACTS_END_WITHIN).await?;
            if unfinished > 0 {
                tracing::warn!(unfinished, "acts were begun by a gateway that died; the audit trail names them");
            }
            // As long as there is something, but not for ever: the queue waits meanwhile.
            for _ in 0..100 {
                if self.store.prune_audit(before, self.config.max_refusals, FORGOTTEN_AT_ONCE).await? == 0 {
                    break;
                }
            }
            Ok::<_, crate::store::Error>(())
        };
        if let Err(error) = work.await {
            tracing::warn!(error = &error as &dyn std::error::Error, "the audit trail's housekeeping waits");
        }
    }
}
