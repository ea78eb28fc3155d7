//! Warrengate: a secured multi-tenant messaging gateway. gRPC in front, RabbitMQ behind; one vhost, one certificate and
//! one guarded door per tenant.
//!
//! The modules below are in the order in which a message and its authority flow. A module imports only from those above
//! it; `tests/architecture.rs` fails otherwise, and docs/architecture.md walks a message through them.

// The lowest layers, in crates of their own: the protobuf API with its errors, and the client.
pub use warrengate_client as client;
pub use warrengate_proto as pb;
pub use warrengate_proto::error;

pub mod backoff;

pub mod memory;

pub mod units;

pub mod names;

pub mod config;

pub mod telemetry;

// Who someone is, and what they may do.
pub mod pki;

pub mod store;

pub mod audit;

pub mod auth;

pub mod tenant;

// The broker's side: the data path, and the administrator's path beside it.
pub mod broker;

pub mod provision;

// A message's way through.
pub mod stream;

pub mod service;

pub mod transport;

pub mod gateway;

// Around a gateway: a stack for development and tests, and the command line.
#[cfg(feature = "dev")]
pub mod stack;

pub mod cli;

#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
