//! Administration of plans. A change is written to the store first, where every gateway reads it, and then applied at
//! the broker for each tenant of the plan. Repeating the call completes an interrupted change.

use std::sync::Arc;

use futures_util::{StreamExt as _, stream};

use super::{
    context::AdminContext,
    error::{Error, invalid, named},
    fields,
    idempotency::IdempotencyCache,
    tenants::DEFAULT_PLAN,
};
use crate::{
    names::{PlanName, TenantId},
    pb,
    service::page::Page,
    tenant::{Administrator, Plan},
};

/// The number of tenants whose limits are applied concurrently.
const MAX_CONCURRENT: usize = 4;

pub(super) async fn list(
    context: Arc<AdminContext>,
    _who: Administrator,
    request: pb::ListPlansRequest,
) -> Result<pb::ListPlansResponse, Error> {
    let page = Page::parse(request.page_size, &request.page_token, PlanName::parse).map_err(Error::Field)?;
    let mut rows = context.store.plans(page.after.as_ref(), page.limit()).await?;
    let next_page_token = page.cut(&mut rows, |row| row.name.to_string());
    Ok(pb::ListPlansResponse { plans: rows.into_iter().map(|row| Plan::from(row).to_pb()).collect(), next_page_token })
}

pub(super) async fn get(
    context: Arc<AdminContext>,
    _who: Administrator,
    request: pb::GetPlanRequest,
) -> Result<pb::GetPlanResponse, Error> {
    let name = named("name", PlanName::parse(&request.name))?;
    Ok(pb::GetPlanResponse { plan: Some(existing(&context, &name).await?.to_pb()) })
}

pub(super) async fn create(
    context: Arc<AdminContext>,
    who: Administrator,
    request: pb::CreatePlanRequest,
) -> Result<pb::CreatePlanResponse, Error> {
    let wanted = Plan::parse(required(request.plan.as_ref())?).map_err(Error::Field)?;
    let request_id = if request.validate_only { "" } else { &request.request_id };
    let answers = IdempotencyCache {
        context: &context,
        who: &who,
        method: "CreatePlan",
        request_id,
        requested: request.plan.as_ref(),
    };
    if let Some(answer) = answers.find::<pb::CreatePlanResponse>().await? {
        return Ok(answer);
    }
    let is_new = if request.validate_only {
        context.store.plan(&wanted.name).await?.is_none()
    } else {
        context.store.create_plan(&wanted).await?
    };
    if !is_new && existing(&context, &wanted.name).await? != wanted {
        return Err(Error::PlanExists);
    }
    let answer = pb::CreatePlanResponse { plan: Some(wanted.to_pb()) };
    if !request.validate_only {
        context.refresh_registry().await;
        answers.keep(&answer).await?;
    }
    Ok(answer)
}

pub(super) async fn update(
    context: Arc<AdminContext>,
    _who: Administrator,
    request: pb::UpdatePlanRequest,
) -> Result<pb::UpdatePlanResponse, Error> {
    let paths = fields::mask(request.update_mask.as_ref(), &FIELDS)?;
    let wanted = required(request.plan.as_ref())?;
    let name = named("plan.name", PlanName::parse(&wanted.name))?;
    let change = |row| merged(Plan::from(row), wanted, &paths);
    if request.validate_only {
        let changed = change(existing(&context, &name).await?.into_row())?;
        let tenants = context.store.tenants_with_plan(&name).await?.len();
        return Ok(pb::UpdatePlanResponse { plan: Some(changed.to_pb()), tenants: count(tenants) });
    }
    let changed = context.store.change_plan(&name, |row| change(row).map(Plan::into_row)).await?;
    let changed = Plan::from(changed.ok_or(Error::NotFound("plan"))?);
    context.refresh_registry().await;
    let tenants = context.store.tenants_with_plan(&name).await?;
    let number = tenants.len();
    // A failure for one tenant does not prevent the others from being changed.
    let done = stream::iter(tenants)
        .map(|tenant| apply_at_broker(&context, tenant, &name))
        .buffer_unordered(MAX_CONCURRENT)
        .collect::<Vec<_>>()
        .await;
    done.into_iter().collect::<Result<(), Error>>()?;
    Ok(pb::UpdatePlanResponse { plan: Some(changed.to_pb()), tenants: count(number) })
}

pub(super) async fn delete(
    context: Arc<AdminContext>,
    _who: Administrator,
    request: pb::DeletePlanRequest,
) -> Result<pb::DeletePlanResponse, Error> {
    let name = named("name", PlanName::parse(&request.name))?;
    if name.as_str() == DEFAULT_PLAN {
        return Err(Error::DefaultPlan);
    }
    if !context.store.delete_plan(&name).await? {
        return Err(Error::NotFound("plan"));
    }
    context.refresh_registry().await;
    Ok(pb::DeletePlanResponse {})
}

/// Applies the current limits of the plan to a tenant at the broker, unless the tenant has another plan by now.
async fn apply_at_broker(context: &AdminContext, tenant: TenantId, name: &PlanName) -> Result<(), Error> {
    let _one_at_a_time = context.locks.lock(&tenant).await;
    let Some(row) = context.store.tenant(&tenant).await?.filter(|row| row.plan == *name) else { return Ok(()) };
    let plan = existing(context, &row.plan).await?;
    context.provisioner.ensure_limits(&tenant, &plan).await?;
    Ok(())
}

fn required(plan: Option<&pb::Plan>) -> Result<&pb::Plan, Error> {
    plan.ok_or_else(|| invalid("plan", "is required"))
}

async fn existing(context: &AdminContext, name: &PlanName) -> Result<Plan, Error> {
    Ok(context.store.plan(name).await?.ok_or(Error::NotFound("plan"))?.into())
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// The fields that can be changed, and how each is copied.
macro_rules! fields {
    ($($name:ident),* $(,)?) => {
        const FIELDS: [&str; [$(stringify!($name)),*].len()] = [$(stringify!($name)),*];

        fn take_over(to: &mut pb::Plan, from: &pb::Plan, path: &str) {
            match path {
                $(stringify!($name) => to.$name = from.$name,)*
                _ => {}
            }
        }
    };
}

fields!(
    max_connections,
    max_queues,
    max_message_bytes,
    max_streams,
    max_in_flight_messages,
    max_in_flight_bytes,
    max_exchanges,
    max_bindings,
    max_clients,
    max_publish_messages_per_second,
    publish_messages_burst,
    max_publish_bytes_per_second,
    publish_bytes_burst,
    max_stored_messages,
    max_stored_bytes,
    max_message_ttl,
    queue_expires,
    sampling_ratio,
);

/// The plan with the fields of the mask replaced.
fn merged(plan: Plan, wanted: &pb::Plan, paths: &[&str]) -> Result<Plan, Error> {
    let mut merged = plan.to_pb();
    paths.iter().for_each(|path| take_over(&mut merged, wanted, path));
    // A burst belongs to its rate and is removed with it.
    if merged.max_publish_messages_per_second == 0 && !paths.contains(&"publish_messages_burst") {
        merged.publish_messages_burst = 0;
    }
    if merged.max_publish_bytes_per_second == 0 && !paths.contains(&"publish_bytes_burst") {
        merged.publish_bytes_burst = 0;
    }
    Plan::parse(&merged).map_err(Error::Field)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_selects_the_changed_fields_and_a_burst_is_removed_with_its_rate() {
        let name = || "gold".to_owned();
        let given = pb::Plan {
            name: name(),
            max_queues: 3,
            max_publish_messages_per_second: 10,
            publish_messages_burst: 50,
            ..Default::default()
        };
        let plan = || Plan::parse(&given).expect("a plan");
        let wanted = pb::Plan { name: name(), max_streams: 9, ..Default::default() };
        let changed = merged(plan(), &wanted, &["max_queues", "max_streams"]).expect("a plan");
        assert_eq!((changed.max_queues, changed.max_streams, changed.publish_messages_burst), (0, 9, 50));
        let changed = merged(plan(), &wanted, &["max_publish_messages_per_second"]).expect("a plan");
        assert_eq!((changed.max_publish_messages_per_second, changed.publish_messages_burst), (0, 0));
        assert_eq!(FIELDS.len(), 18);
    }
}
