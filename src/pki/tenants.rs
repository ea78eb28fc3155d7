//! Tenants' client certificates, whose keys exist in memory only.
//!
//! Invariant: a returned certificate remains valid for at least a third of its lifetime.
//! [`TenantCertificates::is_current`] becomes false for a certificate because of its age, a requested rotation, or
//! another authority, and never becomes true again.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;

use super::{Authority, Error, Leaf};
use crate::names::TenantId;

/// Signs each tenant's certificate at its first use, and replaces it after two thirds of its lifetime. An open
/// connection keeps the certificate that it was opened with.
pub struct TenantCertificates {
    authority: ArcSwap<Authority>,
    lifetime: Duration,
    issued: Mutex<Issued>,
}

#[derive(Default)]
struct Issued {
    leaves: HashMap<TenantId, Arc<Leaf>>,
    /// When a rotation of each tenant's certificate was last requested, according to the store.
    rotations: HashMap<TenantId, i64>,
}

impl TenantCertificates {
    /// Certificates signed by the broker's authority, each valid for `lifetime`.
    pub fn new(authority: Arc<Authority>, lifetime: Duration) -> Self {
        Self { authority: ArcSwap::new(authority), lifetime, issued: Mutex::default() }
    }

    /// The tenant's certificate. Signing one takes well under a millisecond.
    ///
    /// # Errors
    /// When the authority has expired.
    pub fn current(&self, tenant: &TenantId) -> Result<Arc<Leaf>, Error> {
        // The authority is read under the lock, so that no certificate of a replaced authority is stored.
        let mut issued = self.issued();
        if let Some(leaf) = issued.leaves.get(tenant)
            && leaf.renew_after() > SystemTime::now()
        {
            return Ok(leaf.clone());
        }
        let leaf = Arc::new(self.authority.load().client(&tenant.vhost(), self.lifetime)?);
        tracing::debug!(%tenant, "tenant certificate issued");
        issued.leaves.insert(tenant.clone(), leaf.clone());
        Ok(leaf)
    }

    /// Whether a connection with this certificate can stay open: the certificate is neither old nor replaced.
    pub fn is_current(&self, tenant: &TenantId, leaf: &Arc<Leaf>) -> bool {
        let issued = self.issued();
        leaf.renew_after() > SystemTime::now()
            && issued.leaves.get(tenant).is_some_and(|issued| Arc::ptr_eq(issued, leaf))
    }

    /// When the first of the valid certificates expires.
    pub fn earliest_end(&self) -> Option<SystemTime> {
        let now = SystemTime::now();
        self.issued().leaves.values().map(|leaf| leaf.not_after()).filter(|end| *end > now).min()
    }

    /// Records when a rotation of the tenant's certificate was last requested. If that is new, the next connection gets
    /// a new certificate. Returns whether an existing one was discarded.
    pub fn rotated(&self, tenant: &TenantId, when: i64) -> bool {
        let mut issued = self.issued();
        if issued.rotations.get(tenant).copied().unwrap_or(0) >= when {
            return false;
        }
        issued.rotations.insert(tenant.clone(), when);
        issued.leaves.remove(tenant).is_some()
    }

    /// The authority that signs them. The broker's own certificate may be signed by any authority that it trusts.
    pub fn authority(&self) -> Arc<Authority> {
        self.authority.load_full()
    }

    /// Uses the reloaded authority. If it is a different one, all certificates are replaced. Returns whether it is.
    pub fn set_authority(&self, authority: Arc<Authority>) -> bool {
        let mut issued = self.issued();
        let before = self.authority.swap(Arc::clone(&authority));
        let is_another = before.certificate_der() != authority.certificate_der();
        if is_another {
            issued.leaves.clear();
        }
        is_another
    }

    fn issued(&self) -> MutexGuard<'_, Issued> {
        self.issued.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for TenantCertificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TenantCertificates").field("lifetime", &self.lifetime).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::inspect;

    #[test]
    fn a_tenants_certificate_is_kept_until_two_thirds_of_its_lifetime_are_over() {
        let authority = Arc::new(Authority::generate("Test CA", 30).expect("created"));
        let acme = TenantId::parse("acme").expect("valid");
        let lasting = TenantCertificates::new(authority.clone(), Duration::from_secs(86_400));
        let first = lasting.current(&acme).expect("created");
        assert!(Arc::ptr_eq(&first, &lasting.current(&acme).expect("kept")));
        assert_eq!(inspect(first.certificate_pem()).expect("read").common_name(), Some("wg.acme"));

        assert!(lasting.is_current(&acme, &first) && !lasting.rotated(&acme, 0));
        assert!(lasting.rotated(&acme, 1) && !lasting.rotated(&acme, 1) && !lasting.is_current(&acme, &first));
        let second = lasting.current(&acme).expect("issued again");
        assert!(!Arc::ptr_eq(&first, &second) && lasting.is_current(&acme, &second));

        assert!(!lasting.set_authority(authority.clone()) && lasting.is_current(&acme, &second));
        let another = Arc::new(Authority::generate("Another CA", 30).expect("created"));
        assert!(lasting.set_authority(another.clone()) && !lasting.is_current(&acme, &second));
        let third = lasting.current(&acme).expect("issued by another");
        assert!(inspect(third.certificate_pem()).expect("read").signed_by(another.inspection()));

        let fleeting = TenantCertificates::new(authority, Duration::ZERO);
        let old = fleeting.current(&acme).expect("created");
        assert!(!Arc::ptr_eq(&old, &fleeting.current(&acme).expect("renewed")));
    }
}
