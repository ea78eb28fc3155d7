//! Issuers of tokens beside our own: `[[auth.issuers]]`. Tables of the file (or one list in TOML from the environment) enter;
//! an [`IssuerConfig`] each leaves. Keys come by TLS, from a file, or from this machine; never over a network in the clear.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use serde::Deserialize;

use super::source::{Source, duration, show};
use crate::names::TenantId;

const KEY: &str = "auth.issuers";
/// So many make a list that somebody still understands.
const MOST: usize = 64;
const SECOND: Duration = Duration::from_secs(1);
const REFRESH: Duration = Duration::from_secs(600);
const REFRESH_AT_MOST: Duration = Duration::from_secs(30);
const MAX_TOKEN_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// Roles that are mapped, and words of one of them.
const MAX_ROLES: usize = 256;

/// Where an issuer's public keys are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// Named by the issuer's discovery document.
    Discovery,
    /// At this address.
    Url(String),
    /// In this file.
    File(PathBuf),
}

/// A signature algorithm that is believed. There is none with a shared secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
pub enum TokenAlgorithm {
    /// Ed25519.
    #[serde(rename = "EdDSA", alias = "Ed25519")]
    EdDsa,
    /// ECDSA on P-256 with SHA-256.
    #[serde(rename = "ES256")]
    Es256,
    /// RSA PKCS #1 v1.5 with SHA-256, of 2,048 to 4,096 bits.
    #[serde(rename = "RS256")]
    Rs256,
}

impl TokenAlgorithm {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::EdDsa, Self::Es256, Self::Rs256];

    /// The algorithm of this name. RFC 9864 calls EdDSA with a key of that kind Ed25519.
    pub fn parse(name: &str) -> Option<Self> {
        if name == "Ed25519" {
            return Some(Self::EdDsa);
        }
        Self::ALL.into_iter().find(|algorithm| algorithm.as_str() == name)
    }

    /// As JOSE writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EdDsa => "EdDSA",
            Self::Es256 => "ES256",
            Self::Rs256 => "RS256",
        }
    }
}

/// For whom an issuer speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TenantSource {
    /// For this tenant and no other, whatever its tokens say.
    Fixed(TenantId),
    /// For whichever tenant this claim names.
    Claim(String),
}

/// An issuer beside our own. A claim is a name at the top of a token, or a JSON pointer (`/realm_access/tenant`).
#[derive(Debug, Clone)]
pub struct IssuerConfig {
    /// The `iss` of its tokens.
    pub issuer: String,
    /// Where its keys are.
    pub keys: KeySource,
    /// The CA that its addresses are checked against, PEM; none: the system's.
    pub ca_certificate: Option<PathBuf>,
    /// The `aud` of its tokens.
    pub audience: String,
    /// What its keys may be used with.
    pub algorithms: Vec<TokenAlgorithm>,
    /// For whom it speaks.
    pub tenant: TenantSource,
    /// The claim that names the client: `app` or `acme.app`.
    pub client_claim: String,
    /// The claim that holds the grants.
    pub grants_claim: String,
    /// The claim that holds roles or groups; none: they are not looked at.
    pub roles_claim: Option<String>,
    /// The words of grants that each role or group stands for.
    pub roles: BTreeMap<String, Vec<String>>,
    /// Whether its tokens may administer their tenant's clients, when the client is granted that here, too.
    pub allow_administration: bool,
    /// A token that is valid for longer is refused.
    pub max_token_lifetime: Duration,
    /// How often its keys are fetched again.
    pub refresh_interval: Duration,
    /// How often at most, however many unknown key ids come.
    pub refresh_at_most_every: Duration,
}

impl IssuerConfig {
    /// The files that it needs, with their keys.
    pub(super) fn files(&self) -> Vec<(&'static str, PathBuf)> {
        let keys = if let KeySource::File(file) = &self.keys { Some(file.clone()) } else { None };
        let keys = keys.map(|file| ("auth.issuers.jwks_file", file));
        let ca = self.ca_certificate.clone().map(|file| ("auth.issuers.ca_certificate", file));
        keys.into_iter().chain(ca).collect()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    issuer: String,
    jwks_url: Option<String>,
    jwks_file: Option<PathBuf>,
    ca_certificate: Option<PathBuf>,
    audience: Option<String>,
    #[serde(default = "all_algorithms")]
    algorithms: Vec<TokenAlgorithm>,
    tenant: Option<String>,
    tenant_claim: Option<String>,
    #[serde(default = "client_claim")]
    client_claim: String,
    #[serde(default = "grants_claim")]
    grants_claim: String,
    roles_claim: Option<String>,
    #[serde(default)]
    roles: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    allow_administration: bool,
    max_token_lifetime: Option<String>,
    refresh_interval: Option<String>,
    refresh_at_most_every: Option<String>,
}

fn all_algorithms() -> Vec<TokenAlgorithm> {
    TokenAlgorithm::ALL.to_vec()
}

fn client_claim() -> String {
    "sub".to_owned()
}

fn grants_claim() -> String {
    "wg_grants".to_owned()
}

/// Reads them all; `own` is our own issuer, which is none of them, `audience` the default.
pub(super) fn read(source: &mut Source, own: &str, audience: &str) -> Vec<IssuerConfig> {
    let tables = source.tables(KEY);
    if tables.len() > MOST {
        source.fault(KEY, None, format!("holds {} issuers; at most {MOST} are taken", tables.len()));
        return Vec::new();
    }
    let mut names = BTreeSet::from([own.to_owned()]);
    let mut issuers = Vec::new();
    for (index, table) in tables.into_iter().enumerate() {
        let read = table
            .try_into()
            .map_err(|error: toml::de::Error| ("", None, error.message().to_owned()))
            .and_then(|raw| issuer(raw, audience));
        match read {
            Ok(issuer) if !names.insert(issuer.issuer.clone()) => {
                let what = "is there already (the gateway is an issuer itself): each has a name of its own";
                source.fault(&format!("{KEY}[{index}].issuer"), Some(issuer.issuer), what);
            }
            Ok(issuer) => issuers.push(issuer),
            Err((key, value, what)) => {
                let dot = if key.is_empty() { "" } else { "." };
                source.fault(&format!("{KEY}[{index}]{dot}{key}"), value, what);
            }
        }
    }
    issuers
}

type Wrong = (&'static str, Option<String>, String);

fn issuer(raw: Raw, audience: &str) -> Result<IssuerConfig, Wrong> {
    let wrong = |key, value: &str, what: &str| Err((key, Some(value.to_owned()), what.to_owned()));
    let keys = match (raw.jwks_url, raw.jwks_file) {
        (Some(_), Some(file)) => {
            return wrong("jwks_file", &file.display().to_string(), "and jwks_url exclude each other: give one");
        }
        (Some(url), None) if !is_safe(&url) => return wrong("jwks_url", &url, SAFE),
        (Some(url), None) => KeySource::Url(url),
        (None, Some(file)) => KeySource::File(file),
        (None, None) if !is_safe(&raw.issuer) => return wrong("issuer", &raw.issuer, SAFE),
        (None, None) => KeySource::Discovery,
    };
    let tenant = match (raw.tenant, raw.tenant_claim) {
        (Some(tenant), None) => match TenantId::parse(&tenant) {
            Ok(id) => TenantSource::Fixed(id),
            Err(error) => return wrong("tenant", &tenant, &error.to_string()),
        },
        (None, Some(claim)) => TenantSource::Claim(claim),
        _ => {
            let what = "needs either tenant (the one that it speaks for) or tenant_claim (what names it in its tokens)";
            return Err(("", None, what.to_owned()));
        }
    };
    let audience = raw.audience.unwrap_or_else(|| audience.to_owned());
    let claim = if let TenantSource::Claim(claim) = &tenant { claim } else { "-" };
    let texts = [
        ("issuer", &*raw.issuer),
        ("audience", &audience),
        ("tenant_claim", claim),
        ("client_claim", &raw.client_claim),
        ("grants_claim", &raw.grants_claim),
        ("roles_claim", raw.roles_claim.as_deref().unwrap_or("-")),
    ];
    if let Some((key, value)) = texts.into_iter().find(|(_, text)| text.trim().is_empty() || text.len() > 500) {
        return wrong(key, value, "must be 1 to 500 bytes and not blank");
    }
    if raw.algorithms.is_empty() {
        return Err(("algorithms", None, "must name at least one of \"EdDSA\", \"ES256\" and \"RS256\"".to_owned()));
    }
    if raw.roles_claim.is_none() != raw.roles.is_empty() {
        return Err((
            "roles",
            None,
            "and roles_claim need each other: which claim holds roles, and what each grants".to_owned(),
        ));
    }
    if raw.roles.len() > MAX_ROLES || raw.roles.values().any(|words| words.len() > MAX_ROLES) {
        return Err(("roles", None, format!("must be at most {MAX_ROLES}, with as many words each")));
    }
    let time = |key, text: Option<String>, default, min: Duration, max: Duration| match text {
        None => Ok(default),
        Some(text) => duration(&text).filter(|time| (min..=max).contains(time)).ok_or_else(|| {
            (key, Some(text), format!("must be a time from {} to {}, for example \"30s\"", show(min), show(max)))
        }),
    };
    Ok(IssuerConfig {
        keys,
        ca_certificate: raw.ca_certificate,
        audience,
        algorithms: raw.algorithms,
        tenant,
        client_claim: raw.client_claim,
        grants_claim: raw.grants_claim,
        roles_claim: raw.roles_claim,
        roles: raw.roles,
        allow_administration: raw.allow_administration,
        max_token_lifetime: time(
            "max_token_lifetime",
            raw.max_token_lifetime,
            MAX_TOKEN_LIFETIME,
            60 * SECOND,
            366 * 24 * 3600 * SECOND,
        )?,
        refresh_interval: time("refresh_interval", raw.refresh_interval, REFRESH, SECOND, 24 * 3600 * SECOND)?,
        refresh_at_most_every: time(
            "refresh_at_most_every",
            raw.refresh_at_most_every,
            REFRESH_AT_MOST,
            SECOND / 10,
            3600 * SECOND,
        )?,
        issuer: raw.issuer,
    })
}

const SAFE: &str = "must be an https address (http only to this machine), or give jwks_file";

/// By TLS, or without leaving the machine.
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

impl std::fmt::Display for IssuerConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = |text: &str| toml::Value::from(text).to_string();
        writeln!(f, "\n[[{KEY}]]")?;
        writeln!(f, "issuer = {}", text(&self.issuer))?;
        match &self.keys {
            KeySource::Discovery => {}
            KeySource::Url(url) => writeln!(f, "jwks_url = {}", text(url))?,
            KeySource::File(file) => writeln!(f, "jwks_file = {}", text(&file.display().to_string()))?,
        }
        if let Some(file) = &self.ca_certificate {
            writeln!(f, "ca_certificate = {}", text(&file.display().to_string()))?;
        }
        writeln!(f, "audience = {}", text(&self.audience))?;
        let algorithms: Vec<_> = self.algorithms.iter().map(|algorithm| algorithm.as_str()).collect();
        writeln!(f, "algorithms = {}", toml::Value::from(algorithms))?;
        match &self.tenant {
            TenantSource::Fixed(tenant) => writeln!(f, "tenant = {}", text(tenant.as_str()))?,
            TenantSource::Claim(claim) => writeln!(f, "tenant_claim = {}", text(claim))?,
        }
        writeln!(f, "client_claim = {}", text(&self.client_claim))?;
        writeln!(f, "grants_claim = {}", text(&self.grants_claim))?;
        if let Some(claim) = &self.roles_claim {
            writeln!(f, "roles_claim = {}", text(claim))?;
            writeln!(
                f,
                "roles = {}",
                toml::Value::from(toml::Table::from_iter(
                    self.roles.iter().map(|(role, words)| { (role.clone(), toml::Value::from(words.clone())) })
                ))
            )?;
        }
        writeln!(f, "allow_administration = {}", self.allow_administration)?;
        writeln!(f, "max_token_lifetime = {}", text(&show(self.max_token_lifetime)))?;
        writeln!(f, "refresh_interval = {}", text(&show(self.refresh_interval)))?;
        writeln!(f, "refresh_at_most_every = {}", text(&show(self.refresh_at_most_every)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(text: &str) -> (Vec<IssuerConfig>, Vec<String>) {
        let mut source = Source::new(Some(text), []);
        let issuers = read(&mut source, "https://own", "warrengate");
        let (_, faults) = source.finish();
        (issuers, faults.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn an_issuer_has_defaults_and_is_shown_as_it_is_read() {
        let (issuers, faults) = given(
            "[[auth.issuers]]\nissuer = \"https://id.example\"\ntenant_claim = \"org\"\n\
             [[auth.issuers]]\nissuer = \"urn:corp\"\njwks_file = \"/keys.json\"\ntenant = \"acme\"\nalgorithms = [\"ES256\"]\n\
             roles_claim = \"groups\"\nroles = {ops = [\"subscribe:#\"]}\n",
        );
        assert!(faults.is_empty(), "{faults:?}");
        assert_eq!((&issuers[0].keys, &*issuers[0].audience), (&KeySource::Discovery, "warrengate"));
        assert_eq!(issuers[1].algorithms, [TokenAlgorithm::Es256]);
        let shown: String = issuers.iter().map(ToString::to_string).collect();
        let (again, faults) = given(&shown);
        assert!(faults.is_empty(), "{faults:?}");
        assert_eq!(shown, again.iter().map(ToString::to_string).collect::<String>());
    }

    #[test]
    fn the_environment_holds_a_list_in_toml() {
        let text = "[{issuer = \"https://id.example\", tenant = \"acme\"}]".to_owned();
        let mut source = Source::new(None, [("WARRENGATE_AUTH__ISSUERS".to_owned(), text)]);
        assert_eq!(read(&mut source, "https://own", "x").len(), 1);
        let mut source = Source::new(None, [("WARRENGATE_AUTH__ISSUERS".to_owned(), "nonsense".to_owned())]);
        assert!(read(&mut source, "https://own", "x").is_empty());
        assert_eq!(source.finish().1.len(), 1);
    }

    #[test]
    fn what_would_weaken_the_wall_is_a_fault() {
        let bad = [
            ("issuer = \"https://own\"\ntenant = \"acme\"", "each has a name of its own"),
            ("issuer = \"http://id.example\"\ntenant = \"acme\"", "must be an https address"),
            ("issuer = \"https://id\"\njwks_url = \"http://id/keys\"\ntenant = \"acme\"", "must be an https address"),
            ("issuer = \"https://id\"\njwks_url = \"http://127.0.0.1@id/k\"\ntenant = \"acme\"", "https address"),
            ("issuer = \"https://id\"\njwks_url = \"http://127.0.0.1.id/k\"\ntenant = \"acme\"", "https address"),
            ("issuer = \"https://id\"\njwks_url = \"file:///etc/passwd\"\ntenant = \"acme\"", "https address"),
            ("issuer = \"https://id\"", "needs either tenant"),
            ("issuer = \"https://id\"\ntenant = \"acme\"\ntenant_claim = \"t\"", "needs either tenant"),
            ("issuer = \"https://id\"\ntenant = \"../acme\"", "must be a-z"),
            ("issuer = \"https://id\"\ntenant = \"acme\"\nalgorithms = [\"HS256\"]", "HS256"),
            ("issuer = \"https://id\"\ntenant = \"acme\"\nalgorithms = [\"none\"]", "none"),
            ("issuer = \"https://id\"\ntenant = \"acme\"\nalgorithms = []", "at least one"),
            ("issuer = \"https://id\"\ntenant = \"acme\"\naudience = \" \"", "not blank"),
            ("issuer = \"https://id\"\ntenant = \"acme\"\nleeway = \"1h\"", "unknown field"),
            ("issuer = \"https://id\"\ntenant = \"acme\"\nroles_claim = \"groups\"", "need each other"),
            ("issuer = \"https://id\"\ntenant = \"acme\"\nmax_token_lifetime = \"1s\"", "must be a time"),
            ("issuer = \"https://id\"\ntenant = \"acme\"\nrefresh_at_most_every = \"0s\"", "must be a time"),
        ];
        for (table, wanted) in bad {
            let (issuers, faults) = given(&format!("[[auth.issuers]]\n{table}\n"));
            assert!(issuers.is_empty() && faults.len() == 1 && faults[0].contains(wanted), "{table}: {faults:?}");
        }
        let twice = "[[auth.issuers]]\nissuer = \"https://id\"\ntenant = \"acme\"\n".repeat(2);
        assert_eq!(given(&twice).1.len(), 1);
    }
}
