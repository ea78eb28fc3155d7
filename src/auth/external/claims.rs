//! Conversion of an external token's claims to a caller: a client of a tenant for which the configuration accepts this
//! issuer, or a platform administrator.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::{ExternalIssuer, roles};
use crate::{
    auth::{Caller, Error},
    config::TenantSource,
    names::{ClientId, ClientName, TenantId},
};

/// The maximum length of a token id that is kept.
const MAX_TOKEN_ID: usize = 64;

/// Converts claims whose signature has been verified.
pub(super) fn caller(issuer: &ExternalIssuer, claims: &Value) -> Result<Caller, Error> {
    let config = &issuer.config;
    if claims.get("iss").and_then(Value::as_str) != Some(&config.issuer) {
        return Err(Error::invalid("another issuer"));
    }
    let is_meant = match claims.get("aud") {
        Some(Value::String(audience)) => *audience == config.audience,
        Some(Value::Array(audiences)) => audiences.iter().any(|audience| audience.as_str() == Some(&config.audience)),
        _ => false,
    };
    if !is_meant {
        return Err(Error::invalid("a different or missing audience"));
    }
    let times = Times::of(issuer, claims)?;
    let client = client(issuer, claims)?;
    let grants = roles::grants(config, claims, client.tenant().is_none())?;
    let id = claims.get("jti").and_then(Value::as_str).unwrap_or_default();
    let is_plain = id.len() <= MAX_TOKEN_ID && id.bytes().all(|byte| byte.is_ascii_graphic());
    let id = if is_plain { id.to_owned() } else { String::new() };
    Ok(Caller::of_external(client, issuer.name.clone(), grants, times.issued, times.expires, id))
}

/// A top-level claim, or a nested one by a JSON pointer (RFC 6901).
pub(super) fn at<'a>(claims: &'a Value, name: &str) -> Option<&'a Value> {
    claims.get(name).or_else(|| claims.pointer(name))
}

struct Times {
    issued: SystemTime,
    expires: SystemTime,
}

impl Times {
    fn of(issuer: &ExternalIssuer, claims: &Value) -> Result<Self, Error> {
        let (now, leeway) = (SystemTime::now(), issuer.leeway);
        let (issued, is_whole) = required(claims, "iat")?;
        if issued > now + leeway {
            return Err(Error::invalid("issued in the future"));
        }
        let (expires, _) = required(claims, "exp")?;
        if expires + leeway <= now {
            return Err(Error::TokenExpired);
        }
        if let Some((not_before, _)) = moment(claims, "nbf")?
            && not_before > now + leeway
        {
            return Err(Error::invalid("not yet valid"));
        }
        let max = issuer.config.max_token_lifetime;
        if expires.duration_since(issued).unwrap_or_default() > max || expires > now + max + leeway {
            return Err(Error::invalid("it is valid for longer than max_token_lifetime"));
        }
        // A time in whole seconds counts as the end of that second, because the client may have been created within
        // it.
        let issued = if is_whole { issued + Duration::from_millis(999) } else { issued };
        Ok(Self { issued, expires })
    }
}

fn required(claims: &Value, name: &str) -> Result<(SystemTime, bool), Error> {
    moment(claims, name)?.ok_or(Error::invalid("iat or exp is missing"))
}

/// A NumericDate (RFC 7519) in seconds, up to the year 9999, and whether it is a whole number.
fn moment(claims: &Value, name: &str) -> Result<Option<(SystemTime, bool)>, Error> {
    const END_OF_9999: f64 = 253_402_300_800.0;
    let Some(claim) = claims.get(name).filter(|claim| !claim.is_null()) else { return Ok(None) };
    let seconds = claim.as_f64().ok_or(Error::invalid("a time is not a number"))?;
    if !(0.0..END_OF_9999).contains(&seconds) {
        return Err(Error::invalid("a time is out of range"));
    }
    let since = Duration::try_from_secs_f64(seconds).map_err(|_| Error::invalid("a time is out of range"))?;
    Ok(Some((UNIX_EPOCH + since, since.subsec_nanos() == 0)))
}

/// The client that the token names. A client without a tenant is a platform administrator, so the result is one only if
/// the configuration allows that.
fn client(issuer: &ExternalIssuer, claims: &Value) -> Result<ClientId, Error> {
    let config = &issuer.config;
    let tenant = match &config.tenant {
        TenantSource::Fixed(tenant) => Some(tenant.clone()),
        TenantSource::Platform => None,
        TenantSource::Claim(name) => match at(claims, name).filter(|claim| !claim.is_null()) {
            None if config.allow_platform_administration => None,
            claim => Some(
                claim
                    .and_then(Value::as_str)
                    .and_then(|tenant| TenantId::parse(tenant).ok())
                    .ok_or(Error::invalid("the tenant claim is not a tenant id"))?,
            ),
        },
    };
    let name = at(claims, &config.client_claim)
        .and_then(Value::as_str)
        .ok_or(Error::invalid("the client claim is missing or not a string"))?;
    let bound = issuer.clients.load();
    if let Some(client) = bound.by_external_id.get(&(tenant.clone(), name.to_owned())) {
        return Ok(client.clone());
    }
    let client = match &tenant {
        Some(tenant) if !name.contains('.') => {
            ClientName::parse(name).ok().map(|name| ClientId::of_tenant(tenant, &name))
        }
        _ => ClientId::parse(name).ok(),
    };
    client.filter(|client| client.tenant() == tenant.as_ref() && !bound.with_external_id.contains(client)).ok_or(
        Error::invalid(
            "the client claim does not match a client of the tenant: bind one with \"client update --external-id\"",
        ),
    )
}
