//! The tasks that watch files, the store and the broker for changes while the gateway runs.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    auth::Issuer,
    broker::Broker,
    config::BrokerConfig,
    pki::{Authority, Watched},
    provision::Provisioner,
    tenant::Tenants,
    transport::ops::Readiness,
};

/// How often the reachability of the broker is checked.
const BROKER_CHECK: Duration = Duration::from_secs(5);
/// How often signing keys are reloaded when no change is reported.
const KEYS_CHECK: Duration = Duration::from_secs(60);

/// Reloads the broker's authority when its files change. During a rotation a second authority is trusted as well, and
/// then replaces the first one.
pub(super) async fn authority(mut files: Watched, config: BrokerConfig, broker: Broker, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = files.changed() => {}
            () = stop.cancelled() => return,
        }
        let read = Authority::load(&config.ca_certificate, &config.ca_key);
        let reloaded = read.map_err(|error| error.to_string()).and_then(|authority| {
            let (subject, trusted) = (authority.inspection().subject().to_owned(), authority.trusted_der().len());
            let is_another = broker.adopt_authority(authority).map_err(|error| error.to_string())?;
            Ok((subject, trusted, is_another))
        });
        match reloaded {
            Ok((subject, trusted, is_another)) => {
                tracing::info!(%subject, trusted, is_another, "broker authority reloaded");
            }
            // Perhaps only one of the two files is written yet.
            Err(error) => tracing::warn!(%error, "changed broker authority ignored"),
        }
    }
}

/// Renews certificates whose rotation was requested at another gateway.
pub(super) async fn credentials(tenants: Arc<Tenants>, broker: Broker, stop: CancellationToken) {
    let mut revision = tenants.revision();
    loop {
        for (tenant, requested_at) in tenants.credentials_rotated() {
            broker.credentials_rotated(&tenant, requested_at);
        }
        tokio::select! {
            changed = revision.changed() => if changed.is_err() { return },
            () = stop.cancelled() => return,
        }
    }
}

/// Reloads the signing keys, which any gateway may rotate. A retired key is only removed from the verifier by a reload.
pub(super) async fn signing_keys(issuer: Arc<Issuer>, mut revision: watch::Receiver<i64>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(KEYS_CHECK);
    loop {
        tokio::select! {
            changed = revision.changed() => if changed.is_err() { return },
            _ = ticks.tick() => {}
            () = stop.cancelled() => return,
        }
        if let Err(error) = issuer.refresh().await {
            tracing::warn!(%error, "cannot reload the signing keys");
        }
    }
}

/// Makes the gateway not ready while the broker cannot be reached.
pub(super) async fn broker(provisioner: Arc<Provisioner>, readiness: Readiness, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(BROKER_CHECK);
    let mut unreachable = Some(readiness.block("broker"));
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => return,
        }
        match provisioner.ready().await {
            Ok(()) => {
                if unreachable.take().is_some() {
                    tracing::info!("broker management API reachable");
                }
            }
            Err(error) => {
                if unreachable.is_none() {
                    tracing::warn!(%error, "broker management API unreachable");
                    unreachable = Some(readiness.block("broker"));
                }
            }
        }
    }
}
