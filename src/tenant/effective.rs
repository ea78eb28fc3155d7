//! The grants in force: the intersection of a caller's token and the store. A grant that is removed in the store is
//! lost as soon as the registry has read it, even if an older token contains it.

use std::sync::Arc;

use crate::{auth::Grants, names::QueueName, pb};

/// A client's grants in the store, and the JSON text that they were parsed from.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct StoredGrants {
    pub(super) json: String,
    pub(super) grants: Grants,
}

impl StoredGrants {
    /// Text that cannot be parsed grants nothing.
    pub(super) fn parse(json: &str) -> Arc<Self> {
        let grants = Grants::from_json(json).unwrap_or_else(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "cannot parse a client's grants in the store");
            Grants::default()
        });
        Arc::new(Self { json: json.to_owned(), grants })
    }
}

/// The grants in force when it was obtained; it must be obtained again for each use.
#[derive(Debug)]
pub struct EffectiveGrants<'a> {
    /// `None` if the token has no grants and the store alone decides.
    token: Option<&'a Grants>,
    stored: arc_swap::Guard<Arc<StoredGrants>>,
}

impl<'a> EffectiveGrants<'a> {
    pub(super) fn new(token: Option<&'a Grants>, stored: arc_swap::Guard<Arc<StoredGrants>>) -> Self {
        Self { token, stored }
    }

    fn both_allow(&self, allows: impl Fn(&Grants) -> bool) -> bool {
        allows(&self.stored.grants) && self.token.is_none_or(allows)
    }

    /// Whether it may publish to this exchange (`amq.default` for the default one) with this routing key.
    pub fn may_publish(&self, exchange_in_grants: &str, routing_key: &str) -> bool {
        self.both_allow(|grants| grants.may_publish(exchange_in_grants, routing_key))
    }

    /// Whether it may publish to this exchange with any routing key.
    pub fn may_publish_somewhere(&self, exchange_in_grants: &str) -> bool {
        self.both_allow(|grants| grants.may_publish_somewhere(exchange_in_grants))
    }

    /// Whether it may consume from, purge and inspect this queue.
    pub fn may_subscribe(&self, queue: &QueueName) -> bool {
        self.both_allow(|grants| grants.may_subscribe(queue))
    }

    /// Whether it may subscribe to any queue.
    pub fn may_subscribe_somewhere(&self) -> bool {
        self.both_allow(Grants::may_subscribe_somewhere)
    }

    /// Whether it may declare, delete and bind this exchange or queue.
    pub fn may_configure(&self, name: &str) -> bool {
        self.both_allow(|grants| grants.may_configure(name))
    }

    /// Whether it may administer.
    pub fn administers(&self) -> bool {
        self.both_allow(Grants::administers)
    }

    /// Whether it may read its tenant's usage, audit events, queue figures and open streams.
    pub fn observes(&self) -> bool {
        self.both_allow(Grants::observes)
    }

    /// Whether these grants allow everything that `requested` allows.
    pub fn covers(&self, requested: &Grants) -> bool {
        self.both_allow(|grants| grants.covers(requested))
    }

    /// The grants in the API's form.
    pub fn to_pb(&self) -> pb::Grants {
        match self.token {
            Some(token) => token.common_with(&self.stored.grants).to_pb(),
            None => self.stored.grants.to_pb(),
        }
    }
}
