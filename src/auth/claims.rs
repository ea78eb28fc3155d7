//! Claims of the gateway's own tokens. Strict types are the first check: a text instead of a number, or an absent claim, makes the token
//! invalid.

use serde::{Deserialize, Serialize};

use super::Grants;

/// The JWS algorithm of our own keys.
pub(super) const ALGORITHM: jsonwebtoken::Algorithm = jsonwebtoken::Algorithm::EdDSA;

/// RFC 9068: an access token says that it is one, so that no other signed text of the issuer passes for it.
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
    /// `iat` in milliseconds: a token of the second in which its client's secret was rotated is either before or after.
    pub(super) wg_iat_ms: u64,
    pub(super) nbf: u64,
    pub(super) exp: u64,
    pub(super) jti: String,
}
