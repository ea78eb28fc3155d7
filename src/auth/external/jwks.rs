//! JSON Web Key Sets. A set that is too large or has too many keys is refused as a whole; a key that cannot be used (a
//! shared secret, an unsupported curve, too short, for encryption) is skipped. Several keys may have the same id (RFC
//! 7517, section 4.5), and duplicates count once.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::DecodingKey;
use serde::Deserialize;

use super::Key;
use crate::config::{IssuerConfig, TokenAlgorithm};

/// The maximum size of a set in bytes.
pub(super) const MAX_BYTES: usize = 256 * 1024;
/// The maximum number of keys in a set, including unusable ones.
const MAX_KEYS: usize = 64;
/// The maximum length of a key id in bytes.
const MAX_KID: usize = 256;
/// The accepted sizes of an RSA modulus in bytes: 2,048 to 4,096 bits.
const RSA: std::ops::RangeInclusive<usize> = 256..=512;

/// Why a key set was not accepted.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum KeySetError {
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

/// The fields of a key in use. Unknown fields are allowed (RFC 7517, section 4).
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

/// The keys of a set that are usable for this issuer.
pub(super) fn parse(set: &[u8], config: &IssuerConfig) -> Result<Vec<Key>, KeySetError> {
    if set.len() > MAX_BYTES {
        return Err(KeySetError::TooLarge);
    }
    let Set { keys } = serde_json::from_slice(set).map_err(|_| KeySetError::Malformed)?;
    if keys.len() > MAX_KEYS {
        return Err(KeySetError::TooManyKeys(keys.len()));
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
    // SPIFFE uses its own `use` value for JWT keys.
    if jwk.purpose.as_deref().is_some_and(|purpose| !["sig", "jwt-svid"].contains(&purpose)) {
        return None;
    }
    if jwk.d.is_some() {
        tracing::warn!(issuer = config.issuer, "ignoring a private key that the issuer publishes");
        return None;
    }
    let (algorithm, material, key) = key_of(&jwk)?;
    let is_named = jwk.alg.as_deref().is_none_or(|named| TokenAlgorithm::parse(named) == Some(algorithm));
    if !is_named || !config.algorithms.contains(&algorithm) {
        return None;
    }
    Some(Key { kid: jwk.kid, algorithm, material, key })
}

/// The algorithm is determined by the key type.
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
            // An uncompressed point in SEC 1 form. A point that is not on the curve verifies no signature.
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
