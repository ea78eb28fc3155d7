//! Plans, read only: they come with the store.

use std::sync::Arc;

use super::{
    act::Desk,
    error::{Error, named},
};
use crate::{
    names::PlanName,
    pb,
    service::page::Page,
    tenant::{Administrator, Plan},
};

pub(super) async fn list(
    desk: Arc<Desk>,
    _who: Administrator,
    request: pb::ListPlansRequest,
) -> Result<pb::ListPlansResponse, Error> {
    let page = Page::parse(request.page_size, &request.page_token, PlanName::parse).map_err(Error::Field)?;
    let mut rows = desk.store.plans(page.after.as_ref(), page.limit()).await?;
    let next_page_token = page.cut(&mut rows, |row| row.name.to_string());
    Ok(pb::ListPlansResponse { plans: rows.into_iter().map(|row| Plan::from(row).to_pb()).collect(), next_page_token })
}

pub(super) async fn get(
    desk: Arc<Desk>,
    _who: Administrator,
    request: pb::GetPlanRequest,
) -> Result<pb::GetPlanResponse, Error> {
    let name = named("name", PlanName::parse(&request.name))?;
    let row = desk.store.plan(&name).await?.ok_or(Error::NotFound("plan"))?;
    Ok(pb::GetPlanResponse { plan: Some(Plan::from(row).to_pb()) })
}
