//! Usage of a tenant compared with the limits of its plan, from this gateway's counters, the broker and the store.
//! Limits that are not used up (the size of a message) have no meter.

use std::sync::Arc;

use super::{context::AdminContext, error::Error};
use crate::{
    pb, store,
    tenant::{Observer, Plan},
};

pub(super) async fn get(
    context: Arc<AdminContext>,
    who: Observer,
    _request: pb::GetTenantUsageRequest,
) -> Result<pb::GetTenantUsageResponse, Error> {
    let id = who.tenant();
    let row = context.store.tenant(id).await?.ok_or(Error::NotFound("tenant"))?;
    let plan = Plan::from(context.store.plan(&row.plan).await?.ok_or(store::Error::UnknownPlan)?);
    let clients = context.store.client_count(id).await?;
    let at_broker = context.provisioner.usage(id).await?;
    let here = context.tenants.usage(id);
    let meter = |limit: &str, allowed: u64, used: u64, of_this_gateway| pb::UsageMeter {
        limit: limit.to_owned(),
        allowed,
        used,
        of_this_gateway,
    };
    let meters = vec![
        meter("max_connections", plan.max_connections.into(), at_broker.connections, false),
        meter("max_queues", plan.max_queues.into(), at_broker.queues, false),
        meter("max_streams", plan.max_streams.into(), here.streams.into(), true),
        meter("max_in_flight_messages", plan.max_in_flight_messages.into(), here.in_flight_messages, true),
        meter("max_in_flight_bytes", plan.max_in_flight_bytes, here.in_flight_bytes, true),
        meter("max_exchanges", plan.max_exchanges.into(), at_broker.exchanges, false),
        meter("max_bindings", plan.max_bindings.into(), at_broker.bindings, false),
        meter("max_clients", plan.max_clients.into(), clients.into(), false),
        meter(
            "max_publish_messages_per_second",
            plan.max_publish_messages_per_second.into(),
            here.messages_per_second,
            true,
        ),
        meter("max_publish_bytes_per_second", plan.max_publish_bytes_per_second, here.bytes_per_second, true),
        meter("max_stored_messages", plan.max_stored_messages, at_broker.stored_messages, false),
        meter("max_stored_bytes", plan.max_stored_bytes, at_broker.stored_bytes, false),
    ];
    Ok(pb::GetTenantUsageResponse { meters, plan: plan.name.to_string() })
}
