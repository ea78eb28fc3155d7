//! The resources that all callers without a token share: memory for their requests, and health watches.
//!
//! Invariant: one network (an address, or an IPv6 /64) gets at most half of the memory, and an eighth of the watches.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    auth::network,
    memory::{MemoryBudget, TenantBudgets},
};

/// Sufficient for four thousand clients that request a token at the same time (`http2::CALL_MEMORY`).
const MEMORY: usize = 32 << 20;
/// A separate budget for calls of reflection, because they are large and not needed to get a token.
const REFLECTION_MEMORY: usize = 8 << 20;
const MAX_WATCHES: usize = 128;
const MAX_WATCHES_PER_NETWORK: usize = MAX_WATCHES / 8;

/// The resources of callers without a token. Clones share the same resources.
#[derive(Debug, Clone)]
pub(super) struct Anonymous(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    memory: TenantBudgets,
    reflection: TenantBudgets,
    watches: Mutex<HashMap<IpAddr, usize>>,
}

/// An open health watch.
#[derive(Debug)]
pub(super) struct WatchPermit {
    inner: Arc<Inner>,
    network: IpAddr,
}

impl Anonymous {
    pub(super) fn new(gateway: &MemoryBudget) -> Self {
        let memory = TenantBudgets::new(gateway.child(MEMORY));
        let reflection = TenantBudgets::new(gateway.child(REFLECTION_MEMORY));
        Self(Arc::new(Inner { memory, reflection, watches: Mutex::default() }))
    }

    /// The memory budgets, by network.
    pub(super) fn memory(&self) -> TenantBudgets {
        self.0.memory.clone()
    }

    /// The memory budgets for reflection, by network.
    pub(super) fn reflection(&self) -> TenantBudgets {
        self.0.reflection.clone()
    }

    /// A permit for one more watch, unless there are too many.
    pub(super) fn watch(&self, peer: IpAddr) -> Option<WatchPermit> {
        let network = network(peer);
        let mut watches = self.0.watches.lock().unwrap_or_else(PoisonError::into_inner);
        let of_network = watches.get(&network).copied().unwrap_or(0);
        if of_network >= MAX_WATCHES_PER_NETWORK || watches.values().sum::<usize>() >= MAX_WATCHES {
            return None;
        }
        watches.insert(network, of_network + 1);
        Some(WatchPermit { inner: Arc::clone(&self.0), network })
    }
}

impl Drop for WatchPermit {
    fn drop(&mut self) {
        let mut watches = self.inner.watches.lock().unwrap_or_else(PoisonError::into_inner);
        match watches.get_mut(&self.network) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(watches.remove(&self.network)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watches_are_bounded_for_each_network_and_in_all() {
        let anonymous = Anonymous::new(&MemoryBudget::new(64 << 20));
        let watch = |network: usize| anonymous.watch(IpAddr::from([10, 0, 0, u8::try_from(network).expect("small")]));
        let mut open: Vec<_> = (0..MAX_WATCHES).map(|at| watch(at / MAX_WATCHES_PER_NETWORK).expect("free")).collect();
        assert!(watch(200).is_none(), "in all");
        drop(open.pop());
        assert!(watch(0).is_none(), "of one network");
        let again = watch(200).expect("free again");
        drop((open, again));
        assert!(anonymous.0.watches.lock().expect("not poisoned").is_empty());
    }
}
