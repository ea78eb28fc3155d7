//! The `Admin` service. Every change reaches the store, the broker, this gateway at once and the others within their poll interval; every
//! change and every refusal is in the audit trail.
//!
//! A platform administrator may do everything; a tenant's client with the administer grant may manage the clients of its own
//! tenant, and can neither give nor take over more than it is granted itself (`grants.rs`).
//!
//! A change is completed even when its caller goes away. One that a crash interrupted is completed by repeating the call.

mod act;
mod answers;
mod audit;
mod clients;
mod error;
mod fields;
mod grants;
mod plans;
mod rate;
mod reconcile;
mod rotation;
mod tenants;
mod usage;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use self::{
    act::{AdminContext, Rpc, Subject},
    error::Error,
};
use crate::{
    audit::Audit,
    auth::Issuer,
    broker::Broker,
    pb::{self, admin_server::Admin},
    provision::Provisioner,
    store::Store,
    tenant::Tenants,
};

/// The `Admin` service.
#[derive(Debug, Clone)]
pub struct AdminService {
    desk: Arc<AdminContext>,
}

impl AdminService {
    /// The service, with the modules that it works with.
    pub fn new(
        store: Store,
        tenants: Arc<Tenants>,
        provisioner: Arc<Provisioner>,
        broker: Broker,
        audit: Audit,
        issuer: Arc<Issuer>,
    ) -> Self {
        Self { desk: Arc::new(AdminContext::new(store, tenants, provisioner, broker, audit, issuer)) }
    }
}

impl AdminService {
    /// Reconciles all tenants at every interval, until stopped.
    pub async fn reconcile_periodically(self, interval: std::time::Duration, stop: CancellationToken) {
        reconcile::periodically(self.desk, interval, stop).await;
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Admin for AdminService {
    async fn create_tenant(&self, request: Request<pb::CreateTenantRequest>) -> Answer<pb::CreateTenantResponse> {
        let id = request.get_ref().tenant.as_ref().map_or("", |tenant| &tenant.id);
        let witness = Subject::tenant(id).seen_by(&request);
        self.desk
            .act(
                Rpc::changes("CreateTenant").unless(request.get_ref().validate_only),
                witness,
                request,
                tenants::create,
            )
            .await
    }

    async fn get_tenant(&self, request: Request<pb::GetTenantRequest>) -> Answer<pb::GetTenantResponse> {
        let witness = Subject::tenant(&request.get_ref().tenant).seen_by(&request);
        self.desk.act(Rpc::reads("GetTenant"), witness, request, tenants::get).await
    }

    async fn list_tenants(&self, request: Request<pb::ListTenantsRequest>) -> Answer<pb::ListTenantsResponse> {
        self.desk.act(Rpc::reads("ListTenants"), Subject::none().seen_by(&request), request, tenants::list).await
    }

    async fn update_tenant(&self, request: Request<pb::UpdateTenantRequest>) -> Answer<pb::UpdateTenantResponse> {
        let id = request.get_ref().tenant.as_ref().map_or("", |tenant| &tenant.id);
        let witness = Subject::tenant(id).seen_by(&request);
        self.desk
            .act(
                Rpc::changes("UpdateTenant").unless(request.get_ref().validate_only),
                witness,
                request,
                tenants::update,
            )
            .await
    }

    async fn suspend_tenant(&self, request: Request<pb::SuspendTenantRequest>) -> Answer<pb::SuspendTenantResponse> {
        let witness = Subject::tenant(&request.get_ref().tenant).seen_by(&request);
        self.desk.act(Rpc::changes("SuspendTenant"), witness, request, tenants::suspend).await
    }

    async fn resume_tenant(&self, request: Request<pb::ResumeTenantRequest>) -> Answer<pb::ResumeTenantResponse> {
        let witness = Subject::tenant(&request.get_ref().tenant).seen_by(&request);
        self.desk.act(Rpc::changes("ResumeTenant"), witness, request, tenants::resume).await
    }

    async fn delete_tenant(&self, request: Request<pb::DeleteTenantRequest>) -> Answer<pb::DeleteTenantResponse> {
        let witness = Subject::tenant(&request.get_ref().tenant).seen_by(&request);
        self.desk.act(Rpc::changes("DeleteTenant"), witness, request, tenants::delete).await
    }

    async fn get_tenant_usage(
        &self,
        request: Request<pb::GetTenantUsageRequest>,
    ) -> Answer<pb::GetTenantUsageResponse> {
        let witness = Subject::tenant(&request.get_ref().tenant).seen_by(&request);
        self.desk.act(Rpc::reads("GetTenantUsage"), witness, request, usage::get).await
    }

    async fn list_plans(&self, request: Request<pb::ListPlansRequest>) -> Answer<pb::ListPlansResponse> {
        self.desk.act(Rpc::reads("ListPlans"), Subject::none().seen_by(&request), request, plans::list).await
    }

    async fn get_plan(&self, request: Request<pb::GetPlanRequest>) -> Answer<pb::GetPlanResponse> {
        let witness = Subject::object(&request.get_ref().name).seen_by(&request);
        self.desk.act(Rpc::reads("GetPlan"), witness, request, plans::get).await
    }

    async fn create_plan(&self, request: Request<pb::CreatePlanRequest>) -> Answer<pb::CreatePlanResponse> {
        let witness = Subject::object(request.get_ref().plan.as_ref().map_or("", |plan| &plan.name)).seen_by(&request);
        self.desk
            .act(Rpc::changes("CreatePlan").unless(request.get_ref().validate_only), witness, request, plans::create)
            .await
    }

    async fn update_plan(&self, request: Request<pb::UpdatePlanRequest>) -> Answer<pb::UpdatePlanResponse> {
        let witness = Subject::object(request.get_ref().plan.as_ref().map_or("", |plan| &plan.name)).seen_by(&request);
        self.desk
            .act(Rpc::changes("UpdatePlan").unless(request.get_ref().validate_only), witness, request, plans::update)
            .await
    }

    async fn delete_plan(&self, request: Request<pb::DeletePlanRequest>) -> Answer<pb::DeletePlanResponse> {
        let witness = Subject::object(&request.get_ref().name).seen_by(&request);
        self.desk.act(Rpc::changes("DeletePlan"), witness, request, plans::delete).await
    }

    async fn create_client(&self, request: Request<pb::CreateClientRequest>) -> Answer<pb::CreateClientResponse> {
        let id = request.get_ref().client.as_ref().map_or("", |client| &client.client_id);
        let witness = Subject::client(id).seen_by(&request);
        self.desk
            .act(
                Rpc::changes("CreateClient").of_clients().unless(request.get_ref().validate_only),
                witness,
                request,
                clients::create,
            )
            .await
    }

    async fn list_clients(&self, request: Request<pb::ListClientsRequest>) -> Answer<pb::ListClientsResponse> {
        let witness = Subject::tenant(&request.get_ref().tenant).seen_by(&request);
        self.desk.act(Rpc::reads("ListClients").of_clients(), witness, request, clients::list).await
    }

    async fn update_client(&self, request: Request<pb::UpdateClientRequest>) -> Answer<pb::UpdateClientResponse> {
        let id = request.get_ref().client.as_ref().map_or("", |client| &client.client_id);
        let witness = Subject::client(id).seen_by(&request);
        self.desk
            .act(
                Rpc::changes("UpdateClient").of_clients().unless(request.get_ref().validate_only),
                witness,
                request,
                clients::update,
            )
            .await
    }

    async fn revoke_client(&self, request: Request<pb::RevokeClientRequest>) -> Answer<pb::RevokeClientResponse> {
        let witness = Subject::client(&request.get_ref().client_id).seen_by(&request);
        self.desk.act(Rpc::changes("RevokeClient").of_clients(), witness, request, clients::revoke).await
    }

    async fn delete_client(&self, request: Request<pb::DeleteClientRequest>) -> Answer<pb::DeleteClientResponse> {
        let witness = Subject::client(&request.get_ref().client_id).seen_by(&request);
        self.desk.act(Rpc::changes("DeleteClient").of_clients(), witness, request, clients::delete).await
    }

    async fn rotate_client_secret(
        &self,
        request: Request<pb::RotateClientSecretRequest>,
    ) -> Answer<pb::RotateClientSecretResponse> {
        let witness = Subject::client(&request.get_ref().client_id).seen_by(&request);
        self.desk.act(Rpc::changes("RotateClientSecret").of_clients(), witness, request, clients::rotate_secret).await
    }

    async fn rotate_broker_credentials(
        &self,
        request: Request<pb::RotateBrokerCredentialsRequest>,
    ) -> Answer<pb::RotateBrokerCredentialsResponse> {
        let witness = Subject::tenant(&request.get_ref().tenant).seen_by(&request);
        let rpc = Rpc::changes("RotateBrokerCredentials");
        self.desk.act(rpc, witness, request, rotation::broker_credentials).await
    }

    async fn rotate_signing_key(
        &self,
        request: Request<pb::RotateSigningKeyRequest>,
    ) -> Answer<pb::RotateSigningKeyResponse> {
        let witness = Subject::none().seen_by(&request);
        self.desk.act(Rpc::changes("RotateSigningKey"), witness, request, rotation::signing_key).await
    }

    async fn revoke_signing_key(
        &self,
        request: Request<pb::RevokeSigningKeyRequest>,
    ) -> Answer<pb::RevokeSigningKeyResponse> {
        let witness = Subject::object(&request.get_ref().key_id).seen_by(&request);
        self.desk.act(Rpc::changes("RevokeSigningKey"), witness, request, rotation::revoke_signing_key).await
    }

    async fn list_audit_events(
        &self,
        request: Request<pb::ListAuditEventsRequest>,
    ) -> Answer<pb::ListAuditEventsResponse> {
        let witness = Subject::tenant(&request.get_ref().tenant).seen_by(&request);
        self.desk.act(Rpc::reads("ListAuditEvents"), witness, request, audit::list).await
    }

    async fn reconcile_tenant(
        &self,
        request: Request<pb::ReconcileTenantRequest>,
    ) -> Answer<pb::ReconcileTenantResponse> {
        let witness = Subject::tenant(&request.get_ref().tenant).seen_by(&request);
        let rpc = Rpc::changes("ReconcileTenant").unless(request.get_ref().dry_run);
        let by = witness.clone();
        let work = |desk, who, request| async move { reconcile::reconcile(desk, who, &by, request).await };
        self.desk.act(rpc, witness, request, work).await
    }

    async fn verify_isolation(
        &self,
        request: Request<pb::VerifyIsolationRequest>,
    ) -> Answer<pb::VerifyIsolationResponse> {
        let witness = Subject::tenant(&request.get_ref().tenant).seen_by(&request);
        self.desk.act(Rpc::changes("VerifyIsolation"), witness, request, tenants::verify_isolation).await
    }
}

#[cfg(test)]
mod tests;
