//! Tenants' client certificates. A tenant id enters, a certificate that is good for at least a third of its life leaves.
//! Their keys live in memory only and go with the process.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use super::{Authority, Error, Leaf};
use crate::names::TenantId;

/// Makes each tenant's certificate on first use, keeps it, and replaces it two thirds into its life. A connection that is
/// open keeps what it was opened with; the next one gets the new.
pub struct TenantCertificates {
    authority: Arc<Authority>,
    lifetime: Duration,
    made: Mutex<HashMap<TenantId, Arc<Leaf>>>,
}

impl TenantCertificates {
    /// Certificates signed by the broker's authority, each good for `lifetime`.
    pub fn new(authority: Arc<Authority>, lifetime: Duration) -> Self {
        Self { authority, lifetime, made: Mutex::default() }
    }

    /// The tenant's certificate. Making one takes well under a millisecond.
    ///
    /// # Errors
    /// When the authority has expired.
    pub fn current(&self, tenant: &TenantId) -> Result<Arc<Leaf>, Error> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(leaf) = made.get(tenant)
            && leaf.renew_after() > SystemTime::now()
        {
            return Ok(leaf.clone());
        }
        let leaf = Arc::new(self.authority.client(&tenant.vhost(), self.lifetime)?);
        tracing::debug!(%tenant, "tenant certificate made");
        made.insert(tenant.clone(), leaf.clone());
        Ok(leaf)
    }

    /// When the first of those that have not ended yet ends.
    pub fn earliest_end(&self) -> Option<SystemTime> {
        let now = SystemTime::now();
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.values().map(|leaf| leaf.not_after()).filter(|end| *end > now).min()
    }

    /// Forgets the tenant's certificate, so that the next connection gets a new one: after a rotation or a deletion.
    pub fn forget(&self, tenant: &TenantId) {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).remove(tenant);
    }

    /// The authority that signs them: also what the broker's own certificate is checked against.
    pub fn authority(&self) -> &Arc<Authority> {
        &self.authority
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

        lasting.forget(&acme);
        assert!(!Arc::ptr_eq(&first, &lasting.current(&acme).expect("made again")));

        let fleeting = TenantCertificates::new(authority, Duration::ZERO);
        let old = fleeting.current(&acme).expect("made");
        assert!(!Arc::ptr_eq(&old, &fleeting.current(&acme).expect("renewed")));
    }
}
