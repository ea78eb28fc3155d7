//! The proof that someone was recognised. A [`Caller`] is made by [`Verifier::verify`](super::Verifier::verify) alone;
//! whoever holds one need not look at a token again.

use std::{sync::Arc, time::SystemTime};

use super::{Error, Grants};
use crate::names::{ClientId, TenantId};

/// Who calls. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Caller(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    client: ClientId,
    grants: Grants,
    issued: SystemTime,
    expires: SystemTime,
    token_id: String,
}

impl Caller {
    /// Private to this room: [`super::Verifier`] has checked what it passes.
    pub(super) fn new(
        client: ClientId,
        grants: Grants,
        issued: SystemTime,
        expires: SystemTime,
        token_id: String,
    ) -> Self {
        Self(Arc::new(Inner { client, grants, issued, expires, token_id }))
    }

    /// A caller that nobody verified, for unit tests of the rooms below.
    #[cfg(test)]
    #[allow(dead_code, reason = "for tests of other rooms")]
    pub(crate) fn for_test(client: &ClientId, grants: Grants, issued: SystemTime, expires: SystemTime) -> Self {
        Self::new(client.clone(), grants, issued, expires, "test".to_owned())
    }

    /// The caller of a request, as [`super::authenticate`] left it there.
    ///
    /// # Errors
    /// [`Error::TokenMissing`] when there is none: a layer that was forgotten lets nobody in.
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

    /// What its token grants, which is an upper bound of what it may do: the store has the present grants.
    pub fn token_grants(&self) -> Option<&Grants> {
        Some(&self.0.grants)
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
