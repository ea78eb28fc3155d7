//! Measures the queues of all tenants for the metrics, in one poll of the broker.

use std::{sync::Arc, time::Duration};

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::{Provisioner, TenantFigures};
use crate::telemetry::{Metrics, TenantQueues};

/// How often the broker is polled. Its statistics are renewed every 5 s.
const INTERVAL: Duration = Duration::from_secs(15);

/// Measures until stopped. While the broker cannot be reached, or has more queues than one poll reads, the metrics are
/// removed, because old values would be mistaken for current ones.
pub async fn watch(provisioner: Arc<Provisioner>, metrics: Metrics, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut has_failed = false;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => return,
        }
        let figures = tokio::select! {
            figures = provisioner.all_figures() => figures,
            () = stop.cancelled() => return,
        };
        match figures {
            Ok(tenants) => {
                has_failed = false;
                metrics.set_queues(tenants.into_iter().map(|(tenant, figures)| (tenant, queues(&figures))).collect());
            }
            Err(error) => {
                if !std::mem::replace(&mut has_failed, true) {
                    tracing::warn!(%error, "the tenants' queues cannot be measured");
                }
                metrics.set_queues(Vec::new());
            }
        }
    }
}

fn queues(figures: &TenantFigures) -> TenantQueues {
    // Only a new queue has no statistics while the others have them.
    let knows_consumers = figures.queues.is_empty() || figures.queues.iter().any(|queue| queue.consumers.is_some());
    TenantQueues {
        ready: figures.sum(|queue| Some(queue.ready)),
        unsettled: figures.sum(|queue| queue.unsettled),
        delayed: figures.delayed,
        dead_letters: figures.dead_letters,
        consumers: knows_consumers.then(|| figures.sum(|queue| queue.consumers.map(u64::from))),
        oldest_seconds: figures.oldest().map(|age| age.as_secs_f64()),
    }
}
