//! What all administrative calls have in common: the caller is admitted, the work is completed even when the caller goes away, and the
//! outcome is recorded. A change is recorded as begun before it is done, and with its outcome before it is answered, so that no
//! change is without a line whatever crashes in between.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use tracing::Instrument as _;

use super::{Error, rate::CallRates};
use crate::{
    audit::{Audit, AuditContext},
    auth::{Caller, Issuer},
    broker::Broker,
    error::{Classify as _, Failure, Kind},
    provision::Provisioner,
    store::{self, BegunAct, NewAudit, Store},
    tenant::{Administrator, TenantLocks, Tenants},
};

/// What handlers work with.
#[derive(Debug, Clone)]
pub(super) struct AdminContext {
    pub(super) store: Store,
    pub(super) tenants: Arc<Tenants>,
    pub(super) provisioner: Arc<Provisioner>,
    pub(super) broker: Broker,
    pub(super) audit: Audit,
    pub(super) issuer: Arc<Issuer>,
    pub(super) calls: Arc<CallRates>,
    /// Creating, changing and deleting a tenant wait for each other.
    pub(super) locks: Arc<TenantLocks>,
}

/// A call: its name, whether it changes something, and whether a tenant's administrator may make it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rpc {
    name: &'static str,
    changes: bool,
    of_clients: bool,
}

impl Rpc {
    pub(super) const fn changes(name: &'static str) -> Self {
        Self { name, changes: true, of_clients: false }
    }

    pub(super) const fn reads(name: &'static str) -> Self {
        Self { name, changes: false, of_clients: false }
    }

    /// Reads when it is only to be checked.
    pub(super) const fn unless(self, validate_only: bool) -> Self {
        Self { changes: self.changes && !validate_only, ..self }
    }

    /// For tenants' administrators, too; the handler checks which tenant's clients.
    pub(super) const fn of_clients(self) -> Self {
        Self { of_clients: true, ..self }
    }
}

/// What a call is about, as the caller wrote it: it may be no valid name.
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

    /// Puts it where the call's record is made.
    pub(super) fn seen_by<T>(self, request: &Request<T>) -> AuditContext {
        let witness = AuditContext::of_request(request);
        witness.about(self.tenant, self.object);
        witness
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
    ) -> Self {
        Self { store, tenants, provisioner, broker, audit, issuer, calls: Arc::default(), locks: Arc::default() }
    }

    /// Admits the caller, does the work, keeps what came of it.
    pub(super) async fn act<Q, A, F>(
        self: &Arc<Self>,
        rpc: Rpc,
        witness: AuditContext,
        request: Request<Q>,
        work: impl FnOnce(Arc<Self>, Administrator, Q) -> F,
    ) -> Result<Response<A>, Status>
    where
        F: Future<Output = Result<A, Error>> + Send + 'static,
        A: Send + 'static,
    {
        let caller = Caller::from_request(&request).map_err(Error::from);
        let administrator = match caller.and_then(|caller| self.admit(rpc, caller)) {
            Ok(administrator) => administrator,
            Err(refused) => {
                witness.ended(refused.kind(), refused.reason());
                return Err(Failure::from(refused).into());
            }
        };
        let rule = if administrator.is_platform() { "platform administrator" } else { "tenant administrator" };
        let event = NewAudit { method: format!("warrengate.v1.Admin/{}", rpc.name), ..witness.act(rule) };
        let act = match rpc.changes {
            true => Some(self.audit.begin(&event).await.map_err(|error| Failure::from(Error::from(error)))?),
            false => None,
        };
        let store = self.store.acting_for(Arc::clone(administrator.authority()));
        let desk = Arc::new(Self { store, ..(**self).clone() });
        let caller = administrator.caller().clone();
        let done = work(Arc::clone(&desk), administrator, request.into_inner());
        let to_its_end = async move {
            let done = match done.await {
                Err(Error::Store(store::Error::AuthorityChanged)) => Err(desk.readmit(rpc, &caller).await),
                done => done,
            };
            desk.keep(rpc, act, event, &witness, done.as_ref().err()).await.and(done)
        };
        match tokio::spawn(to_its_end.in_current_span()).await {
            Ok(done) => done.map(Response::new).map_err(|error| Failure::from(error).into()),
            Err(_) => Err(Failure::new(Kind::Internal, "INTERNAL", "the gateway failed; its log says more").into()),
        }
    }

    fn admit(&self, rpc: Rpc, caller: &Caller) -> Result<Administrator, Error> {
        let administrator = self.tenants.admit_administrator(caller)?;
        if let Some(tenant) = caller.tenant() {
            self.calls.count(tenant)?;
        }
        if rpc.of_clients || administrator.is_platform() { Ok(administrator) } else { Err(Error::PlatformOnly) }
    }

    /// Why a change was not made whose administrator was demoted, revoked or changed on another gateway a moment ago.
    async fn readmit(&self, rpc: Rpc, caller: &Caller) -> Error {
        self.refresh_registry().await;
        self.admit(rpc, caller).err().unwrap_or(Error::Aborted)
    }

    /// As [`Self::spread`], for a change that may concern the external ids of clients, which the issuer keeps.
    pub(super) async fn spread_identity(&self, concerns_issuers: bool) {
        self.refresh_registry().await;
        if concerns_issuers && let Err(error) = self.issuer.refresh().await {
            tracing::warn!(error = &error as &dyn std::error::Error, "external clients not read again after a change");
        }
    }

    /// Applies a change here now; other gateways learn of it by their poll, as this one does if this fails.
    pub(super) async fn refresh_registry(&self) {
        if let Err(error) = self.tenants.refresh().await {
            tracing::warn!(error = &error as &dyn std::error::Error, "tenants not read again after a change");
        }
    }

    /// Puts on record what came of a call: refusals and changes.
    async fn keep(
        &self,
        rpc: Rpc,
        act: Option<BegunAct>,
        mut event: NewAudit,
        witness: &AuditContext,
        error: Option<&Error>,
    ) -> Result<(), Error> {
        if let Some(error) = error
            && matches!(error.kind(), Kind::Internal | Kind::Unavailable)
        {
            tracing::error!(method = rpc.name, error = error as &dyn std::error::Error, "administrative call failed");
        }
        if let Some(error) = error.filter(|error| error.kind().is_refusal()) {
            witness.ended(error.kind(), error.reason());
            if let Some(act) = &act {
                self.audit.cancel(act).await;
            }
            return Ok(());
        }
        let Some(act) = act else { return Ok(()) };
        event.outcome = error.map_or_else(|| "done".to_owned(), |error| format!("failed: {}", error.reason()));
        let Err(error) = self.audit.finish(&act, &event).await else { return Ok(()) };
        tracing::error!(error = &error as &dyn std::error::Error, ?event, "act not kept in the audit trail");
        Err(Error::NotOnRecord(error))
    }
}
