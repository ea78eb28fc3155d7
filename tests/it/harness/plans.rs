//! Plans for one test.

use prost_types::FieldMask;
use warrengate::pb;

use super::{Tenant, World};

/// A plan that nobody else has, and what a test does with it.
pub struct OwnPlan(pub String);

impl OwnPlan {
    /// With these limits.
    pub async fn of(limits: pb::Plan) -> Self {
        let name = format!("p{}", &uuid::Uuid::new_v4().simple().to_string()[..12]);
        let plan = pb::Plan { name: name.clone(), ..limits };
        let request = pb::CreatePlanRequest { plan: Some(plan), ..Default::default() };
        World::get().admin().await.admin().create_plan(request).await.unwrap();
        Self(name)
    }

    /// Changes what is named, as the API names it.
    pub async fn change(&self, limits: pb::Plan, paths: &[&str]) -> pb::UpdatePlanResponse {
        let request = pb::UpdatePlanRequest {
            plan: Some(pb::Plan { name: self.0.clone(), ..limits }),
            update_mask: Some(FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() }),
            validate_only: false,
        };
        World::get().admin().await.admin().update_plan(request).await.unwrap().into_inner()
    }

    /// Gives it to a tenant.
    pub async fn give(&self, tenant: &Tenant) {
        let request = pb::UpdateTenantRequest {
            tenant: Some(pb::Tenant { id: tenant.id.clone(), plan: self.0.clone(), ..Default::default() }),
            update_mask: Some(FieldMask { paths: vec!["plan".into()] }),
            validate_only: false,
        };
        World::get().admin().await.admin().update_tenant(request).await.unwrap();
    }

    /// A fresh tenant that has it.
    pub async fn tenant(&self) -> Tenant {
        let tenant = Tenant::fresh().await;
        self.give(&tenant).await;
        tenant
    }
}

/// A fresh tenant with these limits and no others.
pub async fn limited(limits: pb::Plan) -> Tenant {
    OwnPlan::of(limits).await.tenant().await
}

/// The meters of a tenant: used and allowed, by the limit's name.
pub async fn meters(tenant: &Tenant) -> std::collections::BTreeMap<String, (u64, u64)> {
    let request = pb::GetTenantUsageRequest { tenant: tenant.id.clone() };
    let usage = World::get().admin().await.admin().get_tenant_usage(request).await.unwrap().into_inner();
    usage.meters.into_iter().map(|meter| (meter.limit, (meter.used, meter.allowed))).collect()
}
