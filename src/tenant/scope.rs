//! Admitted callers. A [`TenantScope`] has no public constructor and proves that its caller was admitted. It is cheap
//! to clone and to keep in a stream, and [`TenantScope::ended`] reports when the stream must end.

use std::sync::Arc;

use super::{
    Budget, EffectiveGrants, Error, InFlightPermit, Plan,
    revoked_keys::RevokedKeys,
    state::{ClientEntry, TenantEntry},
};
use crate::{auth::Caller, names::TenantId, store::Authority};

/// An admitted caller, required by every entry point of the broker. Created by [`super::Tenants::admit`] only.
#[derive(Debug, Clone)]
pub struct TenantScope(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    tenant: Arc<TenantEntry>,
    client: Arc<ClientEntry>,
    caller: Caller,
    revoked_keys: RevokedKeys,
}

impl TenantScope {
    pub(super) fn new(
        tenant: Arc<TenantEntry>,
        client: Arc<ClientEntry>,
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

    /// The tenant's vhost, which is also the name of its broker user.
    pub fn vhost(&self) -> &str {
        self.0.tenant.vhost()
    }

    /// The tenant's current plan; it must be obtained again for each use.
    pub fn plan(&self) -> Arc<Plan> {
        self.0.tenant.plan()
    }

    /// The tenant's current publishing budget; it must be obtained again for every frame.
    pub fn budget(&self) -> Arc<Budget> {
        self.0.tenant.budget()
    }

    /// A stream's permits of the tenant's in-flight limit.
    pub fn in_flight_permit(&self) -> InFlightPermit {
        InFlightPermit::new(self.0.tenant.clone())
    }

    /// The admitted caller.
    pub fn caller(&self) -> &Caller {
        &self.0.caller
    }

    /// The grants in force: those that both its token and the store contain. Cheap, so it is obtained again for every
    /// message or frame.
    pub fn grants(&self) -> EffectiveGrants<'_> {
        EffectiveGrants::new(self.0.caller.token_grants(), self.0.client.grants())
    }

    /// Waits until the grants in force no longer satisfy `still_granted`, for streams and long calls that require a
    /// grant throughout. Cancel safe.
    pub async fn grant_lost(&self, still_granted: impl Fn(&EffectiveGrants<'_>) -> bool) {
        let mut changes = self.0.client.changes();
        while still_granted(&self.grants()) {
            if changes.changed().await.is_err() {
                // The sender is in `self`, so it is not dropped while somebody waits.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits until the tenant is suspended or deleted, the client revoked, or the token's signing key revoked, and
    /// returns the reason. The result is permanent: resuming the tenant meanwhile does not hide it. The expiry of the
    /// token is not included ([`Caller::expires`]). Cancel safe.
    pub async fn ended(&self) -> Error {
        tokio::select! {
            // The clients of a deleted tenant are gone as well; the tenant is the better reason.
            biased;
            why = self.0.tenant.ended() => why,
            why = self.0.client.ended(&self.0.caller) => why,
            why = self.0.revoked_keys.ended(&self.0.caller) => why,
        }
    }

    /// Takes one of the streams that the plan allows on this gateway until the permit is dropped.
    ///
    /// # Errors
    /// [`Error::TooManyStreams`] when the limit is reached.
    pub fn open_stream(&self) -> Result<StreamPermit, Error> {
        self.0.tenant.open_stream()?;
        Ok(StreamPermit(self.0.tenant.clone()))
    }

    /// The same scope with a newer token.
    ///
    /// # Errors
    /// [`Error::OtherCaller`] if the token belongs to another client, and the errors of [`super::Tenants::admit`].
    pub fn renewed(&self, caller: Caller) -> Result<Self, Error> {
        if caller.client() != self.0.caller.client() || caller.tenant() != self.0.caller.tenant() {
            return Err(Error::OtherCaller);
        }
        Self::new(self.0.tenant.clone(), self.0.client.clone(), caller, self.0.revoked_keys.clone())
    }
}

/// The permit for one open stream of a tenant.
#[derive(Debug)]
pub struct StreamPermit(Arc<TenantEntry>);

impl Drop for StreamPermit {
    fn drop(&mut self) {
        self.0.close_stream();
    }
}

/// An admitted administrator, of the platform or of its own tenant's clients. Created by
/// [`super::Tenants::admit_administrator`] only.
#[derive(Debug, Clone)]
pub struct Administrator {
    caller: Caller,
    client: Arc<ClientEntry>,
    authority: Arc<Authority>,
    revoked_keys: RevokedKeys,
}

impl Administrator {
    pub(super) fn new(caller: Caller, client: Arc<ClientEntry>, revoked_keys: RevokedKeys) -> Result<Self, Error> {
        client.check(&caller)?;
        revoked_keys.check(&caller)?;
        let stored = client.grants();
        if !EffectiveGrants::new(caller.token_grants(), client.grants()).administers() {
            return Err(Error::NotAdministrator);
        }
        let authority =
            Authority { client: caller.client().clone(), issued: caller.issued(), grants: stored.json.clone() };
        Ok(Self { caller, client, authority: Arc::new(authority), revoked_keys })
    }

    /// Waits until it may no longer administer, and returns the reason; its token's expiry is not included. Cancel
    /// safe.
    pub(super) async fn ended(&self) -> Error {
        let lost = async {
            let mut changes = self.client.changes();
            while self.grants().administers() {
                if changes.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::select! {
            biased;
            why = self.client.ended(&self.caller) => why,
            why = self.revoked_keys.ended(&self.caller) => why,
            () = lost => Error::NotAdministrator,
        }
    }

    /// The caller.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// The grants in force.
    pub fn grants(&self) -> EffectiveGrants<'_> {
        EffectiveGrants::new(self.caller.token_grants(), self.client.grants())
    }

    /// The right with which it was admitted, to be checked again by the transaction that makes its change.
    pub fn authority(&self) -> &Arc<Authority> {
        &self.authority
    }

    /// Whether it is a platform administrator, who may do everything.
    pub fn is_platform(&self) -> bool {
        self.caller.tenant().is_none()
    }

    /// Whether it may manage the clients of this tenant (`None` for platform administrators).
    pub fn may_manage_clients_of(&self, tenant: Option<&TenantId>) -> bool {
        self.is_platform() || self.caller.tenant() == tenant
    }
}
