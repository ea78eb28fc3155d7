//! Warrengate: a secured multi-tenant messaging gateway that exposes RabbitMQ over gRPC, with a vhost and a
//! certificate-only broker user for each tenant.
//!
//! The modules are listed in dependency order. A module imports only from those above
//! it; `tests/architecture.rs` fails otherwise, and docs/architecture.md walks a message through them.

// The lowest layers are crates of their own: the protobuf API with its errors, and the client.
pub use warrengate_client as client;
pub use warrengate_proto as pb;
pub use warrengate_proto::error;

pub mod backoff;

pub mod fair;

pub mod long_work;

pub mod memory;

pub mod units;

pub mod names;

pub mod config;

pub mod telemetry;

// Identities, permissions and persistent state.
pub mod pki;

pub mod store;

pub mod audit;

pub mod auth;

pub mod tenant;

// The broker: the data path, and its administration.
pub mod broker;

pub mod provision;

// The path of a message, and the composition root.
pub mod stream;

pub mod service;

pub mod transport;

pub mod console;

pub mod gateway;

// A stack for development and tests, and the command line.
#[cfg(feature = "dev")]
pub mod stack;

pub mod cli;

#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
