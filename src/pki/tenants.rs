//! Tenants' client certificates. A tenant id enters, a certificate that is good for at least a third of its life leaves.
//! Their keys live in memory only and go with the process. The authority that signs them may be followed by another.
//! Invariant: what [`TenantCertificates::is_current`] says of a certificate turns false once, and every reason for it is in here:
//! its age, a rotation that was asked for, another authority.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;

use super::{Authority, Error, Leaf};
use crate::names::TenantId;

/// Makes each tenant's certificate on first use, keeps it, and replaces it two thirds into its life. A connection that is
/// open keeps what it was opened with; the next one gets the new.
pub struct TenantCertificates {
    authority: ArcSwap<Authority>,
    lifetime: Duration,
    made: Mutex<Made>,
}

#[derive(Default)]
struct Made {
    leaves: HashMap<TenantId, Arc<Leaf>>,
    /// When each tenant's was last asked to be made anew, as the store has it.
    rotations: HashMap<TenantId, i64>,
}

impl TenantCertificates {
    /// Certificates signed by the broker's authority, each good for `lifetime`.
    pub fn new(authority: Arc<Authority>, lifetime: Duration) -> Self {
        Self { authority: ArcSwap::new(authority), lifetime, made: Mutex::default() }
    }

    /// The tenant's certificate. Making one takes well under a millisecond.
    ///
    /// # Errors
    /// When the authority has expired.
    pub fn current(&self, tenant: &TenantId) -> Result<Arc<Leaf>, Error> {
        // The authority is read under the lock, so that none that was replaced leaves one behind.
        let mut made = self.made();
        if let Some(leaf) = made.leaves.get(tenant)
            && leaf.renew_after() > SystemTime::now()
        {
            return Ok(leaf.clone());
        }
        let leaf = Arc::new(self.authority.load().client(&tenant.vhost(), self.lifetime)?);
        tracing::debug!(%tenant, "tenant certificate made");
        made.leaves.insert(tenant.clone(), leaf.clone());
        Ok(leaf)
    }

    /// Whether a connection that shows this certificate may stay: it is young, and no other has taken its place.
    pub fn is_current(&self, tenant: &TenantId, leaf: &Arc<Leaf>) -> bool {
        let made = self.made();
        leaf.renew_after() > SystemTime::now() && made.leaves.get(tenant).is_some_and(|made| Arc::ptr_eq(made, leaf))
    }

    /// When the first of those that have not ended yet ends.
    pub fn earliest_end(&self) -> Option<SystemTime> {
        let now = SystemTime::now();
        self.made().leaves.values().map(|leaf| leaf.not_after()).filter(|end| *end > now).min()
    }

    /// Takes when the tenant's certificate was last asked to be made anew; when that was not known yet, the next connection
    /// gets a new one. Whether one was given up for it.
    pub fn rotated(&self, tenant: &TenantId, when: i64) -> bool {
        let mut made = self.made();
        if made.rotations.get(tenant).copied().unwrap_or(0) >= when {
            return false;
        }
        made.rotations.insert(tenant.clone(), when);
        made.leaves.remove(tenant).is_some()
    }

    /// The authority that signs them. The broker's own certificate is checked against all that it trusts.
    pub fn authority(&self) -> Arc<Authority> {
        self.authority.load_full()
    }

    /// Another reading of the authority's files. When another one signs from now on, all certificates are made anew; whether
    /// that is so.
    pub fn follow(&self, authority: Arc<Authority>) -> bool {
        let mut made = self.made();
        let before = self.authority.swap(Arc::clone(&authority));
        let is_another = before.certificate_der() != authority.certificate_der();
        if is_another {
            made.leaves.clear();
        }
        is_another
    }

    fn made(&self) -> MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
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
    fn a_tenants_certificate_is_kept_until_two_thirds_of_its_life_are_over() {
        let authority = Arc::new(Authority::generate("Test CA", 30).expect("made"));
        let acme = TenantId::parse("acme").expect("valid");
        let lasting = TenantCertificates::new(authority.clone(), Duration::from_secs(86_400));
        let first = lasting.current(&acme).expect("made");
        assert!(Arc::ptr_eq(&first, &lasting.current(&acme).expect("kept")));
        assert_eq!(inspect(first.certificate_pem()).expect("read").common_name(), Some("wg.acme"));

        assert!(lasting.is_current(&acme, &first) && !lasting.rotated(&acme, 0));
        assert!(lasting.rotated(&acme, 1) && !lasting.rotated(&acme, 1) && !lasting.is_current(&acme, &first));
        let second = lasting.current(&acme).expect("made again");
        assert!(!Arc::ptr_eq(&first, &second) && lasting.is_current(&acme, &second));

        assert!(!lasting.follow(authority.clone()) && lasting.is_current(&acme, &second));
        let another = Arc::new(Authority::generate("Another CA", 30).expect("made"));
        assert!(lasting.follow(another.clone()) && !lasting.is_current(&acme, &second));
        let third = lasting.current(&acme).expect("made by another");
        assert!(inspect(third.certificate_pem()).expect("read").signed_by(another.inspection()));

        let fleeting = TenantCertificates::new(authority, Duration::ZERO);
        let old = fleeting.current(&acme).expect("made");
        assert!(!Arc::ptr_eq(&old, &fleeting.current(&acme).expect("renewed")));
    }
}
