//! One at a time for each tenant, in bounded memory. Tenants share a fixed number of locks, so two may wait for each other
//! though they need not; nobody waits for long, and no tenant's name is kept.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use tokio::sync::{Mutex, MutexGuard};

use crate::names::TenantId;

const LOCKS: usize = 64;

/// The locks. Whoever holds one must not ask for another of the same `TenantLocks`.
pub struct TenantLocks([Mutex<()>; LOCKS]);

impl std::fmt::Debug for TenantLocks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TenantLocks").finish_non_exhaustive()
    }
}

impl Default for TenantLocks {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Mutex::new(())))
    }
}

impl TenantLocks {
    /// Waits for this tenant's turn; it ends when the guard is dropped.
    pub async fn lock(&self, tenant: &TenantId) -> MutexGuard<'_, ()> {
        let mut hasher = DefaultHasher::new();
        tenant.hash(&mut hasher);
        // The remainder is below LOCKS, so it fits.
        let index = usize::try_from(hasher.finish() % LOCKS as u64).unwrap_or_default();
        self.0[index].lock().await
    }
}
