//! Names of exchanges and queues, and routing keys, in a tenant's vhost.
//!
//! Invariant: none of them refers to an object of the gateway (`wg.`), and each fits into an AMQP short string (255
//! bytes), which lapin requires.

use std::sync::Arc;

use super::{Error, length, text_accessors};

/// The default exchange in grants; its AMQP name is empty.
pub const DEFAULT_EXCHANGE: &str = "amq.default";

/// Shorter than 255 bytes, because the gateway derives longer names from a tenant's.
const MAX_NAME: usize = 200;
const MAX_SHORT_STRING: usize = 255;
const BUILT_IN: [&str; 5] = ["amq.direct", "amq.topic", "amq.fanout", "amq.headers", "amq.match"];

fn plain(text: &str) -> Result<(), Error> {
    length(text, MAX_NAME)?;
    if text.bytes().all(|b| b == b'.') {
        // Such a name would change the path of a URL.
        return Err(Error::Form("must not consist of dots only"));
    }
    if text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':')) {
        Ok(())
    } else {
        Err(Error::Form("must be letters, digits, \"-\", \"_\", \".\" and \":\""))
    }
}

fn is_reserved(text: &str) -> bool {
    let starts = |prefix: &str| text.get(..prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(prefix));
    starts("wg.") || starts("amq.")
}

/// An exchange in the tenant's vhost: one of its own, one of the built-in ones, or the default one (empty).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExchangeName(Arc<str>);
text_accessors!(ExchangeName);

impl ExchangeName {
    /// An exchange to publish to or bind from: its own, a built-in one, or the default one when the text is empty.
    ///
    /// # Errors
    /// When the text is too long, has other characters, or is reserved.
    pub fn parse(text: &str) -> Result<Self, Error> {
        match text {
            // The most frequent case, without an allocation.
            "" => Ok(Self(Arc::default())),
            _ if BUILT_IN.contains(&text) => Ok(Self(text.into())),
            _ => Self::own(text),
        }
    }

    /// An exchange that the tenant may declare or delete.
    ///
    /// # Errors
    /// As [`Self::parse`], and for the built-in ones and the default one.
    pub fn own(text: &str) -> Result<Self, Error> {
        plain(text)?;
        if is_reserved(text) { Err(Error::Reserved) } else { Ok(Self(text.into())) }
    }

    /// One of the gateway's own exchanges, for messages that it publishes itself.
    pub(crate) fn of_gateway(name: &'static str) -> Self {
        Self(name.into())
    }

    /// Whether this is the default exchange.
    pub fn is_default(&self) -> bool {
        self.0.is_empty()
    }

    /// The name in grants: `amq.default` for the default exchange.
    pub fn in_grants(&self) -> &str {
        if self.0.is_empty() { DEFAULT_EXCHANGE } else { &self.0 }
    }
}

/// A queue in the tenant's vhost.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueName(Arc<str>);
text_accessors!(QueueName);

impl QueueName {
    /// # Errors
    /// When the text is empty, too long, has other characters, or is reserved.
    pub fn parse(text: &str) -> Result<Self, Error> {
        plain(text)?;
        if is_reserved(text) { Err(Error::Reserved) } else { Ok(Self(text.into())) }
    }
}

/// A routing key: any text of at most 255 bytes without control characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoutingKey(Arc<str>);
text_accessors!(RoutingKey);

impl RoutingKey {
    /// # Errors
    /// When the text is too long or has control characters.
    pub fn parse(text: &str) -> Result<Self, Error> {
        Self::check(text).map(|()| Self(text.into()))
    }

    /// The check of [`Self::parse`] without an allocation, for the hot path.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn check(text: &str) -> Result<(), Error> {
        if text.len() > MAX_SHORT_STRING {
            return Err(Error::TooLong { len: text.len(), max: MAX_SHORT_STRING });
        }
        if text.chars().any(char::is_control) {
            return Err(Error::Form("must not have control characters"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_gateway_and_the_broker_are_refused_in_any_case() {
        for bad in ["wg.dead-letters", "WG.x", "amq.gen-1", "Amq.direct"] {
            assert_eq!(QueueName::parse(bad), Err(Error::Reserved), "{bad}");
            assert_eq!(ExchangeName::own(bad), Err(Error::Reserved), "{bad}");
        }
        assert!(QueueName::parse("..").is_err() && ExchangeName::parse(".").is_err());
        assert!(QueueName::parse("wg").is_ok());
        assert!(QueueName::parse("wgx.dead").is_ok());
    }

    #[test]
    fn built_in_exchanges_can_be_used_but_not_declared() {
        assert!(ExchangeName::parse("amq.topic").is_ok());
        assert!(ExchangeName::own("amq.topic").is_err());
        assert!(ExchangeName::parse("amq.rabbitmq.trace").is_err());
        assert_eq!(ExchangeName::parse("").expect("default").in_grants(), "amq.default");
    }

    #[test]
    fn lengths_are_counted_in_bytes() {
        assert_eq!(RoutingKey::parse(&"é".repeat(128)), Err(Error::TooLong { len: 256, max: 255 }));
        assert!(RoutingKey::parse(&"a".repeat(255)).is_ok());
        assert_eq!(QueueName::parse(&"q".repeat(300)), Err(Error::TooLong { len: 300, max: 200 }));
    }
}
