//! What changes while the gateway runs, in files or in the store, and has to reach somebody who keeps it in memory: the broker's
//! authority, tenants' certificates at the broker, signing keys, and whether there is a broker. Each is followed until the gateway stops.

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

/// How often the broker is asked whether it is there.
const BROKER_CHECK: Duration = Duration::from_secs(5);
/// How often signing keys are read again, when nothing else says so.
const KEYS_CHECK: Duration = Duration::from_secs(60);

/// The authority's files: another one may be trusted beside it, take its place, or be the only one left.
pub(super) async fn authority(mut files: Watched, config: BrokerConfig, broker: Broker, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = files.changed() => {}
            () = stop.cancelled() => return,
        }
        let read = Authority::load(&config.ca_certificate, &config.ca_key);
        let followed = read.map_err(|error| error.to_string()).and_then(|authority| {
            let (subject, trusted) = (authority.inspection().subject().to_owned(), authority.trusted_der().len());
            let is_another = broker.adopt_authority(authority).map_err(|error| error.to_string())?;
            Ok((subject, trusted, is_another))
        });
        match followed {
            Ok((subject, trusted, is_another)) => {
                tracing::info!(%subject, trusted, is_another, "the broker's authority was read again");
            }
            // Perhaps only one of the two is written yet.
            Err(error) => tracing::warn!(%error, "the broker's authority is not usable as its files are now"),
        }
    }
}

/// Certificates that were asked to be made anew at another gateway.
pub(super) async fn credentials(tenants: Arc<Tenants>, broker: Broker, stop: CancellationToken) {
    let mut revision = tenants.revision();
    loop {
        for (tenant, asked) in tenants.credentials_rotated() {
            broker.credentials_rotated(&tenant, asked);
        }
        tokio::select! {
            changed = revision.changed() => if changed.is_err() { return },
            () = stop.cancelled() => return,
        }
    }
}

/// Signing keys rotate on any gateway; a retired one leaves the verifier only when they are read again.
pub(super) async fn signing_keys(issuer: Arc<Issuer>, mut revision: watch::Receiver<i64>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(KEYS_CHECK);
    loop {
        tokio::select! {
            changed = revision.changed() => if changed.is_err() { return },
            _ = ticks.tick() => {}
            () = stop.cancelled() => return,
        }
        if let Err(error) = issuer.refresh().await {
            tracing::warn!(%error, "signing keys were not read again");
        }
    }
}

/// Ready is who has a broker: asked at once, and then every few seconds.
pub(super) async fn broker(provisioner: Arc<Provisioner>, readiness: Readiness, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(BROKER_CHECK);
    let mut away = Some(readiness.block("broker"));
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => return,
        }
        match provisioner.ready().await {
            Ok(()) => {
                if away.take().is_some() {
                    tracing::info!("broker is there");
                }
            }
            Err(error) => {
                if away.is_none() {
                    tracing::warn!(%error, "broker is away");
                    away = Some(readiness.block("broker"));
                }
            }
        }
    }
}
