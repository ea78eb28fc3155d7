//! Reconciliation of tenants at the broker with the store, on request or periodically. Every change is recorded in the
//! audit trail, as the gateway's own if nobody requested it.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{
    context::AdminContext,
    error::{Error, named},
};
use crate::{
    audit::AuditContext,
    error::Classify as _,
    names::TenantId,
    pb,
    provision::Reconciled,
    store::{self, NewAudit},
    tenant::Administrator,
};

const PAGE: u32 = 100;
/// The method of periodic reconciliation in the audit trail.
const GATEWAY: &str = "gateway";
/// The rule of reconciliation in the audit trail.
const RULE: &str = "reconciliation";

pub(super) async fn reconcile(
    context: Arc<AdminContext>,
    who: Administrator,
    audit_context: &AuditContext,
    request: pb::ReconcileTenantRequest,
) -> Result<pb::ReconcileTenantResponse, Error> {
    let client = who.caller().client().to_string();
    let by = NewAudit { client, ..audit_context.event(RULE) };
    if request.tenant.is_empty() {
        return everything(&context, &by, request.dry_run).await;
    }
    let id = named("tenant", TenantId::parse(&request.tenant))?;
    let done = one(&context, &by, &id, request.dry_run).await?.ok_or(Error::NotFound("tenant"))?;
    let reconciliations = report(&id, done).into_iter().collect();
    Ok(pb::ReconcileTenantResponse { reconciliations, unknown: Vec::new(), looked_at: 1 })
}

/// How many objects that belong to no tenant one log line names; `ReconcileTenant` reports all of them.
const LOGGED_UNKNOWN: usize = 20;

/// Reconciles all tenants at every interval, until stopped. Gateways with the same store do so independently, which is
/// safe.
pub(super) async fn periodically(context: Arc<AdminContext>, interval: Duration, stop: CancellationToken) {
    loop {
        // Randomised, so that gateways do not run at the same time.
        let pause = interval.mul_f64(rand::random_range(0.9..1.1));
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return,
        }
        let (method, rule) = (GATEWAY.to_owned(), RULE.to_owned());
        let by = NewAudit { method, rule, ..NewAudit::default() };
        let done = tokio::select! {
            done = everything(&context, &by, false) => done,
            () = stop.cancelled() => return,
        };
        match done {
            Ok(done) if !done.unknown.is_empty() => {
                let (count, first) = (done.unknown.len(), &done.unknown[..done.unknown.len().min(LOGGED_UNKNOWN)]);
                tracing::warn!(count, ?first, "found broker objects that belong to no tenant");
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "cannot reconcile tenants"),
        }
    }
}

async fn everything(
    context: &AdminContext,
    by: &NewAudit,
    dry_run: bool,
) -> Result<pb::ReconcileTenantResponse, Error> {
    let mut answer = pb::ReconcileTenantResponse::default();
    let mut after: Option<TenantId> = None;
    loop {
        let rows = context.store.tenants(after.as_ref(), PAGE).await?;
        let Some(last) = rows.last() else { break };
        after = Some(last.id.clone());
        for row in rows {
            answer.looked_at += 1;
            let done = match one(context, by, &row.id, dry_run).await {
                Ok(done) => done.unwrap_or_default(),
                Err(error) => {
                    tracing::warn!(tenant = %row.id, error = &error as &dyn std::error::Error, "not reconciled");
                    Reconciled {
                        faults: vec![format!("{}: {}", error.reason(), error.message())],
                        ..Default::default()
                    }
                }
            };
            answer.reconciliations.extend(report(&row.id, done));
        }
    }
    let mut unknown = context.provisioner.claimed().await?;
    // The tenants are read after the broker, because a tenant's row is created before its objects at the broker.
    let mut known = std::collections::HashSet::new();
    let mut after: Option<TenantId> = None;
    loop {
        let rows = context.store.tenants(after.as_ref(), 1_000).await?;
        let Some(last) = rows.last() else { break };
        after = Some(last.id.clone());
        known.extend(rows.into_iter().map(|row| row.id.vhost()));
    }
    unknown.retain(|line| line.split_once(' ').is_none_or(|(_, name)| !known.contains(name)));
    answer.unknown = unknown;
    Ok(answer)
}

/// The entry of a tenant in the response; `None` if nothing differed.
fn report(id: &TenantId, Reconciled { changes, faults }: Reconciled) -> Option<pb::Reconciliation> {
    let is_unchanged = changes.is_empty() && faults.is_empty();
    (!is_unchanged).then(|| pb::Reconciliation { tenant: id.to_string(), changes, failure: faults.join("; ") })
}

/// What was done for one tenant; `None` if it does not exist.
async fn one(context: &AdminContext, by: &NewAudit, id: &TenantId, dry_run: bool) -> Result<Option<Reconciled>, Error> {
    let _one_at_a_time = context.locks.lock(id).await;
    let Some(row) = context.store.tenant(id).await? else { return Ok(None) };
    let plan = context.store.plan(&row.plan).await?.ok_or(store::Error::UnknownPlan)?.into();
    if dry_run {
        return Ok(Some(context.provisioner.drift(id, &plan).await?));
    }
    let done = context.provisioner.ensure_tenant(id, &plan).await?;
    if context.store.tenant(id).await?.is_none() {
        // Deleted by another gateway in the meantime: the repaired objects must be removed again.
        context.provisioner.remove_tenant(id).await?;
        return Ok(None);
    }
    let event = |change: &String| NewAudit {
        tenant: id.to_string(),
        object: change.clone(),
        outcome: "done".to_owned(),
        ..by.clone()
    };
    if !done.changes.is_empty() {
        context.store.record(&done.changes.iter().map(event).collect::<Vec<_>>()).await?;
    }
    Ok(Some(done))
}
