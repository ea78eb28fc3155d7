//! External OpenID Connect issuers that the gateway trusts in addition to its own. Their keys are kept in memory and
//! fetched by a background task ([`fetch`]); a token with an unknown key id is refused at once and wakes that task.
//!
//! An external token identifies a client that is bound to the issuer. It grants administration of a tenant's clients or of
//! the platform only if the configuration allows that for the issuer.

mod claims;
mod code_flow;
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

pub use self::code_flow::{BegunFlow, CodeFlow, PersonTokens, SignInError, code as error_code_of_issuer};
use self::header::SignedToken;
use super::{Caller, Error};
use crate::{
    config::{IssuerConfig, TokenAlgorithm},
    names::{ClientId, TenantId},
    store::ExternalClient,
};

/// The maximum number of keys that are tried for one token: those with its key id and algorithm.
const MAX_CANDIDATES: usize = 4;

/// All external issuers, by name.
pub(super) struct ExternalIssuers(HashMap<String, Arc<ExternalIssuer>>);

pub(super) struct ExternalIssuer {
    config: IssuerConfig,
    name: Arc<str>,
    leeway: Duration,
    keys: ArcSwap<Vec<Key>>,
    clients: ArcSwap<BoundClients>,
    /// Notified when a token has an unknown key id.
    unknown: Notify,
    /// Limits log lines about refused tokens.
    logged: DefaultDirectRateLimiter,
}

/// A public key with the only algorithm that it is used with.
struct Key {
    kid: Option<String>,
    algorithm: TokenAlgorithm,
    /// Identifies the key material, to detect duplicates.
    material: Vec<u8>,
    key: DecodingKey,
}

/// The clients that the issuer identifies by external ids.
#[derive(Default)]
struct BoundClients {
    by_external_id: HashMap<(Option<TenantId>, String), ClientId>,
    /// The external ids of these clients; they cannot be found by name.
    with_external_id: HashSet<ClientId>,
}

/// Parses a key set and drops the result; see `crate::fuzzing`.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz_key_set(set: &[u8], config: &IssuerConfig) {
    let _ = jwks::parse(set, config);
}

/// The issuer claim of a token that has not been verified.
#[derive(Deserialize)]
struct UnverifiedClaims {
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

    /// Whether an issuer of this name is configured.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Whether an issuer of this name may issue tokens for platform administrators.
    pub(super) fn has_for_platform(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|issuer| issuer.config.allow_platform_administration)
    }

    /// The issuer that a token names, before it is verified.
    pub(super) fn named_by(&self, token: &str) -> Option<&ExternalIssuer> {
        if self.0.is_empty() {
            return None;
        }
        let unverified: UnverifiedClaims = jsonwebtoken::dangerous::insecure_decode_claims(token).ok()?;
        self.0.get(&unverified.iss).map(Arc::as_ref)
    }

    /// Replaces the external ids of all clients.
    pub(super) fn set_clients(&self, clients: &[ExternalClient]) {
        for (name, issuer) in &self.0 {
            let mut bound = BoundClients::default();
            for client in clients.iter().filter(|client| client.issuer == *name) {
                let key = (client.client.tenant().cloned(), client.external_id.clone());
                bound.with_external_id.insert(client.client.clone());
                bound.by_external_id.insert(key, client.client.clone());
            }
            issuer.clients.store(Arc::new(bound));
        }
    }

    /// Fetches the keys of all issuers until stopped, each in a task of its own, so that one slow issuer does not
    /// delay the others.
    pub(super) async fn refresh_keys(&self, stop: &CancellationToken) {
        let all = self.0.values().map(|issuer| fetch::run(Arc::clone(issuer), stop.clone()));
        futures_util::future::join_all(all).await;
    }
}

/// Fetches an issuer's keys once, for `warrengate doctor`; returns the number of usable keys.
///
/// # Errors
/// When the keys cannot be fetched or are not accepted.
pub async fn check_issuer(config: &IssuerConfig) -> Result<usize, String> {
    let alone = ExternalIssuers::new(std::slice::from_ref(config), Duration::ZERO);
    match alone.0.get(&config.issuer) {
        Some(issuer) => fetch::fetch_now(issuer).await,
        None => Ok(0),
    }
}

impl ExternalIssuer {
    /// Verifies a token of this issuer. Refusals are logged at most once per second.
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
        // The key determines the algorithm: the token's algorithm is compared with it before the signature is
        // verified.
        if !candidates.iter().any(|key| signed.is_signed_by(&key.key, key.algorithm)) {
            return Err(Error::invalid("the signature is wrong"));
        }
        claims::caller(self, &signed.claims()?)
    }

    /// The keys that may have signed this token.
    fn candidates<'a>(&self, keys: &'a [Key], signed: &SignedToken<'_>) -> Result<Vec<&'a Key>, Error> {
        let named: Vec<_> = match &signed.header.kid {
            Some(kid) => keys.iter().filter(|key| key.kid.as_ref() == Some(kid)).collect(),
            // RFC 7517 makes the key id optional; without it, the issuer must have exactly one key.
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

    /// Replaces the keys by those of a published set; returns the number of usable keys.
    fn take(&self, set: &[u8]) -> Result<usize, jwks::KeySetError> {
        let keys = jwks::parse(set, &self.config)?;
        let count = keys.len();
        self.keys.store(Arc::new(keys));
        Ok(count)
    }
}

#[cfg(test)]
mod tests;
