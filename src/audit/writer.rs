//! The background task that writes aggregated audit events, one batch per transaction. While the store is unavailable,
//! nothing is taken out of the queues; when they are full, events are only counted. The task also deletes events as
//! retention allows, and reports operations whose gateway crashed.

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
/// The interval between attempts while the store is unavailable.
const PAUSE: Duration = Duration::from_secs(1);
const CLEAN_UP_INTERVAL: Duration = Duration::from_secs(60);
/// The number of rows that one transaction deletes; small, so that other transactions are not delayed.
const DELETED_AT_ONCE: u32 = 500;
/// Longer than any administrative operation takes.
const MAX_OPERATION_TIME: Duration = Duration::from_secs(300);

/// Writes aggregated events, deletes old ones, and reports operations that never ended.
#[derive(Debug)]
pub struct AuditWriter {
    store: Store,
    config: AuditConfig,
    audit: Audit,
    /// The queues of recognised clients and of unauthenticated callers.
    waiting: [mpsc::Receiver<NewAudit>; 2],
    aggregator: Aggregator,
}

impl AuditWriter {
    pub(super) fn new(store: Store, config: AuditConfig, audit: Audit, waiting: [mpsc::Receiver<NewAudit>; 2]) -> Self {
        Self { store, config, audit, waiting, aggregator: Aggregator::default() }
    }

    /// Runs until stopped, and then writes the remaining events if the store accepts them.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut windows = tokio::time::interval(WINDOW);
        windows.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut clean_up = tokio::time::interval(CLEAN_UP_INTERVAL);
        clean_up.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut known, mut unknown) = (Vec::with_capacity(BATCH), Vec::with_capacity(BATCH));
        loop {
            let [recognised, unauthenticated] = &mut self.waiting;
            let rows = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = windows.tick() => self.aggregator.end(self.audit.take_dropped()),
                _ = clean_up.tick() => {
                    self.clean_up().await;
                    continue;
                }
                _ = recognised.recv_many(&mut known, BATCH) => self.take(&mut known),
                _ = unauthenticated.recv_many(&mut unknown, BATCH) => self.take(&mut unknown),
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
                "audit events lost at shutdown"
            );
        }
    }

    fn take(&mut self, batch: &mut Vec<NewAudit>) -> Vec<NewAudit> {
        batch.drain(..).filter_map(|event| self.aggregator.take(event)).collect()
    }

    /// Writes rows; returns when the store has them or the gateway stops.
    async fn write(&self, rows: Vec<NewAudit>, stop: &CancellationToken) {
        let mut is_away = false;
        while let Err(error) = self.record(&rows).await {
            if !is_away {
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot write audit events, retrying");
                is_away = true;
            }
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = stop.cancelled() => {
                    tracing::error!(rows = rows.len(), "audit events lost, the store is unavailable");
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
            let unfinished = self.store.report_unfinished_operations(now - MAX_OPERATION_TIME).await?;
            if unfinished > 0 {
                tracing::warn!(
                    unfinished,
                    "unfinished administrative operations of a crashed gateway; the audit trail names them"
                );
            }
            // Bounded, because the queues are not read meanwhile.
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
