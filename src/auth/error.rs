//! Errors of authentication. Callers get fixed sentences, the same for every reason for which a token can be refused; the reason itself
//! is for the log and the audit trail.

use std::{borrow::Cow, time::Duration};

use crate::{
    error::{Classify, Kind},
    names, store,
};

/// Why authentication failed, or grants are not accepted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The call needs a token and has none.
    #[error("no token")]
    TokenMissing,
    /// The token is not valid.
    #[error("invalid token: {why}")]
    TokenInvalid {
        /// For logs.
        why: &'static str,
        /// The library's words, for logs.
        #[source]
        source: Option<jsonwebtoken::errors::Error>,
    },
    /// The token was valid, and has expired.
    #[error("expired token")]
    TokenExpired,
    /// There is no such client, it was revoked, or the secret is another.
    #[error("unknown client or wrong secret")]
    ClientUnknownOrSecretWrong,
    /// The client is right; its tenant is suspended.
    #[error("the tenant is suspended")]
    TenantSuspended,
    /// Too many secrets wait to be checked.
    #[error("too many secret checks wait")]
    Busy {
        /// When the queue should be shorter.
        retry_after: Duration,
    },
    /// Too many wrong secrets came from there, or for this client.
    #[error("too many wrong secrets")]
    Throttled {
        /// When the next may come.
        retry_after: Duration,
    },
    /// The client fetches tokens far more often than it needs them.
    #[error("too many tokens of this client")]
    TooManyTokens {
        /// When the next may be fetched.
        retry_after: Duration,
    },
    /// The lifetime asked for is too short or too long.
    #[error("a lifetime of {asked:?} is not between one minute and {max:?}")]
    Lifetime {
        /// What was asked.
        asked: Duration,
        /// The longest that is given.
        max: Duration,
    },
    /// A pattern is malformed.
    #[error("grants: {field}: {source}")]
    Pattern {
        /// Where in the grants.
        field: String,
        /// Why.
        #[source]
        source: names::Error,
    },
    /// The grants do not fit into a token.
    #[error("the grants take {len} bytes in a token; at most {max} fit")]
    GrantsTooLarge {
        /// Bytes they take.
        len: usize,
        /// Bytes that fit.
        max: usize,
    },
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// Something that must not fail did.
    #[error("internal: {0}")]
    Internal(&'static str),
}

impl Error {
    pub(super) const fn invalid(why: &'static str) -> Self {
        Self::TokenInvalid { why, source: None }
    }

    /// Why a token was refused, for the operator only: callers get the same sentence for all reasons.
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
            Self::TokenMissing | Self::TokenInvalid { .. } | Self::TokenExpired | Self::ClientUnknownOrSecretWrong => {
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
            Self::ClientUnknownOrSecretWrong => "INVALID_CLIENT_CREDENTIALS",
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
            Self::TokenMissing => "a token is needed: send the header \"authorization: Bearer <token>\"".into(),
            Self::TokenInvalid { .. } => "the token is not valid; fetch a new one".into(),
            Self::TokenExpired => "the token has expired; fetch a new one".into(),
            Self::ClientUnknownOrSecretWrong => "the client id is not known, or the secret is wrong".into(),
            Self::TenantSuspended => "the tenant is suspended; ask the platform's administrator".into(),
            Self::Busy { .. } => "too many clients fetch a token at this moment; try again in a second".into(),
            Self::Throttled { .. } => {
                "too many wrong secrets came from this address or for this client; try again later".into()
            }
            Self::TooManyTokens { .. } => {
                "this client fetches tokens too often; keep a token until shortly before it expires".into()
            }
            Self::Lifetime { max, .. } => {
                format!("a token can live from 60 to {} seconds; leave it out for the longest", max.as_secs()).into()
            }
            Self::Pattern { source, .. } => source.to_string().into(),
            Self::GrantsTooLarge { .. } => self.to_string().into(),
            Self::Store(error) => error.message(),
            Self::Internal(_) => "the gateway failed; its log says more".into(),
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
