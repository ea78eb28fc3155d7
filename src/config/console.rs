//! The settings of the web console.

use std::net::SocketAddr;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use secrecy::{ExposeSecret as _, SecretString};

use super::{ConsoleConfig, IssuerConfig, SignInConfig, read::networks, source::Source};

/// The length of the session key in bytes.
const KEY_LENGTH: usize = 32;
/// The part of `console.trace_url` that is replaced by an id.
pub(crate) const TRACE_ID: &str = "{trace_id}";

/// The path to which an issuer sends the browser back after a sign-in.
pub(crate) const SIGN_IN_RETURN: &str = "/sign-in/return";
/// What an issuer is asked for: the identity, and a refresh token, so that the session does not end with the first token.
const SCOPES: [&str; 2] = ["openid", "offline_access"];

/// Reads the settings of the console; `issuers` are those at which people may sign in.
pub(super) fn read(source: &mut Source, issuers: &[IssuerConfig]) -> ConsoleConfig {
    let origin = origin(source);
    let console = ConsoleConfig {
        listen: listen(source),
        certificate: source.path("console.certificate"),
        key: source.path("console.key"),
        sign_in: sign_in(source, origin.as_deref(), issuers),
        origin,
        session_key: session_key(source),
        session_key_file: source.path("console.session_key_file"),
        trace_url: trace_url(source),
        trusted_proxies: networks(source, "console.trusted_proxies"),
    };
    if console.certificate.is_some() != console.key.is_some() {
        source.error("console.certificate", None, "and console.key belong together: give both or neither");
    } else if console.certificate.is_none()
        && let Some(address) = console.listen.filter(|address| !address.ip().is_loopback())
    {
        let what = format!(
            "is needed (with console.key), because console.listen = {address} can be reached from outside and secrets are \
             sent to it"
        );
        source.error("console.certificate", None, what);
    }
    console
}

/// Optional text; an empty string counts as not set.
fn text(source: &mut Source, key: &'static str) -> Option<String> {
    Some(source.text_or(key, "")).filter(|text| !text.is_empty())
}

fn listen(source: &mut Source) -> Option<SocketAddr> {
    const KEY: &str = "console.listen";
    let text = text(source, KEY)?;
    let address = text.parse().ok();
    if address.is_none() {
        let what = "must be an address and a port, for example \"127.0.0.1:8090\", or empty for no console";
        source.error(KEY, Some(text), what);
    }
    address
}

fn origin(source: &mut Source) -> Option<String> {
    const KEY: &str = "console.origin";
    let text = text(source, KEY)?;
    let origin = text.trim_end_matches('/');
    let host = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
    let is_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']');
    if host.is_some_and(|host| !host.is_empty() && host.chars().all(is_host)) {
        return Some(origin.to_owned());
    }
    source.error(KEY, Some(text), "must be an origin such as \"https://console.example\", without a path");
    None
}

fn session_key(source: &mut Source) -> Option<SecretString> {
    const KEY: &str = "console.session_key";
    let key = source.optional_secret_or_file(KEY, "console.session_key_file")?;
    let is_valid =
        |key: &SecretString| STANDARD.decode(key.expose_secret().trim()).is_ok_and(|bytes| bytes.len() == KEY_LENGTH);
    // An empty one was reported already.
    if !key.expose_secret().is_empty() && !is_valid(&key) {
        source.error(KEY, None, "must be 32 bytes in base64; `openssl rand -base64 32` creates one");
    }
    Some(key)
}

fn sign_in(source: &mut Source, origin: Option<&str>, issuers: &[IssuerConfig]) -> Option<SignInConfig> {
    const ISSUER: &str = "console.sign_in.issuer";
    const CLIENT_ID: &str = "console.sign_in.client_id";
    const SECRET_FILE: &str = "console.sign_in.client_secret_file";
    let issuer = text(source, ISSUER);
    let client_id = text(source, CLIENT_ID);
    let client_secret = source.optional_secret_or_file("console.sign_in.client_secret", SECRET_FILE);
    let client_secret_file = source.path(SECRET_FILE);
    let scopes = source.list("console.sign_in.scopes");
    let issuer = issuer?;
    if !issuers.iter().any(|trusted| trusted.issuer == issuer) {
        source.error(ISSUER, Some(issuer.clone()), "must be the `issuer` of an entry in [[auth.issuers]]");
    }
    if client_id.is_none() {
        source.error(CLIENT_ID, None, "is required: the client id of the console at console.sign_in.issuer");
    }
    let Some(origin) = origin else {
        let what = format!(
            "is required with {ISSUER}, because the issuer sends browsers back to this origin, at the path {SIGN_IN_RETURN}"
        );
        source.error("console.origin", None, what);
        return None;
    };
    let scopes = if scopes.is_empty() { SCOPES.map(str::to_owned).to_vec() } else { scopes };
    let redirect = format!("{origin}{SIGN_IN_RETURN}");
    Some(SignInConfig { issuer, client_id: client_id?, client_secret, client_secret_file, scopes, redirect })
}

fn trace_url(source: &mut Source) -> Option<String> {
    const KEY: &str = "console.trace_url";
    let url = text(source, KEY)?;
    let is_http = url.starts_with("https://") || url.starts_with("http://");
    if is_http && url.contains(TRACE_ID) {
        return Some(url);
    }
    let what = "must be a http or https address with {trace_id} in it, for example \
                \"https://jaeger.example/trace/{trace_id}\"";
    source.error(KEY, Some(url), what);
    None
}
