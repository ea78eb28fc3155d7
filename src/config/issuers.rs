//! External issuers of tokens that the gateway trusts: `[[auth.issuers]]`.
//!
//! Invariant: their keys are read over TLS, from a file or from this machine, never unencrypted over a network.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use super::source::Source;
use crate::names::TenantId;

const KEY: &str = "auth.issuers";
const MAX_ISSUERS: usize = 64;
const MAX_TEXT: usize = 500;
const SECOND: Duration = Duration::from_secs(1);
const REFRESH: Duration = Duration::from_secs(600);
const MIN_REFRESH: Duration = Duration::from_secs(30);
const MAX_TOKEN_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// The maximum number of mapped roles, and of grants for one of them.
const MAX_ROLES: usize = 256;

/// The source of an issuer's public keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// The address in the issuer's discovery document.
    Discovery,
    /// This address.
    Url(String),
    /// This file.
    File(PathBuf),
}

/// An accepted signature algorithm. Algorithms with a shared secret are never accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TokenAlgorithm {
    /// Ed25519.
    EdDsa,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// RSA PKCS #1 v1.5 with SHA-256, with keys of 2,048 to 4,096 bits.
    Rs256,
}

impl TokenAlgorithm {
    /// All algorithms.
    pub const ALL: [Self; 3] = [Self::EdDsa, Self::Es256, Self::Rs256];

    /// The algorithm of this name. RFC 9864 calls EdDSA with a key of that kind Ed25519.
    pub fn parse(name: &str) -> Option<Self> {
        if name == "Ed25519" {
            return Some(Self::EdDsa);
        }
        Self::ALL.into_iter().find(|algorithm| algorithm.as_str() == name)
    }

    /// Its name in JOSE.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EdDsa => "EdDSA",
            Self::Es256 => "ES256",
            Self::Rs256 => "RS256",
        }
    }
}

/// The tenants that an issuer may issue tokens for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TenantSource {
    /// This tenant only, regardless of the claims.
    Fixed(TenantId),
    /// The tenant in this claim.
    Claim(String),
    /// None: its tokens are those of platform administrators.
    Platform,
}

/// A trusted issuer. A claim is a name at the top level of a token, or a JSON pointer (`/realm_access/tenant`).
#[derive(Debug, Clone)]
pub struct IssuerConfig {
    /// The `iss` of its tokens.
    pub issuer: String,
    /// The source of its keys.
    pub keys: KeySource,
    /// The CA that verifies the server's certificate, as PEM; the system's CAs if it is not set.
    pub ca_certificate: Option<PathBuf>,
    /// The `aud` of its tokens.
    pub audience: String,
    /// The algorithms that its keys may be used with.
    pub algorithms: Vec<TokenAlgorithm>,
    /// The tenants that it may issue tokens for.
    pub tenant: TenantSource,
    /// The claim with the client: `app` or `acme.app`.
    pub client_claim: String,
    /// The claim with the grants.
    pub grants_claim: String,
    /// The claim with roles or groups; without it, roles are ignored.
    pub roles_claim: Option<String>,
    /// The grants of each role or group.
    pub roles: BTreeMap<String, Vec<String>>,
    /// Whether its tokens may administer their tenant's clients, if the client has that grant in the store as well.
    pub allow_administration: bool,
    /// Whether its tokens without a tenant may administer the platform, if the client has that grant in the store as
    /// well.
    pub allow_platform_administration: bool,
    /// A token that is valid for longer is refused.
    pub max_token_lifetime: Duration,
    /// How often its keys are fetched again.
    pub refresh_interval: Duration,
    /// The minimum interval between two fetches, regardless of the number of unknown key ids.
    pub min_refresh_interval: Duration,
}

impl IssuerConfig {
    /// The files that it needs, with the names of their settings.
    pub(super) fn files(&self) -> impl Iterator<Item = (&'static str, &PathBuf)> {
        let keys = if let KeySource::File(file) = &self.keys { Some(file) } else { None };
        let keys = keys.map(|file| ("auth.issuers.jwks_file", file));
        keys.into_iter().chain(self.ca_certificate.as_ref().map(|file| ("auth.issuers.ca_certificate", file)))
    }
}

/// Reads all external issuers. `own` is the gateway's own issuer, which must not be one of them; `audience` is the
/// default audience.
pub(super) fn read(source: &mut Source, own: &str, audience: &str) -> Vec<IssuerConfig> {
    let mut names = BTreeSet::from([own.to_owned()]);
    let issuers = source.tables(KEY, |table| {
        let issuer = issuer(table, audience);
        if !names.insert(issuer.issuer.clone()) {
            let what = "exists already (the gateway itself is an issuer): each issuer must have its own name";
            table.error("issuer", Some(issuer.issuer.clone()), what);
        }
        issuer
    });
    if issuers.len() > MAX_ISSUERS {
        source.error(KEY, None, format!("has {} entries; at most {MAX_ISSUERS} are allowed", issuers.len()));
    }
    issuers
}

fn issuer(table: &mut Source, audience: &str) -> IssuerConfig {
    let issuer = table.required("issuer", "the `iss` of its tokens, for example \"https://id.example\"");
    if table.is_given("issuer") {
        bounded(table, "issuer", &issuer);
    }
    let roles_claim = table.text("roles_claim");
    if let Some(claim) = &roles_claim {
        bounded(table, "roles_claim", claim);
    }
    let roles = table.lists("roles");
    if roles_claim.is_none() != roles.is_empty() {
        table.error(
            "roles",
            None,
            "and roles_claim must be set together: the claim with the roles, and the grants of each role",
        );
    }
    if roles.len() > MAX_ROLES || roles.values().any(|words| words.len() > MAX_ROLES) {
        table.error("roles", None, format!("must be at most {MAX_ROLES}, with as many words each"));
    }
    let allow_platform_administration = table.boolean("allow_platform_administration", false);
    IssuerConfig {
        keys: keys(table, &issuer),
        issuer,
        ca_certificate: table.path("ca_certificate"),
        audience: claim(table, "audience", audience),
        algorithms: algorithms(table),
        tenant: tenant(table, allow_platform_administration),
        client_claim: claim(table, "client_claim", "sub"),
        grants_claim: claim(table, "grants_claim", "wg_grants"),
        roles_claim,
        roles,
        allow_administration: table.boolean("allow_administration", false),
        allow_platform_administration,
        max_token_lifetime: table.duration(
            "max_token_lifetime",
            MAX_TOKEN_LIFETIME,
            60 * SECOND,
            366 * 24 * 3600 * SECOND,
        ),
        refresh_interval: table.duration("refresh_interval", REFRESH, SECOND, 24 * 3600 * SECOND),
        min_refresh_interval: table.duration("min_refresh_interval", MIN_REFRESH, SECOND / 10, 3600 * SECOND),
    }
}

fn bounded(table: &mut Source, key: &str, text: &str) {
    if text.trim().is_empty() || text.len() > MAX_TEXT {
        table.error(key, Some(text.to_owned()), format!("must be 1 to {MAX_TEXT} bytes and not blank"));
    }
}

fn claim(table: &mut Source, key: &'static str, default: &str) -> String {
    let text = table.text_or(key, default);
    bounded(table, key, &text);
    text
}

fn keys(table: &mut Source, issuer: &str) -> KeySource {
    match (table.text("jwks_url"), table.path("jwks_file")) {
        (Some(_), Some(file)) => {
            table.error(
                "jwks_file",
                Some(file.display().to_string()),
                "and jwks_url are mutually exclusive: set one of them",
            );
            KeySource::File(file)
        }
        (Some(url), None) => {
            if !is_safe(&url) {
                table.error("jwks_url", Some(url.clone()), SAFE);
            }
            KeySource::Url(url)
        }
        (None, Some(file)) => KeySource::File(file),
        (None, None) => {
            if !issuer.trim().is_empty() && !is_safe(issuer) {
                table.error("issuer", Some(issuer.to_owned()), SAFE);
            }
            KeySource::Discovery
        }
    }
}

fn tenant(table: &mut Source, allow_platform: bool) -> TenantSource {
    match (table.text("tenant"), table.text("tenant_claim")) {
        (Some(text), None) if allow_platform => {
            let what = "cannot be set with allow_platform_administration: its tokens would all belong to the tenant";
            table.error("tenant", Some(text), what);
        }
        (None, None) if allow_platform => return TenantSource::Platform,
        (Some(text), None) => match TenantId::parse(&text) {
            Ok(tenant) => return TenantSource::Fixed(tenant),
            Err(error) => table.error("tenant", Some(text), error.to_string()),
        },
        (None, Some(claim)) => {
            bounded(table, "tenant_claim", &claim);
            return TenantSource::Claim(claim);
        }
        _ => {
            let what =
                "requires either tenant (the only tenant of its tokens) or tenant_claim (the claim with the tenant)";
            table.error("", None, what);
        }
    }
    TenantSource::Claim(String::new())
}

fn algorithms(table: &mut Source) -> Vec<TokenAlgorithm> {
    const KEY: &str = "algorithms";
    if !table.is_given(KEY) {
        return TokenAlgorithm::ALL.to_vec();
    }
    let names = table.list(KEY);
    for name in names.iter().filter(|name| TokenAlgorithm::parse(name).is_none()) {
        table.error(KEY, Some(name.clone()), "is not one of \"EdDSA\", \"ES256\" and \"RS256\"");
    }
    if names.is_empty() {
        table.error(KEY, None, "must name at least one of \"EdDSA\", \"ES256\" and \"RS256\"");
    }
    names.iter().filter_map(|name| TokenAlgorithm::parse(name)).collect()
}

const SAFE: &str = "must be an https address (http only to this machine), or give jwks_file";

/// Whether requests to a URL are encrypted or do not leave the machine.
pub(crate) fn is_safe(url: &str) -> bool {
    let plain = |host: &str| {
        let host = host.split(['/', '?', '#']).next().unwrap_or_default();
        let name = if host.starts_with('[') { host.split_inclusive(']').next() } else { host.split(':').next() };
        matches!(name, Some("127.0.0.1" | "localhost" | "[::1]"))
    };
    match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
        (Some(rest), _) => !rest.is_empty() && !rest.starts_with('/') && !rest.contains(['@', ' ']),
        (_, Some(rest)) => !rest.contains(['@', ' ']) && plain(rest),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::source::Finished, *};

    fn given(text: &str) -> (Vec<IssuerConfig>, Vec<String>, String) {
        let mut source = Source::new(Some(text), []);
        let issuers = read(&mut source, "https://own", "warrengate");
        let Finished { errors, listing, .. } = source.finish();
        (issuers, errors.iter().map(ToString::to_string).collect(), listing)
    }

    #[test]
    fn an_issuer_has_defaults_and_is_listed_as_it_is_read() {
        let (issuers, errors, listing) = given(
            "[[auth.issuers]]\nissuer = \"https://id.example\"\ntenant_claim = \"org\"\n\
             [[auth.issuers]]\nissuer = \"urn:corp\"\njwks_file = \"/keys.json\"\ntenant = \"acme\"\nalgorithms = [\"ES256\"]\n\
             roles_claim = \"groups\"\nroles = {ops = [\"subscribe:#\"]}\n\
             [[auth.issuers]]\nissuer = \"https://corp.example\"\nallow_platform_administration = true\n",
        );
        assert!(errors.is_empty(), "{errors:?}");
        assert_eq!((&issuers[0].keys, &*issuers[0].audience), (&KeySource::Discovery, "warrengate"));
        assert_eq!(issuers[1].algorithms, [TokenAlgorithm::Es256]);
        assert!(!issuers[0].allow_platform_administration && issuers[2].tenant == TenantSource::Platform);
        let (again, errors, listed_again) = given(&listing);
        assert!(errors.is_empty(), "{errors:?}");
        assert_eq!((again.len(), listed_again), (3, listing));
    }

    #[test]
    fn the_environment_can_contain_a_list_in_toml() {
        let text = "[{issuer = \"https://id.example\", tenant = \"acme\"}]".to_owned();
        let mut source = Source::new(None, [("WARRENGATE_AUTH__ISSUERS".to_owned(), text)]);
        assert_eq!(read(&mut source, "https://own", "x").len(), 1);
        let mut source = Source::new(None, [("WARRENGATE_AUTH__ISSUERS".to_owned(), "nonsense".to_owned())]);
        assert!(read(&mut source, "https://own", "x").is_empty());
        assert_eq!(source.finish().errors.len(), 1);
    }

    #[test]
    fn settings_that_would_weaken_isolation_are_errors() {
        let bad = [
            ("issuer = \"https://own\"\ntenant = \"acme\"", "each issuer must have its own name"),
            ("issuer = \"http://id.example\"\ntenant = \"acme\"", "must be an https address"),
            ("issuer = \"https://id\"\njwks_url = \"http://id/keys\"\ntenant = \"acme\"", "must be an https address"),
            ("issuer = \"https://id\"\njwks_url = \"http://127.0.0.1@id/k\"\ntenant = \"acme\"", "https address"),
            ("issuer = \"https://id\"\njwks_url = \"http://127.0.0.1.id/k\"\ntenant = \"acme\"", "https address"),
            ("issuer = \"https://id\"\njwks_url = \"file:///etc/passwd\"\ntenant = \"acme\"", "https address"),
            ("issuer = \"https://id\"", "requires either tenant"),
            ("issuer = \"https://id\"\ntenant = \"acme\"\ntenant_claim = \"t\"", "requires either tenant"),
            ("issuer = \"https://id\"\ntenant = \"../acme\"", "must be a-z"),
            ("issuer = \"https://id\"\ntenant = \"acme\"\nallow_platform_administration = true", "cannot be set with"),
            ("issuer = \"https://id\"\ntenant = \"acme\"\nalgorithms = [\"HS256\"]", "HS256"),
            ("issuer = \"https://id\"\ntenant = \"acme\"\nalgorithms = [\"none\"]", "none"),
            ("issuer = \"https://id\"\ntenant = \"acme\"\nalgorithms = []", "at least one"),
            ("issuer = \"https://id\"\ntenant = \"acme\"\naudience = \" \"", "not blank"),
            ("issuer = \"https://id\"\ntenant = \"acme\"\nleeway = \"1h\"", "leeway is not a setting"),
            ("issuer = \"https://id\"\ntenant = \"acme\"\nroles_claim = \"groups\"", "must be set together"),
            ("issuer = \"https://id\"\ntenant = \"acme\"\nmax_token_lifetime = \"1s\"", "must be a duration"),
            ("issuer = \"https://id\"\ntenant = \"acme\"\nmin_refresh_interval = \"0s\"", "must be a duration"),
            (
                "issuer = \"https://id\"\ntenant = \"acme\"\nrefresh_at_most_every = \"1s\"",
                "auth.issuers[0].refresh_at_most_every was renamed: write min_refresh_interval",
            ),
        ];
        for (table, wanted) in bad {
            let (_, errors, _) = given(&format!("[[auth.issuers]]\n{table}\n"));
            assert!(errors.len() == 1 && errors[0].contains(wanted), "{table}: {errors:?}");
        }
        let twice = "[[auth.issuers]]\nissuer = \"https://id\"\ntenant = \"acme\"\n".repeat(2);
        assert_eq!(given(&twice).1.len(), 1);
        let all_at_once = "[[auth.issuers]]\nissuer = \"https://id\"\nalgorithms = [\"HS256\"]\nrefresh_interval = 5\n";
        assert_eq!(given(all_at_once).1.len(), 3, "{:?}", given(all_at_once).1);
    }
}
