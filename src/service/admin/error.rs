//! Errors of administration: those of the modules that it uses, and its own refusals.

use std::{borrow::Cow, time::Duration};

use crate::{
    auth, broker,
    error::{Classify, Failure, Kind},
    names, provision, store, tenant,
};

/// Why an administrative call failed.
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
    /// The operation succeeded as far as is known, but could not be recorded.
    #[error(
        "the operation was done, but could not be recorded because the gateway's database became unavailable; check the result, then try again"
    )]
    NotRecorded(#[source] store::Error),
    /// A field is invalid.
    #[error("{0}")]
    Field(Failure),
    /// Only platform administrators may do this.
    #[error("only a platform administrator may do this; a tenant's administrator manages its own tenant's clients")]
    PlatformOnly,
    /// The clients belong to another tenant.
    #[error("a tenant's administrator may manage the clients of its own tenant only")]
    OtherTenant,
    /// The grants exceed those of the caller.
    #[error(
        "you can only grant or take over permissions that you have yourself; ask a platform administrator for more"
    )]
    GrantsExceedOwn,
    /// An administrator would remove its own access.
    #[error("an administrator cannot remove its own access; ask another administrator to do it")]
    RemovesOwnAccess,
    /// The object does not exist.
    #[error("this {0} does not exist")]
    NotFound(&'static str),
    /// A different tenant with this id exists.
    #[error("this tenant already exists with another display name or plan; UpdateTenant changes them")]
    TenantExists,
    /// A different plan with this name exists.
    #[error("this plan already exists with other limits; UpdatePlan changes them")]
    PlanExists,
    /// It is the default plan for new tenants.
    #[error("this is the default plan for new tenants and cannot be deleted; its limits can be changed")]
    DefaultPlan,
    /// The client exists.
    #[error(
        "this client already exists; its secret was shown when it was created, RotateClientSecret creates a new one"
    )]
    ClientExists,
    /// The client was permanently revoked.
    #[error("this client has been permanently revoked; create another one, or delete it to use its id again")]
    ClientRevoked,
    /// It uses tokens of an external issuer.
    #[error(
        "this client uses tokens of an external issuer and has no secret; bind it to the gateway first (issuer \"\")"
    )]
    ExternalClient,
    /// The administrators of a tenant make too many calls.
    #[error("the tenant's administrators make too many calls; try again in a moment")]
    TooManyCalls {
        /// When the next call is allowed.
        retry_after: Duration,
    },
    /// A client has the maximum number of watches.
    #[error("this client has 10 open watches on this gateway, which is the maximum; close one")]
    TooManyWatches,
    /// A concurrent change by another administrator.
    #[error("another administrator changed it at the same time; check it and try again")]
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

/// Adds the field to an error of a name or text in the request.
pub(super) fn named<T>(field: &'static str, parsed: Result<T, names::Error>) -> Result<T, Error> {
    parsed.map_err(|e| Error::Field(Failure::from(e).on_field(field)))
}

/// An error for an invalid field.
pub(super) fn invalid(field: impl Into<Cow<'static, str>>, message: impl Into<Cow<'static, str>>) -> Error {
    Error::Field(Failure::invalid(field, message))
}

impl Classify for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Field(failure) => failure.kind,
            Self::PlatformOnly | Self::OtherTenant | Self::GrantsExceedOwn => Kind::Denied,
            Self::RemovesOwnAccess | Self::ClientRevoked | Self::DefaultPlan | Self::ExternalClient => {
                Kind::Precondition
            }
            Self::TooManyCalls { .. } | Self::TooManyWatches => Kind::Exhausted,
            Self::NotFound(_) => Kind::NotFound,
            Self::TenantExists | Self::ClientExists | Self::PlanExists => Kind::AlreadyExists,
            Self::Aborted => Kind::Aborted,
            Self::NotRecorded(_) => Kind::Unavailable,
            _ => self.inner().map_or(Kind::Internal, Classify::kind),
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::Field(failure) => failure.reason,
            Self::PlatformOnly => "PLATFORM_ADMINISTRATORS_ONLY",
            Self::OtherTenant => "CLIENTS_OF_OTHER_TENANT",
            Self::GrantsExceedOwn => "GRANTS_EXCEED_OWN",
            Self::RemovesOwnAccess => "REMOVES_OWN_ACCESS",
            Self::ClientRevoked => "CLIENT_REVOKED_PERMANENTLY",
            Self::ExternalClient => "EXTERNAL_CLIENT",
            Self::TooManyCalls { .. } => "TOO_MANY_ADMIN_CALLS",
            Self::TooManyWatches => "TOO_MANY_WATCHES",
            Self::NotFound("signing key") => "KEY_NOT_FOUND",
            Self::NotFound("tenant") => "TENANT_NOT_FOUND",
            Self::NotFound("client") => "CLIENT_NOT_FOUND",
            Self::NotFound("plan") => "PLAN_NOT_FOUND",
            Self::NotFound("stream") => "STREAM_NOT_FOUND",
            Self::NotFound(_) => "NOT_FOUND",
            Self::TenantExists => "TENANT_EXISTS",
            Self::ClientExists => "CLIENT_EXISTS",
            Self::PlanExists => "PLAN_EXISTS",
            Self::DefaultPlan => "PLAN_IN_USE",
            Self::Aborted => "CHANGED_MEANWHILE",
            Self::NotRecorded(_) => "NOT_RECORDED",
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
