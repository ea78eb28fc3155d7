//! The layer that authenticates callers, by path and headers alone.
//!
//! A request without a valid token is refused here, before any of its body is read, unless its path needs no token.

use std::{
    future::ready,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::{BoxFuture, Either};
use http::{HeaderMap, Request, Response, header::AUTHORIZATION};
use tonic::{Status, body::Body};
use tower::{Layer, Service};

use super::connection::Peer;
use crate::{
    audit::AuditContext,
    auth::{self, Caller, Verifier},
    error::Failure,
    telemetry::{Call, ProcessMetrics, TokenCheck},
};

/// The paths that need no token, in full or up to a separator. Reflection is served only if it is enabled.
const OPEN: &[&str] = &["/warrengate.v1.Auth/IssueToken", "/grpc.health.v1.Health/", "/grpc.reflection."];

/// Whether a request to this path is served without a token.
pub(super) fn is_open(path: &str) -> bool {
    OPEN.iter().any(|open| if open.ends_with(['/', '.']) { path.starts_with(open) } else { path == *open })
}

/// A successful response to this path proves that the peer has the secret of a client.
const ISSUE_TOKEN: &str = OPEN[0];

/// Authenticates every request.
#[derive(Clone)]
pub(super) struct AuthenticateLayer {
    verifier: Arc<Verifier>,
    metrics: Arc<ProcessMetrics>,
}

impl AuthenticateLayer {
    pub(super) fn new(verifier: Arc<Verifier>, metrics: Arc<ProcessMetrics>) -> Self {
        Self { verifier, metrics }
    }

    /// Stores the [`Caller`] in the extensions and removes the token from the headers, so that it cannot be logged
    /// later.
    fn authenticate<B>(&self, request: &mut Request<B>) -> Result<(), Failure> {
        let headers = std::mem::take(request.headers_mut());
        let result = auth::authenticate(&self.verifier, &headers, request.extensions_mut());
        *request.headers_mut() = without_token(headers);
        let caller = request.extensions().get::<Caller>();
        self.metrics.token_checked(match &result {
            Ok(()) if caller.is_none() => TokenCheck::Missing,
            Ok(()) => TokenCheck::Valid,
            Err(auth::Error::TokenExpired) => TokenCheck::Expired,
            Err(_) => TokenCheck::Invalid,
        });
        if let Some(why) = result.as_ref().err().and_then(auth::Error::operator_reason)
            && let Some(audit_context) = request.extensions().get::<AuditContext>()
        {
            audit_context.set_subject("", &format!("token: {why}"));
        }
        result?;
        let Some(caller) = caller else {
            return if is_open(request.uri().path()) { Ok(()) } else { Err(auth::Error::TokenMissing.into()) };
        };
        if let Some(peer) = request.extensions().get::<Peer>() {
            peer.activity.authenticated();
        }
        if let Some(audit_context) = request.extensions().get::<AuditContext>() {
            audit_context.set_client(caller.client());
        }
        if let Some(call) = request.extensions().get::<Call>() {
            call.identify(caller.client());
        }
        Ok(())
    }
}

fn without_token(mut headers: HeaderMap) -> HeaderMap {
    headers.remove(AUTHORIZATION);
    headers
}

impl<S> Layer<S> for AuthenticateLayer {
    type Service = Authenticated<S>;

    fn layer(&self, inner: S) -> Authenticated<S> {
        Authenticated { layer: self.clone(), inner }
    }
}

/// See [`AuthenticateLayer`].
#[derive(Clone)]
pub(super) struct Authenticated<S> {
    layer: AuthenticateLayer,
    inner: S,
}

impl<S, B> Service<Request<B>> for Authenticated<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, BoxFuture<'static, Result<Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        match self.layer.authenticate(&mut request) {
            Ok(()) if request.uri().path() == ISSUE_TOKEN => {
                let peer = request.extensions().get::<Peer>().cloned();
                let answer = self.inner.call(request);
                Either::Right(Box::pin(async move {
                    let response = answer.await?;
                    // A refusal has its status in the headers.
                    if let (Some(peer), None) = (peer, response.headers().get("grpc-status")) {
                        peer.activity.authenticated();
                    }
                    Ok(response)
                }))
            }
            Ok(()) => Either::Left(self.inner.call(request)),
            Err(failure) => Either::Right(Box::pin(ready(Ok(Status::from(failure).into_http())))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_token_issue_health_and_reflection_are_open() {
        for path in [
            "/warrengate.v1.Auth/IssueToken",
            "/grpc.health.v1.Health/Check",
            "/grpc.health.v1.Health/Watch",
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        ] {
            assert!(is_open(path), "{path}");
        }
        for path in crate::pb::method_paths().iter().map(String::as_str).chain([
            "/warrengate.v1.Auth/IssueToken/",
            "/warrengate.v1.Auth/IssueTokens",
            "/grpc.health.v1.HealthCheck/Watch",
            "/grpc.reflectionless/x",
            "/",
            "",
        ]) {
            assert_eq!(is_open(path), path == "/warrengate.v1.Auth/IssueToken", "{path}");
        }
    }
}
