//! The layer that creates the [`AuditContext`] of every call and records calls that any layer refuses at once.
//!
//! Later refusals of a stream are recorded by the stream, with the same [`AuditContext`].

use std::{
    collections::HashSet,
    future::Future,
    pin::Pin,
    sync::OnceLock,
    task::{Context, Poll},
};

use http::{Request, Response};
use tonic::Status;
use tower::{Layer, Service};

use super::connection::Peer;
use crate::{
    audit::{Audit, AuditContext},
    error::{self, Kind},
    pb,
    telemetry::Call,
};

/// The method name for calls of other services: health, reflection, and unknown ones.
const OTHER: &str = "other";

/// Creates [`Audited`] services.
#[derive(Debug, Clone)]
pub(super) struct AuditLayer(Audit);

impl AuditLayer {
    pub(super) fn new(audit: Audit) -> Self {
        Self(audit)
    }
}

impl<S> Layer<S> for AuditLayer {
    type Service = Audited<S>;

    fn layer(&self, inner: S) -> Audited<S> {
        Audited { inner, audit: self.0.clone() }
    }
}

/// A service whose refusals are recorded.
#[derive(Debug, Clone)]
pub(super) struct Audited<S> {
    inner: S,
    audit: Audit,
}

impl<S, B, R> Service<Request<B>> for Audited<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<R>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let audit_context = audit_context(&self.audit, &request);
        request.extensions_mut().insert(audit_context.clone());
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            // The headers contain a status only if no body follows.
            if answer.headers().contains_key("grpc-status")
                && let Some(status) = Status::from_header_map(answer.headers())
                && let Some(kind) = Kind::of_refusal(status.code())
            {
                // Statuses created by the gRPC library have no reason.
                let reason = error::reason_of(&status).unwrap_or_else(|| format!("{:?}", status.code()));
                audit_context.record_end(kind, &reason);
            }
            Ok(answer)
        })
    }
}

/// The paths of known methods, without the leading slash.
fn known_methods() -> &'static HashSet<String> {
    static METHODS: OnceLock<HashSet<String>> = OnceLock::new();
    METHODS.get_or_init(|| {
        let paths = pb::method_paths().into_iter();
        paths.map(|path| path.trim_start_matches('/').to_owned()).collect()
    })
}

fn audit_context<B>(audit: &Audit, request: &Request<B>) -> AuditContext {
    let method = request.uri().path().trim_start_matches('/');
    let method = if known_methods().contains(method) { method } else { OTHER };
    let peer = request.extensions().get::<Peer>().map(|peer| peer.address.to_string());
    let audit_context = AuditContext::new(audit.clone(), method, peer.unwrap_or_default());
    if let Some(call) = request.extensions().get::<Call>() {
        audit_context.set_trace(call.trace_id());
    }
    audit_context
}
