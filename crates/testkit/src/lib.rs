//! Private servers for developing and testing Warrengate.
//!
//! [`node`] runs RabbitMQ, [`postgres`] a database, [`proxy`] a network that fails on command, [`oidc`] an OpenID
//! Connect issuer and [`otlp`] a collector of traces; [`folder`] contains folders for test runs. Every server listens
//! on a free port of the loopback address, keeps its files in its own folder, and ends when its value is dropped or
//! this process ends, even by `kill -9`.
//!
//! The crate does not depend on the gateway: the gateway's tests, the benchmark and `warrengate dev` depend on it.

pub mod folder;
pub mod node;
pub mod oidc;
pub mod otlp;
pub mod postgres;
pub mod proxy;
