//! The audit context of a call: the caller, the method, the object and the address. It is created before
//! authentication and passed along with the call, so that a refusal at any point is recorded completely. The end of a
//! call is recorded once, refused messages each time.

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

/// The context of a call. Cloning is cheap; clones belong to the same call.
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

    /// A context that records nothing, for calls that did not pass the layer that creates contexts. This only happens
    /// in tests.
    pub fn disabled() -> Self {
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
        request.extensions().get().cloned().unwrap_or_else(Self::disabled)
    }

    /// Sets the trace of the call: 32 hex digits. Only the first call has an effect.
    pub fn set_trace(&self, trace_id: impl Into<String>) {
        let _ = self.0.trace_id.set(trace_id.into());
    }

    /// Sets the authenticated client. Only the first call has an effect.
    pub fn set_client(&self, client: &ClientId) {
        let _ = self.0.client.set(client.clone());
    }

    /// Sets the subject of the call as the caller wrote it: a tenant (empty for the caller's own) and an object. Only
    /// the first call has an effect.
    pub fn set_subject(&self, tenant: &str, object: &str) {
        let _ = self.0.subject.set((sanitize(tenant), sanitize(object)));
    }

    /// The address of the caller.
    pub fn peer_address(&self) -> &str {
        &self.0.peer_address
    }

    /// The event of the call, without an outcome.
    pub fn event(&self, rule: &str) -> NewAudit {
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

    /// Records the end of the call or its stream if it was refused; at most once per call. Never waits.
    pub fn record_end(&self, kind: Kind, reason: &str) {
        if kind.is_refusal() && !self.0.is_recorded.swap(true, Ordering::Relaxed) {
            self.record(NewAudit { outcome: REFUSED.to_owned(), ..self.event(reason) });
        }
    }

    /// Records that a number of messages of a stream were refused for one reason; the object is that of one of them.
    /// Never waits.
    pub fn refused_messages(&self, object: &str, reason: &str, times: u64) {
        let object = sanitize(object);
        self.record(NewAudit { outcome: REFUSED.to_owned(), object, times, ..self.event(reason) });
    }

    /// Records that a number of items named in the call were refused for one reason. Never waits.
    pub fn refused_times(&self, reason: &str, times: u64) {
        self.record(NewAudit { outcome: REFUSED.to_owned(), times, ..self.event(reason) });
    }

    /// Records a successful call that is not administrative, for example a deletion or an issued token. `object`
    /// replaces the object of the call. Never waits.
    pub fn done(&self, object: Option<&str>) {
        let event = self.event("");
        let object = object.map_or(event.object, sanitize);
        self.record(NewAudit { outcome: "done".to_owned(), object, rule: "granted".to_owned(), ..event });
    }

    fn record(&self, event: NewAudit) {
        if let Some(audit) = &self.0.audit {
            audit.aggregate(event);
        }
    }
}
