//! The tenants' objects at the broker: what is missing, or differs from the store.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use tokio::time::Instant;

use super::Finding;
use crate::{
    config::Config,
    provision::{Provisioner, Reconciled},
    store::{EncryptionKey, Store, TenantRow},
};

/// The time for all tenants: of ten thousand, only the first are compared.
const TIMEOUT: Duration = Duration::from_secs(30);
const CONCURRENT: usize = 4;
const PAGE: u32 = 100;
/// How many tenants with differences are named.
const MAX_NAMED: usize = 20;

/// Compares the tenants' vhosts, limits, policies, dead-letter objects, users and permissions. `None` when that is
/// impossible for a reason that other checks report.
pub(super) async fn at_broker(config: &Config) -> Option<Finding> {
    let key = EncryptionKey::parse(&config.store.encryption_key).ok()?;
    let store = Store::open(&config.store.url, key).await.ok()?;
    let provisioner = Provisioner::new(&config.management, &config.broker.ca_certificate).ok()?;
    provisioner.ready().await.ok()?;
    let next = "correct what is named; `warrengate tenant reconcile --all` makes the changes, and the gateway does \
                every broker.reconcile_interval";
    Some(Finding::new("tenants at the broker", compare(&store, &provisioner).await, next))
}

async fn compare(store: &Store, provisioner: &Provisioner) -> Result<String, String> {
    let until = Instant::now() + TIMEOUT;
    let (mut compared, mut different, mut after) = (0, Vec::new(), None);
    let mut is_complete = false;
    while !is_complete && Instant::now() < until {
        let rows = store.tenants(after.as_ref(), PAGE).await.map_err(|error| error.to_string())?;
        is_complete = rows.len() < PAGE as usize;
        after = rows.last().map(|row| row.id.clone()).or(after);
        compared += rows.len();
        let lines = stream::iter(rows).map(|row| differences(store, provisioner, row)).buffered(CONCURRENT);
        different.extend(lines.filter_map(std::future::ready).collect::<Vec<_>>().await);
    }
    let compared = if is_complete { format!("{compared} tenants") } else { format!("the first {compared} tenants") };
    if different.is_empty() {
        return Ok(format!("{compared} compared, without differences"));
    }
    let more = different.len().saturating_sub(MAX_NAMED);
    let mut named: Vec<_> = different.iter().take(MAX_NAMED).cloned().collect();
    named.extend((more > 0).then(|| format!("and {more} more tenants")));
    Err(format!("{} of {compared} differ: {}", different.len(), named.join("; ")))
}

/// What reconciling a tenant would do; `None` if nothing, or if it was deleted meanwhile.
async fn differences(
    store: &Store,
    provisioner: &Provisioner,
    TenantRow { id, plan, .. }: TenantRow,
) -> Option<String> {
    let compared = async {
        let plan = store.plan(&plan).await.map_err(|error| error.to_string())?.ok_or("its plan is missing")?.into();
        provisioner.drift(&id, &plan).await.map_err(|error| error.to_string())
    };
    let seen = match compared.await {
        Err(error) => error,
        Ok(Reconciled { changes, faults }) => {
            let changes = changes.into_iter().map(|change| format!("reconciling would have {change}"));
            changes.chain(faults).collect::<Vec<_>>().join(", ")
        }
    };
    let exists = !seen.is_empty() && store.tenant(&id).await.is_ok_and(|row| row.is_some());
    exists.then(|| format!("{id}: {seen}"))
}
