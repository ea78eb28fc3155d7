//! The grants in force: what both a caller's token and the store allow at this moment. A grant that was taken away in the store
//! is gone as soon as the registry has read it, whatever an older token says.

use std::sync::Arc;

use crate::{auth::Grants, names::QueueName, pb};

/// A client's grants as the store has them, with the text that they were read from.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct StoredGrants {
    pub(super) json: String,
    pub(super) grants: Grants,
}

impl StoredGrants {
    /// Text that cannot be read allows nothing.
    pub(super) fn parse(json: &str) -> Arc<Self> {
        let grants = Grants::from_json(json).unwrap_or_else(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "a client's grants in the store cannot be read");
            Grants::default()
        });
        Arc::new(Self { json: json.to_owned(), grants })
    }
}

/// The grants in force when it was obtained; obtain it again rather than keep it.
#[derive(Debug)]
pub struct EffectiveGrants<'a> {
    /// None: the token leaves it to the store.
    token: Option<&'a Grants>,
    stored: arc_swap::Guard<Arc<StoredGrants>>,
}

impl<'a> EffectiveGrants<'a> {
    pub(super) fn new(token: Option<&'a Grants>, stored: arc_swap::Guard<Arc<StoredGrants>>) -> Self {
        Self { token, stored }
    }

    fn both(&self, allows: impl Fn(&Grants) -> bool) -> bool {
        allows(&self.stored.grants) && self.token.is_none_or(allows)
    }

    /// Whether it may publish to this exchange (the default one is written `amq.default`) with this routing key.
    pub fn may_publish(&self, exchange_in_grants: &str, routing_key: &str) -> bool {
        self.both(|grants| grants.may_publish(exchange_in_grants, routing_key))
    }

    /// Whether there is any routing key with which it may publish to this exchange.
    pub fn may_publish_somewhere(&self, exchange_in_grants: &str) -> bool {
        self.both(|grants| grants.may_publish_somewhere(exchange_in_grants))
    }

    /// Whether it may consume from, purge and inspect this queue.
    pub fn may_subscribe(&self, queue: &QueueName) -> bool {
        self.both(|grants| grants.may_subscribe(queue))
    }

    /// Whether there is any queue that it may subscribe to.
    pub fn may_subscribe_somewhere(&self) -> bool {
        self.both(Grants::may_subscribe_somewhere)
    }

    /// Whether it may declare, delete and bind this exchange or queue.
    pub fn may_configure(&self, name: &str) -> bool {
        self.both(|grants| grants.may_configure(name))
    }

    /// Whether it may administer.
    pub fn administers(&self) -> bool {
        self.both(Grants::administers)
    }

    /// Whether everything that `asked` allows is allowed by these grants.
    pub fn covers(&self, asked: &Grants) -> bool {
        self.both(|grants| grants.covers(asked))
    }

    /// As a response shows them.
    pub fn to_pb(&self) -> pb::Grants {
        match self.token {
            Some(token) => token.common_with(&self.stored.grants).to_pb(),
            None => self.stored.grants.to_pb(),
        }
    }
}
