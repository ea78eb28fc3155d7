//! Names of tenants, clients and plans. A [`TenantId`] is safe in a vhost's name, an X.509 common name and a URL path.

use std::sync::Arc;

use super::{Error, length, text_accessors};

const LABEL: &str = "must be a-z, 0-9 and \"-\", begin with a letter and not end with \"-\"";

/// A label as in RFC 1123 that begins with a letter.
fn label(text: &str, min: usize, max: usize) -> Result<Arc<str>, Error> {
    length(text, max)?;
    let bytes = text.as_bytes();
    let fits = bytes.len() >= min
        && bytes[0].is_ascii_lowercase()
        && bytes[bytes.len() - 1] != b'-'
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-');
    if fits { Ok(text.into()) } else { Err(Error::Form(LABEL)) }
}

/// A tenant: 2 to 40 bytes of `a-z`, `0-9` and `-`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TenantId(Arc<str>);
text_accessors!(TenantId);

impl TenantId {
    /// # Errors
    /// When the text is not such a name.
    pub fn parse(text: &str) -> Result<Self, Error> {
        label(text, 2, 40).map(Self)
    }

    /// The name of the tenant's vhost, of its broker user, and the common name of its certificate. The prefix separates
    /// Warrengate's vhosts from others on a shared broker.
    pub fn vhost(&self) -> String {
        format!("wg.{}", self.0)
    }
}

/// A client's name within its tenant: 1 to 40 bytes of `a-z`, `0-9` and `-`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientName(Arc<str>);
text_accessors!(ClientName);

impl ClientName {
    /// # Errors
    /// When the text is not such a name.
    pub fn parse(text: &str) -> Result<Self, Error> {
        label(text, 1, 40).map(Self)
    }
}

/// A plan's name: 1 to 40 bytes of `a-z`, `0-9` and `-`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PlanName(Arc<str>);
text_accessors!(PlanName);

impl PlanName {
    /// # Errors
    /// When the text is not such a name.
    pub fn parse(text: &str) -> Result<Self, Error> {
        label(text, 1, 40).map(Self)
    }
}

/// A client: `<tenant>.<name>`, or `<name>` alone for a platform administrator.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId {
    text: Arc<str>,
    tenant: Option<TenantId>,
    name: ClientName,
}

impl ClientId {
    /// A tenant's client.
    pub fn of_tenant(tenant: &TenantId, name: &ClientName) -> Self {
        Self { text: format!("{tenant}.{name}").into(), tenant: Some(tenant.clone()), name: name.clone() }
    }

    /// # Errors
    /// When a part is not a valid name.
    pub fn parse(text: &str) -> Result<Self, Error> {
        match text.split_once('.') {
            Some((tenant, name)) => Ok(Self::of_tenant(&TenantId::parse(tenant)?, &ClientName::parse(name)?)),
            None => Ok(Self { text: text.into(), tenant: None, name: ClientName::parse(text)? }),
        }
    }

    /// The tenant; `None` for a platform administrator.
    pub fn tenant(&self) -> Option<&TenantId> {
        self.tenant.as_ref()
    }

    /// The name within the tenant.
    pub fn name(&self) -> &ClientName {
        &self.name
    }

    /// The whole id.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl std::fmt::Display for ClientId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_id_is_safe_in_a_vhost_name_and_a_url() {
        for bad in ["", "a", "A", "1a", "-a", "a-", "a.b", "a/b", "a%2fb", "..", "a b", "ä", "a\0", &"a".repeat(41)] {
            assert!(TenantId::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(TenantId::parse("acme-2").expect("valid").vhost(), "wg.acme-2");
    }

    #[test]
    fn a_client_id_names_its_tenant_or_none() {
        let worker = ClientId::parse("acme.worker").expect("valid");
        assert_eq!(worker.tenant().map(TenantId::as_str), Some("acme"));
        assert_eq!(worker.as_str(), "acme.worker");
        assert!(ClientId::parse("admin").expect("valid").tenant().is_none());
        for bad in ["acme.", ".worker", "acme.a.b", "ACME.worker"] {
            assert!(ClientId::parse(bad).is_err(), "{bad:?}");
        }
    }
}
