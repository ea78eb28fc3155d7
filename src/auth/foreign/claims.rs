//! What a foreign token says, in our words. Claims whose signature was checked enter; a caller leaves, of the tenant that the
//! configuration allows this issuer to speak for.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::{
    auth::{Caller, Error, Grants},
    config::{IssuerConfig, TenantSource},
    names::{ClientId, ClientName, DEFAULT_EXCHANGE, TenantId},
    pb,
};

/// A longer id is anybody's text, and not kept.
const MAX_TOKEN_ID: usize = 64;

pub(super) fn caller(config: &IssuerConfig, leeway: Duration, claims: &Value) -> Result<Caller, Error> {
    // The library takes a list that holds the right one; a token has one issuer.
    if claims.get("iss").and_then(Value::as_str) != Some(&config.issuer) {
        return Err(Error::invalid("another issuer"));
    }
    let client = client(config, claims)?;
    let issued = moment(claims, "iat")?;
    if issued > SystemTime::now() + leeway {
        return Err(Error::invalid("issued in the future"));
    }
    let grants = grants(at(claims, &config.grants_claim))?;
    let id = claims.get("jti").and_then(Value::as_str).unwrap_or_default();
    let is_plain = id.len() <= MAX_TOKEN_ID && id.bytes().all(|byte| byte.is_ascii_graphic());
    let id = if is_plain { id.to_owned() } else { String::new() };
    Ok(Caller::new(client, grants, issued, moment(claims, "exp")?, id))
}

/// A claim at the top, or further in by a JSON pointer (RFC 6901).
fn at<'a>(claims: &'a Value, name: &str) -> Option<&'a Value> {
    claims.get(name).or_else(|| claims.pointer(name))
}

/// A platform administrator has no tenant, so none comes out of here.
fn client(config: &IssuerConfig, claims: &Value) -> Result<ClientId, Error> {
    let text = |name: &str| at(claims, name).and_then(Value::as_str);
    let tenant = match &config.tenant {
        TenantSource::Fixed(tenant) => tenant.clone(),
        TenantSource::Claim(name) => text(name)
            .and_then(|tenant| TenantId::parse(tenant).ok())
            .ok_or(Error::invalid("the tenant's claim names none"))?,
    };
    let name = text(&config.client_claim).ok_or(Error::invalid("the client's claim is no text"))?;
    let client = match name.contains('.') {
        true => ClientId::parse(name).ok(),
        false => ClientName::parse(name).ok().map(|name| ClientId::of_tenant(&tenant, &name)),
    };
    client.filter(|client| client.tenant() == Some(&tenant)).ok_or(Error::invalid("the client's claim names none"))
}

/// A NumericDate (RFC 7519): seconds, perhaps with a fraction.
fn moment(claims: &Value, name: &str) -> Result<SystemTime, Error> {
    let seconds = claims.get(name).and_then(Value::as_f64).ok_or(Error::invalid("a time is no number"))?;
    let since = Duration::try_from_secs_f64(seconds).map_err(|_| Error::invalid("a time out of range"))?;
    UNIX_EPOCH.checked_add(since).ok_or(Error::invalid("a time out of range"))
}

/// None, our own short form, or words as a scope has them; words that are not ours are somebody else's.
fn grants(claim: Option<&Value>) -> Result<Grants, Error> {
    let invalid = || Error::invalid("its grants are none");
    let grants = match claim {
        None | Some(Value::Null) => Grants::default(),
        Some(form @ Value::Object(_)) => Grants::from_json(&form.to_string()).map_err(|_| invalid())?,
        Some(Value::String(words)) => from_words(words.split_whitespace())?,
        Some(Value::Array(words)) => {
            let words: Option<Vec<_>> = words.iter().map(Value::as_str).collect();
            from_words(words.ok_or_else(invalid)?.into_iter())?
        }
        Some(_) => return Err(invalid()),
    };
    if grants.administers() {
        return Err(Error::invalid("administration is not granted from outside"));
    }
    Ok(grants)
}

fn from_words<'a>(words: impl Iterator<Item = &'a str>) -> Result<Grants, Error> {
    let mut grants = pb::Grants::default();
    for word in words {
        match word.split_once(':') {
            Some(("publish", place)) => {
                let (exchange, key) = place.split_once(':').ok_or(Error::invalid("a grant to publish names no key"))?;
                let exchange = if exchange.is_empty() { DEFAULT_EXCHANGE } else { exchange };
                let (exchange, routing_key) = (exchange.to_owned(), key.to_owned());
                grants.publish.push(pb::PublishGrant { exchange, routing_key });
            }
            Some(("subscribe", pattern)) => grants.subscribe.push(pattern.to_owned()),
            Some(("configure", pattern)) => grants.configure.push(pattern.to_owned()),
            _ => {}
        }
    }
    Grants::parse(&grants).map_err(|_| Error::invalid("its grants are none"))
}
