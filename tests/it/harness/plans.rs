//! Plans for one test.

use prost_types::FieldMask;
use warrengate::pb;

use super::{SharedStack, Tenant};

/// A plan that only one test uses.
pub struct OwnPlan(pub String);

impl OwnPlan {
    /// Creates a plan with these limits.
    pub async fn of(limits: pb::Plan) -> Self {
        let name = format!("p{}", &uuid::Uuid::new_v4().simple().to_string()[..12]);
        let plan = pb::Plan { name: name.clone(), ..limits };
        let request = pb::CreatePlanRequest { plan: Some(plan), ..Default::default() };
        SharedStack::get().admin().await.admin().create_plan(request).await.unwrap();
        Self(name)
    }

    /// Changes the fields in `paths`.
    pub async fn change(&self, limits: pb::Plan, paths: &[&str]) -> pb::UpdatePlanResponse {
        let request = pb::UpdatePlanRequest {
            plan: Some(pb::Plan { name: self.0.clone(), ..limits }),
            update_mask: Some(FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() }),
            validate_only: false,
        };
        SharedStack::get().admin().await.admin().update_plan(request).await.unwrap().into_inner()
    }

    /// Assigns the plan to a tenant.
    pub async fn give(&self, tenant: &Tenant) {
        let request = pb::UpdateTenantRequest {
            tenant: Some(pb::Tenant { id: tenant.id.clone(), plan: self.0.clone(), ..Default::default() }),
            update_mask: Some(FieldMask { paths: vec!["plan".into()] }),
            validate_only: false,
        };
        SharedStack::get().admin().await.admin().update_tenant(request).await.unwrap();
    }

    /// A new tenant with this plan.
    pub async fn tenant(&self) -> Tenant {
        let tenant = Tenant::fresh().await;
        self.give(&tenant).await;
        tenant
    }
}

/// A new tenant with only these limits.
pub async fn limited(limits: pb::Plan) -> Tenant {
    OwnPlan::of(limits).await.tenant().await
}

/// The meters of a tenant: used and allowed, by the name of the limit.
pub async fn meters(tenant: &Tenant) -> std::collections::BTreeMap<String, (u64, u64)> {
    let request = pb::GetTenantUsageRequest { tenant: tenant.id.clone() };
    let usage = SharedStack::get().admin().await.admin().get_tenant_usage(request).await.unwrap().into_inner();
    usage.meters.into_iter().map(|meter| (meter.limit, (meter.used, meter.allowed))).collect()
}
