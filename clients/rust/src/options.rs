//! Connection options: the gateway's address, a certificate authority and credentials.
//!
//! They are checked when the client connects, and their `Debug` shows no secret.

use std::{
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use secrecy::SecretString;

use crate::{Error, LifecycleEvent};

/// Fetches a token (a JWT without "Bearer"). It is called again before the last one expires.
pub type TokenSource = Arc<dyn Fn() -> TokenFuture + Send + Sync>;
/// A token that is being fetched.
pub type TokenFuture = Pin<Box<dyn Future<Output = Result<SecretString, BoxError>> + Send>>;
/// An error of the application.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How the client authenticates.
#[derive(Clone)]
pub enum Credentials {
    /// A client id and its secret: the client fetches tokens and renews them before they expire.
    Secret {
        /// For example `acme.worker`.
        client_id: String,
        /// The secret that was displayed when the client was created.
        secret: SecretString,
    },
    /// An existing token, without "Bearer". The client cannot renew it; [`crate::Client::set_token`] replaces it.
    Token(SecretString),
    /// A function of the application that fetches tokens, for example from another issuer; see [`Credentials::source`].
    Source(TokenSource),
    /// No token is sent. Only `Auth.IssueToken`, health and reflection accept such calls.
    Anonymous,
}

impl Credentials {
    /// Tokens from a function of the application.
    pub fn source<F, T>(fetch: F) -> Self
    where
        F: Fn() -> T + Send + Sync + 'static,
        T: Future<Output = Result<SecretString, BoxError>> + Send + 'static,
    {
        Self::Source(Arc::new(move || Box::pin(fetch())))
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Secret { client_id, .. } => {
                f.debug_struct("Secret").field("client_id", client_id).finish_non_exhaustive()
            }
            Self::Token(_) => f.write_str("Token(..)"),
            Self::Source(_) => f.write_str("Source(..)"),
            Self::Anonymous => f.write_str("Anonymous"),
        }
    }
}

/// Receives lifecycle events.
#[derive(Clone)]
pub(super) struct Listener(pub(super) Arc<dyn Fn(LifecycleEvent) + Send + Sync>);

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Listener(..)")
    }
}

/// The gateway's address, the authority to trust, and credentials.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    pub(super) endpoint: String,
    pub(super) ca_certificate: Option<String>,
    pub(super) server_name: Option<String>,
    pub(super) credentials: Credentials,
    pub(super) connect_timeout: Duration,
    pub(super) connect_once: bool,
    pub(super) token_lifetime: Option<Duration>,
    pub(super) initial_token: Option<(SecretString, SystemTime)>,
    pub(super) listener: Option<Listener>,
}

impl ClientOptions {
    /// Options for the gateway at this address, for example `https://127.0.0.1:8443`. `http://` is accepted for
    /// loopback addresses only, because it exposes the token.
    pub fn new(endpoint: impl Into<String>, credentials: Credentials) -> Self {
        Self {
            endpoint: endpoint.into(),
            ca_certificate: None,
            server_name: None,
            credentials,
            connect_timeout: Duration::from_secs(10),
            connect_once: false,
            token_lifetime: None,
            initial_token: None,
            listener: None,
        }
    }

    /// The options that the environment describes: `WARRENGATE_ENDPOINT`; `WARRENGATE_CA`, the path of a PEM file, if
    /// the gateway's authority is not one of the system's; and either `WARRENGATE_TOKEN` or `WARRENGATE_CLIENT_ID` with
    /// `WARRENGATE_CLIENT_SECRET`. A token has precedence over a secret.
    ///
    /// # Errors
    /// When a required variable is missing or the file cannot be read; the error names the variable.
    pub fn from_env() -> Result<Self, Error> {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    fn from_variables(variable: impl Fn(&'static str) -> Option<String>) -> Result<Self, Error> {
        let required = |name| variable(name).filter(|value| !value.is_empty()).ok_or(Error::MissingVariable(name));
        let credentials = match variable("WARRENGATE_TOKEN").filter(|token| !token.is_empty()) {
            Some(token) => Credentials::Token(token.into()),
            None => Credentials::Secret {
                client_id: required("WARRENGATE_CLIENT_ID")?,
                secret: required("WARRENGATE_CLIENT_SECRET")?.into(),
            },
        };
        let options = Self::new(required("WARRENGATE_ENDPOINT")?, credentials);
        match variable("WARRENGATE_CA").filter(|path| !path.is_empty()) {
            Some(path) => match std::fs::read_to_string(&path) {
                Ok(pem) => Ok(options.ca_certificate(pem)),
                Err(error) => Err(Error::CertificateFile { path, source: Arc::new(error) }),
            },
            None => Ok(options),
        }
    }

    /// Validates everything that needs no connection.
    pub(super) fn check(&self) -> Result<(), Error> {
        use secrecy::ExposeSecret as _;
        match &self.credentials {
            Credentials::Secret { client_id, secret } if client_id.is_empty() || secret.expose_secret().is_empty() => {
                Err(Error::MissingCredentials)
            }
            _ => Ok(()),
        }
    }

    /// The same options with other credentials.
    #[must_use]
    pub fn with_credentials(mut self, credentials: Credentials) -> Self {
        self.credentials = credentials;
        self
    }

    /// The authorities that may have signed the gateway's certificate: one or more PEM certificates. Without
    /// it, the system's authorities are trusted (feature `system-roots`, on by default).
    #[must_use]
    pub fn ca_certificate(mut self, pem: impl Into<String>) -> Self {
        self.ca_certificate = Some(pem.into());
        self
    }

    /// The name that the gateway's certificate must have. Default: the endpoint's host.
    #[must_use]
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// How long connecting may take; while the gateway cannot be reached, it is tried again. Default: 10 s.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Tries to connect only once, for interactive programs.
    #[must_use]
    pub fn connect_once(mut self) -> Self {
        self.connect_once = true;
        self
    }

    /// Calls this function for each event of the client's streams. It must not block.
    #[must_use]
    pub fn on_event(mut self, listener: impl Fn(LifecycleEvent) + Send + Sync + 'static) -> Self {
        self.listener = Some(Listener(Arc::new(listener)));
        self
    }

    /// Begins with this token, which expires at this time, instead of fetching one. It is renewed like a fetched one.
    #[must_use]
    pub fn initial_token(mut self, token: SecretString, expires: SystemTime) -> Self {
        self.initial_token = Some((token, expires));
        self
    }

    /// The lifetime to request for each token, from 1 minute to the issuer's limit. Default: the limit.
    #[must_use]
    pub fn token_lifetime(mut self, lifetime: Duration) -> Self {
        self.token_lifetime = Some(lifetime);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_secret() {
        for credentials in [
            Credentials::Secret { client_id: "acme.app".into(), secret: "hunter2".into() },
            Credentials::Token("hunter2".into()),
            Credentials::source(|| async { Ok("hunter2".into()) }),
            Credentials::Anonymous,
        ] {
            let shown = format!("{:?}", ClientOptions::new("https://127.0.0.1:8443", credentials));
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }

    fn from(variables: &[(&str, &str)]) -> Result<ClientOptions, Error> {
        ClientOptions::from_variables(|name| {
            variables.iter().find(|(given, _)| *given == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_environment_provides_address_authority_and_credentials() {
        let authority = std::env::temp_dir().join(format!("warrengate-client-{}.pem", std::process::id()));
        std::fs::write(&authority, "a certificate").expect("written");
        let path = authority.to_str().expect("text");
        let secret = [
            ("WARRENGATE_ENDPOINT", "https://gateway:8443"),
            ("WARRENGATE_CA", path),
            ("WARRENGATE_CLIENT_ID", "acme.app"),
            ("WARRENGATE_CLIENT_SECRET", "hunter2"),
        ];
        let options = from(&secret).expect("options");
        std::fs::remove_file(&authority).expect("removed");
        assert_eq!(options.endpoint, "https://gateway:8443");
        assert_eq!(options.ca_certificate.as_deref(), Some("a certificate"));
        assert!(matches!(options.credentials, Credentials::Secret { client_id, .. } if client_id == "acme.app"));

        let token = [secret[0], secret[2], secret[3], ("WARRENGATE_TOKEN", "a.b.c"), ("WARRENGATE_CA", "")];
        let options = from(&token).expect("options");
        assert!(options.ca_certificate.is_none());
        assert!(matches!(options.credentials, Credentials::Token(_)), "a token has precedence");
    }

    #[test]
    fn a_missing_variable_is_named() {
        let missing = |variables: &[(&str, &str)]| match from(variables) {
            Err(Error::MissingVariable(name)) => name,
            other => panic!("{other:?}"),
        };
        assert_eq!(missing(&[("WARRENGATE_TOKEN", "a.b.c")]), "WARRENGATE_ENDPOINT");
        assert_eq!(missing(&[("WARRENGATE_ENDPOINT", "https://g")]), "WARRENGATE_CLIENT_ID");
        let named = [("WARRENGATE_ENDPOINT", "https://g"), ("WARRENGATE_CLIENT_ID", "acme.app")];
        assert_eq!(missing(&named), "WARRENGATE_CLIENT_SECRET");
        let file =
            [("WARRENGATE_ENDPOINT", "https://g"), ("WARRENGATE_TOKEN", "t"), ("WARRENGATE_CA", "/no/such/file")];
        let error = from(&file).expect_err("no file");
        assert!(matches!(&error, Error::CertificateFile { path, .. } if path == "/no/such/file"), "{error}");
    }
}
