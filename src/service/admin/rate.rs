//! A rate limit for the administrative calls of each tenant's own administrators. These calls change data that every
//! gateway keeps in memory and write to the audit trail, so one tenant could otherwise slow down all others. Platform
//! administrators have no limit.

use std::num::NonZeroU32;

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter, clock::Clock as _};

use super::Error;
use crate::names::TenantId;

/// Burst size: the calls of this many seconds may be made at once after a pause.
const BURST_SECONDS: NonZeroU32 = NonZeroU32::MIN.saturating_add(9);
/// The number of tenants from which entries of idle tenants are removed.
const MAX_ENTRIES: usize = 1_024;

/// The call rates of all tenants.
pub(super) struct CallRates(DefaultKeyedRateLimiter<TenantId>);

impl std::fmt::Debug for CallRates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CallRates").finish_non_exhaustive()
    }
}

impl CallRates {
    /// Allows this many calls of each tenant per second.
    pub(super) fn new(per_second: u32) -> Self {
        let per_second = NonZeroU32::new(per_second).unwrap_or(NonZeroU32::MIN);
        Self(RateLimiter::keyed(Quota::per_second(per_second).allow_burst(per_second.saturating_mul(BURST_SECONDS))))
    }

    /// Counts a call of a tenant's administrator; fails if there are too many.
    pub(super) fn count(&self, tenant: &TenantId) -> Result<(), Error> {
        if self.0.len() > MAX_ENTRIES {
            self.0.retain_recent();
        }
        self.0.check_key(tenant).map_err(|over| {
            let retry_after = over.wait_time_from(self.0.clock().now());
            Error::TooManyCalls { retry_after }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_calls_of_one_tenant_are_refused_and_another_tenants_are_not() {
        let rates = CallRates::new(10);
        let id = |id: &str| TenantId::parse(id).expect("an id");
        let refused = (0..200).filter(|_| rates.count(&id("acme")).is_err()).count();
        assert!(refused >= 90, "{refused}");
        assert!(matches!(rates.count(&id("acme")), Err(Error::TooManyCalls { .. })));
        assert!(rates.count(&id("globex")).is_ok());
    }
}
