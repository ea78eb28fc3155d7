//! Parsing of an external issuer's signed token. The JWT library is not used for this because it does not know `alg:
//! Ed25519` (RFC 9864), and so that each refusal has a reason for the operator.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;

use crate::{auth::Error, config::TokenAlgorithm};

/// The accepted types of an access token. Most issuers use "JWT" or none; SPIFFE allows "JOSE".
const TYPES: [&str; 4] = ["JWT", "JOSE", "at+jwt", "application/at+jwt"];

/// The header fields in use. Unknown fields are allowed unless `crit` names them.
#[derive(Deserialize)]
pub(super) struct Header {
    alg: String,
    pub(super) kid: Option<String>,
    typ: Option<String>,
    crit: Option<Value>,
}

/// A token before its signature is verified.
pub(super) struct SignedToken<'a> {
    pub(super) header: Header,
    pub(super) algorithm: TokenAlgorithm,
    message: &'a str,
    payload: &'a str,
    signature: &'a str,
}

impl<'a> SignedToken<'a> {
    pub(super) fn parse(token: &'a str) -> Result<Self, Error> {
        let malformed = || Error::invalid("not a signed token");
        let (message, signature) = token.rsplit_once('.').ok_or_else(malformed)?;
        let (header, payload) = message.split_once('.').ok_or_else(malformed)?;
        let header = URL_SAFE_NO_PAD.decode(header).map_err(|_| malformed())?;
        let header: Header = serde_json::from_slice(&header).map_err(|_| Error::invalid("malformed header"))?;
        // RFC 7515, section 4.1.11: a critical extension that is not supported must be refused.
        if header.crit.is_some() {
            return Err(Error::invalid("critical headers"));
        }
        let is_token = |typ: &String| TYPES.iter().any(|known| typ.eq_ignore_ascii_case(known));
        if !header.typ.as_ref().is_none_or(is_token) {
            return Err(Error::invalid("not an access token: a different typ"));
        }
        let algorithm =
            TokenAlgorithm::parse(&header.alg).ok_or(Error::invalid("an algorithm that is not accepted"))?;
        Ok(Self { header, algorithm, message, payload, signature })
    }

    pub(super) fn is_signed_by(&self, key: &DecodingKey, algorithm: TokenAlgorithm) -> bool {
        let algorithm = match algorithm {
            TokenAlgorithm::EdDsa => Algorithm::EdDSA,
            TokenAlgorithm::Es256 => Algorithm::ES256,
            TokenAlgorithm::Rs256 => Algorithm::RS256,
        };
        jsonwebtoken::crypto::verify(self.signature, self.message.as_bytes(), key, algorithm).unwrap_or_default()
    }

    /// The claims; to be used only after the signature has been verified.
    pub(super) fn claims(&self) -> Result<Value, Error> {
        let claims = URL_SAFE_NO_PAD.decode(self.payload).ok();
        let claims = claims.and_then(|claims| serde_json::from_slice(&claims).ok());
        claims.filter(Value::is_object).ok_or(Error::invalid("malformed claims"))
    }
}
