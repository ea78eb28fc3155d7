//! Verification of tokens. The result is a [`Caller`], or one of two refusals that do not reveal the reason.
//! Verification never waits: keys are kept in memory and replaced as a whole.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use jsonwebtoken::{DecodingKey, Header, Validation};
use tokio_util::sync::CancellationToken;

use super::{
    Caller, Error,
    claims::{ALGORITHM, Claims, TYPE},
    external::ExternalIssuers,
    token_cache::TokenCache,
};
use crate::{config::AuthConfig, names::ClientId, store::ExternalClient};

/// The maximum length of a token; longer ones are refused without parsing. Entra sends up to 200 groups, about 10 KiB,
/// and the header block of a request is limited to 16 KiB.
const MAX_TOKEN: usize = 14 * 1024;

/// Verifies tokens.
pub struct Verifier {
    keys: ArcSwap<HashMap<String, DecodingKey>>,
    validation: Validation,
    /// A cache for the gateway's own tokens only, because the keys of external issuers change independently.
    cache: TokenCache,
    external: ExternalIssuers,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier").field("keys", &self.keys.load().keys()).finish_non_exhaustive()
    }
}

impl Verifier {
    pub(super) fn new(config: &AuthConfig) -> Self {
        // The library's defaults accept a token without audience or issuer, ignore `nbf`, and allow a leeway of a
        // minute.
        let mut validation = Validation::new(ALGORITHM);
        validation.set_required_spec_claims(&["exp", "nbf", "aud", "iss", "sub"]);
        validation.set_audience(&[&config.audience]);
        validation.set_issuer(&[&config.issuer]);
        validation.validate_nbf = true;
        validation.leeway = config.leeway.as_secs();
        let external = ExternalIssuers::new(&config.issuers, config.leeway);
        Self {
            keys: ArcSwap::from_pointee(HashMap::new()),
            validation,
            cache: TokenCache::new(config.leeway),
            external,
        }
    }

    /// Replaces all keys, given as id and raw Ed25519 public key.
    pub(super) fn set_keys<'a>(&self, keys: impl Iterator<Item = (&'a str, &'a [u8])>) {
        let keys = keys.map(|(kid, public)| (kid.to_owned(), DecodingKey::from_ed_der(public))).collect();
        self.keys.store(std::sync::Arc::new(keys));
        self.cache.forget();
    }

    /// Verifies a token.
    ///
    /// # Errors
    /// [`Error::TokenExpired`] for an expired token of the gateway; [`Error::TokenInvalid`] for everything else.
    pub fn verify(&self, token: &str) -> Result<Caller, Error> {
        if token.len() > MAX_TOKEN {
            return Err(Error::invalid("too long"));
        }
        let key = self.cache.key(token);
        if let Some(caller) = self.cache.caller(&key) {
            return Ok(caller);
        }
        if let Some(issuer) = self.external.named_by(token) {
            return issuer.verify(token);
        }
        let header = jsonwebtoken::decode_header(token)?;
        // RFC 7515, section 4.1.11: a critical extension that is not supported must be refused. The library does not
        // check it.
        if header.crit.is_some() {
            return Err(Error::invalid("critical headers"));
        }
        let caller = self.verify_own(token, header)?;
        self.cache.remember(&key, &caller);
        Ok(caller)
    }

    /// Whether tokens of this external issuer are accepted.
    pub fn has_issuer(&self, name: &str) -> bool {
        self.external.has(name)
    }

    /// Whether this external issuer may issue tokens for platform administrators.
    pub fn has_issuer_for_platform(&self, name: &str) -> bool {
        self.external.has_for_platform(name)
    }

    /// Replaces the ids by which external issuers identify clients.
    pub(super) fn set_external_clients(&self, clients: &[ExternalClient]) {
        self.external.set_clients(clients);
    }

    /// Refreshes the keys of the external issuers until stopped.
    pub async fn refresh_issuers(&self, stop: CancellationToken) {
        self.external.refresh_keys(&stop).await;
    }

    fn verify_own(&self, token: &str, header: Header) -> Result<Caller, Error> {
        // The key determines the algorithm, never the token: all keys of the gateway are Ed25519.
        if header.alg != ALGORITHM {
            return Err(Error::invalid("another algorithm"));
        }
        if header.typ.as_deref() != Some(TYPE) {
            return Err(Error::invalid("not an access token"));
        }
        let kid = header.kid.ok_or(Error::invalid("no key id"))?;
        let keys = self.keys.load();
        let key = keys.get(&kid).ok_or(Error::invalid("unknown key id"))?;
        let claims = jsonwebtoken::decode::<Claims>(token, key, &self.validation)?.claims;
        caller(claims, kid)
    }
}

fn caller(claims: Claims, key_id: String) -> Result<Caller, Error> {
    let client = ClientId::parse(&claims.sub).map_err(|_| Error::invalid("the subject is not a client id"))?;
    if client.tenant().map(crate::names::TenantId::as_str) != claims.wg_tenant.as_deref() {
        return Err(Error::invalid("tenant and subject differ"));
    }
    let moment = |since: Duration| UNIX_EPOCH.checked_add(since).ok_or(Error::invalid("a time is out of range"));
    let issued = moment(Duration::from_millis(claims.wg_iat_ms))?;
    let expires: SystemTime = moment(Duration::from_secs(claims.exp))?;
    Ok(Caller::of_own(client, key_id, claims.wg_grants, issued, expires, claims.jti))
}
