//! Admitted observers of one tenant. An [`Observer`] has no public constructor and proves that its caller may read the
//! tenant's usage, audit events, queue figures and open streams. It reports when a long call must end.

use super::{Administrator, Error, TenantScope};
use crate::{auth::Caller, names::TenantId};

/// A platform administrator, or a client of the tenant with the observe grant. Created by
/// [`super::Tenants::admit_observer`] only.
#[derive(Debug, Clone)]
pub struct Observer {
    tenant: TenantId,
    role: Role,
}

#[derive(Debug, Clone)]
enum Role {
    Platform(Administrator),
    Client(TenantScope),
}

impl Observer {
    pub(super) fn platform(tenant: TenantId, administrator: Administrator) -> Self {
        Self { tenant, role: Role::Platform(administrator) }
    }

    pub(super) fn client(scope: TenantScope) -> Result<Self, Error> {
        match scope.grants().observes() {
            true => Ok(Self { tenant: scope.tenant().clone(), role: Role::Client(scope) }),
            false => Err(Error::NotObserver),
        }
    }

    /// The observed tenant.
    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// The caller.
    pub fn caller(&self) -> &Caller {
        match &self.role {
            Role::Platform(administrator) => administrator.caller(),
            Role::Client(scope) => scope.caller(),
        }
    }

    /// Whether it is a platform administrator.
    pub fn is_platform(&self) -> bool {
        matches!(self.role, Role::Platform(_))
    }

    /// Waits until the caller may no longer observe, and returns the reason. The expiry of the token is not included
    /// ([`Caller::expires`]), nor the deletion of a tenant that a platform administrator observes. Cancel safe.
    pub async fn ended(&self) -> Error {
        match &self.role {
            Role::Platform(administrator) => administrator.ended().await,
            Role::Client(scope) => tokio::select! {
                biased;
                why = scope.ended() => why,
                () = scope.grant_lost(|grants| grants.observes()) => Error::NotObserver,
            },
        }
    }
}
