//! What every administrative call has in common: who calls is admitted, the work runs to its end even when the caller goes
//! away, and what came of it is kept. A change is kept whatever came of it, unless the request itself was wrong; a refusal is
//! kept always, up to a number a caller, so that nobody can fill the store by being refused.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tonic::{Request, Response, Status};
use tracing::Instrument as _;

use super::Error;
use crate::{
    auth::Caller,
    broker::Broker,
    error::{Classify as _, Failure, Kind},
    names::ClientId,
    provision::Provisioner,
    store::{NewAudit, Store},
    telemetry::Call,
    tenant::{Administrator, TenantLocks, Tenants},
};

/// Where handlers find the rooms they work with.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) store: Store,
    pub(super) tenants: Arc<Tenants>,
    pub(super) provisioner: Arc<Provisioner>,
    pub(super) broker: Broker,
    /// A tenant's making, changing and deleting wait for each other.
    pub(super) locks: TenantLocks,
    refusals: Refusals,
}

/// A call: its name, whether it changes something, and whether a tenant's administrator may make it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rpc {
    name: &'static str,
    changes: bool,
    of_clients: bool,
}

impl Rpc {
    pub(super) const fn changes(name: &'static str) -> Self {
        Self { name, changes: true, of_clients: false }
    }

    pub(super) const fn reads(name: &'static str) -> Self {
        Self { name, changes: false, of_clients: false }
    }

    /// For tenants' administrators, too; the handler checks which tenant's clients.
    pub(super) const fn of_clients(self) -> Self {
        Self { of_clients: true, ..self }
    }
}

/// What a call is about, as the caller wrote it: bounded, and without control characters, since it may be no valid name.
#[derive(Debug, Default)]
pub(super) struct Subject {
    tenant: String,
    object: String,
}

impl Subject {
    pub(super) fn none() -> Self {
        Self::default()
    }

    pub(super) fn tenant(id: &str) -> Self {
        Self { tenant: harmless(id), object: harmless(id) }
    }

    pub(super) fn client(id: &str) -> Self {
        let tenant = id.split_once('.').map_or("", |(tenant, _)| tenant);
        Self { tenant: harmless(tenant), object: harmless(id) }
    }

    pub(super) fn object(name: &str) -> Self {
        Self { tenant: String::new(), object: harmless(name) }
    }
}

fn harmless(text: &str) -> String {
    text.chars().take(100).flat_map(char::escape_default).collect()
}

impl Desk {
    pub(super) fn new(store: Store, tenants: Arc<Tenants>, provisioner: Arc<Provisioner>, broker: Broker) -> Self {
        let (locks, refusals) = (TenantLocks::default(), Refusals::default());
        Self { store, tenants, provisioner, broker, locks, refusals }
    }

    /// Admits the caller, does the work, keeps what came of it.
    pub(super) async fn act<Q, A, F>(
        self: &Arc<Self>,
        rpc: Rpc,
        subject: Subject,
        request: Request<Q>,
        work: impl FnOnce(Arc<Self>, Administrator, Q) -> F,
    ) -> Result<Response<A>, Status>
    where
        F: Future<Output = Result<A, Error>> + Send + 'static,
        A: Send + 'static,
    {
        let caller = Caller::from_request(&request).cloned();
        let mut event = NewAudit {
            client: caller.as_ref().map(|caller| caller.client().to_string()).unwrap_or_default(),
            peer_address: request.remote_addr().map(|address| address.to_string()).unwrap_or_default(),
            method: format!("warrengate.v1.Admin/{}", rpc.name),
            tenant: subject.tenant,
            object: subject.object,
            trace_id: request.extensions().get().map(Call::trace_id).unwrap_or_default(),
            ..NewAudit::default()
        };
        let client = caller.as_ref().ok().map(|caller| caller.client().clone());
        let administrator = match caller.map_err(Error::from).and_then(|caller| self.admit(rpc, &caller)) {
            Ok(administrator) => administrator,
            Err(refused) => {
                self.keep(rpc, event, client.as_ref(), Some(&refused)).await;
                return Err(Failure::from(refused).into());
            }
        };
        event.rule = if administrator.is_platform() { "platform administrator" } else { "tenant administrator" }.into();
        let done = work(self.clone(), administrator, request.into_inner());
        let desk = self.clone();
        let to_its_end = async move {
            let done = done.await;
            desk.keep(rpc, event, client.as_ref(), done.as_ref().err()).await;
            done
        };
        match tokio::spawn(to_its_end.in_current_span()).await {
            Ok(done) => done.map(Response::new).map_err(|error| Failure::from(error).into()),
            Err(_) => Err(Failure::new(Kind::Internal, "INTERNAL", "the gateway failed; its log says more").into()),
        }
    }

    fn admit(&self, rpc: Rpc, caller: &Caller) -> Result<Administrator, Error> {
        let administrator = self.tenants.admit_administrator(caller)?;
        if rpc.of_clients || administrator.is_platform() { Ok(administrator) } else { Err(Error::PlatformOnly) }
    }

    /// Makes a change count here now; other gateways hear of it by their poll, as this one does if this fails.
    pub(super) async fn spread(&self) {
        if let Err(error) = self.tenants.refresh().await {
            tracing::warn!(error = &error as &dyn std::error::Error, "tenants not read again after a change");
        }
    }

    async fn keep(&self, rpc: Rpc, mut event: NewAudit, client: Option<&ClientId>, error: Option<&Error>) {
        if let Some(error) = error
            && matches!(error.kind(), Kind::Internal | Kind::Unavailable)
        {
            tracing::error!(method = rpc.name, error = error as &dyn std::error::Error, "administrative call failed");
        }
        event.outcome = match error.map(|error| (error.kind(), error.reason())) {
            None if rpc.changes => "done".to_owned(),
            Some((Kind::Denied | Kind::Unauthenticated, reason)) => {
                event.rule = reason.to_owned();
                if !self.refusals.is_room_for(client) {
                    tracing::warn!(?client, reason, "refusal not kept, there are too many");
                    return;
                }
                "refused".to_owned()
            }
            Some((kind, reason)) if rpc.changes && kind != Kind::Invalid => format!("failed: {reason}"),
            _ => return,
        };
        if let Err(error) = self.store.record(&event).await {
            tracing::error!(error = &error as &dyn std::error::Error, ?event, "audit event not kept in the store");
        }
    }
}

/// How many refusals a caller may leave in the store.
#[derive(Debug, Default)]
struct Refusals(Mutex<Option<Window>>);

#[derive(Debug)]
struct Window {
    since: Instant,
    /// As large as there are refused clients in a window; nobody without a valid token gets this far.
    counts: HashMap<Option<ClientId>, u32>,
}

impl Refusals {
    const WINDOW: Duration = Duration::from_secs(10);
    const ROOM: u32 = 50;

    fn is_room_for(&self, client: Option<&ClientId>) -> bool {
        let now = Instant::now();
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let current = match &mut *window {
            Some(current) if now.duration_since(current.since) < Self::WINDOW => current,
            ended => ended.insert(Window { since: now, counts: HashMap::new() }),
        };
        let count = current.counts.entry(client.cloned()).or_default();
        *count = count.saturating_add(1);
        *count <= Self::ROOM
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_refused_caller_does_not_fill_the_store_nor_hide_another() {
        let refusals = Refusals::default();
        let (loud, quiet) =
            (ClientId::parse("acme.loud").expect("an id"), ClientId::parse("acme.quiet").expect("an id"));
        let kept = (0..1000).filter(|_| refusals.is_room_for(Some(&loud))).count();
        assert_eq!(kept, Refusals::ROOM as usize);
        assert!(refusals.is_room_for(Some(&quiet)));
    }

    #[test]
    fn what_a_caller_wrote_is_kept_harmless() {
        let subject = Subject::client(&format!("acme.\n\u{1b}[31m{}", "x".repeat(10_000)));
        assert_eq!(subject.tenant, "acme");
        assert!(subject.object.len() < 1000 && subject.object.bytes().all(|b| (0x20..0x7f).contains(&b)));
    }
}
