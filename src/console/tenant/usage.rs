//! The meters of the tenant's own plan.

use maud::html;

use crate::{
    console::{admin::meters, layout, parts::PageResult, user::User},
    pb,
};

pub(super) async fn page(user: User) -> PageResult {
    super::tenant_only(&user)?;
    let usage = user.calls().admin().get_tenant_usage(pb::GetTenantUsageRequest::default()).await?.into_inner();
    let plan = usage.plan.clone();
    let content = html! {
        section {
            p { "Plan " b { (plan) } ". Above a rate, messages are THROTTLED; at another limit, the call that needs more is refused." }
            (meters(&Ok(usage)))
        }
    };
    Ok(layout::page(&user, "Usage", content))
}
