//! What a connection needs. Text of the application's own enters (an address, a CA, credentials); what leaves are options
//! whose `Debug` shows no secret. They are checked when the client connects.

use std::time::Duration;

use secrecy::SecretString;

/// Who the client is.
#[derive(Clone)]
pub enum Credentials {
    /// A client id and its secret: the client fetches tokens and renews them in time.
    Secret {
        /// For example `acme.worker`.
        client_id: String,
        /// As it was shown when the client was made.
        secret: SecretString,
    },
    /// A ready token, without "Bearer". It cannot be renewed; [`crate::client::Client::set_token`] puts a newer one in its
    /// place.
    Token(SecretString),
    /// Nobody: no token is sent. Only `Auth.IssueToken`, health and reflection answer.
    Anonymous,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Secret { client_id, .. } => {
                f.debug_struct("Secret").field("client_id", client_id).finish_non_exhaustive()
            }
            Self::Token(_) => f.write_str("Token(..)"),
            Self::Anonymous => f.write_str("Anonymous"),
        }
    }
}

/// Where the gateway is and who connects.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    pub(super) endpoint: String,
    pub(super) ca_certificate: Option<String>,
    pub(super) server_name: Option<String>,
    pub(super) credentials: Credentials,
    pub(super) connect_timeout: Duration,
    pub(super) token_lifetime: Option<Duration>,
}

impl ClientOptions {
    /// The gateway's address, for example `https://127.0.0.1:8443`, and who connects. `http://` is taken for loopback
    /// addresses only, since a token in the clear is anybody's.
    pub fn new(endpoint: impl Into<String>, credentials: Credentials) -> Self {
        Self {
            endpoint: endpoint.into(),
            ca_certificate: None,
            server_name: None,
            credentials,
            connect_timeout: Duration::from_secs(5),
            token_lifetime: None,
        }
    }

    /// The authorities that may have signed the gateway's certificate: one or more PEM certificates. Required for
    /// `https://`; the system's bundle can be given as well as a private CA.
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

    /// How long making a connection may take. Default: 5 s.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long each token should live, 1 minute to the issuer's limit. Default: the limit.
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
        ] {
            let shown = format!("{:?}", ClientOptions::new("https://127.0.0.1:8443", credentials));
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }
}
