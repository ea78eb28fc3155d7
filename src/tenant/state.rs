//! The state of a tenant and of a client while they may have open streams. The registry updates it; scopes read it and
//! wait for changes. The end of a [`TenantEntry`] is final: a resumed tenant gets a new entry, so that no stream can
//! miss a suspension.

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

/// A tenant, from its admission until it is suspended or deleted.
#[derive(Debug)]
pub(super) struct TenantEntry {
    id: TenantId,
    vhost: String,
    budget: ArcSwap<Budget>,
    /// Kept across a suspension, so that earlier streams still count.
    used: Arc<UsageCounters>,
    ended: watch::Sender<Option<Error>>,
    /// When its broker certificate was last rotated on request, from the store.
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

    /// Called only by the registry's single reader, so the budget does not change meanwhile.
    pub(super) fn set_plan(&self, plan: Arc<Plan>) {
        let before = self.budget.load_full();
        if *before.plan() == plan {
            return;
        }
        let next = Arc::new(Budget::next(Some(&before), plan));
        self.budget.store(Arc::clone(&next));
        if !Arc::ptr_eq(before.limiter(), next.limiter()) {
            before.limiter().close();
        }
    }

    /// Ends the tenant permanently, with the first reason given.
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
            // The sender is in `self`, so it is not dropped while somebody waits.
            Err(_) => Error::Unknown,
        }
    }

    /// Takes one of the plan's streams, to be returned by [`Self::close_stream`].
    pub(super) fn open_stream(&self) -> Result<(), Error> {
        let max = self.plan().max_streams;
        if self.used.open_stream(max) { Ok(()) } else { Err(Error::TooManyStreams { max }) }
    }

    pub(super) fn close_stream(&self) {
        self.used.close_stream();
    }
}

/// The state of a client in the latest snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ClientStatus {
    pub(super) revoked: bool,
    /// Tokens issued before this are refused.
    pub(super) not_before: SystemTime,
    pub(super) grants: Arc<StoredGrants>,
    /// The external issuer of its tokens; empty for the gateway.
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
            Err(Error::TokenRevoked)
        } else {
            Ok(())
        }
    }
}

/// A client. It is updated in place: a revocation or a withdrawn token is final, and grants are checked at each use.
#[derive(Debug)]
pub(super) struct ClientEntry {
    status: watch::Sender<ClientStatus>,
    /// The same grants as in `status`, readable without a lock because they are checked for every message.
    grants: ArcSwap<StoredGrants>,
}

impl ClientEntry {
    pub(super) fn new(status: ClientStatus) -> Self {
        Self { grants: ArcSwap::new(Arc::clone(&status.grants)), status: watch::Sender::new(status) }
    }

    /// The grants are stored first, so that they are in place when the notification arrives.
    pub(super) fn set(&self, status: ClientStatus) {
        if !Arc::ptr_eq(&self.grants.load(), &status.grants) {
            self.grants.store(Arc::clone(&status.grants));
        }
        self.status.send_if_modified(|now| {
            let is_new = *now != status;
            *now = status;
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

    /// Notified of every change, including changes of grants.
    pub(super) fn changes(&self) -> watch::Receiver<ClientStatus> {
        self.status.subscribe()
    }

    /// Waits until this caller's token is refused.
    pub(super) async fn ended(&self, caller: &Caller) -> Error {
        match self.status.subscribe().wait_for(|status| status.check(caller).is_err()).await {
            Ok(status) => status.check(caller).err().unwrap_or(Error::Revoked),
            Err(_) => Error::Revoked,
        }
    }
}
