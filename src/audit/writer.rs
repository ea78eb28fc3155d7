//! The background task that writes aggregated audit events, a batch per transaction. While the store is away nothing is taken out
//! of the queues, which then fill and count. It also deletes what retention allows, and reports acts whose gateway crashed.

use std::time::{Duration, SystemTime};

use tokio::{sync::mpsc, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::{
    Audit,
    aggregator::{Aggregator, WINDOW},
};
use crate::{
    config::AuditConfig,
    store::{NewAudit, Store},
};

const BATCH: usize = 256;
/// Between tries while the store is away.
const PAUSE: Duration = Duration::from_secs(1);
const CLEAN_UP_INTERVAL: Duration = Duration::from_secs(60);
/// Rows that one transaction deletes: few, so that others get their turn.
const DELETED_AT_ONCE: u32 = 500;
/// No act takes as long as this.
const MAX_ACT_TIME: Duration = Duration::from_secs(300);

/// Writes aggregated events, deletes old ones, reports acts that never ended.
#[derive(Debug)]
pub struct AuditWriter {
    store: Store,
    config: AuditConfig,
    audit: Audit,
    /// Of recognised clients, and of strangers.
    waiting: [mpsc::Receiver<NewAudit>; 2],
    aggregator: Aggregator,
}

impl AuditWriter {
    pub(super) fn new(store: Store, config: AuditConfig, audit: Audit, waiting: [mpsc::Receiver<NewAudit>; 2]) -> Self {
        Self { store, config, audit, waiting, aggregator: Aggregator::default() }
    }

    /// Works until stopped, and then writes what is left, if the store takes it.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut windows = tokio::time::interval(WINDOW);
        windows.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut clean_up = tokio::time::interval(CLEAN_UP_INTERVAL);
        clean_up.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut known, mut unknown) = (Vec::with_capacity(BATCH), Vec::with_capacity(BATCH));
        loop {
            let [recognised, strangers] = &mut self.waiting;
            let rows = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = windows.tick() => self.aggregator.end(self.audit.take_dropped()),
                _ = clean_up.tick() => {
                    self.clean_up().await;
                    continue;
                }
                _ = recognised.recv_many(&mut known, BATCH) => self.take(&mut known),
                _ = strangers.recv_many(&mut unknown, BATCH) => self.take(&mut unknown),
            };
            self.write(rows, &stop).await;
        }
        let mut rows = Vec::new();
        for waiting in &mut self.waiting {
            waiting.close();
            while let Ok(event) = waiting.try_recv() {
                rows.extend(self.aggregator.take(event));
            }
        }
        rows.extend(self.aggregator.end(self.audit.take_dropped()));
        if let Err(error) = self.record(&rows).await {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                rows = rows.len(),
                "audit events lost at the end"
            );
        }
    }

    fn take(&mut self, batch: &mut Vec<NewAudit>) -> Vec<NewAudit> {
        batch.drain(..).filter_map(|event| self.aggregator.take(event)).collect()
    }

    /// Until the store has them, or the gateway stops.
    async fn write(&self, rows: Vec<NewAudit>, stop: &CancellationToken) {
        let mut is_away = false;
        while let Err(error) = self.record(&rows).await {
            if !is_away {
                tracing::warn!(error = &error as &dyn std::error::Error, "audit events not written yet, trying again");
                is_away = true;
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = stop.cancelled() => {
                    tracing::error!(rows = rows.len(), "audit events lost, the store is away");
                    return;
                }
            }
        }
    }

    async fn record(&self, rows: &[NewAudit]) -> Result<(), crate::store::Error> {
        if rows.is_empty() { Ok(()) } else { self.store.record(rows).await }
    }

    async fn clean_up(&self) {
        let now = SystemTime::now();
        let before = now.checked_sub(self.config.retention).unwrap_or(SystemTime::UNIX_EPOCH);
        let work = async {
            let unfinished = self.store.report_unfinished_acts(now - MAX_ACT_TIME).await?;
            if unfinished > 0 {
                tracing::warn!(
                    unfinished,
                    "unfinished administrative operations of a crashed gateway; the audit trail names them"
                );
            }
            // Bounded, because the queues wait meanwhile.
            for _ in 0..100 {
                if self.store.prune_audit(before, self.config.max_refusals, DELETED_AT_ONCE).await? == 0 {
                    break;
                }
            }
            Ok::<_, crate::store::Error>(())
        };
        if let Err(error) = work.await {
            tracing::warn!(error = &error as &dyn std::error::Error, "cleaning up the audit trail failed");
        }
    }
}
