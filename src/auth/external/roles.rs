//! Grants of an external token: scope words, and roles or groups that the configuration maps to such words.

use serde_json::Value;

use super::claims::at;
use crate::{
    auth::{Error, Grants},
    config::IssuerConfig,
    names::DEFAULT_EXCHANGE,
    pb,
};

/// The grants of the token; `None` if it has no grants claim, so that the store alone decides. The token of a platform
/// administrator must grant administration itself.
pub(super) fn grants(config: &IssuerConfig, claims: &Value, is_platform: bool) -> Result<Option<Grants>, Error> {
    let grants = claimed(config, claims)?;
    let administers = grants.as_ref().is_some_and(Grants::administers);
    if is_platform && !administers {
        return Err(Error::invalid("it has no tenant, and its grants claim or roles do not grant \"administer\""));
    }
    if administers && !is_platform && !config.allow_administration {
        return Err(Error::invalid("the token grants administration, but allow_administration is off for this issuer"));
    }
    Ok(grants)
}

fn claimed(config: &IssuerConfig, claims: &Value) -> Result<Option<Grants>, Error> {
    let malformed = || Error::invalid("the grants claim is malformed");
    let claim = at(claims, &config.grants_claim).filter(|claim| !claim.is_null());
    let words = match claim {
        Some(form @ Value::Object(_)) => {
            return Grants::from_json(&form.to_string()).map(Some).map_err(|_| malformed());
        }
        Some(claim) => Some(list(claim).ok_or_else(malformed)?),
        None => None,
    };
    let roles = match &config.roles_claim {
        Some(name) => {
            let roles = at(claims, name).filter(|claim| !claim.is_null()).map(list);
            Some(roles.unwrap_or(Some(Vec::new())).ok_or(Error::invalid("the roles claim is malformed"))?)
        }
        None => None,
    };
    if words.is_none() && roles.is_none() {
        return Ok(None);
    }
    let of_roles = roles.iter().flatten().filter_map(|role| config.roles.get(*role)).flatten().map(String::as_str);
    from_words(words.into_iter().flatten().chain(of_roles)).map(Some)
}

/// A claim that is a string of words or a list of strings.
fn list(claim: &Value) -> Option<Vec<&str>> {
    match claim {
        Value::String(words) => Some(words.split_whitespace().collect()),
        Value::Array(words) => words.iter().map(Value::as_str).collect(),
        _ => None,
    }
}

/// Words that are not grants are ignored, because a scope usually contains others.
pub(super) fn from_words<'a>(words: impl Iterator<Item = &'a str>) -> Result<Grants, Error> {
    let mut grants = pb::Grants::default();
    for word in words {
        match word.split_once(':') {
            Some(("publish", place)) => {
                let (exchange, key) =
                    place.split_once(':').ok_or(Error::invalid("a publish grant has no routing key"))?;
                let exchange = if exchange.is_empty() { DEFAULT_EXCHANGE } else { exchange };
                let (exchange, routing_key) = (exchange.to_owned(), key.to_owned());
                grants.publish.push(pb::PublishGrant { exchange, routing_key });
            }
            Some(("subscribe", pattern)) => grants.subscribe.push(pattern.to_owned()),
            Some(("configure", pattern)) => grants.configure.push(pattern.to_owned()),
            None if word == "administer" => grants.administer = true,
            None if word == "observe" => grants.observe = true,
            _ => {}
        }
    }
    Grants::parse(&grants).map_err(|_| Error::invalid("the grants claim contains an invalid pattern, or too many"))
}
