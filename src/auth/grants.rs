//! Grants: what a client may publish, subscribe to, configure and administer. Patterns are parsed once, and a check
//! allocates no memory.
//!
//! Invariant: empty grants allow nothing.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::Error;
use crate::{
    names::{Pattern, QueueName},
    pb,
};

/// The maximum size of grants as JSON. Together with the rest of a token they remain below 8 KiB in base64.
const MAX_JSON: usize = 4096;

/// What a client may do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grants {
    pub(super) publish: Vec<(Pattern, Pattern)>,
    pub(super) subscribe: Vec<Pattern>,
    pub(super) configure: Vec<Pattern>,
    pub(super) administer: bool,
    pub(super) observe: bool,
}

impl Grants {
    /// Administration and nothing else.
    pub fn administrator() -> Self {
        Self { administer: true, ..Self::default() }
    }

    /// Publishing, subscribing, configuring and observing everything in the tenant, without administration.
    pub fn everything() -> Self {
        let all = || Pattern::parse("#").ok();
        Self {
            publish: all().zip(all()).into_iter().collect(),
            subscribe: all().into_iter().collect(),
            configure: all().into_iter().collect(),
            administer: false,
            observe: true,
        }
    }

    /// Parses the grants of a request.
    ///
    /// # Errors
    /// When a pattern is malformed, or the grants are too large for a token.
    pub fn parse(grants: &pb::Grants) -> Result<Self, Error> {
        let publish = grants
            .publish
            .iter()
            .enumerate()
            .map(|(i, grant)| {
                Ok((
                    pattern(&grant.exchange, || format!("client.grants.publish[{i}].exchange"))?,
                    pattern(&grant.routing_key, || format!("client.grants.publish[{i}].routing_key"))?,
                ))
            })
            .collect::<Result<_, Error>>()?;
        let list = |patterns: &[String], name: &str| {
            patterns
                .iter()
                .enumerate()
                .map(|(i, text)| pattern(text, || format!("client.grants.{name}[{i}]")))
                .collect::<Result<Vec<_>, Error>>()
        };
        let parsed = Self {
            publish,
            subscribe: list(&grants.subscribe, "subscribe")?,
            configure: list(&grants.configure, "configure")?,
            administer: grants.administer,
            observe: grants.observe,
        };
        let len = parsed.to_json().len();
        if len > MAX_JSON { Err(Error::GrantsTooLarge { len, max: MAX_JSON }) } else { Ok(parsed) }
    }

    /// The grants in the API's form.
    pub fn to_pb(&self) -> pb::Grants {
        let texts = |patterns: &[Pattern]| patterns.iter().map(|pattern| pattern.as_str().to_owned()).collect();
        pb::Grants {
            publish: self
                .publish
                .iter()
                .map(|(exchange, key)| pb::PublishGrant {
                    exchange: exchange.as_str().to_owned(),
                    routing_key: key.as_str().to_owned(),
                })
                .collect(),
            subscribe: texts(&self.subscribe),
            configure: texts(&self.configure),
            administer: self.administer,
            observe: self.observe,
        }
    }

    /// The grants as an OAuth 2.0 scope, with the words that tokens of external issuers use. A pattern that contains a
    /// space cannot be represented and is omitted.
    pub fn to_scope(&self) -> String {
        let publish =
            self.publish.iter().map(|(exchange, key)| format!("publish:{}:{}", exchange.as_str(), key.as_str()));
        let subscribe = self.subscribe.iter().map(|pattern| format!("subscribe:{}", pattern.as_str()));
        let configure = self.configure.iter().map(|pattern| format!("configure:{}", pattern.as_str()));
        let administer = self.administer.then(|| "administer".to_owned());
        let observe = self.observe.then(|| "observe".to_owned());
        let words = publish.chain(subscribe).chain(configure).chain(administer).chain(observe);
        words.filter(|word| !word.contains(char::is_whitespace)).collect::<Vec<_>>().join(" ")
    }

    /// The grants in the store's form.
    pub fn to_json(&self) -> String {
        // Strings, lists and a boolean always become JSON.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Parses the result of [`Self::to_json`].
    ///
    /// # Errors
    /// When the text is anything else.
    pub fn from_json(text: &str) -> Result<Self, Error> {
        serde_json::from_str(text).map_err(|_| Error::Internal("the store contains invalid grants"))
    }

    /// Whether it may publish to this exchange (the default one is written `amq.default`) with this routing key.
    pub fn may_publish(&self, exchange_in_grants: &str, routing_key: &str) -> bool {
        self.publish.iter().any(|(exchange, key)| exchange.matches(exchange_in_grants) && key.matches(routing_key))
    }

    /// Whether there is any routing key with which it may publish to this exchange.
    pub fn may_publish_somewhere(&self, exchange_in_grants: &str) -> bool {
        self.publish.iter().any(|(exchange, _)| exchange.matches(exchange_in_grants))
    }

    /// Whether it may consume from, purge and inspect this queue.
    pub fn may_subscribe(&self, queue: &QueueName) -> bool {
        self.subscribe.iter().any(|pattern| pattern.matches(queue.as_str()))
    }

    /// Whether there is any queue that it may subscribe to.
    pub fn may_subscribe_somewhere(&self) -> bool {
        !self.subscribe.is_empty()
    }

    /// Whether it may declare, delete and bind this exchange or queue.
    pub fn may_configure(&self, name: &str) -> bool {
        self.configure.iter().any(|pattern| pattern.matches(name))
    }

    /// Whether it may administer.
    pub fn administers(&self) -> bool {
        self.administer
    }

    /// Whether it may read its tenant's usage, audit events, queue figures and open streams.
    pub fn observes(&self) -> bool {
        self.observe
    }
}

fn pattern(text: &str, field: impl FnOnce() -> String) -> Result<Pattern, Error> {
    Pattern::parse(text).map_err(|source| Error::Pattern { field: field(), source })
}

/// The short form in tokens and the store.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    p: Vec<(String, String)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    s: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    c: Vec<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    a: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    o: bool,
}

impl Serialize for Grants {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let texts = |patterns: &[Pattern]| patterns.iter().map(|pattern| pattern.as_str().to_owned()).collect();
        Form {
            p: self.publish.iter().map(|(e, k)| (e.as_str().to_owned(), k.as_str().to_owned())).collect(),
            s: texts(&self.subscribe),
            c: texts(&self.configure),
            a: self.administer,
            o: self.observe,
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Grants {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let form = Form::deserialize(deserializer)?;
        let list = |texts: Vec<String>| {
            texts.iter().map(|text| Pattern::parse(text).map_err(D::Error::custom)).collect::<Result<Vec<_>, _>>()
        };
        let publish = form
            .p
            .iter()
            .map(|(e, k)| {
                Ok((Pattern::parse(e).map_err(D::Error::custom)?, Pattern::parse(k).map_err(D::Error::custom)?))
            })
            .collect::<Result<_, D::Error>>()?;
        Ok(Self { publish, subscribe: list(form.s)?, configure: list(form.c)?, administer: form.a, observe: form.o })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Classify as _;

    fn wire() -> pb::Grants {
        pb::Grants {
            publish: vec![pb::PublishGrant { exchange: "amq.default".into(), routing_key: "jobs.#".into() }],
            subscribe: vec!["jobs.*".into()],
            configure: vec!["jobs".into()],
            administer: true,
            observe: true,
        }
    }

    #[test]
    fn no_grants_grant_nothing() {
        let none = Grants::default();
        assert!(!none.may_publish("amq.default", "x") && !none.may_configure("x"));
        assert!(!none.administers() && !none.observes());
        assert!(!none.may_subscribe(&QueueName::parse("x").expect("a name")));
        assert_eq!(none.to_json(), "{}");
        assert_eq!(Grants::from_json("{}").expect("grants"), none);
    }

    #[test]
    fn grants_allow_what_their_patterns_match_and_survive_every_conversion() {
        let grants = Grants::parse(&wire()).expect("grants");
        assert!(grants.may_publish("amq.default", "jobs.eu"));
        assert!(!grants.may_publish("orders", "jobs.eu"));
        assert!(!grants.may_publish("amq.default", "mail"));
        assert!(grants.may_subscribe(&QueueName::parse("jobs.eu").expect("a name")));
        assert!(!grants.may_subscribe(&QueueName::parse("jobs").expect("a name")));
        assert!(grants.may_configure("jobs") && !grants.may_configure("jobs.eu") && grants.administers());
        assert_eq!(Grants::from_json(&grants.to_json()).expect("grants"), grants);
        assert_eq!(grants.to_pb(), wire());
        assert_eq!(grants.to_scope(), "publish:amq.default:jobs.# subscribe:jobs.* configure:jobs administer observe");
        assert_eq!(
            grants.to_json(),
            r##"{"p":[["amq.default","jobs.#"]],"s":["jobs.*"],"c":["jobs"],"a":true,"o":true}"##
        );
        let all = Grants::everything();
        assert!(all.may_publish("any", "") && all.may_configure("x.y") && !all.administers());
    }

    #[test]
    fn a_bad_pattern_is_named_and_too_many_are_refused() {
        let mut bad = wire();
        bad.publish[0].routing_key = "a*".into();
        let error = Grants::parse(&bad).expect_err("refused");
        assert_eq!(error.field().as_deref(), Some("client.grants.publish[0].routing_key"));
        let mut many = wire();
        many.subscribe = (0..1000).map(|i| format!("queue-{i}")).collect();
        assert_eq!(Grants::parse(&many).expect_err("refused").reason(), "GRANTS_TOO_LARGE");
        assert!(Grants::from_json(r#"{"p":[["a*","b"]]}"#).is_err());
        assert!(Grants::from_json(r#"{"x":1}"#).is_err());
    }
}
