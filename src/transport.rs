//! The network: listeners, TLS, HTTP, and the layers around the services.
//!
//! Everything that a peer can use, before and after it is authenticated, is bounded in number, size and time.

mod anonymous;
mod audit_layer;
mod authenticate;
mod body_limits;
mod connection;
mod connections;
mod deadline;
mod grpc;
mod health;
mod http1;
mod http2;
mod listener;
mod local;
mod open_calls;
pub mod ops;
mod probe;
mod protocol_check;
mod proxy_protocol;
mod receive_budget;
mod serve_http;
mod tls;
mod trace;
mod unread;

pub use connection::Peer;
pub use connections::Connections;
pub use grpc::{Api, GrpcListener, Services, serve};
pub use listener::{ConnectionLimits, Listener};
pub use local::LocalChannel;
pub use probe::{ProbeError, probe};
pub use serve_http::serve_http;
pub use tls::{ServerIdentity, TlsError};
