//! A snapshot of the registry in the form that admission needs. The next snapshot keeps the entries of tenants and
//! clients that continue, and ends the others.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, atomic::Ordering},
};

use super::{
    Error, Plan,
    effective::StoredGrants,
    state::{ClientEntry, ClientStatus, TenantEntry},
};
use crate::{
    names::{ClientId, PlanName, TenantId},
    store::{ClientGate, Snapshot, TenantRow, TenantState},
};

/// How many of the latest deleted tenants are remembered.
const MAX_DELETED: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct RegistrySnapshot {
    revision: i64,
    tenants: HashMap<TenantId, Arc<TenantEntry>>,
    clients: HashMap<ClientId, Arc<ClientEntry>>,
    deleted: VecDeque<TenantId>,
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

    pub(super) fn client(&self, id: &ClientId) -> Option<&Arc<ClientEntry>> {
        self.clients.get(id)
    }

    /// Whether a tenant was deleted recently, as opposed to not being known yet.
    pub(super) fn was_deleted(&self, id: &TenantId) -> bool {
        self.deleted.contains(id)
    }

    /// Ends all streams of all tenants.
    pub(super) fn end_all(&self, why: &Error) {
        self.tenants.values().for_each(|entry| entry.end(why.clone()));
    }

    /// The snapshot after this one. Tenants are updated before clients, so that a stream of a deleted tenant ends with
    /// that reason.
    pub(super) fn next(before: &Self, snapshot: Snapshot) -> Self {
        let plans: HashMap<PlanName, Arc<Plan>> =
            snapshot.plans.into_iter().map(|row| (row.name.clone(), Arc::new(Plan::from(row)))).collect();
        let mut tenants = HashMap::with_capacity(snapshot.tenants.len());
        for row in snapshot.tenants {
            // A foreign key guarantees that the plan exists. Without it, nobody is admitted.
            let Some(plan) = plans.get(&row.plan) else {
                tracing::error!(tenant = %row.id, plan = %row.plan, "tenant's plan is missing");
                continue;
            };
            let entry = next_tenant(before.tenants.get(&row.id), &row, plan);
            tenants.insert(row.id, entry);
        }
        let mut deleted = before.deleted.clone();
        deleted.retain(|id| !tenants.contains_key(id));
        for (id, entry) in before.tenants.iter().filter(|(id, _)| !tenants.contains_key(*id)) {
            entry.end(Error::Unknown);
            deleted.push_back(id.clone());
        }
        deleted.drain(..deleted.len().saturating_sub(MAX_DELETED));

        let mut clients = HashMap::with_capacity(snapshot.clients.len());
        for gate in snapshot.clients {
            let entry = next_client(before.clients.get(&gate.id), &gate);
            clients.insert(gate.id, entry);
        }
        for (_, entry) in before.clients.iter().filter(|(id, _)| !clients.contains_key(*id)) {
            entry.revoke();
        }
        Self { revision: snapshot.revision, tenants, clients, deleted }
    }
}

fn next_tenant(before: Option<&Arc<TenantEntry>>, row: &TenantRow, plan: &Arc<Plan>) -> Arc<TenantEntry> {
    let entry = match before {
        Some(entry) if entry.check().is_ok() => entry.clone(),
        // Still suspended. A resumed tenant gets a new entry.
        Some(entry) if row.state == TenantState::Suspended && entry.check() != Err(Error::StoreUnavailable) => {
            entry.clone()
        }
        _ => Arc::new(TenantEntry::new(row.id.clone(), plan.clone(), before.map(Arc::as_ref))),
    };
    entry.set_plan(plan.clone());
    entry.credentials_rotated().store(row.credentials_rotated, Ordering::Relaxed);
    if row.state == TenantState::Suspended {
        entry.end(Error::Suspended);
    }
    entry
}

fn next_client(before: Option<&Arc<ClientEntry>>, gate: &ClientGate) -> Arc<ClientEntry> {
    let grants = match before.map(|entry| Arc::clone(&entry.grants())) {
        Some(known) if known.json == gate.grants => known,
        _ => StoredGrants::parse(&gate.grants),
    };
    let status = ClientStatus {
        revoked: gate.revoked,
        not_before: gate.not_before,
        grants,
        issuer: gate.issuer.as_str().into(),
    };
    match before {
        // A revocation is permanent, so a client with the same id that is not revoked is a new one.
        Some(entry) if !entry.is_revoked() || gate.revoked => {
            entry.set(status);
            entry.clone()
        }
        _ => Arc::new(ClientEntry::new(status)),
    }
}
