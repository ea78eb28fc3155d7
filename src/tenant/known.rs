//! A snapshot of the registry, in the form that admission needs. The next snapshot takes over the tenants and clients that continue, and
//! ends those that do not.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, atomic::Ordering},
};

use super::{
    Error, Plan,
    effective::StoredGrants,
    live::{ClientStatus, LiveClient, TenantEntry},
};
use crate::{
    names::{ClientId, PlanName, TenantId},
    store::{ClientGate, Snapshot, TenantRow, TenantState},
};

/// Deleted tenants that are remembered as such, the latest ones.
const REMEMBERED_GONE: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct RegistrySnapshot {
    revision: i64,
    tenants: HashMap<TenantId, Arc<TenantEntry>>,
    clients: HashMap<ClientId, Arc<LiveClient>>,
    gone: VecDeque<TenantId>,
}

impl RegistrySnapshot {
    pub(super) fn revision(&self) -> i64 {
        self.revision
    }

    pub(super) fn tenant(&self, id: &TenantId) -> Option<&Arc<TenantEntry>> {
        self.tenants.get(id)
    }

    pub(super) fn tenants(&self) -> impl Iterator<Item = &Arc<TenantEntry>> {
        self.tenants.values()
    }

    pub(super) fn client(&self, id: &ClientId) -> Option<&Arc<LiveClient>> {
        self.clients.get(id)
    }

    /// Whether a tenant was deleted lately, rather than not heard of yet.
    pub(super) fn is_gone(&self, id: &TenantId) -> bool {
        self.gone.contains(id)
    }

    /// Ends all streams of all tenants.
    pub(super) fn end_all(&self, why: &Error) {
        self.tenants.values().for_each(|live| live.end(why.clone()));
    }

    /// The reading after this one. Tenants come before clients, so that a stream of a deleted tenant hears of the tenant.
    pub(super) fn next(before: &Self, snapshot: Snapshot) -> Self {
        let plans: HashMap<PlanName, Arc<Plan>> =
            snapshot.plans.into_iter().map(|row| (row.name.clone(), Arc::new(Plan::from(row)))).collect();
        let mut tenants = HashMap::with_capacity(snapshot.tenants.len());
        for row in snapshot.tenants {
            // A foreign key guarantees the plan. Without one nobody is admitted.
            let Some(plan) = plans.get(&row.plan) else {
                tracing::error!(tenant = %row.id, plan = %row.plan, "tenant's plan is missing");
                continue;
            };
            let live = next_tenant(before.tenants.get(&row.id), &row, plan);
            tenants.insert(row.id, live);
        }
        let mut gone = before.gone.clone();
        gone.retain(|id| !tenants.contains_key(id));
        for (id, live) in before.tenants.iter().filter(|(id, _)| !tenants.contains_key(*id)) {
            live.end(Error::Unknown);
            gone.push_back(id.clone());
        }
        gone.drain(..gone.len().saturating_sub(REMEMBERED_GONE));

        let mut clients = HashMap::with_capacity(snapshot.clients.len());
        for gate in snapshot.clients {
            let live = next_client(before.clients.get(&gate.id), &gate);
            clients.insert(gate.id, live);
        }
        for (_, live) in before.clients.iter().filter(|(id, _)| !clients.contains_key(*id)) {
            live.revoke();
        }
        Self { revision: snapshot.revision, tenants, clients, gone }
    }
}

fn next_tenant(before: Option<&Arc<TenantEntry>>, row: &TenantRow, plan: &Arc<Plan>) -> Arc<TenantEntry> {
    let live = match before {
        Some(live) if live.check().is_ok() => live.clone(),
        // Still suspended; or resumed, which is a new life.
        Some(live) if row.state == TenantState::Suspended && live.check() != Err(Error::StoreAway) => live.clone(),
        _ => Arc::new(TenantEntry::new(row.id.clone(), plan.clone(), before.map(Arc::as_ref))),
    };
    live.set_plan(plan.clone());
    live.credentials_rotated().store(row.credentials_rotated, Ordering::Relaxed);
    if row.state == TenantState::Suspended {
        live.end(Error::Suspended);
    }
    live
}

fn next_client(before: Option<&Arc<LiveClient>>, gate: &ClientGate) -> Arc<LiveClient> {
    let grants = match before.map(|live| Arc::clone(&live.grants())) {
        Some(known) if known.json == gate.grants => known,
        _ => StoredGrants::parse(&gate.grants),
    };
    let standing = ClientStatus {
        revoked: gate.revoked,
        not_before: gate.not_before,
        grants,
        issuer: gate.issuer.as_str().into(),
    };
    match before {
        // A revocation is for ever, so a client of that id that is not revoked is another one.
        Some(live) if !live.is_revoked() || gate.revoked => {
            live.set(standing);
            live.clone()
        }
        _ => Arc::new(LiveClient::new(standing)),
    }
}
