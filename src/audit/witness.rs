//! The audit context of a call: who calls what from where. It is created before the caller is recognised and carried through the call,
//! so that a refusal anywhere is recorded completely; a call's end is recorded once, refused messages as often as there are any.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering},
};

use super::{Audit, sanitize};
use crate::{
    error::Kind,
    names::{ClientId, TenantId},
    store::{NewAudit, REFUSED},
};

/// The context of a call. Cloning is cheap, and clones are of the same call.
#[derive(Debug, Clone)]
pub struct AuditContext(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    audit: Option<Audit>,
    method: String,
    peer_address: String,
    trace_id: OnceLock<String>,
    client: OnceLock<ClientId>,
    subject: OnceLock<(String, String)>,
    is_recorded: AtomicBool,
}

impl AuditContext {
    /// The context of a call of this method (`warrengate.v1.Messaging/Publish`) from this address.
    pub fn new(audit: Audit, method: &str, peer_address: String) -> Self {
        Self::of(Some(audit), sanitize(method), peer_address)
    }

    /// Records nothing: for a call that did not pass the layer that creates contexts, which only happens in tests.
    pub fn nobody() -> Self {
        Self::of(None, String::new(), String::new())
    }

    fn of(audit: Option<Audit>, method: String, peer_address: String) -> Self {
        Self(Arc::new(Inner {
            audit,
            method,
            peer_address,
            trace_id: OnceLock::new(),
            client: OnceLock::new(),
            subject: OnceLock::new(),
            is_recorded: AtomicBool::new(false),
        }))
    }

    /// The context of a request.
    pub fn of_request<T>(request: &tonic::Request<T>) -> Self {
        request.extensions().get().cloned().unwrap_or_else(Self::nobody)
    }

    /// The trace that the call belongs to: 32 hex digits. The first call counts.
    pub fn traced(&self, trace_id: impl Into<String>) {
        let _ = self.0.trace_id.set(trace_id.into());
    }

    /// The caller was recognised. The first call counts.
    pub fn recognised(&self, client: &ClientId) {
        let _ = self.0.client.set(client.clone());
    }

    /// What the call is about, as the caller wrote it: a tenant (empty: the caller's own) and an object. The first call
    /// counts.
    pub fn about(&self, tenant: &str, object: &str) {
        let _ = self.0.subject.set((sanitize(tenant), sanitize(object)));
    }

    /// What an act's line says before anything is known of its outcome.
    pub fn act(&self, rule: &str) -> NewAudit {
        let (tenant, object) = self.0.subject.get().cloned().unwrap_or_default();
        let client = self.0.client.get();
        let own = || client.and_then(ClientId::tenant).map(TenantId::to_string).unwrap_or_default();
        NewAudit {
            tenant: if tenant.is_empty() { own() } else { tenant },
            client: client.map(ToString::to_string).unwrap_or_default(),
            peer_address: self.0.peer_address.clone(),
            method: self.0.method.clone(),
            rule: rule.to_owned(),
            object,
            trace_id: self.0.trace_id.get().cloned().unwrap_or_default(),
            ..NewAudit::default()
        }
    }

    /// The call, or its stream, ends with this; a refusal is recorded once per call. Never waits.
    pub fn ended(&self, kind: Kind, reason: &str) {
        if kind.is_refusal() && !self.0.is_recorded.swap(true, Ordering::Relaxed) {
            self.record(NewAudit { outcome: REFUSED.to_owned(), ..self.act(reason) });
        }
    }

    /// Messages of a stream were refused, this many for one reason; the object is that of one of them. Never waits.
    pub fn refused_messages(&self, object: &str, reason: &str, times: u64) {
        let object = sanitize(object);
        self.record(NewAudit { outcome: REFUSED.to_owned(), object, times, ..self.act(reason) });
    }

    /// This many of what the call named, and what it is about, were refused for one reason. Never waits.
    pub fn refused_times(&self, reason: &str, times: u64) {
        self.record(NewAudit { outcome: REFUSED.to_owned(), times, ..self.act(reason) });
    }

    /// The call did something that is recorded although it is not administration: it deleted something, or issued a token.
    /// The object replaces what the call is about. Never waits.
    pub fn done(&self, object: Option<&str>) {
        let event = self.act("");
        let object = object.map_or(event.object, sanitize);
        self.record(NewAudit { outcome: "done".to_owned(), object, rule: "granted".to_owned(), ..event });
    }

    fn record(&self, event: NewAudit) {
        if let Some(audit) = &self.0.audit {
            audit.aggregate(event);
        }
    }
}
