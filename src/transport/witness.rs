//! The layer that gives every call its [`Witness`] before anybody looks at it, and lets it tell of calls that are refused at
//! once, whoever refuses them. What a stream is refused later is the stream's to tell, by the same witness.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use http::{Request, Response};
use tonic::{
    Status,
    transport::server::{TcpConnectInfo, TlsConnectInfo},
};
use tower::{Layer, Service};

use crate::{
    audit::{Audit, Witness},
    error::{self, Kind},
    telemetry::TraceContext,
};

/// Calls beside ours (health, reflection, and whatever a stranger makes up) are all the same to the record.
const OTHER: &str = "other";

/// Makes [`Witnessed`] services.
#[derive(Debug, Clone)]
pub(super) struct WitnessLayer(Audit);

impl WitnessLayer {
    pub(super) fn new(audit: Audit) -> Self {
        Self(audit)
    }
}

impl<S> Layer<S> for WitnessLayer {
    type Service = Witnessed<S>;

    fn layer(&self, inner: S) -> Witnessed<S> {
        Witnessed { inner, audit: self.0.clone() }
    }
}

/// A service whose refusals are put on record.
#[derive(Debug, Clone)]
pub(super) struct Witnessed<S> {
    inner: S,
    audit: Audit,
}

impl<S, B, R> Service<Request<B>> for Witnessed<S>
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
        let witness = witness(&self.audit, &request);
        request.extensions_mut().insert(witness.clone());
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            // There is a status among the headers only when nothing else comes.
            if answer.headers().contains_key("grpc-status")
                && let Some(status) = Status::from_header_map(answer.headers())
                && let Some(kind) = Kind::of_refusal(status.code())
            {
                witness.ended(kind, &error::reason_of(&status));
            }
            Ok(answer)
        })
    }
}

fn witness<B>(audit: &Audit, request: &Request<B>) -> Witness {
    let method = request.uri().path().trim_start_matches('/');
    let method = if method.starts_with("warrengate.v1.") { method } else { OTHER };
    let connection = request.extensions().get::<TlsConnectInfo<TcpConnectInfo>>();
    let peer = connection.and_then(|connection| connection.get_ref().remote_addr());
    let witness = Witness::new(audit.clone(), method, peer.map(|peer| peer.to_string()).unwrap_or_default());
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    if let Some(parent) = header(TraceContext::TRACEPARENT).and_then(|text| TraceContext::from_pair(text, None)) {
        witness.traced(parent.trace_id());
    }
    witness
}
