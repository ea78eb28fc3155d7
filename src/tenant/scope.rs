//! The proof that a caller was admitted. It has no public constructor; it is cheap to clone and to keep in a stream, and
//! [`TenantScope::ended`] tells the stream when to stop.

use std::sync::Arc;

use super::{
    Budget, EffectiveGrants, Error, InFlightPermit, Plan,
    live::{LiveClient, TenantEntry},
    revoked_keys::RevokedKeys,
};
use crate::{auth::Caller, names::TenantId, store::Authority};

/// An admitted caller, which every entry point of the broker requires. Created by [`super::Tenants::admit`] only.
#[derive(Debug, Clone)]
pub struct TenantScope(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    tenant: Arc<TenantEntry>,
    client: Arc<LiveClient>,
    caller: Caller,
    revoked_keys: RevokedKeys,
}

impl TenantScope {
    pub(super) fn new(
        tenant: Arc<TenantEntry>,
        client: Arc<LiveClient>,
        caller: Caller,
        revoked_keys: RevokedKeys,
    ) -> Result<Self, Error> {
        tenant.check()?;
        client.check(&caller)?;
        revoked_keys.check(&caller)?;
        Ok(Self(Arc::new(Inner { tenant, client, caller, revoked_keys })))
    }

    /// The tenant.
    pub fn tenant(&self) -> &TenantId {
        self.0.tenant.id()
    }

    /// The tenant's vhost, which is also its broker user.
    pub fn vhost(&self) -> &str {
        self.0.tenant.vhost()
    }

    /// The tenant's plan as it is now; ask again rather than keep it.
    pub fn plan(&self) -> Arc<Plan> {
        self.0.tenant.plan()
    }

    /// What the tenant may publish here, as its plan is now; ask again for every frame rather than keep it.
    pub fn budget(&self) -> Arc<Budget> {
        self.0.tenant.budget()
    }

    /// A stream's share of what the tenant may have in flight here.
    pub fn share(&self) -> InFlightPermit {
        InFlightPermit::new(self.0.tenant.clone())
    }

    /// Who was admitted.
    pub fn caller(&self) -> &Caller {
        &self.0.caller
    }

    /// What it may do at this moment: what both its token and the store grant. It is cheap, so ask for every message or
    /// frame rather than keep it.
    pub fn grants(&self) -> EffectiveGrants<'_> {
        EffectiveGrants::new(self.0.caller.token_grants(), self.0.client.grants())
    }

    /// Waits until the grants in force no longer pass `still_granted`: for streams and long calls that need a grant as long
    /// as they run. Cancel-safe.
    pub async fn grant_lost(&self, still_granted: impl Fn(&EffectiveGrants<'_>) -> bool) {
        let mut changes = self.0.client.changes();
        while still_granted(&self.grants()) {
            if changes.changed().await.is_err() {
                // The sender is in `self`, so this cannot happen while somebody waits.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits until the tenant is suspended or deleted, the client revoked, or the token's signing key distrusted, and says which. It is a latch: a tenant
    /// resumed in between does not hide it. Cancel-safe. The token's own end is the stream's to watch
    /// ([`Caller::expires`]).
    pub async fn ended(&self) -> Error {
        tokio::select! {
            // A deleted tenant's clients are gone too; the tenant is the better reason.
            biased;
            why = self.0.tenant.ended() => why,
            why = self.0.client.ended(&self.0.caller) => why,
            why = self.0.revoked_keys.ended(&self.0.caller) => why,
        }
    }

    /// Takes one of the streams that the plan allows on this gateway, until the permit is dropped.
    ///
    /// # Errors
    /// [`Error::TooManyStreams`] when all are open.
    pub fn open_stream(&self) -> Result<StreamPermit, Error> {
        self.0.tenant.open_stream()?;
        Ok(StreamPermit(self.0.tenant.clone()))
    }

    /// The same scope with a newer token.
    ///
    /// # Errors
    /// [`Error::OtherCaller`] when the token is another client's, and as [`super::Tenants::admit`].
    pub fn renewed(&self, caller: Caller) -> Result<Self, Error> {
        if caller.client() != self.0.caller.client() || caller.tenant() != self.0.caller.tenant() {
            return Err(Error::OtherCaller);
        }
        Self::new(self.0.tenant.clone(), self.0.client.clone(), caller, self.0.revoked_keys.clone())
    }
}

/// One open stream of a tenant's; dropping it gives it back.
#[derive(Debug)]
pub struct StreamPermit(Arc<TenantEntry>);

impl Drop for StreamPermit {
    fn drop(&mut self) {
        self.0.close_stream();
    }
}

/// A caller that may administer: everything, or the clients of its own tenant. Made by
/// [`super::Tenants::admit_administrator`] only.
#[derive(Debug, Clone)]
pub struct Administrator {
    caller: Caller,
    client: Arc<LiveClient>,
    authority: Arc<Authority>,
}

impl Administrator {
    pub(super) fn new(caller: Caller, client: Arc<LiveClient>, revoked_keys: &RevokedKeys) -> Result<Self, Error> {
        client.check(&caller)?;
        revoked_keys.check(&caller)?;
        let stored = client.grants();
        if !EffectiveGrants::new(caller.token_grants(), client.grants()).administers() {
            return Err(Error::NotAdministrator);
        }
        let authority =
            Authority { client: caller.client().clone(), issued: caller.issued(), grants: stored.json.clone() };
        Ok(Self { caller, client, authority: Arc::new(authority) })
    }

    /// Who it is.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// What it may do at this moment.
    pub fn grants(&self) -> EffectiveGrants<'_> {
        EffectiveGrants::new(self.caller.token_grants(), self.client.grants())
    }

    /// What it was admitted by, to be checked again by the transaction that makes its change.
    pub fn authority(&self) -> &Arc<Authority> {
        &self.authority
    }

    /// Whether it is a platform administrator, who may do everything.
    pub fn is_platform(&self) -> bool {
        self.caller.tenant().is_none()
    }

    /// Whether it may manage the clients of this tenant (none: platform administrators).
    pub fn may_manage_clients_of(&self, tenant: Option<&TenantId>) -> bool {
        self.is_platform() || self.caller.tenant() == tenant
    }
}
