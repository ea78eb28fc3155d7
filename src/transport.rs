//! The doors: TCP and TLS enter, authenticated requests leave towards the services. Everything a peer can hold open is
//! bounded here (handshakes, connections, streams, header and message bytes), before any of it is believed.

mod connections;
mod first_bytes;
mod grpc;
mod listener;
pub mod ops;
mod probe;
mod serve_ops;
mod tended;
mod tls;
mod trace;
mod witness;

pub use connections::Connections;
pub use grpc::{Services, serve};
pub use listener::{Listener, Manners};
pub use probe::{ProbeError, probe};
pub use serve_ops::serve_ops;
pub use tls::{ServerIdentity, TlsError};
