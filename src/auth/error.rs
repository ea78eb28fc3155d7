//! Authentication errors. Callers get the same sentence for every reason for which a token can be refused; the reason
//! itself is only in the log and the audit trail.

use std::{borrow::Cow, time::Duration};

use crate::{
    error::{Classify, Kind},
    names, store,
};

/// Why authentication failed or grants were not accepted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The call requires a token and has none.
    #[error("no token")]
    TokenMissing,
    /// The token is not valid.
    #[error("invalid token: {why}")]
    TokenInvalid {
        /// For logs.
        why: &'static str,
        /// The library's error, for logs.
        #[source]
        source: Option<jsonwebtoken::errors::Error>,
    },
    /// The token was valid but has expired.
    #[error("expired token")]
    TokenExpired,
    /// The client does not exist, was revoked, or has a different secret.
    #[error("unknown client or wrong secret")]
    InvalidClientCredentials,
    /// The credentials are correct, but the tenant is suspended.
    #[error("the tenant is suspended")]
    TenantSuspended,
    /// Too many secrets are waiting to be checked.
    #[error("too many pending secret checks")]
    Busy {
        /// When a retry is likely to succeed.
        retry_after: Duration,
    },
    /// Too many failed logins from this address or for this client.
    #[error("too many failed logins")]
    Throttled {
        /// When the next attempt is allowed.
        retry_after: Duration,
    },
    /// The client requests tokens far more often than necessary.
    #[error("too many token requests of this client")]
    TooManyTokens {
        /// When the next token can be requested.
        retry_after: Duration,
    },
    /// The requested lifetime is too short or too long.
    #[error("a lifetime of {requested:?} is not between one minute and {max:?}")]
    Lifetime {
        /// The requested lifetime.
        requested: Duration,
        /// The longest lifetime that is allowed.
        max: Duration,
    },
    /// A pattern is malformed.
    #[error("grants: {field}: {source}")]
    Pattern {
        /// The field of the grants.
        field: String,
        /// What is wrong with it.
        #[source]
        source: names::Error,
    },
    /// The grants do not fit into a token.
    #[error("the grants need {len} bytes in a token; at most {max} are allowed")]
    GrantsTooLarge {
        /// The size of the grants in bytes.
        len: usize,
        /// The maximum size in bytes.
        max: usize,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// An internal error.
    #[error("internal: {0}")]
    Internal(&'static str),
}

impl Error {
    pub(super) const fn invalid(why: &'static str) -> Self {
        Self::TokenInvalid { why, source: None }
    }

    /// Why a token was refused. For the operator only: callers get the same sentence for all reasons.
    pub fn operator_reason(&self) -> Option<&'static str> {
        if let Self::TokenInvalid { why, .. } = self { Some(why) } else { None }
    }
}

impl From<jsonwebtoken::errors::Error> for Error {
    fn from(source: jsonwebtoken::errors::Error) -> Self {
        use jsonwebtoken::errors::ErrorKind as E;
        let why = match source.kind() {
            E::ExpiredSignature => return Self::TokenExpired,
            E::InvalidSignature => "the signature is wrong",
            E::InvalidAudience => "another audience",
            E::InvalidIssuer => "another issuer",
            E::ImmatureSignature => "not yet valid",
            E::MissingRequiredClaim(_) => "a claim is missing",
            E::InvalidAlgorithm => "another algorithm",
            _ => "malformed",
        };
        Self::TokenInvalid { why, source: Some(source) }
    }
}

impl Classify for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::TokenMissing | Self::TokenInvalid { .. } | Self::TokenExpired | Self::InvalidClientCredentials => {
                Kind::Unauthenticated
            }
            Self::TenantSuspended => Kind::Denied,
            Self::Busy { .. } | Self::Throttled { .. } | Self::TooManyTokens { .. } => Kind::Exhausted,
            Self::Lifetime { .. } | Self::Pattern { .. } | Self::GrantsTooLarge { .. } => Kind::Invalid,
            Self::Store(error) => error.kind(),
            Self::Internal(_) => Kind::Internal,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::TokenMissing => "TOKEN_MISSING",
            Self::TokenInvalid { .. } => "TOKEN_INVALID",
            Self::TokenExpired => "TOKEN_EXPIRED",
            Self::InvalidClientCredentials => "INVALID_CLIENT_CREDENTIALS",
            Self::TenantSuspended => "TENANT_SUSPENDED",
            Self::Busy { .. } => "TOO_MANY_SECRET_CHECKS",
            Self::Throttled { .. } => "TOO_MANY_WRONG_SECRETS",
            Self::TooManyTokens { .. } => "TOO_MANY_TOKENS",
            Self::Lifetime { .. } => "INVALID_LIFETIME",
            Self::Pattern { .. } => "INVALID_PATTERN",
            Self::GrantsTooLarge { .. } => "GRANTS_TOO_LARGE",
            Self::Store(error) => error.reason(),
            Self::Internal(_) => "INTERNAL",
        }
    }

    fn message(&self) -> Cow<'static, str> {
        match self {
            Self::TokenMissing => "a token is required: send the header \"authorization: Bearer <token>\"".into(),
            Self::TokenInvalid { .. } => "the token is not valid; fetch a new one".into(),
            Self::TokenExpired => "the token has expired; fetch a new one".into(),
            Self::InvalidClientCredentials => "the client id is unknown, or the secret is wrong".into(),
            Self::TenantSuspended => "the tenant is suspended; ask the platform's administrator".into(),
            Self::Busy { .. } => "too many clients are requesting tokens; try again in a second".into(),
            Self::Throttled { .. } => {
                "too many failed logins from this address or for this client; try again later".into()
            }
            Self::TooManyTokens { .. } => {
                "this client fetches tokens too often; keep a token until shortly before it expires".into()
            }
            Self::Lifetime { max, .. } => {
                format!("the lifetime must be between 60 and {} seconds; omit it for the maximum", max.as_secs()).into()
            }
            Self::Pattern { source, .. } => source.to_string().into(),
            Self::GrantsTooLarge { .. } => self.to_string().into(),
            Self::Store(error) => error.message(),
            Self::Internal(_) => "internal error; see the gateway's log".into(),
        }
    }

    fn field(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::Lifetime { .. } => Some("lifetime".into()),
            Self::Pattern { field, .. } => Some(field.clone().into()),
            Self::GrantsTooLarge { .. } => Some("client.grants".into()),
            Self::Store(error) => error.field(),
            _ => None,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy { retry_after } | Self::Throttled { retry_after } | Self::TooManyTokens { retry_after } => {
                Some(*retry_after)
            }
            Self::Store(error) => error.retry_after(),
            _ => None,
        }
    }
}
