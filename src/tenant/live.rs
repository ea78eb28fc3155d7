//! The state of a tenant and of a client while they may have open streams. The registry writes it; scopes read it and wait on it. The end of
//! a [`TenantEntry`] is final: a tenant that is resumed gets a new one, so that no stream can miss a suspension.

use std::{
    sync::{Arc, atomic::AtomicI64},
    time::SystemTime,
};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::{
    Error, Plan,
    budget::{Budget, UsageCounters},
    effective::StoredGrants,
};
use crate::{auth::Caller, names::TenantId};

/// A tenant, from the moment it is admitted until it is suspended or deleted.
#[derive(Debug)]
pub(super) struct TenantEntry {
    id: TenantId,
    vhost: String,
    budget: ArcSwap<Budget>,
    /// Shared across a suspension, so that streams from before it still count.
    used: Arc<UsageCounters>,
    ended: watch::Sender<Option<Error>>,
    /// When its broker certificate was last rotated on request, as the store has it.
    credentials_rotated: AtomicI64,
}

impl TenantEntry {
    pub(super) fn new(id: TenantId, plan: Arc<Plan>, before: Option<&Self>) -> Self {
        let budget = Budget::next(before.map(|before| before.budget.load_full()).as_deref(), plan);
        Self {
            vhost: id.vhost(),
            id,
            used: Arc::clone(budget.used()),
            budget: ArcSwap::from_pointee(budget),
            ended: watch::Sender::new(None),
            credentials_rotated: AtomicI64::new(0),
        }
    }

    pub(super) fn id(&self) -> &TenantId {
        &self.id
    }

    pub(super) fn vhost(&self) -> &str {
        &self.vhost
    }

    pub(super) fn plan(&self) -> Arc<Plan> {
        Arc::clone(self.budget.load().plan())
    }

    pub(super) fn budget(&self) -> Arc<Budget> {
        self.budget.load_full()
    }

    pub(super) fn credentials_rotated(&self) -> &AtomicI64 {
        &self.credentials_rotated
    }

    pub(super) fn used(&self) -> &UsageCounters {
        &self.used
    }

    /// Only the registry's one reader calls this, so nobody else changes the budget meanwhile.
    pub(super) fn set_plan(&self, plan: Arc<Plan>) {
        let before = self.budget.load_full();
        if *before.plan() == plan {
            return;
        }
        let next = Arc::new(Budget::next(Some(&before), plan));
        self.budget.store(Arc::clone(&next));
        if !Arc::ptr_eq(before.flight(), next.flight()) {
            before.flight().close();
        }
    }

    /// Ends it, once and for all: the first reason counts.
    pub(super) fn end(&self, why: Error) {
        self.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            ended.get_or_insert(why);
            first
        });
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        self.ended.borrow().clone().map_or(Ok(()), Err)
    }

    pub(super) async fn ended(&self) -> Error {
        match self.ended.subscribe().wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or(Error::Unknown),
            // The sender is in `self`, so this cannot happen while somebody waits.
            Err(_) => Error::Unknown,
        }
    }

    /// Takes one of the plan's streams, to be given back by [`Self::close_stream`].
    pub(super) fn open_stream(&self) -> Result<(), Error> {
        let max = self.plan().max_streams;
        if self.used.open_stream(max) { Ok(()) } else { Err(Error::TooManyStreams { max }) }
    }

    pub(super) fn close_stream(&self) {
        self.used.close_stream();
    }
}

/// What the store last said of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ClientStatus {
    pub(super) revoked: bool,
    /// Tokens issued before this are refused.
    pub(super) not_before: SystemTime,
    pub(super) grants: Arc<StoredGrants>,
    /// The external issuer of its tokens; empty: the gateway.
    pub(super) issuer: Arc<str>,
}

impl ClientStatus {
    fn check(&self, caller: &Caller) -> Result<(), Error> {
        let issued = caller.issued();
        if self.revoked {
            Err(Error::Revoked)
        } else if caller.issuer().unwrap_or_default() != &*self.issuer {
            Err(Error::UnknownClient)
        } else if issued < self.not_before {
            Err(Error::TokenWithdrawn)
        } else {
            Ok(())
        }
    }
}

/// A client. It changes in place: a revocation and a withdrawn token are final, and grants are checked whenever they are used.
#[derive(Debug)]
pub(super) struct LiveClient {
    status: watch::Sender<ClientStatus>,
    /// The same grants as in `status`, readable without a lock: they are checked for every message.
    grants: ArcSwap<StoredGrants>,
}

impl LiveClient {
    pub(super) fn new(standing: ClientStatus) -> Self {
        Self { grants: ArcSwap::new(Arc::clone(&standing.grants)), status: watch::Sender::new(standing) }
    }

    /// The grants are stored first, so that they are in place when the notification arrives.
    pub(super) fn set(&self, standing: ClientStatus) {
        if !Arc::ptr_eq(&self.grants.load(), &standing.grants) {
            self.grants.store(Arc::clone(&standing.grants));
        }
        self.status.send_if_modified(|now| {
            let is_new = *now != standing;
            *now = standing;
            is_new
        });
    }

    /// For a client that no longer exists.
    pub(super) fn revoke(&self) {
        self.status.send_modify(|now| now.revoked = true);
    }

    pub(super) fn is_revoked(&self) -> bool {
        self.status.borrow().revoked
    }

    pub(super) fn check(&self, caller: &Caller) -> Result<(), Error> {
        self.status.borrow().check(caller)
    }

    pub(super) fn grants(&self) -> arc_swap::Guard<Arc<StoredGrants>> {
        self.grants.load()
    }

    /// Notified of every change, of the grants among others.
    pub(super) fn changes(&self) -> watch::Receiver<ClientStatus> {
        self.status.subscribe()
    }

    /// Waits until this caller's token is refused.
    pub(super) async fn ended(&self, caller: &Caller) -> Error {
        match self.status.subscribe().wait_for(|standing| standing.check(caller).is_err()).await {
            Ok(standing) => standing.check(caller).err().unwrap_or(Error::Revoked),
            Err(_) => Error::Revoked,
        }
    }
}
