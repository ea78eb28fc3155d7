//! Administration of tenants. The store's row is written before the broker is changed and deleted afterwards, so that
//! repeating a call completes one that was interrupted. A deletion begins with a suspension, so that nobody publishes
//! to a vhost that is about to be deleted.

use std::sync::Arc;

use super::{
    context::AdminContext,
    error::{Error, invalid, named},
    fields::{self, timestamp},
    idempotency::IdempotencyCache,
};
use crate::{
    broker::diagnose::isolation::{Finding, IsolationAttempt, check_isolation},
    names::{PlanName, TenantId},
    pb,
    service::page::Page,
    store::{self, NewTenant, TenantRow, TenantState},
    tenant::{Administrator, Plan},
};

/// The plan of a tenant that is created without one.
pub(super) const DEFAULT_PLAN: &str = "standard";

pub(super) async fn create(
    context: Arc<AdminContext>,
    who: Administrator,
    request: pb::CreateTenantRequest,
) -> Result<pb::CreateTenantResponse, Error> {
    let wanted = requested(request.tenant.as_ref())?;
    let request_id = if request.validate_only { "" } else { &request.request_id };
    let requested = request.tenant.as_ref();
    let answers = IdempotencyCache { context: &context, who: &who, method: "CreateTenant", request_id, requested };
    if let Some(answer) = answers.find::<pb::CreateTenantResponse>().await? {
        return Ok(answer);
    }
    let plan = plan(&context, &wanted.plan).await?;
    if request.validate_only {
        let found = context.store.tenant(&wanted.id).await?;
        found.as_ref().map_or(Ok(()), |found| require_equal(&wanted, found))?;
        let tenant = found.as_ref().map_or_else(|| preview(&wanted), to_proto);
        return Ok(pb::CreateTenantResponse { tenant: Some(tenant), changes: Vec::new() });
    }

    let _one_at_a_time = context.locks.lock(&wanted.id).await;
    let (row, made) = context.store.create_tenant(&wanted).await?;
    if !made {
        require_equal(&wanted, &row)?;
    }
    context.refresh_registry().await;
    let changes = context.provisioner.ensure_tenant(&wanted.id, &plan).await?.changes;
    if context.store.tenant(&wanted.id).await?.is_none() {
        // Deleted by another gateway meanwhile: the created objects must be removed again.
        context.provisioner.remove_tenant(&wanted.id).await?;
        return Err(Error::Aborted);
    }
    let answer = pb::CreateTenantResponse { tenant: Some(to_proto(&row)), changes };
    answers.keep(&answer).await?;
    Ok(answer)
}

pub(super) async fn get(
    context: Arc<AdminContext>,
    _who: Administrator,
    request: pb::GetTenantRequest,
) -> Result<pb::GetTenantResponse, Error> {
    let id = named("tenant", TenantId::parse(&request.tenant))?;
    Ok(pb::GetTenantResponse { tenant: Some(to_proto(&existing(context.store.tenant(&id).await?)?)) })
}

pub(super) async fn list(
    context: Arc<AdminContext>,
    _who: Administrator,
    request: pb::ListTenantsRequest,
) -> Result<pb::ListTenantsResponse, Error> {
    let page = Page::parse(request.page_size, &request.page_token, TenantId::parse).map_err(Error::Field)?;
    let mut rows = context.store.tenants(page.after.as_ref(), page.limit()).await?;
    let next_page_token = page.cut(&mut rows, |row| row.id.to_string());
    Ok(pb::ListTenantsResponse { tenants: rows.iter().map(to_proto).collect(), next_page_token })
}

pub(super) async fn update(
    context: Arc<AdminContext>,
    _who: Administrator,
    request: pb::UpdateTenantRequest,
) -> Result<pb::UpdateTenantResponse, Error> {
    let paths = fields::mask(request.update_mask.as_ref(), &["display_name", "plan"])?;
    let wanted = requested(request.tenant.as_ref())?;
    let display_name = paths.contains(&"display_name").then_some(wanted.display_name.as_str());
    let new_plan = match paths.contains(&"plan") {
        true => Some(plan(&context, &wanted.plan).await?),
        false => None,
    };
    let plan_name = new_plan.as_ref().map(|plan| &plan.name);
    if request.validate_only {
        let mut row = existing(context.store.tenant(&wanted.id).await?)?;
        row.display_name = display_name.map_or(row.display_name, str::to_owned);
        row.plan = plan_name.map_or(row.plan, Clone::clone);
        return Ok(pb::UpdateTenantResponse { tenant: Some(to_proto(&row)) });
    }

    let _one_at_a_time = context.locks.lock(&wanted.id).await;
    let row = existing(context.store.update_tenant(&wanted.id, display_name, plan_name).await?)?;
    context.refresh_registry().await;
    if let Some(plan) = &new_plan {
        context.provisioner.ensure_tenant(&wanted.id, plan).await?;
    }
    Ok(pb::UpdateTenantResponse { tenant: Some(to_proto(&row)) })
}

pub(super) async fn suspend(
    context: Arc<AdminContext>,
    _who: Administrator,
    request: pb::SuspendTenantRequest,
) -> Result<pb::SuspendTenantResponse, Error> {
    let id = named("tenant", TenantId::parse(&request.tenant))?;
    let _one_at_a_time = context.locks.lock(&id).await;
    let row = existing(context.store.set_tenant_state(&id, TenantState::Suspended).await?)?;
    context.refresh_registry().await;
    // The streams end by themselves; unsettled messages are requeued when the connections close.
    context.broker.close_tenant(&id).await;
    Ok(pb::SuspendTenantResponse { tenant: Some(to_proto(&row)) })
}

/// Reconciles before the tenant is admitted again, because an interrupted deletion may have removed its objects at the
/// broker.
pub(super) async fn resume(
    context: Arc<AdminContext>,
    _who: Administrator,
    request: pb::ResumeTenantRequest,
) -> Result<pb::ResumeTenantResponse, Error> {
    let id = named("tenant", TenantId::parse(&request.tenant))?;
    let _one_at_a_time = context.locks.lock(&id).await;
    let plan = plan(&context, &existing(context.store.tenant(&id).await?)?.plan).await?;
    context.provisioner.ensure_tenant(&id, &plan).await?;
    let row = existing(context.store.set_tenant_state(&id, TenantState::Active).await?)?;
    context.refresh_registry().await;
    Ok(pb::ResumeTenantResponse { tenant: Some(to_proto(&row)) })
}

pub(super) async fn delete(
    context: Arc<AdminContext>,
    _who: Administrator,
    request: pb::DeleteTenantRequest,
) -> Result<pb::DeleteTenantResponse, Error> {
    let id = named("tenant", TenantId::parse(&request.tenant))?;
    let _one_at_a_time = context.locks.lock(&id).await;
    existing(context.store.set_tenant_state(&id, TenantState::Suspended).await?)?;
    context.tenants.end(&id);
    context.refresh_registry().await;
    context.broker.close_tenant(&id).await;
    context.provisioner.remove_tenant(&id).await?;
    context.store.delete_tenant(&id).await?;
    context.refresh_registry().await;
    Ok(pb::DeleteTenantResponse {})
}

/// Attempts cross-tenant access with the tenant's real certificate.
pub(super) async fn verify_isolation(
    context: Arc<AdminContext>,
    who: Administrator,
    request: pb::VerifyIsolationRequest,
) -> Result<pb::VerifyIsolationResponse, Error> {
    let id = named("tenant", TenantId::parse(&request.tenant))?;
    let other = named("other_tenant", TenantId::parse(&request.other_tenant))?;
    if id == other {
        return Err(invalid("other_tenant", "must be another tenant"));
    }
    existing(context.store.tenant(&id).await?)?;
    existing(context.store.tenant(&other).await?)?;
    let probes = check_isolation(&context.broker, &who, &id, &other).await?;
    Ok(pb::VerifyIsolationResponse {
        isolated: probes.iter().all(IsolationAttempt::is_as_required),
        probes: probes
            .into_iter()
            .map(|probe| pb::IsolationProbe {
                attempt: probe.description,
                refused: probe.finding == Finding::Refused,
                answer: probe.answer,
                is_control: probe.is_control,
            })
            .collect(),
    })
}

/// A validated tenant of a request, with defaults filled in.
fn requested(tenant: Option<&pb::Tenant>) -> Result<NewTenant, Error> {
    let tenant = tenant.ok_or_else(|| invalid("tenant", "is required"))?;
    let id = named("tenant.id", TenantId::parse(&tenant.id))?;
    let plan = if tenant.plan.is_empty() { DEFAULT_PLAN } else { &tenant.plan };
    Ok(NewTenant {
        display_name: fields::display_name("tenant.display_name", &tenant.display_name, id.as_str())?,
        plan: named("tenant.plan", PlanName::parse(plan))?,
        id,
    })
}

fn require_equal(wanted: &NewTenant, found: &TenantRow) -> Result<(), Error> {
    let is_same = wanted.display_name == found.display_name && wanted.plan == found.plan;
    if is_same { Ok(()) } else { Err(Error::TenantExists) }
}

fn existing(row: Option<TenantRow>) -> Result<TenantRow, Error> {
    row.ok_or(Error::NotFound("tenant"))
}

async fn plan(context: &AdminContext, name: &PlanName) -> Result<Plan, Error> {
    Ok(context.store.plan(name).await?.ok_or(store::Error::UnknownPlan)?.into())
}

fn to_proto(row: &TenantRow) -> pb::Tenant {
    let state = match row.state {
        TenantState::Active => pb::TenantState::Active,
        TenantState::Suspended => pb::TenantState::Suspended,
    };
    pb::Tenant {
        id: row.id.to_string(),
        display_name: row.display_name.clone(),
        plan: row.plan.to_string(),
        state: state.into(),
        created: timestamp(row.created),
    }
}

fn preview(wanted: &NewTenant) -> pb::Tenant {
    pb::Tenant {
        id: wanted.id.to_string(),
        display_name: wanted.display_name.clone(),
        plan: wanted.plan.to_string(),
        state: pb::TenantState::Active.into(),
        created: None,
    }
}
