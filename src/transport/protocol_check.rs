//! Refusal of requests that are not gRPC, with HTTP status codes as the gRPC specification requires: 405 for a method
//! other than POST, 415 for another content type.

use std::{
    future::{Ready, ready},
    task::{Context, Poll},
};

use futures_util::future::Either;
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE},
};
use tonic::body::Body;
use tower::Service;

/// Passes only gRPC and gRPC-Web on to a service.
#[derive(Debug, Clone)]
pub(super) struct ProtocolCheck<S>(pub(super) S);

const TYPES: [&str; 3] = ["application/grpc", "application/grpc-web", "application/grpc-web-text"];

fn check<B>(request: &Request<B>) -> Result<(), StatusCode> {
    if request.method() != Method::POST {
        return Err(StatusCode::METHOD_NOT_ALLOWED);
    }
    let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match TYPES.contains(&kind.strip_suffix("+proto").unwrap_or(&kind)) {
        true => Ok(()),
        false => Err(StatusCode::UNSUPPORTED_MEDIA_TYPE),
    }
}

impl<S, B> Service<Request<B>> for ProtocolCheck<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match check(&request) {
            Ok(()) => Either::Left(self.0.call(request)),
            Err(status) => {
                let mut response = Response::new(Body::empty());
                *response.status_mut() = status;
                if status == StatusCode::METHOD_NOT_ALLOWED {
                    response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
                }
                Either::Right(ready(Ok(response)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_grpc_and_grpc_web_by_post_pass() {
        let send = |method: &str, kind: &str| {
            let request = Request::builder().method(method).header(CONTENT_TYPE, kind);
            check(&request.body(()).expect("a request")).err().map_or(200, |status| status.as_u16())
        };
        for kind in TYPES {
            assert_eq!(send("POST", kind), 200);
            assert_eq!(send("POST", &format!("{kind}+proto")), 200);
        }
        assert_eq!(send("POST", "Application/gRPC; charset=utf-8"), 200);
        assert_eq!(send("GET", "application/grpc"), 405);
        for kind in ["application/json", "application/grpc+json", "", "application/grpcx", "text/plain"] {
            assert_eq!(send("POST", kind), 415, "{kind}");
        }
    }
}
