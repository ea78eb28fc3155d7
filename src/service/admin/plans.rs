//! Administration of plans. A change is written to the store first, from where every gateway learns of it, and then applied at the
//! broker for each tenant of the plan; repeating the same call completes one that was interrupted.

use std::sync::Arc;

use futures_util::{StreamExt as _, stream};

use super::{
    act::AdminContext,
    answers::IdempotencyCache,
    error::{Error, invalid, named},
    fields,
    tenants::DEFAULT_PLAN,
};
use crate::{
    names::{PlanName, TenantId},
    pb,
    service::page::Page,
    tenant::{Administrator, Plan},
};

/// Tenants whose limits are brought in line at a time.
const AT_A_TIME: usize = 4;

pub(super) async fn list(
    desk: Arc<AdminContext>,
    _who: Administrator,
    request: pb::ListPlansRequest,
) -> Result<pb::ListPlansResponse, Error> {
    let page = Page::parse(request.page_size, &request.page_token, PlanName::parse).map_err(Error::Field)?;
    let mut rows = desk.store.plans(page.after.as_ref(), page.limit()).await?;
    let next_page_token = page.cut(&mut rows, |row| row.name.to_string());
    Ok(pb::ListPlansResponse { plans: rows.into_iter().map(|row| Plan::from(row).to_pb()).collect(), next_page_token })
}

pub(super) async fn get(
    desk: Arc<AdminContext>,
    _who: Administrator,
    request: pb::GetPlanRequest,
) -> Result<pb::GetPlanResponse, Error> {
    let name = named("name", PlanName::parse(&request.name))?;
    Ok(pb::GetPlanResponse { plan: Some(there(&desk, &name).await?.to_pb()) })
}

pub(super) async fn create(
    desk: Arc<AdminContext>,
    who: Administrator,
    request: pb::CreatePlanRequest,
) -> Result<pb::CreatePlanResponse, Error> {
    let wanted = Plan::parse(given(request.plan.as_ref())?).map_err(Error::Field)?;
    let request_id = if request.validate_only { "" } else { &request.request_id };
    let answers =
        IdempotencyCache { desk: &desk, who: &who, method: "CreatePlan", request_id, asked: request.plan.as_ref() };
    if let Some(answer) = answers.find::<pb::CreatePlanResponse>().await? {
        return Ok(answer);
    }
    let is_new = if request.validate_only {
        desk.store.plan(&wanted.name).await?.is_none()
    } else {
        desk.store.create_plan(&wanted).await?
    };
    if !is_new && there(&desk, &wanted.name).await? != wanted {
        return Err(Error::PlanExists);
    }
    let answer = pb::CreatePlanResponse { plan: Some(wanted.to_pb()) };
    if !request.validate_only {
        desk.refresh_registry().await;
        answers.keep(&answer).await?;
    }
    Ok(answer)
}

pub(super) async fn update(
    desk: Arc<AdminContext>,
    _who: Administrator,
    request: pb::UpdatePlanRequest,
) -> Result<pb::UpdatePlanResponse, Error> {
    let paths = fields::mask(request.update_mask.as_ref(), &FIELDS)?;
    let wanted = given(request.plan.as_ref())?;
    let name = named("plan.name", PlanName::parse(&wanted.name))?;
    let change = |row| merged(Plan::from(row), wanted, &paths);
    if request.validate_only {
        let changed = change(there(&desk, &name).await?.into_row())?;
        let tenants = desk.store.tenants_with_plan(&name).await?.len();
        return Ok(pb::UpdatePlanResponse { plan: Some(changed.to_pb()), tenants: count(tenants) });
    }
    let changed = desk.store.change_plan(&name, |row| change(row).map(Plan::into_row)).await?;
    let changed = Plan::from(changed.ok_or(Error::NotFound("plan"))?);
    desk.refresh_registry().await;
    let tenants = desk.store.tenants_with_plan(&name).await?;
    let number = tenants.len();
    // All are tried, whatever becomes of one.
    let done = stream::iter(tenants)
        .map(|tenant| bring_in_line(&desk, tenant, &name))
        .buffer_unordered(AT_A_TIME)
        .collect::<Vec<_>>()
        .await;
    done.into_iter().collect::<Result<(), Error>>()?;
    Ok(pb::UpdatePlanResponse { plan: Some(changed.to_pb()), tenants: count(number) })
}

pub(super) async fn delete(
    desk: Arc<AdminContext>,
    _who: Administrator,
    request: pb::DeletePlanRequest,
) -> Result<pb::DeletePlanResponse, Error> {
    let name = named("name", PlanName::parse(&request.name))?;
    if name.as_str() == DEFAULT_PLAN {
        return Err(Error::DefaultPlan);
    }
    if !desk.store.delete_plan(&name).await? {
        return Err(Error::NotFound("plan"));
    }
    desk.refresh_registry().await;
    Ok(pb::DeletePlanResponse {})
}

/// Gives one tenant at the broker what its plan says by now: it may have another one already.
async fn bring_in_line(desk: &AdminContext, tenant: TenantId, name: &PlanName) -> Result<(), Error> {
    let _one_at_a_time = desk.locks.lock(&tenant).await;
    let Some(row) = desk.store.tenant(&tenant).await?.filter(|row| row.plan == *name) else { return Ok(()) };
    let plan = there(desk, &row.plan).await?;
    desk.provisioner.ensure_limits(&tenant, &plan).await?;
    Ok(())
}

fn given(plan: Option<&pb::Plan>) -> Result<&pb::Plan, Error> {
    plan.ok_or_else(|| invalid("plan", "is required"))
}

async fn there(desk: &AdminContext, name: &PlanName) -> Result<Plan, Error> {
    Ok(desk.store.plan(name).await?.ok_or(Error::NotFound("plan"))?.into())
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// What can be changed, and how each field is taken over.
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

/// The plan with the fields of the mask taken over.
fn merged(plan: Plan, wanted: &pb::Plan, paths: &[&str]) -> Result<Plan, Error> {
    let mut merged = plan.to_pb();
    paths.iter().for_each(|path| take_over(&mut merged, wanted, path));
    // A burst is of its rate, and goes with it.
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
    fn a_mask_takes_over_what_it_names_and_a_burst_goes_with_its_rate() {
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
