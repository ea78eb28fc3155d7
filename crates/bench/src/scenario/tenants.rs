//! Creating many tenants one after the other: the time for each, whether it grows, and the cost of an idle tenant.

use std::time::Instant;

use super::{ScenarioReport, named};
use warrengate::{client, pb};

use crate::{
    Error,
    figures::{Figure, number},
    plan::{Plan, Scenario},
    rig::{Rig, names},
};

pub(super) async fn run(rig: &mut Rig, plan: &Plan) -> Result<ScenarioReport, Error> {
    let mut meter = rig.meter(None, Some(rig.gateway()));
    let before = meter.read(None);
    let mut millis = Vec::with_capacity(plan.many_tenants);
    for name in names("idle", plan.many_tenants) {
        let tenant = pb::Tenant { id: name, plan: plan.tenant_plan.clone(), ..pb::Tenant::default() };
        let request = pb::CreateTenantRequest { tenant: Some(tenant), ..pb::CreateTenantRequest::default() };
        let began = Instant::now();
        rig.admin().admin().create_tenant(request).await.map_err(client::Error::from)?;
        millis.push(began.elapsed().as_secs_f64() * 1000.0);
        if millis.len().is_multiple_of(100) {
            plan.say(&format!("{} tenants created", millis.len()));
        }
    }
    let after = meter.read(Some(&before));
    let grown = after.memory.gateway.zip(before.memory.gateway).map(|(after, before)| after.saturating_sub(before));
    let each = grown.map(|bytes| number(bytes) / 1024.0 / number(millis.len() as u64));
    let part = (millis.len() / 10).max(1);
    let middle = |values: &[f64]| Figure::of(values.iter().copied()).map(|figure| figure.median);
    let slope = middle(&millis[millis.len() - part..]).zip(middle(&millis[..part])).map(|(last, first)| last / first);
    let figures = named([
        ("each", "ms", Figure::of(millis.iter().copied()), "≤ 250 (median)"),
        ("last tenth ÷ first tenth", "", Figure::of(slope), "≤ 1.5"),
        ("gateway memory each", "KiB", Figure::of(each), "≤ 4"),
    ]);
    let description =
        format!("{} tenants created one after the other, with vhost, user, permissions and limits", millis.len());
    Ok(ScenarioReport { scenario: Scenario::Tenants, description, figures })
}
