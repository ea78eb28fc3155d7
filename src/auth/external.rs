//! External issuers: OpenID Connect issuers that are trusted beside the gateway's own. Their keys are kept in memory and fetched by a
//! background task ([`fetch`]); a token with an unknown key id is refused at once and only wakes that task.
//!
//! A token of theirs is of a tenant's client that was bound to the issuer, never of a platform administrator, and administers
//! only where the configuration allows it.

mod claims;
mod fetch;
mod header;
mod jwks;
mod roles;

use std::{
    collections::{HashMap, HashSet},
    num::NonZeroU32,
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use jsonwebtoken::DecodingKey;
use serde::Deserialize;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use self::header::SignedToken;
use super::{Caller, Error};
use crate::{
    config::{IssuerConfig, TokenAlgorithm},
    names::{ClientId, TenantId},
    store::ExternalClient,
};

/// Keys that are tried for one token: those of one id and algorithm, of which an issuer has one or two.
const MAX_CANDIDATES: usize = 4;

/// All of them, by name.
pub(super) struct ExternalIssuers(HashMap<String, Arc<ExternalIssuer>>);

pub(super) struct ExternalIssuer {
    config: IssuerConfig,
    name: Arc<str>,
    leeway: Duration,
    keys: ArcSwap<Vec<Key>>,
    clients: ArcSwap<BoundClients>,
    /// A token named a key that is not known.
    unknown: Notify,
    /// Lines of the log about refused tokens.
    logged: DefaultDirectRateLimiter,
}

/// A public key, and the one algorithm that it is used with.
struct Key {
    kid: Option<String>,
    algorithm: TokenAlgorithm,
    /// Two keys with the same one are the same key.
    material: Vec<u8>,
    key: DecodingKey,
}

/// The clients that the issuer knows by ids of its own.
#[derive(Default)]
struct BoundClients {
    by_external_id: HashMap<(TenantId, String), ClientId>,
    /// They are found by their external id only.
    with_external_id: HashSet<ClientId>,
}

/// Parses a key set and drops the result; see `crate::fuzzing`.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz_key_set(set: &[u8], config: &IssuerConfig) {
    let _ = jwks::parse(set, config);
}

/// Whom a token says it is from.
#[derive(Deserialize)]
struct Peek {
    iss: String,
}

impl ExternalIssuers {
    pub(super) fn new(configs: &[IssuerConfig], leeway: Duration) -> Self {
        let issuers = configs.iter().map(|config| {
            let issuer = ExternalIssuer {
                name: config.issuer.as_str().into(),
                config: config.clone(),
                leeway,
                keys: ArcSwap::default(),
                clients: ArcSwap::default(),
                unknown: Notify::new(),
                logged: RateLimiter::direct(Quota::per_second(NonZeroU32::MIN)),
            };
            (config.issuer.clone(), Arc::new(issuer))
        });
        Self(issuers.collect())
    }

    /// Whether there is an issuer of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The one that an unverified token says it is from.
    pub(super) fn named_by(&self, token: &str) -> Option<&ExternalIssuer> {
        if self.0.is_empty() {
            return None;
        }
        let peek: Peek = jsonwebtoken::dangerous::insecure_decode_claims(token).ok()?;
        self.0.get(&peek.iss).map(Arc::as_ref)
    }

    /// Replaces the external ids of all clients.
    pub(super) fn set_clients(&self, clients: &[ExternalClient]) {
        for (name, issuer) in &self.0 {
            let mut bound = BoundClients::default();
            for client in clients.iter().filter(|client| client.issuer == *name) {
                let Some(tenant) = client.client.tenant() else { continue };
                bound.with_external_id.insert(client.client.clone());
                bound.by_external_id.insert((tenant.clone(), client.external_id.clone()), client.client.clone());
            }
            issuer.clients.store(Arc::new(bound));
        }
    }

    /// Fetches their keys until stopped, each in a task of its own: one that hangs delays no other.
    pub(super) async fn follow(&self, stop: &CancellationToken) {
        let all = self.0.values().map(|issuer| fetch::follow(Arc::clone(issuer), stop.clone()));
        futures_util::future::join_all(all).await;
    }
}

/// Fetches an issuer's keys once, for `warrengate doctor`; returns how many of them can be used.
///
/// # Errors
/// When they cannot be fetched or are not accepted.
pub async fn look(config: &IssuerConfig) -> Result<usize, String> {
    let alone = ExternalIssuers::new(std::slice::from_ref(config), Duration::ZERO);
    match alone.0.get(&config.issuer) {
        Some(issuer) => fetch::once(issuer).await,
        None => Ok(0),
    }
}

impl ExternalIssuer {
    /// Verifies a token that says it is from here. The log says why one is refused, once a second at most.
    pub(super) fn verify(&self, token: &str) -> Result<Caller, Error> {
        let verified = self.verify_unlogged(token);
        if let Err(error) = &verified
            && self.logged.check().is_ok()
        {
            let why = error.operator_reason().unwrap_or("expired");
            tracing::info!(issuer = &*self.name, why, "token of an external issuer refused");
        }
        verified
    }

    fn verify_unlogged(&self, token: &str) -> Result<Caller, Error> {
        let signed = SignedToken::parse(token)?;
        let keys = self.keys.load();
        let candidates = self.candidates(&keys, &signed)?;
        // The algorithm belongs to the key: the token's is compared with it before the signature is verified.
        if !candidates.iter().any(|key| signed.is_signed_by(&key.key, key.algorithm)) {
            return Err(Error::invalid("the signature is wrong"));
        }
        claims::caller(self, &signed.claims()?)
    }

    /// The keys that may have signed this token.
    fn candidates<'a>(&self, keys: &'a [Key], signed: &SignedToken<'_>) -> Result<Vec<&'a Key>, Error> {
        let named: Vec<_> = match &signed.header.kid {
            Some(kid) => keys.iter().filter(|key| key.kid.as_ref() == Some(kid)).collect(),
            // RFC 7517 makes the id optional; without one there must be no choice.
            None if keys.len() == 1 => keys.iter().collect(),
            None => return Err(Error::invalid("no key id, and the issuer has not exactly one key")),
        };
        if named.is_empty() {
            self.unknown.notify_one();
            return Err(Error::invalid("unknown key id"));
        }
        let matching: Vec<_> =
            named.into_iter().filter(|key| key.algorithm == signed.algorithm).take(MAX_CANDIDATES).collect();
        if matching.is_empty() { Err(Error::invalid("the key has another algorithm")) } else { Ok(matching) }
    }

    /// Replaces the keys by a set as the issuer publishes it; returns how many of them are used.
    fn take(&self, set: &[u8]) -> Result<usize, jwks::Unusable> {
        let keys = jwks::parse(set, &self.config)?;
        let count = keys.len();
        self.keys.store(Arc::new(keys));
        Ok(count)
    }
}

#[cfg(test)]
mod tests;
