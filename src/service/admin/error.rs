//! Errors of administration: those of the modules that it works with, and its own refusals.

use std::{borrow::Cow, time::Duration};

use crate::{
    auth, broker,
    error::{Classify, Failure, Kind},
    names, provision, store, tenant,
};

/// Why an administrative call was not done.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The caller is not authenticated, a pattern is malformed, or a secret cannot be generated.
    #[error(transparent)]
    Auth(#[from] auth::Error),
    /// The caller may not administer.
    #[error(transparent)]
    Tenant(#[from] tenant::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The broker failed.
    #[error(transparent)]
    Broker(#[from] broker::Error),
    /// The broker's administration failed.
    #[error(transparent)]
    Provision(#[from] provision::Error),
    /// Done, as far as is known, but its record is not.
    #[error(
        "it was done, but could not be put on record, because the gateway's database went away; look, and try again"
    )]
    NotOnRecord(#[source] store::Error),
    /// A field is wrong.
    #[error("{0}")]
    Field(Failure),
    /// For platform administrators.
    #[error("only a platform administrator may do this; a tenant's administrator manages its own tenant's clients")]
    PlatformOnly,
    /// Clients of somebody else's.
    #[error("a tenant's administrator may manage the clients of its own tenant only")]
    OtherTenant,
    /// More than the caller has.
    #[error(
        "you can only give, and only take over, what you are granted yourself; a platform administrator can do more"
    )]
    GrantsExceedOwn,
    /// The last way in would be closed.
    #[error("an administrator cannot shut itself out; ask another administrator to do it")]
    ShutsItselfOut,
    /// There is no such thing.
    #[error("there is no such {0}")]
    NotFound(&'static str),
    /// There is such a tenant, and it is another one.
    #[error("there is such a tenant already, with another display name or plan; UpdateTenant changes them")]
    TenantExists,
    /// There is such a plan, and it is another one.
    #[error("there is such a plan already, with other limits; UpdatePlan changes them")]
    PlanExists,
    /// New tenants get it.
    #[error("this is the plan that a tenant gets when none is named, so it stays; its limits can be changed")]
    DefaultPlan,
    /// There is such a client.
    #[error(
        "there is such a client already; its secret was shown when it was made, RotateClientSecret makes a new one"
    )]
    ClientExists,
    /// It was revoked, for ever.
    #[error("this client has been permanently revoked; create another one, or delete it to use its id again")]
    ClientRevoked,
    /// It uses tokens of an external issuer.
    #[error(
        "this client uses tokens of an external issuer and has no secret; bind it to the gateway first (issuer \"\")"
    )]
    ExternalClient,
    /// Too many calls of a tenant's administrators.
    #[error("the tenant's administrators make too many calls; try again in a moment")]
    TooManyCalls {
        /// When the next may be made.
        retry_after: Duration,
    },
    /// Two administrators at once.
    #[error("it was changed by somebody else at the same time; check it and try again")]
    Aborted,
}

impl Error {
    fn inner(&self) -> Option<&dyn Classify> {
        Some(match self {
            Self::Auth(e) => e,
            Self::Tenant(e) => e,
            Self::Store(e) => e,
            Self::Provision(e) => e,
            _ => return None,
        })
    }
}

/// A name or text of the request, with its field.
pub(super) fn named<T>(field: &'static str, parsed: Result<T, names::Error>) -> Result<T, Error> {
    parsed.map_err(|e| Error::Field(Failure::from(e).on_field(field)))
}

/// A field that is wrong in another way.
pub(super) fn invalid(field: impl Into<Cow<'static, str>>, message: impl Into<Cow<'static, str>>) -> Error {
    Error::Field(Failure::invalid(field, message))
}

impl Classify for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Field(failure) => failure.kind,
            Self::PlatformOnly | Self::OtherTenant | Self::GrantsExceedOwn => Kind::Denied,
            Self::ShutsItselfOut | Self::ClientRevoked | Self::DefaultPlan | Self::ExternalClient => Kind::Precondition,
            Self::TooManyCalls { .. } => Kind::Exhausted,
            Self::NotFound(_) => Kind::NotFound,
            Self::TenantExists | Self::ClientExists | Self::PlanExists => Kind::AlreadyExists,
            Self::Aborted => Kind::Aborted,
            Self::NotOnRecord(_) => Kind::Unavailable,
            _ => self.inner().map_or(Kind::Internal, Classify::kind),
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Field(failure) => failure.reason,
            Self::PlatformOnly => "PLATFORM_ADMINISTRATORS_ONLY",
            Self::OtherTenant => "CLIENTS_OF_OTHER_TENANT",
            Self::GrantsExceedOwn => "GRANTS_EXCEED_OWN",
            Self::ShutsItselfOut => "SHUTS_ITSELF_OUT",
            Self::ClientRevoked => "REVOKED_FOR_EVER",
            Self::ExternalClient => "EXTERNAL_CLIENT",
            Self::TooManyCalls { .. } => "TOO_MANY_ADMIN_CALLS",
            Self::NotFound("signing key") => "KEY_NOT_FOUND",
            Self::NotFound("tenant") => "TENANT_NOT_FOUND",
            Self::NotFound("client") => "CLIENT_NOT_FOUND",
            Self::NotFound("plan") => "PLAN_NOT_FOUND",
            Self::NotFound(_) => "NOT_FOUND",
            Self::TenantExists => "TENANT_EXISTS",
            Self::ClientExists => "CLIENT_EXISTS",
            Self::PlanExists => "PLAN_EXISTS",
            Self::DefaultPlan => "PLAN_IN_USE",
            Self::Aborted => "CHANGED_MEANWHILE",
            Self::NotOnRecord(_) => "NOT_ON_RECORD",
            _ => self.inner().map_or("INTERNAL", Classify::reason),
        }
    }

    fn message(&self) -> Cow<'static, str> {
        match (self, self.inner()) {
            (Self::Field(failure), _) => failure.message.clone(),
            (_, Some(inner)) => inner.message(),
            _ => self.to_string().into(),
        }
    }

    fn field(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::Field(failure) => failure.field.clone(),
            _ => self.inner().and_then(Classify::field),
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::TooManyCalls { retry_after } => Some(*retry_after),
            _ => self.inner().and_then(Classify::retry_after),
        }
    }
}
