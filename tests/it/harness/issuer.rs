//! Settings and claims for the test kit's OpenID Connect issuer.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use warrengate::config::{IssuerConfig, KeySource, TenantSource, TokenAlgorithm};
pub use warrengate_testkit::oidc::{Issuer, Key};

/// The gateway's settings for an issuer with keys by discovery and the tenant in the claim `org`.
pub fn config(issuer: &str) -> IssuerConfig {
    IssuerConfig {
        issuer: issuer.into(),
        keys: KeySource::Discovery,
        ca_certificate: None,
        audience: "warrengate".into(),
        algorithms: TokenAlgorithm::ALL.to_vec(),
        tenant: TenantSource::Claim("org".into()),
        client_claim: "azp".into(),
        grants_claim: "scope".into(),
        roles_claim: None,
        roles: Default::default(),
        allow_administration: false,
        allow_platform_administration: false,
        max_token_lifetime: Duration::from_secs(24 * 3600),
        refresh_interval: Duration::from_secs(600),
        min_refresh_interval: Duration::from_millis(500),
    }
}

/// The claims of a valid token of a tenant's client.
pub fn claims(issuer: &str, tenant: &str, client: &str) -> Value {
    // Tokens issued before the client was created are refused, so the token is issued a second later at the earliest.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 1;
    json!({
        "iss": issuer, "aud": "warrengate", "org": tenant, "azp": client, "iat": now, "exp": now + 600,
        "scope": "openid publish:#:# subscribe:# configure:#",
    })
}

/// Settings and claims of an issuer that runs.
pub trait IssuerExt {
    /// See [`config`].
    fn config(&self) -> IssuerConfig;

    /// See [`claims`].
    fn claims(&self, tenant: &str, client: &str) -> Value;
}

impl IssuerExt for Issuer {
    fn config(&self) -> IssuerConfig {
        config(self.name())
    }

    fn claims(&self, tenant: &str, client: &str) -> Value {
        claims(self.name(), tenant, client)
    }
}
