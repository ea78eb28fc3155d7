//! JSON Web Key Sets. One that is too large or has too many keys is refused as a whole; a key that cannot be used (a shared
//! secret, another curve, too short, for encryption) is left out. Several keys may have one id (RFC 7517, section 4.5), and
//! identical ones are one.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::DecodingKey;
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
    #[error("it is not a JSON Web Key Set")]
    Malformed,
    #[error("it has {0} keys; at most {MAX_KEYS} are accepted")]
    TooManyKeys(usize),
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
pub(super) fn parse(set: &[u8], config: &IssuerConfig) -> Result<Vec<Key>, Unusable> {
    if set.len() > MAX_BYTES {
        return Err(Unusable::TooLarge);
    }
    let Set { keys } = serde_json::from_slice(set).map_err(|_| Unusable::Malformed)?;
    if keys.len() > MAX_KEYS {
        return Err(Unusable::TooManyKeys(keys.len()));
    }
    let mut usable: Vec<Key> = Vec::new();
    for key in keys.into_iter().filter_map(|key| self::usable(key, config)) {
        let is_same =
            |other: &Key| other.kid == key.kid && other.algorithm == key.algorithm && other.material == key.material;
        if !usable.iter().any(is_same) {
            usable.push(key);
        }
    }
    Ok(usable)
}

fn usable(key: serde_json::Value, config: &IssuerConfig) -> Option<Key> {
    let jwk: Jwk = serde_json::from_value(key).ok()?;
    if jwk.kid.as_ref().is_some_and(|kid| kid.is_empty() || kid.len() > MAX_KID) {
        return None;
    }
    // SPIFFE marks its keys for JWTs with a use of its own.
    if jwk.purpose.as_deref().is_some_and(|purpose| !["sig", "jwt-svid"].contains(&purpose)) {
        return None;
    }
    if jwk.d.is_some() {
        tracing::warn!(issuer = config.issuer, "the issuer publishes a private key, which is not trusted");
        return None;
    }
    let (algorithm, material, key) = key_of(&jwk)?;
    let is_named = jwk.alg.as_deref().is_none_or(|named| TokenAlgorithm::parse(named) == Some(algorithm));
    if !is_named || !config.algorithms.contains(&algorithm) {
        return None;
    }
    Some(Key { kid: jwk.kid, algorithm, material, key })
}

/// The type of a key decides with which algorithm it is used.
fn key_of(jwk: &Jwk) -> Option<(TokenAlgorithm, Vec<u8>, DecodingKey)> {
    let bytes = |text: &Option<String>| URL_SAFE_NO_PAD.decode(text.as_deref()?).ok();
    match (&*jwk.kty, jwk.crv.as_deref()) {
        ("OKP", Some("Ed25519")) => {
            let x = bytes(&jwk.x).filter(|x| x.len() == 32)?;
            let key = DecodingKey::from_ed_der(&x);
            Some((TokenAlgorithm::EdDsa, x, key))
        }
        ("EC", Some("P-256")) => {
            let [x, y] = [&jwk.x, &jwk.y].map(|part| bytes(part).filter(|part| part.len() == 32));
            // Uncompressed, as SEC 1 writes a point. One that is not on the curve verifies nothing.
            let point = [&[4][..], &x?, &y?].concat();
            let key = DecodingKey::from_ec_der(&point);
            Some((TokenAlgorithm::Es256, point, key))
        }
        ("RSA", None) => {
            let (n, e) = (bytes(&jwk.n)?, bytes(&jwk.e)?);
            let fits = RSA.contains(&n.len()) && n[0] != 0 && (1..=8).contains(&e.len());
            fits.then(|| {
                let key = DecodingKey::from_rsa_raw_components(&n, &e);
                (TokenAlgorithm::Rs256, [n, e].concat(), key)
            })
        }
        _ => None,
    }
}
