//! From a JSON Web Key Set, as anybody might send it, to the keys that are used. One that is too large, has too many keys or
//! two of one id is refused whole; a key that is of no use (a shared secret, another curve, too short) is left out.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;

use super::Key;
use crate::config::{IssuerConfig, TokenAlgorithm};

/// Bytes of a set.
pub(super) const MAX_BYTES: usize = 256 * 1024;
/// Keys of a set, those that are of no use included.
const MAX_KEYS: usize = 64;
/// Bytes of a key's id.
const MAX_KID: usize = 256;
/// Bytes of an RSA modulus: 2,048 to 4,096 bits.
const RSA: std::ops::RangeInclusive<usize> = 256..=512;

/// Why a set is not taken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unusable {
    #[error("it has more than {MAX_BYTES} bytes")]
    TooLarge,
    #[error("it is no JSON Web Key Set")]
    Malformed,
    #[error("it has {0} keys; at most {MAX_KEYS} are taken")]
    TooManyKeys(usize),
    #[error("two of its keys have one id")]
    DuplicateId,
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<serde_json::Value>,
}

/// What matters of a key. Unknown members are allowed (RFC 7517, section 4).
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
    d: Option<serde_json::Value>,
}

/// The keys of a set that this issuer may use.
pub(super) fn parse(set: &[u8], config: &IssuerConfig, leeway: Duration) -> Result<HashMap<String, Key>, Unusable> {
    if set.len() > MAX_BYTES {
        return Err(Unusable::TooLarge);
    }
    let Set { keys } = serde_json::from_slice(set).map_err(|_| Unusable::Malformed)?;
    if keys.len() > MAX_KEYS {
        return Err(Unusable::TooManyKeys(keys.len()));
    }
    let ids: Vec<_> = keys.iter().filter_map(|key| key.get("kid")?.as_str()).collect();
    if ids.iter().collect::<HashSet<_>>().len() < ids.len() {
        return Err(Unusable::DuplicateId);
    }
    Ok(keys.into_iter().filter_map(|key| usable(key, config, leeway)).collect())
}

fn usable(key: serde_json::Value, config: &IssuerConfig, leeway: Duration) -> Option<(String, Key)> {
    let jwk: Jwk = serde_json::from_value(key).ok()?;
    let kid = jwk.kid.clone().filter(|kid| !kid.is_empty() && kid.len() <= MAX_KID)?;
    if jwk.purpose.as_deref().is_some_and(|purpose| purpose != "sig") {
        return None;
    }
    if jwk.d.is_some() {
        tracing::warn!(issuer = config.issuer, "a private key is published, and is not believed");
        return None;
    }
    let (algorithm, key) = key_of(&jwk)?;
    let is_named = jwk.alg.as_deref().is_none_or(|named| named == algorithm.as_str());
    if !is_named || !config.algorithms.contains(&algorithm) {
        return None;
    }
    Some((kid, Key { key, validation: validation(algorithm, config, leeway) }))
}

/// The kind of key says with which algorithm it is used, for ever.
fn key_of(jwk: &Jwk) -> Option<(TokenAlgorithm, DecodingKey)> {
    let bytes = |text: &Option<String>| URL_SAFE_NO_PAD.decode(text.as_deref()?).ok();
    match (&*jwk.kty, jwk.crv.as_deref()) {
        ("OKP", Some("Ed25519")) => {
            let x = bytes(&jwk.x).filter(|x| x.len() == 32)?;
            Some((TokenAlgorithm::EdDsa, DecodingKey::from_ed_der(&x)))
        }
        ("EC", Some("P-256")) => {
            let [x, y] = [&jwk.x, &jwk.y].map(|part| bytes(part).filter(|part| part.len() == 32));
            // Uncompressed, as SEC 1 writes a point. One that is not on the curve verifies nothing.
            let point = [&[4][..], &x?, &y?].concat();
            Some((TokenAlgorithm::Es256, DecodingKey::from_ec_der(&point)))
        }
        ("RSA", None) => {
            let (n, e) = (bytes(&jwk.n)?, bytes(&jwk.e)?);
            let fits = RSA.contains(&n.len()) && n[0] != 0 && (1..=8).contains(&e.len());
            fits.then(|| (TokenAlgorithm::Rs256, DecodingKey::from_rsa_raw_components(&n, &e)))
        }
        _ => None,
    }
}

fn validation(algorithm: TokenAlgorithm, config: &IssuerConfig, leeway: Duration) -> Validation {
    let mut validation = Validation::new(match algorithm {
        TokenAlgorithm::EdDsa => Algorithm::EdDSA,
        TokenAlgorithm::Es256 => Algorithm::ES256,
        TokenAlgorithm::Rs256 => Algorithm::RS256,
    });
    validation.set_required_spec_claims(&["exp", "aud", "iss"]);
    validation.set_audience(&[&config.audience]);
    validation.set_issuer(&[&config.issuer]);
    validation.validate_nbf = true;
    validation.leeway = leeway.as_secs();
    validation
}
