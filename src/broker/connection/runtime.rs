//! The asynchronous runtime for lapin's connections: tokio, with the TLS streams that `connect.rs` establishes.
//!
//! lapin can establish TLS itself, but its feature for that also compiles a reader of PKCS #12 files with its own
//! cryptography, 28 crates in all. Its runtime interface is generic over the type of the stream, so this runtime uses
//! the gateway's.

use std::{
    future::{Ready, ready},
    io::{self, Read, Write},
    net::SocketAddr,
    time::{Duration, Instant},
};

use async_compat::Compat;
use async_rs::{
    Runtime, Tokio,
    traits::{Executor, Reactor, RuntimeKit},
    util::Task,
};
use futures_util::Stream;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::valid_text::ValidText;

/// An encrypted connection, with the traits that lapin expects of a stream.
pub(super) type BrokerStream = Compat<ValidText<TlsStream<TcpStream>>>;

/// The tokio runtime in which it is created.
#[derive(Debug, Clone)]
pub(super) struct TlsRuntime(Tokio);

impl TlsRuntime {
    pub(super) fn current() -> Runtime<Self> {
        Runtime::new(Self(Tokio::current()))
    }
}

impl RuntimeKit for TlsRuntime {}

impl Executor for TlsRuntime {
    type Task<T: Send + 'static> = <Tokio as Executor>::Task<T>;

    fn block_on<T, F: Future<Output = T>>(&self, future: F) -> T {
        self.0.block_on(future)
    }

    fn spawn<T: Send + 'static, F: Future<Output = T> + Send + 'static>(&self, future: F) -> Task<Self::Task<T>> {
        self.0.spawn(future)
    }

    fn spawn_blocking<T: Send + 'static, F: FnOnce() -> T + Send + 'static>(&self, act: F) -> Task<Self::Task<T>> {
        self.0.spawn_blocking(act)
    }
}

/// lapin's timers. lapin opens sockets only if it is given no function for it, and `connect.rs` gives one.
impl Reactor for TlsRuntime {
    type TcpStream = BrokerStream;
    type Sleep = <Tokio as Reactor>::Sleep;

    #[allow(refining_impl_trait, reason = "the traits of the general type are another crate's")]
    fn register<H: Read + Write + Send + 'static>(&self, _: H) -> io::Result<BrokerStream> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sleep(&self, time: Duration) -> Self::Sleep {
        self.0.sleep(time)
    }

    fn interval(&self, time: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(time)
    }

    #[allow(refining_impl_trait, reason = "it is always ready")]
    fn tcp_connect_addr(&self, _: SocketAddr) -> Ready<io::Result<BrokerStream>> {
        ready(Err(io::ErrorKind::Unsupported.into()))
    }
}
