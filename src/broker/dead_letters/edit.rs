//! Changes to a dead letter that is sent again.

use bytes::Bytes;

use crate::{
    broker::publish::pending,
    error::Failure,
    names::{ExchangeName, RoutingKey},
};

/// What differs from the dead letter; by default nothing.
#[derive(Debug, Clone, Default)]
pub struct DeadLetterEdit {
    /// Another body.
    pub body: Option<Bytes>,
    /// Another destination than its original queue.
    pub destination: Option<NewDestination>,
}

/// An exchange and a routing key that a tenant may publish to, if its grants allow it.
#[derive(Debug, Clone)]
pub struct NewDestination {
    pub(super) exchange: ExchangeName,
    pub(super) routing_key: RoutingKey,
}

impl NewDestination {
    /// # Errors
    /// When a name is not valid, or the destination is a queue of the gateway.
    pub fn check(exchange: &str, routing_key: &str) -> Result<Self, Failure> {
        let exchange = ExchangeName::parse(exchange).map_err(|error| Failure::from(error).on_field("exchange"))?;
        let key = RoutingKey::parse(routing_key).map_err(|error| Failure::from(error).on_field("routing_key"))?;
        if exchange.is_default() && pending::is_of_gateway(key.as_str()) {
            return Err(Failure::from(crate::names::Error::Reserved).on_field("routing_key"));
        }
        Ok(Self { exchange, routing_key: key })
    }

    /// The exchange, as grants write it.
    pub fn exchange_in_grants(&self) -> &str {
        self.exchange.in_grants()
    }

    /// The routing key.
    pub fn routing_key(&self) -> &str {
        self.routing_key.as_str()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_of_the_gateway_is_not_a_destination() {
        for (exchange, key) in [("", "wg.dead-letters"), ("", "WG.delay.1"), ("wg.return", "jobs"), ("bad name", "")] {
            assert!(NewDestination::check(exchange, key).is_err(), "{exchange:?} {key:?}");
        }
        let destination = NewDestination::check("", "jobs").expect("valid");
        assert_eq!((destination.exchange_in_grants(), destination.routing_key()), ("amq.default", "jobs"));
        assert!(NewDestination::check("amq.topic", "wg.x").is_ok(), "a key of a topic exchange names no queue");
    }
}
