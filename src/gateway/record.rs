//! The gateway's record in the store, by which the gateways that share the store know each other.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, timeout};
use tokio_util::sync::CancellationToken;

use crate::store::{self, GatewayEntry, RENEWAL, Store};

/// How long a renewal, or the removal at the end, may take. Together they take less than the time for closing tasks.
const TIMEOUT: Duration = Duration::from_secs(2);
/// More characters than the name of a host can have.
const MAX_HOST: usize = 255;

/// Renews the record until stopped, and removes it then. While the store fails, nothing else is affected: the other
/// gateways report this one as not seen.
pub(super) async fn keep(store: Store, gateway: GatewayEntry, stop: CancellationToken) {
    keep_every(RENEWAL, store, gateway, stop).await;
}

async fn keep_every(interval: Duration, store: Store, gateway: GatewayEntry, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_failing = false;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => break,
        }
        // A renewal is not cancelled by `stop`: the database could execute it after the removal.
        match failure(timeout(TIMEOUT, store.renew_gateway(&gateway)).await) {
            None => is_failing = false,
            Some(error) if !is_failing => {
                tracing::warn!(%error, "cannot renew the record of this gateway in the store, retrying");
                is_failing = true;
            }
            Some(_) => {}
        }
    }
    if let Some(error) = failure(timeout(TIMEOUT, store.remove_gateway(gateway.id)).await) {
        tracing::warn!(%error, "cannot remove the record of this gateway from the store");
    }
}

/// Why the store did not do it.
fn failure(result: Result<Result<(), store::Error>, tokio::time::error::Elapsed>) -> Option<String> {
    match result {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some(format!("no answer within {TIMEOUT:?}")),
    }
}

/// The name of the host, or of the container; empty if it is not known.
pub(super) fn host_name() -> String {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = kernel.or_else(|| std::env::var("HOSTNAME").ok()).unwrap_or_default();
    name.trim().chars().filter(|c| !c.is_control()).take(MAX_HOST).collect()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::store::EncryptionKey;

    #[tokio::test]
    async fn a_store_that_fails_ends_neither_the_task_nor_its_stop() {
        let key = EncryptionKey::parse(&EncryptionKey::generate()).expect("a key");
        let store = Store::open(&"sqlite::memory:".to_owned().into(), key).await.expect("a store");
        let id = uuid::Uuid::now_v7();
        let (version, host, grpc_address) = ("1.0.0".to_owned(), host_name(), "127.0.0.1:1".to_owned());
        let entry = GatewayEntry { id, version, host, grpc_address, started: SystemTime::now() };
        store.close().await;
        let stop = CancellationToken::new();
        let interval = Duration::from_millis(1);
        let mut task = std::pin::pin!(keep_every(interval, store, entry, stop.clone()));
        assert!(timeout(interval * 50, &mut task).await.is_err(), "it goes on");
        stop.cancel();
        timeout(TIMEOUT * 3, task).await.expect("it ends");
    }
}
