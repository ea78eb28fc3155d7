//! Verified callers. A [`Caller`] proves that a token was verified: only [`Verifier::verify`](super::Verifier::verify)
//! creates one.

use std::{sync::Arc, time::SystemTime};

use super::{Error, Grants};
use crate::names::{ClientId, TenantId};

/// A verified caller. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Caller(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    client: ClientId,
    /// The external issuer of its token; `None` for a token of the gateway.
    issuer: Option<Arc<str>>,
    /// The signing key of its token, if the gateway issued it.
    key_id: Option<String>,
    grants: Option<Grants>,
    issued: SystemTime,
    expires: SystemTime,
    token_id: String,
}

impl Caller {
    /// The caller of a token that the gateway issued. Private to this module, so that only [`super::Verifier`] can
    /// create one.
    pub(super) fn of_own(
        client: ClientId,
        key_id: String,
        grants: Grants,
        issued: SystemTime,
        expires: SystemTime,
        token_id: String,
    ) -> Self {
        let (issuer, key_id, grants) = (None, Some(key_id), Some(grants));
        Self(Arc::new(Inner { client, issuer, key_id, grants, issued, expires, token_id }))
    }

    /// The caller of an external issuer's token. Without grants, the store alone decides what the client may do.
    pub(super) fn of_external(
        client: ClientId,
        issuer: Arc<str>,
        grants: Option<Grants>,
        issued: SystemTime,
        expires: SystemTime,
        token_id: String,
    ) -> Self {
        let (issuer, key_id) = (Some(issuer), None);
        Self(Arc::new(Inner { client, issuer, key_id, grants, issued, expires, token_id }))
    }

    /// A caller without a verified token, for unit tests of other modules.
    #[cfg(test)]
    #[allow(dead_code, reason = "for tests of other modules")]
    pub(crate) fn for_test(client: &ClientId, grants: Grants, issued: SystemTime, expires: SystemTime) -> Self {
        Self::of_own(client.clone(), "test".to_owned(), grants, issued, expires, "test".to_owned())
    }

    /// Like [`Self::for_test`], with a token of an external issuer.
    #[cfg(test)]
    #[allow(dead_code, reason = "for tests of other modules")]
    pub(crate) fn of_external_for_test(client: &ClientId, issuer: &str) -> Self {
        let now = SystemTime::now();
        Self::of_external(
            client.clone(),
            issuer.into(),
            None,
            now,
            now + std::time::Duration::from_secs(60),
            String::new(),
        )
    }

    /// The caller that [`super::authenticate`] stored in the request.
    ///
    /// # Errors
    /// [`Error::TokenMissing`] if the request has none, so that a missing layer admits nobody.
    pub fn from_request<T>(request: &tonic::Request<T>) -> Result<&Self, Error> {
        request.extensions().get().ok_or(Error::TokenMissing)
    }

    /// The client.
    pub fn client(&self) -> &ClientId {
        &self.0.client
    }

    /// Its tenant; `None` for a platform administrator.
    pub fn tenant(&self) -> Option<&TenantId> {
        self.0.client.tenant()
    }

    /// The grants of its token, an upper bound on what it may do: the store has the current grants. `None` if the
    /// token has no grants and the store alone decides.
    pub fn token_grants(&self) -> Option<&Grants> {
        self.0.grants.as_ref()
    }

    /// The external issuer of its token; `None` for a token of the gateway.
    pub fn issuer(&self) -> Option<&str> {
        self.0.issuer.as_deref()
    }

    /// The key that signed its token, if the gateway issued it.
    pub fn key_id(&self) -> Option<&str> {
        self.0.key_id.as_deref()
    }

    /// When its token was issued, to the millisecond. The token must be refused if that is before its client's
    /// `not_before` in the store.
    pub fn issued(&self) -> SystemTime {
        self.0.issued
    }

    /// When its token expires.
    pub fn expires(&self) -> SystemTime {
        self.0.expires
    }

    /// Its token's id (`jti`).
    pub fn token_id(&self) -> &str {
        &self.0.token_id
    }
}
