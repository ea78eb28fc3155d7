//! A rate limit for the administrative calls of each tenant's own administrators. They change what every gateway keeps in memory and
//! write to the audit trail, so that one tenant could otherwise slow down all others. Platform administrators have none.

use std::num::NonZeroU32;

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter, clock::Clock as _};

use super::Error;
use crate::names::TenantId;

/// Calls of a tenant a second on one gateway, and at once after a pause.
const PER_SECOND: NonZeroU32 = NonZeroU32::MIN.saturating_add(9);
const AT_ONCE: NonZeroU32 = NonZeroU32::MIN.saturating_add(99);
/// Tenants that are remembered before the idle ones are forgotten.
const TENANTS: usize = 1_024;

/// The rates of all tenants.
pub(super) struct CallRates(DefaultKeyedRateLimiter<TenantId>);

impl std::fmt::Debug for CallRates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CallRates").finish_non_exhaustive()
    }
}

impl Default for CallRates {
    fn default() -> Self {
        Self(RateLimiter::keyed(Quota::per_second(PER_SECOND).allow_burst(AT_ONCE)))
    }
}

impl CallRates {
    /// Counts a call of a tenant's administrator.
    pub(super) fn count(&self, tenant: &TenantId) -> Result<(), Error> {
        if self.0.len() > TENANTS {
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
    fn one_tenants_calls_are_slowed_down_and_anothers_are_not() {
        let rates = CallRates::default();
        let id = |id: &str| TenantId::parse(id).expect("an id");
        let refused = (0..200).filter(|_| rates.count(&id("acme")).is_err()).count();
        assert!(refused >= 90, "{refused}");
        assert!(matches!(rates.count(&id("acme")), Err(Error::TooManyCalls { .. })));
        assert!(rates.count(&id("globex")).is_ok());
    }
}
