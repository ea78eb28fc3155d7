//! The doors: TCP and TLS enter, authenticated requests leave towards the services. Everything a peer can hold open is
//! bounded here (handshakes, connections, streams, header and message bytes), before any of it is believed.

mod first_bytes;
mod grpc;
mod listener;
pub mod ops;
mod probe;
mod serve_ops;
mod tls;
mod trace;
mod witness;

pub use grpc::{Services, serve};
pub use listener::Listener;
pub use probe::{ProbeError, probe};
pub use serve_ops::serve_ops;
pub use tls::{ServerIdentity, TlsError};
