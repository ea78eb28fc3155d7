//! Measurement of the messages that each tenant stores at the broker while it publishes, so that its budget can refuse
//! messages over the plan. Tenants without such a limit, or that do not publish, cost no requests; a tenant over its
//! limit is measured until it is below it again.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::Provisioner;
use crate::{
    names::TenantId,
    tenant::{STORED_INTERVAL, Tenants},
};

/// How many more times a tenant is measured after its last message, because the broker's statistics are 5 s old.
const ROUNDS_AFTER: u32 = 3;

/// Measures until stopped.
pub async fn watch(provisioner: Arc<Provisioner>, tenants: Arc<Tenants>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(STORED_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut rounds = Rounds::default();
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => return,
        }
        for tenant in rounds.due(tenants.limited_in_store()) {
            let measured = tokio::select! {
                measured = provisioner.stored(&tenant) => measured,
                () = stop.cancelled() => return,
            };
            match measured {
                Ok((messages, bytes)) => {
                    let is_full = tenants.set_stored(&tenant, messages, bytes);
                    rounds.measured(&tenant, is_full);
                }
                // The previous figure stays in use; an unreachable broker is reported elsewhere.
                Err(error) => tracing::debug!(%tenant, %error, "cannot measure the stored messages of a tenant"),
            }
        }
    }
}

/// The tenants to measure next. Its size is the number of limited tenants that publish.
#[derive(Debug, Default)]
struct Rounds {
    published: HashMap<TenantId, u64>,
    left: HashMap<TenantId, u32>,
    full: HashSet<TenantId>,
}

impl Rounds {
    /// The tenants to measure now. `limited` are all limited tenants, each with the number of messages published so
    /// far.
    fn due(&mut self, limited: Vec<(TenantId, u64)>) -> Vec<TenantId> {
        let mut due = Vec::new();
        let (mut published, mut left) = (HashMap::new(), HashMap::new());
        for (tenant, number) in limited {
            let has_published = self.published.get(&tenant).copied().unwrap_or_default() != number;
            let rounds = match self.left.get(&tenant) {
                _ if has_published => ROUNDS_AFTER,
                Some(rounds) => *rounds,
                None => 0,
            };
            if rounds > 0 || self.full.contains(&tenant) {
                due.push(tenant.clone());
            }
            if rounds > 1 {
                left.insert(tenant.clone(), rounds - 1);
            }
            if number > 0 {
                published.insert(tenant, number);
            }
        }
        (self.published, self.left) = (published, left);
        self.full.retain(|tenant| due.contains(tenant));
        due
    }

    fn measured(&mut self, tenant: &TenantId, is_full: bool) {
        if is_full {
            self.full.insert(tenant.clone());
        } else {
            self.full.remove(tenant);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publishing_tenant_is_measured_for_some_rounds_and_a_full_one_until_it_is_not() {
        let acme = || TenantId::parse("acme").expect("an id");
        let mut rounds = Rounds::default();
        assert!(rounds.due(vec![(acme(), 0)]).is_empty());
        for _ in 0..ROUNDS_AFTER {
            assert_eq!(rounds.due(vec![(acme(), 5)]), [acme()]);
        }
        assert!(rounds.due(vec![(acme(), 5)]).is_empty());
        assert_eq!(rounds.due(vec![(acme(), 6)]), [acme()]);
        rounds.measured(&acme(), true);
        for _ in 0..10 {
            assert_eq!(rounds.due(vec![(acme(), 6)]), [acme()]);
        }
        rounds.measured(&acme(), false);
        assert!(rounds.due(vec![(acme(), 6)]).is_empty());
        assert!(rounds.due(Vec::new()).is_empty() && rounds.published.is_empty());
    }
}
