//! Callers: the proof that a token was verified. A [`Caller`] is created by [`Verifier::verify`](super::Verifier::verify) only.

use std::{sync::Arc, time::SystemTime};

use super::{Error, Grants};
use crate::names::{ClientId, TenantId};

/// A verified caller. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Caller(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    client: ClientId,
    /// The external issuer of its token; none: the gateway's own.
    issuer: Option<Arc<str>>,
    /// The signing key of its token, when the gateway issued it.
    key_id: Option<String>,
    grants: Option<Grants>,
    issued: SystemTime,
    expires: SystemTime,
    token_id: String,
}

impl Caller {
    /// Of a token that the gateway issued. Private to this module: [`super::Verifier`] has verified what it passes.
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

    /// Of an external issuer's token. Without grants, the store alone decides what the client may do.
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

    /// A caller that nobody verified, for unit tests of other modules.
    #[cfg(test)]
    #[allow(dead_code, reason = "for tests of other modules")]
    pub(crate) fn for_test(client: &ClientId, grants: Grants, issued: SystemTime, expires: SystemTime) -> Self {
        Self::of_own(client.clone(), "test".to_owned(), grants, issued, expires, "test".to_owned())
    }

    /// The same of an external issuer.
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

    /// The caller of a request, as [`super::authenticate`] left it there.
    ///
    /// # Errors
    /// [`Error::TokenMissing`] when there is none, so that a forgotten layer admits nobody.
    pub fn from_request<T>(request: &tonic::Request<T>) -> Result<&Self, Error> {
        request.extensions().get().ok_or(Error::TokenMissing)
    }

    /// The client.
    pub fn client(&self) -> &ClientId {
        &self.0.client
    }

    /// Its tenant; none for a platform administrator.
    pub fn tenant(&self) -> Option<&TenantId> {
        self.0.client.tenant()
    }

    /// What its token grants, which is an upper bound of what it may do: the store has the present grants. None: the token
    /// leaves it to the store.
    pub fn token_grants(&self) -> Option<&Grants> {
        self.0.grants.as_ref()
    }

    /// The external issuer of its token; none: the gateway's own.
    pub fn issuer(&self) -> Option<&str> {
        self.0.issuer.as_deref()
    }

    /// The key that signed its token, when the gateway issued it.
    pub fn key_id(&self) -> Option<&str> {
        self.0.key_id.as_deref()
    }

    /// When its token was issued, to the millisecond. A token issued before its client's `not_before` in the store
    /// (`issued() < not_before`) is to be refused.
    pub fn issued(&self) -> SystemTime {
        self.0.issued
    }

    /// When its token ends.
    pub fn expires(&self) -> SystemTime {
        self.0.expires
    }

    /// Its token's id (`jti`).
    pub fn token_id(&self) -> &str {
        &self.0.token_id
    }
}
