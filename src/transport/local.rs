//! Calls of the gateway's own services from inside its process, for the console.
//!
//! Invariant: such a call passes all layers of the gRPC listener. It is authenticated by its token, limited, traced and
//! audited exactly like a call over the network, with the address of the browser on whose behalf it is made.

use std::{
    convert::Infallible,
    fmt,
    task::{Context, Poll},
};

use http::{Request, Response};
use tonic::{body::Body, transport::server::TcpConnectInfo};
use tower::Service;

use super::{Api, connection::Peer, grpc::LayeredService};

/// A channel for the generated gRPC clients. Cloning is cheap.
#[derive(Clone)]
pub struct LocalChannel {
    service: LayeredService,
    peer: Peer,
}

impl fmt::Debug for LocalChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalChannel").field("peer", &self.peer.address).finish_non_exhaustive()
    }
}

impl LocalChannel {
    /// A channel for calls on behalf of this peer.
    pub fn new(api: &Api, peer: Peer) -> Self {
        Self { service: api.service.clone(), peer }
    }
}

impl Service<Request<Body>> for LocalChannel {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = <LayeredService as Service<Request<Body>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        // The same extensions as those of a request over the network.
        let remote = TcpConnectInfo { local_addr: None, remote_addr: Some(self.peer.address) };
        request.extensions_mut().insert(remote);
        request.extensions_mut().insert(self.peer.clone());
        self.service.call(request)
    }
}
