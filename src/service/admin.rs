//! The `Admin` service. Every change is applied to the store, the broker, this gateway at once, and other gateways
//! within their poll interval. Every change and every refusal is recorded in the audit trail.
//!
//! A platform administrator may do everything. A tenant's client with the administer grant may manage the clients of
//! its own tenant and close their streams, but can neither grant nor take over more than its own grants (`grants.rs`).
//! One with the observe grant may read the usage, audit events, queue figures and streams of its own tenant.
//!
//! A change is completed even if its caller disconnects. One that a crash interrupted is completed by repeating the
//! call.

mod audit;
mod clients;
mod context;
mod error;
mod fields;
mod grants;
mod idempotency;
mod plans;
mod rate;
mod reconcile;
mod rotation;
mod status;
mod streams;
mod tenants;
mod usage;
mod watch;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

pub use self::status::GatewayState;
use self::{
    context::{AdminContext, Rpc, Subject},
    error::Error,
};
use crate::{
    audit::Audit,
    auth::{Caller, Issuer},
    broker::Broker,
    pb::{self, admin_server::Admin},
    provision::Provisioner,
    store::Store,
    tenant::Tenants,
};

/// The `Admin` service.
#[derive(Debug, Clone)]
pub struct AdminService {
    context: Arc<AdminContext>,
}

impl AdminService {
    /// Creates the service from the components that it uses.
    pub fn new(
        store: Store,
        tenants: Arc<Tenants>,
        provisioner: Arc<Provisioner>,
        broker: Broker,
        audit: Audit,
        issuer: Arc<Issuer>,
        gateway: GatewayState,
    ) -> Self {
        Self { context: Arc::new(AdminContext::new(store, tenants, provisioner, broker, audit, issuer, gateway)) }
    }
}

impl AdminService {
    /// Reconciles all tenants at every interval, until stopped.
    pub async fn reconcile_periodically(self, interval: std::time::Duration, stop: CancellationToken) {
        reconcile::periodically(self.context, interval, stop).await;
    }
}

/// The snapshots of a watched tenant.
type Snapshots = std::pin::Pin<Box<dyn futures_util::Stream<Item = Result<pb::WatchTenantResponse, Status>> + Send>>;

type RpcResult<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Admin for AdminService {
    async fn create_tenant(&self, request: Request<pb::CreateTenantRequest>) -> RpcResult<pb::CreateTenantResponse> {
        let id = request.get_ref().tenant.as_ref().map_or("", |tenant| &tenant.id);
        let audit_context = Subject::tenant(id).audit_context(&request);
        self.context
            .run(
                Rpc::mutation("CreateTenant").dry_run(request.get_ref().validate_only),
                audit_context,
                request,
                tenants::create,
            )
            .await
    }

    async fn get_tenant(&self, request: Request<pb::GetTenantRequest>) -> RpcResult<pb::GetTenantResponse> {
        let audit_context = Subject::tenant(&request.get_ref().tenant).audit_context(&request);
        self.context.run(Rpc::query("GetTenant"), audit_context, request, tenants::get).await
    }

    async fn list_tenants(&self, request: Request<pb::ListTenantsRequest>) -> RpcResult<pb::ListTenantsResponse> {
        self.context
            .run(Rpc::query("ListTenants"), Subject::none().audit_context(&request), request, tenants::list)
            .await
    }

    async fn update_tenant(&self, request: Request<pb::UpdateTenantRequest>) -> RpcResult<pb::UpdateTenantResponse> {
        let id = request.get_ref().tenant.as_ref().map_or("", |tenant| &tenant.id);
        let audit_context = Subject::tenant(id).audit_context(&request);
        self.context
            .run(
                Rpc::mutation("UpdateTenant").dry_run(request.get_ref().validate_only),
                audit_context,
                request,
                tenants::update,
            )
            .await
    }

    async fn suspend_tenant(&self, request: Request<pb::SuspendTenantRequest>) -> RpcResult<pb::SuspendTenantResponse> {
        let audit_context = Subject::tenant(&request.get_ref().tenant).audit_context(&request);
        self.context.run(Rpc::mutation("SuspendTenant"), audit_context, request, tenants::suspend).await
    }

    async fn resume_tenant(&self, request: Request<pb::ResumeTenantRequest>) -> RpcResult<pb::ResumeTenantResponse> {
        let audit_context = Subject::tenant(&request.get_ref().tenant).audit_context(&request);
        self.context.run(Rpc::mutation("ResumeTenant"), audit_context, request, tenants::resume).await
    }

    async fn delete_tenant(&self, request: Request<pb::DeleteTenantRequest>) -> RpcResult<pb::DeleteTenantResponse> {
        let audit_context = Subject::tenant(&request.get_ref().tenant).audit_context(&request);
        self.context.run(Rpc::mutation("DeleteTenant"), audit_context, request, tenants::delete).await
    }

    async fn get_tenant_usage(
        &self,
        request: Request<pb::GetTenantUsageRequest>,
    ) -> RpcResult<pb::GetTenantUsageResponse> {
        let audit_context = Subject::tenant(&request.get_ref().tenant).audit_context(&request);
        self.context.observe(audit_context, request, |request| &request.tenant, usage::get).await
    }

    async fn list_plans(&self, request: Request<pb::ListPlansRequest>) -> RpcResult<pb::ListPlansResponse> {
        self.context.run(Rpc::query("ListPlans"), Subject::none().audit_context(&request), request, plans::list).await
    }

    async fn get_plan(&self, request: Request<pb::GetPlanRequest>) -> RpcResult<pb::GetPlanResponse> {
        let audit_context = Subject::object(&request.get_ref().name).audit_context(&request);
        self.context.run(Rpc::query("GetPlan"), audit_context, request, plans::get).await
    }

    async fn create_plan(&self, request: Request<pb::CreatePlanRequest>) -> RpcResult<pb::CreatePlanResponse> {
        let audit_context =
            Subject::object(request.get_ref().plan.as_ref().map_or("", |plan| &plan.name)).audit_context(&request);
        self.context
            .run(
                Rpc::mutation("CreatePlan").dry_run(request.get_ref().validate_only),
                audit_context,
                request,
                plans::create,
            )
            .await
    }

    async fn update_plan(&self, request: Request<pb::UpdatePlanRequest>) -> RpcResult<pb::UpdatePlanResponse> {
        let audit_context =
            Subject::object(request.get_ref().plan.as_ref().map_or("", |plan| &plan.name)).audit_context(&request);
        self.context
            .run(
                Rpc::mutation("UpdatePlan").dry_run(request.get_ref().validate_only),
                audit_context,
                request,
                plans::update,
            )
            .await
    }

    async fn delete_plan(&self, request: Request<pb::DeletePlanRequest>) -> RpcResult<pb::DeletePlanResponse> {
        let audit_context = Subject::object(&request.get_ref().name).audit_context(&request);
        self.context.run(Rpc::mutation("DeletePlan"), audit_context, request, plans::delete).await
    }

    async fn create_client(&self, request: Request<pb::CreateClientRequest>) -> RpcResult<pb::CreateClientResponse> {
        let id = request.get_ref().client.as_ref().map_or("", |client| &client.client_id);
        let audit_context = Subject::client(id).audit_context(&request);
        self.context
            .run(
                Rpc::mutation("CreateClient").for_tenant_administrators().dry_run(request.get_ref().validate_only),
                audit_context,
                request,
                clients::create,
            )
            .await
    }

    async fn list_clients(&self, request: Request<pb::ListClientsRequest>) -> RpcResult<pb::ListClientsResponse> {
        let audit_context = Subject::tenant(&request.get_ref().tenant).audit_context(&request);
        self.context
            .run(Rpc::query("ListClients").for_tenant_administrators(), audit_context, request, clients::list)
            .await
    }

    async fn update_client(&self, request: Request<pb::UpdateClientRequest>) -> RpcResult<pb::UpdateClientResponse> {
        let id = request.get_ref().client.as_ref().map_or("", |client| &client.client_id);
        let audit_context = Subject::client(id).audit_context(&request);
        self.context
            .run(
                Rpc::mutation("UpdateClient").for_tenant_administrators().dry_run(request.get_ref().validate_only),
                audit_context,
                request,
                clients::update,
            )
            .await
    }

    async fn revoke_client(&self, request: Request<pb::RevokeClientRequest>) -> RpcResult<pb::RevokeClientResponse> {
        let audit_context = Subject::client(&request.get_ref().client_id).audit_context(&request);
        self.context
            .run(Rpc::mutation("RevokeClient").for_tenant_administrators(), audit_context, request, clients::revoke)
            .await
    }

    async fn delete_client(&self, request: Request<pb::DeleteClientRequest>) -> RpcResult<pb::DeleteClientResponse> {
        let audit_context = Subject::client(&request.get_ref().client_id).audit_context(&request);
        self.context
            .run(Rpc::mutation("DeleteClient").for_tenant_administrators(), audit_context, request, clients::delete)
            .await
    }

    async fn rotate_client_secret(
        &self,
        request: Request<pb::RotateClientSecretRequest>,
    ) -> RpcResult<pb::RotateClientSecretResponse> {
        let audit_context = Subject::client(&request.get_ref().client_id).audit_context(&request);
        self.context
            .run(
                Rpc::mutation("RotateClientSecret").for_tenant_administrators(),
                audit_context,
                request,
                clients::rotate_secret,
            )
            .await
    }

    async fn rotate_broker_credentials(
        &self,
        request: Request<pb::RotateBrokerCredentialsRequest>,
    ) -> RpcResult<pb::RotateBrokerCredentialsResponse> {
        let audit_context = Subject::tenant(&request.get_ref().tenant).audit_context(&request);
        let rpc = Rpc::mutation("RotateBrokerCredentials");
        self.context.run(rpc, audit_context, request, rotation::broker_credentials).await
    }

    async fn rotate_signing_key(
        &self,
        request: Request<pb::RotateSigningKeyRequest>,
    ) -> RpcResult<pb::RotateSigningKeyResponse> {
        let audit_context = Subject::none().audit_context(&request);
        self.context.run(Rpc::mutation("RotateSigningKey"), audit_context, request, rotation::signing_key).await
    }

    async fn revoke_signing_key(
        &self,
        request: Request<pb::RevokeSigningKeyRequest>,
    ) -> RpcResult<pb::RevokeSigningKeyResponse> {
        let audit_context = Subject::object(&request.get_ref().key_id).audit_context(&request);
        self.context.run(Rpc::mutation("RevokeSigningKey"), audit_context, request, rotation::revoke_signing_key).await
    }

    async fn list_audit_events(
        &self,
        request: Request<pb::ListAuditEventsRequest>,
    ) -> RpcResult<pb::ListAuditEventsResponse> {
        let audit_context = Subject::tenant(&request.get_ref().tenant).audit_context(&request);
        if Caller::from_request(&request).is_ok_and(|caller| caller.tenant().is_some()) {
            return self.context.observe(audit_context, request, |request| &request.tenant, audit::list_own).await;
        }
        self.context.run(Rpc::query("ListAuditEvents"), audit_context, request, audit::list).await
    }

    async fn reconcile_tenant(
        &self,
        request: Request<pb::ReconcileTenantRequest>,
    ) -> RpcResult<pb::ReconcileTenantResponse> {
        let audit_context = Subject::tenant(&request.get_ref().tenant).audit_context(&request);
        let rpc = Rpc::mutation("ReconcileTenant").dry_run(request.get_ref().dry_run);
        let by = audit_context.clone();
        let work = |context, who, request| async move { reconcile::reconcile(context, who, &by, request).await };
        self.context.run(rpc, audit_context, request, work).await
    }

    async fn verify_isolation(
        &self,
        request: Request<pb::VerifyIsolationRequest>,
    ) -> RpcResult<pb::VerifyIsolationResponse> {
        let audit_context = Subject::tenant(&request.get_ref().tenant).audit_context(&request);
        self.context.run(Rpc::mutation("VerifyIsolation"), audit_context, request, tenants::verify_isolation).await
    }

    type WatchTenantStream = Snapshots;

    async fn watch_tenant(&self, request: Request<pb::WatchTenantRequest>) -> RpcResult<Self::WatchTenantStream> {
        let audit_context = Subject::tenant(&request.get_ref().tenant).audit_context(&request);
        let of_stream = audit_context.clone();
        let open = async |context: Arc<AdminContext>, observer, request: pb::WatchTenantRequest| {
            watch::watch(&context, observer, of_stream, &request).map(|snapshots| Box::pin(snapshots) as Snapshots)
        };
        self.context.observe(audit_context, request, |request| &request.tenant, open).await
    }

    async fn list_streams(&self, request: Request<pb::ListStreamsRequest>) -> RpcResult<pb::ListStreamsResponse> {
        let audit_context = Subject::tenant(&request.get_ref().tenant).audit_context(&request);
        self.context.observe(audit_context, request, |request| &request.tenant, streams::list).await
    }

    async fn close_stream(&self, request: Request<pb::CloseStreamRequest>) -> RpcResult<pb::CloseStreamResponse> {
        let pb::CloseStreamRequest { tenant, stream_id } = request.get_ref();
        let audit_context = Subject::of(tenant, stream_id).audit_context(&request);
        let rpc = Rpc::mutation("CloseStream").for_tenant_administrators();
        self.context.run(rpc, audit_context, request, streams::close).await
    }

    async fn get_status(&self, request: Request<pb::GetStatusRequest>) -> RpcResult<pb::GetStatusResponse> {
        let audit_context = Subject::none().audit_context(&request);
        self.context.run(Rpc::query("GetStatus"), audit_context, request, status::get).await
    }
}

#[cfg(test)]
mod tests;
