//! The trace of one RPC: an id for responses, errors, audit events and logs, and a server span if the trace is
//! sampled.
//!
//! Sampling may depend on the caller, its tenant and its plan, so it is decided when the context is first needed. An
//! unauthenticated caller cannot cause a span by sending a context.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::SystemTime,
};

use http::HeaderMap;
use opentelemetry::{
    Context, KeyValue, SpanId, TraceFlags, TraceId,
    trace::{Span as _, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt as _, TraceState, Tracer as _},
};
use opentelemetry_sdk::trace::Span;
use opentelemetry_semantic_conventions::attribute as names;
use tonic::Code;

use super::{Traces, ids::with_trace_id, is_new_trace_sampled};
use crate::{names::ClientId, telemetry::TraceContext};

/// The duration of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallKind {
    /// Short: its messages are part of its trace.
    Unary,
    /// It may last for days, so its messages have traces of their own that link to it.
    Stream,
}

/// One RPC. Cloning is cheap.
#[derive(Clone)]
pub struct Call(Arc<Inner>);

struct Inner {
    traces: Traces,
    /// The method, for example `warrengate.v1.Messaging/Publish`.
    method: String,
    kind: CallKind,
    peer: Option<SocketAddr>,
    parent: Option<TraceContext>,
    /// The context of the parent, or of a trace that begins here.
    trace: TraceId,
    started: SystemTime,
    caller: OnceLock<ClientId>,
    /// The sampling ratio of the caller's plan.
    ratio: OnceLock<f64>,
    decided: OnceLock<(TraceContext, Mutex<Option<Span>>)>,
    log: tracing::Span,
}

impl Call {
    /// Begins a call. `path` is the HTTP path, `/package.Service/Method`.
    pub fn begin(traces: &Traces, path: &str, headers: &HeaderMap, peer: Option<SocketAddr>) -> Self {
        let method = path.trim_start_matches('/');
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '/');
        let is_known = method.len() <= 100 && method.chars().all(is_plain);
        let method = if is_known { method } else { "_OTHER" };
        let kind = match method.rsplit_once('/') {
            Some(("warrengate.v1.Messaging", "Publish" | "Subscribe")) => CallKind::Stream,
            Some(("warrengate.v1.Topology", "RedriveDeadLetters")) => CallKind::Stream,
            _ => CallKind::Unary,
        };
        // Created at every level, because lines of every level need it.
        let log = tracing::error_span!(
            "call",
            method,
            trace_id = tracing::field::Empty,
            tenant = tracing::field::Empty,
            client = tracing::field::Empty
        );
        let parent = TraceContext::from_headers(headers);
        let new_id = || TraceId::from_bytes(rand::random::<[u8; 16]>());
        let trace = parent.as_ref().map_or_else(new_id, |parent| parent.inner().trace_id());
        log.record("trace_id", tracing::field::display(trace));
        Self(Arc::new(Inner {
            traces: traces.clone(),
            method: method.to_owned(),
            kind,
            peer,
            parent,
            trace,
            started: SystemTime::now(),
            caller: OnceLock::new(),
            ratio: OnceLock::new(),
            decided: OnceLock::new(),
            log,
        }))
    }

    /// Sets the authenticated caller.
    pub fn identify(&self, client: &ClientId) {
        self.0.log.record("client", client.as_str());
        if let Some(tenant) = client.tenant() {
            self.0.log.record("tenant", tenant.as_str());
        }
        // Only the first value has an effect, and there is only one.
        let _ = self.0.caller.set(client.clone());
    }

    /// Sets the sampling ratio for a caller that has not decided itself.
    pub(super) fn sample_at(&self, ratio: f64) {
        let _ = self.0.ratio.set(ratio);
    }

    /// The trace id, 32 hex digits.
    pub fn trace_id(&self) -> String {
        self.0.trace.to_string()
    }

    /// The `traceparent` with which the caller can continue.
    pub fn traceparent(&self) -> String {
        self.decide().0.traceparent()
    }

    /// The span of its log lines.
    pub fn log(&self) -> &tracing::Span {
        &self.0.log
    }

    /// Ends the call with its status, and with the stable reason code if there is one. Only the first call has an
    /// effect.
    pub fn end(&self, code: Code, reason: Option<&str>) {
        let (_, span) = self.decide();
        let Some(mut span) = span.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        if code == Code::Unimplemented && reason.is_none() {
            // Names that a peer can choose freely are not recorded.
            span.update_name("_OTHER");
        } else {
            span.set_attribute(KeyValue::new(names::RPC_METHOD, self.0.method.clone()));
        }
        span.set_attribute(KeyValue::new(names::RPC_RESPONSE_STATUS_CODE, code_name(code)));
        if let Some(reason) = reason {
            span.set_attribute(KeyValue::new(super::RULE, reason.to_owned()));
        }
        if code != Code::Ok {
            span.set_attribute(KeyValue::new(names::ERROR_TYPE, code_name(code)));
            span.set_status(Status::error(reason.unwrap_or_else(|| code_name(code)).to_owned()));
        }
    }

    pub(super) fn kind(&self) -> CallKind {
        self.0.kind
    }

    /// Its context, and whether it is visible outside the gateway: because of a span, or because the caller sent it.
    pub(super) fn context(&self) -> (TraceContext, bool) {
        let (context, _) = self.decide();
        (context.clone(), context.is_sampled() || self.0.parent.is_some())
    }

    /// The context that the caller sent.
    pub(super) fn parent(&self) -> Option<&TraceContext> {
        self.0.parent.as_ref()
    }

    fn decide(&self) -> &(TraceContext, Mutex<Option<Span>>) {
        self.0.decided.get_or_init(|| {
            let inner = &*self.0;
            let caller = inner.caller.get();
            let tenant = caller.and_then(ClientId::tenant);
            // Health checks would fill the collector.
            let is_ours = inner.method.starts_with("warrengate.");
            let ratio = || inner.ratio.get().copied().unwrap_or_else(|| inner.traces.ratio(tenant));
            let keep = match &inner.parent {
                Some(parent) if caller.is_some() => parent.is_sampled(),
                _ => is_ours && is_new_trace_sampled(ratio()),
            };
            let span = inner.traces.tracer().filter(|_| keep).map(|tracer| {
                let mut attributes = Vec::with_capacity(10);
                attributes.push(KeyValue::new(names::RPC_SYSTEM_NAME, "grpc"));
                if let Some(peer) = inner.peer {
                    attributes.push(KeyValue::new(names::NETWORK_PEER_ADDRESS, peer.ip().to_string()));
                    attributes.push(KeyValue::new(names::NETWORK_PEER_PORT, i64::from(peer.port())));
                }
                if let Some(client) = caller {
                    attributes.push(KeyValue::new(super::CLIENT, client.to_string()));
                }
                if let Some(tenant) = tenant {
                    attributes.push(KeyValue::new(super::TENANT, tenant.to_string()));
                }
                let builder = SpanBuilder::from_name(inner.method.clone())
                    .with_kind(SpanKind::Server)
                    .with_start_time(inner.started)
                    .with_attributes(attributes);
                let context = match &inner.parent {
                    Some(parent) => Context::new().with_remote_span_context(parent.inner().clone()),
                    None => Context::new(),
                };
                with_trace_id(inner.trace, || tracer.build_with_context(builder, &context))
            });
            let context = match (&span, &inner.parent) {
                (Some(span), _) => TraceContext::from_inner(span.span_context().clone()),
                (None, Some(parent)) => parent.clone(),
                (None, None) => unsampled(inner.trace),
            };
            (context, Mutex::new(span))
        })
    }
}

impl std::fmt::Debug for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Call({})", self.0.method)
    }
}

/// The context of an unsampled trace: logs, errors and audit events still have its id.
fn unsampled(id: TraceId) -> TraceContext {
    let span = SpanId::from_bytes(rand::random::<[u8; 8]>());
    TraceContext::from_inner(SpanContext::new(id, span, TraceFlags::default(), false, TraceState::default()))
}

/// The code's name in gRPC.
const fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
