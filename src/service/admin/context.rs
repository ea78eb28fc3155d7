//! The common part of all administrative calls: the caller is admitted, the work is completed even if the caller
//! disconnects, and the outcome is recorded. A change is recorded before it is started, and with its outcome before it
//! is answered, so that even a crash leaves a record of it.

use std::{pin::Pin, sync::Arc};

use tonic::{Request, Response, Status};
use tracing::Instrument as _;

use super::{
    Error, GatewayState,
    error::{invalid, named},
    rate::CallRates,
    watch::Watches,
};
use crate::{
    audit::{Audit, AuditContext},
    auth::{Caller, Issuer},
    broker::Broker,
    error::{Classify as _, Failure, Kind},
    names::TenantId,
    provision::Provisioner,
    store::{self, BegunOperation, NewAudit, Store},
    tenant::{Administrator, Observer, TenantLocks, Tenants},
};

/// The components that handlers use.
#[derive(Debug, Clone)]
pub(super) struct AdminContext {
    pub(super) store: Store,
    pub(super) tenants: Arc<Tenants>,
    pub(super) provisioner: Arc<Provisioner>,
    pub(super) broker: Broker,
    pub(super) audit: Audit,
    pub(super) issuer: Arc<Issuer>,
    pub(super) gateway: Arc<GatewayState>,
    pub(super) watches: Arc<Watches>,
    pub(super) calls: Arc<CallRates>,
    /// Serialises the creation, change and deletion of a tenant.
    pub(super) locks: Arc<TenantLocks>,
}

/// The future of a handler. It is boxed, so that the compiler proves only once that it may be sent between threads: such
/// proofs were half of the gateway's type checking.
type Answer<A> = Pin<Box<dyn Future<Output = Result<A, Error>> + Send>>;

/// A handler for a caller that was admitted as a `W`.
type Work<W, Q, A> = Box<dyn FnOnce(Arc<AdminContext>, W, Q) -> Answer<A> + Send>;

/// A call: its name, whether it changes something, and whether a tenant's administrator may make it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rpc {
    name: &'static str,
    is_mutation: bool,
    for_tenant_administrators: bool,
}

impl Rpc {
    pub(super) const fn mutation(name: &'static str) -> Self {
        Self { name, is_mutation: true, for_tenant_administrators: false }
    }

    pub(super) const fn query(name: &'static str) -> Self {
        Self { name, is_mutation: false, for_tenant_administrators: false }
    }

    /// Counts as a query if the request is only validated.
    pub(super) const fn dry_run(self, validate_only: bool) -> Self {
        Self { is_mutation: self.is_mutation && !validate_only, ..self }
    }

    /// Also allowed for tenants' administrators; the handler checks to which tenant the clients belong.
    pub(super) const fn for_tenant_administrators(self) -> Self {
        Self { for_tenant_administrators: true, ..self }
    }
}

/// The subject of a call as the caller wrote it, possibly not a valid name.
#[derive(Debug, Default)]
pub(super) struct Subject<'a> {
    tenant: &'a str,
    object: &'a str,
}

impl<'a> Subject<'a> {
    pub(super) fn none() -> Self {
        Self::default()
    }

    pub(super) fn tenant(id: &'a str) -> Self {
        Self { tenant: id, object: id }
    }

    pub(super) fn client(id: &'a str) -> Self {
        Self { tenant: id.split_once('.').map_or("", |(tenant, _)| tenant), object: id }
    }

    pub(super) fn object(name: &'a str) -> Self {
        Self { tenant: "", object: name }
    }

    pub(super) fn of(tenant: &'a str, object: &'a str) -> Self {
        Self { tenant, object }
    }

    /// Sets the subject in the audit context of the request, and returns the context.
    pub(super) fn audit_context<T>(self, request: &Request<T>) -> AuditContext {
        let audit_context = AuditContext::of_request(request);
        audit_context.set_subject(self.tenant, self.object);
        audit_context
    }
}

impl AdminContext {
    pub(super) fn new(
        store: Store,
        tenants: Arc<Tenants>,
        provisioner: Arc<Provisioner>,
        broker: Broker,
        audit: Audit,
        issuer: Arc<Issuer>,
        gateway: GatewayState,
    ) -> Self {
        let calls = Arc::new(CallRates::new(gateway.calls_per_second_per_tenant));
        let (gateway, watches, locks) = (Arc::new(gateway), Arc::default(), Arc::default());
        Self { store, tenants, provisioner, broker, audit, issuer, gateway, watches, calls, locks }
    }

    /// Admits the caller, does the work, and records the outcome.
    pub(super) async fn run<Q, A, F>(
        self: &Arc<Self>,
        rpc: Rpc,
        audit_context: AuditContext,
        request: Request<Q>,
        work: impl FnOnce(Arc<Self>, Administrator, Q) -> F + Send + 'static,
    ) -> Result<Response<A>, Status>
    where
        F: Future<Output = Result<A, Error>> + Send + 'static,
        A: Send + 'static,
    {
        let work = Box::new(|context, administrator, request| Box::pin(work(context, administrator, request)) as _);
        self.run_boxed(rpc, audit_context, request, work).await
    }

    async fn run_boxed<Q, A>(
        self: &Arc<Self>,
        rpc: Rpc,
        audit_context: AuditContext,
        request: Request<Q>,
        work: Work<Administrator, Q, A>,
    ) -> Result<Response<A>, Status>
    where
        A: Send + 'static,
    {
        let caller = Caller::from_request(&request).map_err(Error::from);
        let administrator = match caller.and_then(|caller| self.admit(rpc, caller)) {
            Ok(administrator) => administrator,
            Err(refused) => {
                audit_context.record_end(refused.kind(), refused.reason());
                return Err(Failure::from(refused).into());
            }
        };
        let rule = if administrator.is_platform() { "platform administrator" } else { "tenant administrator" };
        let event = NewAudit { method: format!("warrengate.v1.Admin/{}", rpc.name), ..audit_context.event(rule) };
        let operation = match rpc.is_mutation {
            true => Some(self.audit.begin(&event).await.map_err(|error| Failure::from(Error::from(error)))?),
            false => None,
        };
        let store = self.store.acting_for(Arc::clone(administrator.authority()));
        let context = Arc::new(Self { store, ..(**self).clone() });
        let caller = administrator.caller().clone();
        let done = work(Arc::clone(&context), administrator, request.into_inner());
        let completed = async move {
            let done = match done.await {
                Err(Error::Store(store::Error::AuthorityChanged)) => Err(context.readmit(rpc, &caller).await),
                done => done,
            };
            let recorded = context.record_outcome(rpc, operation, event, &audit_context, done.as_ref().err()).await;
            // The error of an operation that failed is more important than that of its record.
            done.and_then(|answer| recorded.map(|()| answer))
        };
        match tokio::spawn(completed.in_current_span()).await {
            Ok(done) => done.map(Response::new).map_err(|error| Failure::from(error).into()),
            Err(_) => Err(Failure::new(Kind::Internal, "INTERNAL", "internal error; see the gateway's log").into()),
        }
    }

    /// Admits an observer of the tenant that `tenant` reads from the request, and answers a query about it. Empty means
    /// the caller's own tenant.
    pub(super) async fn observe<Q, A, F>(
        self: &Arc<Self>,
        audit_context: AuditContext,
        request: Request<Q>,
        tenant: impl FnOnce(&Q) -> &str,
        work: impl FnOnce(Arc<Self>, Observer, Q) -> F,
    ) -> Result<Response<A>, Status>
    where
        F: Future<Output = Result<A, Error>> + Send + 'static,
    {
        let observer = Caller::from_request(&request)
            .map_err(Error::from)
            .and_then(|caller| self.admit_observer(caller, tenant(request.get_ref())));
        let answer = match observer {
            Ok(observer) => {
                let work: Answer<A> = Box::pin(work(Arc::clone(self), observer, request.into_inner()));
                work.await
            }
            Err(refused) => Err(refused),
        };
        answer.map(Response::new).map_err(|error| {
            audit_context.record_end(error.kind(), error.reason());
            if matches!(error.kind(), Kind::Internal | Kind::Unavailable) {
                tracing::error!(error = &error as &dyn std::error::Error, "query about a tenant failed");
            }
            Failure::from(error).into()
        })
    }

    /// Admits a platform administrator to any tenant, and a client with the observe grant to its own.
    pub(super) fn admit_observer(&self, caller: &Caller, tenant: &str) -> Result<Observer, Error> {
        if let Some(own) = caller.tenant() {
            self.calls.count(own)?;
        }
        let wanted = match (tenant, caller.tenant()) {
            ("", Some(own)) => own.clone(),
            ("", None) => return Err(invalid("tenant", "is required")),
            (id, _) => named("tenant", TenantId::parse(id))?,
        };
        if caller.tenant().is_some_and(|own| *own != wanted) {
            return Err(Error::PlatformOnly);
        }
        let observer = self.tenants.admit_observer(caller, &wanted)?;
        if self.tenants.knows(&wanted) { Ok(observer) } else { Err(Error::NotFound("tenant")) }
    }

    fn admit(&self, rpc: Rpc, caller: &Caller) -> Result<Administrator, Error> {
        let administrator = self.tenants.admit_administrator(caller)?;
        if let Some(tenant) = caller.tenant() {
            self.calls.count(tenant)?;
        }
        if rpc.for_tenant_administrators || administrator.is_platform() {
            Ok(administrator)
        } else {
            Err(Error::PlatformOnly)
        }
    }

    /// The reason for refusing a change whose administrator was demoted, revoked or changed by another gateway
    /// meanwhile.
    async fn readmit(&self, rpc: Rpc, caller: &Caller) -> Error {
        self.refresh_registry().await;
        self.admit(rpc, caller).err().unwrap_or(Error::Aborted)
    }

    /// Like [`Self::refresh_registry`], for a change that may affect the external ids of clients, which the issuer
    /// keeps.
    pub(super) async fn refresh_identities(&self, concerns_issuers: bool) {
        self.refresh_registry().await;
        if concerns_issuers && let Err(error) = self.issuer.refresh().await {
            tracing::warn!(error = &error as &dyn std::error::Error, "cannot refresh external clients after a change");
        }
    }

    /// Applies a change on this gateway immediately. Other gateways notice it when polling, as does this one if the
    /// refresh fails.
    pub(super) async fn refresh_registry(&self) {
        if let Err(error) = self.tenants.refresh().await {
            tracing::warn!(error = &error as &dyn std::error::Error, "cannot refresh tenants after a change");
        }
    }

    /// Records the outcome of a call that was refused or changed something.
    async fn record_outcome(
        &self,
        rpc: Rpc,
        operation: Option<BegunOperation>,
        mut event: NewAudit,
        audit_context: &AuditContext,
        error: Option<&Error>,
    ) -> Result<(), Error> {
        if let Some(error) = error
            && matches!(error.kind(), Kind::Internal | Kind::Unavailable)
        {
            tracing::error!(method = rpc.name, error = error as &dyn std::error::Error, "administrative call failed");
        }
        if let Some(error) = error.filter(|error| error.kind().is_refusal()) {
            audit_context.record_end(error.kind(), error.reason());
            if let Some(operation) = &operation {
                self.audit.cancel(operation).await;
            }
            return Ok(());
        }
        let Some(operation) = operation else { return Ok(()) };
        event.outcome = error.map_or_else(|| "done".to_owned(), |error| format!("failed: {}", error.reason()));
        let Err(error) = self.audit.finish(&operation, &event).await else { return Ok(()) };
        tracing::error!(
            error = &error as &dyn std::error::Error,
            ?event,
            "administrative operation not recorded in the audit trail"
        );
        Err(Error::NotRecorded(error))
    }
}
