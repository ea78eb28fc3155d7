//! Issuers beside our own. A token that names one enters; a [`Caller`] of a tenant leaves, never of a platform
//! administrator, and never with the right to administer. Keys lie in memory: they are fetched by a task of their own
//! ([`fetch`]), and a token with an unknown key id is refused at once and only wakes that task.

mod claims;
mod fetch;
mod jwks;

use std::{collections::HashMap, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use jsonwebtoken::{DecodingKey, Header, Validation};
use serde::Deserialize;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Caller, Error};
use crate::config::IssuerConfig;

/// All of them, by name.
pub(super) struct ForeignIssuers(HashMap<String, Arc<ForeignIssuer>>);

pub(super) struct ForeignIssuer {
    config: IssuerConfig,
    leeway: Duration,
    keys: ArcSwap<HashMap<String, Key>>,
    /// A token named a key that is not there.
    unknown: Notify,
}

/// A public key, and the one algorithm that it is used with.
struct Key {
    key: DecodingKey,
    validation: Validation,
}

/// Parses a key set and drops the result; see `crate::fuzzing`.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz_key_set(set: &[u8], config: &IssuerConfig) {
    let _ = jwks::parse(set, config, Duration::ZERO);
}

/// Whom a token says it is from.
#[derive(Deserialize)]
struct Peek {
    iss: String,
}

impl ForeignIssuers {
    pub(super) fn new(configs: &[IssuerConfig], leeway: Duration) -> Self {
        let issuers = configs.iter().map(|config| {
            let issuer =
                ForeignIssuer { config: config.clone(), leeway, keys: ArcSwap::default(), unknown: Notify::new() };
            (config.issuer.clone(), Arc::new(issuer))
        });
        Self(issuers.collect())
    }

    /// The one that an unchecked token says it is from.
    pub(super) fn named_by(&self, token: &str) -> Option<&ForeignIssuer> {
        if self.0.is_empty() {
            return None;
        }
        let peek: Peek = jsonwebtoken::dangerous::insecure_decode_claims(token).ok()?;
        self.0.get(&peek.iss).map(Arc::as_ref)
    }

    /// Fetches their keys until stopped, each in a task of its own: one that hangs holds up no other.
    pub(super) async fn follow(&self, stop: &CancellationToken) {
        let all = self.0.values().map(|issuer| fetch::follow(Arc::clone(issuer), stop.clone()));
        futures_util::future::join_all(all).await;
    }
}

/// Fetches an issuer's keys once, for `warrengate doctor`; how many of them can be used, or why there are none.
///
/// # Errors
/// When they cannot be fetched or are not taken.
pub async fn look(config: &IssuerConfig) -> Result<usize, String> {
    let alone = ForeignIssuers::new(std::slice::from_ref(config), Duration::ZERO);
    match alone.0.get(&config.issuer) {
        Some(issuer) => fetch::once(issuer).await,
        None => Ok(0),
    }
}

impl ForeignIssuer {
    /// Checks a token that says it is from here.
    pub(super) fn verify(&self, token: &str, header: &Header) -> Result<Caller, Error> {
        // Most issuers write "JWT" or nothing; what is wrong for sure is a signed text of another kind.
        let is_token =
            |typ: &str| ["JWT", "at+jwt", "application/at+jwt"].iter().any(|is| typ.eq_ignore_ascii_case(is));
        if !header.typ.as_deref().is_none_or(is_token) {
            return Err(Error::invalid("not an access token"));
        }
        let kid = header.kid.as_deref().ok_or(Error::invalid("no key id"))?;
        let keys = self.keys.load();
        let Some(key) = keys.get(kid) else {
            self.unknown.notify_one();
            return Err(Error::invalid("unknown key id"));
        };
        // Compared with the key's own algorithm, before the signature is looked at.
        let claims = jsonwebtoken::decode(token, &key.key, &key.validation)?.claims;
        claims::caller(&self.config, self.leeway, &claims)
    }

    /// Takes a set of keys as its issuer publishes it, in place of the one before; returns how many of them are used.
    fn take(&self, set: &[u8]) -> Result<usize, jwks::Unusable> {
        let keys = jwks::parse(set, &self.config, self.leeway)?;
        let count = keys.len();
        self.keys.store(Arc::new(keys));
        Ok(count)
    }
}

#[cfg(test)]
mod tests;
