//! Claims of the gateway's own tokens. The types are strict: a string instead of a number, or a missing claim, makes
//! the token invalid.

use serde::{Deserialize, Serialize};

use super::Grants;

/// The JWS algorithm of the gateway's keys.
pub(super) const ALGORITHM: jsonwebtoken::Algorithm = jsonwebtoken::Algorithm::EdDSA;

/// The type of an access token (RFC 9068), so that no other signed document of the issuer is accepted as one.
pub(super) const TYPE: &str = "at+jwt";

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Claims {
    pub(super) iss: String,
    pub(super) aud: String,
    /// The client's id.
    pub(super) sub: String,
    /// The tenant's id; absent for a platform administrator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) wg_tenant: Option<String>,
    pub(super) wg_grants: Grants,
    pub(super) iat: u64,
    /// `iat` in milliseconds, so that a token can be ordered before or after a secret rotation within the same second.
    pub(super) wg_iat_ms: u64,
    pub(super) nbf: u64,
    pub(super) exp: u64,
    pub(super) jti: String,
}
