//! An established AMQP connection and the task that watches its events. When the connection is lost, its users are
//! notified and its socket is shut down, so that lapin's I/O thread ends in any case.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::StreamExt as _;
use lapin::{Channel, Connection, ConnectionStatus, Event};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{connect::Socket, purpose::Purpose};
use crate::{
    broker::error::Error,
    names::TenantId,
    pki::Leaf,
    telemetry::{BrokerMetrics, OpenGuard},
};

/// A connection has 1,024 channel numbers. Once half of them are unusable (see [`BrokerConnection::skip_stale_error`]),
/// no further channel is opened on it.
const MAX_STALE_CHANNELS: usize = 512;

/// An established connection.
pub(super) struct BrokerConnection {
    connection: Connection,
    lost: CancellationToken,
    blocked: watch::Receiver<bool>,
    channels: Arc<AtomicUsize>,
    metrics: Arc<BrokerMetrics>,
    leaf: Arc<Leaf>,
    /// Channel numbers for which lapin still reports an old error.
    stale_channels: AtomicUsize,
    /// Set when the gateway ends the connection itself.
    closing: Arc<AtomicBool>,
    opened: Instant,
}

/// Kept together with a channel. It prevents the connection from being closed as idle, and reports when it is lost or
/// blocked.
#[derive(Debug)]
pub(in crate::broker) struct ChannelGuard {
    channels: Arc<AtomicUsize>,
    lost: CancellationToken,
    blocked: watch::Receiver<bool>,
    status: ConnectionStatus,
    _counted: OpenGuard,
}

impl ChannelGuard {
    /// Cancelled when the connection is lost.
    pub(in crate::broker) fn lost(&self) -> &CancellationToken {
        &self.lost
    }

    /// Interprets an error of the channel: once the connection is lost, the error may belong to any of its channels.
    pub(in crate::broker) fn explain(&self, error: Error) -> Error {
        if self.status.connected() || error.is_connection_error() { error } else { Error::Unreachable(None) }
    }

    /// Whether the broker has blocked the connection (memory or disk alarm).
    pub(in crate::broker) fn blocked(&self) -> bool {
        *self.blocked.borrow()
    }

    /// Waits until the connection is not blocked; returns at once when it is lost.
    pub(in crate::broker) fn unblocked(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut blocked = self.blocked.clone();
        async move {
            let _ = blocked.wait_for(|blocked| !blocked).await;
        }
    }
}

impl Drop for ChannelGuard {
    fn drop(&mut self) {
        self.channels.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Closes a channel in the background when it is dropped, unless it was disarmed. Dropping lapin's handles is not
/// enough while a response of the broker is due: a quorum queue without a majority responds when it has one again, and
/// the broker then has a consumer from which nothing is read. And if the handles close the channel while the broker
/// closes it for an error, lapin treats that as an error of the connection and reports it to all other channels.
pub(in crate::broker) struct CloseOnDrop(Option<Channel>);

impl CloseOnDrop {
    pub(in crate::broker) fn new(channel: &Channel) -> Self {
        Self(Some(channel.clone()))
    }

    pub(in crate::broker) fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        if let (Some(channel), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            // Ends at the latest when the connection does.
            runtime.spawn(async move { channel.close(200, "cancelled".into()).await });
        }
    }
}

impl BrokerConnection {
    /// Takes ownership of a new connection and watches its events until it ends.
    pub(super) fn watch(
        connection: Connection,
        socket: Socket,
        tenant: TenantId,
        purpose: Purpose,
        metrics: Arc<BrokerMetrics>,
        leaf: Arc<Leaf>,
    ) -> Self {
        let lost = CancellationToken::new();
        let (set_blocked, blocked) = watch::channel(false);
        let mut events = connection.events_listener();
        let status = connection.status().clone();
        let (purpose, ended) = (purpose.as_str(), lost.clone());
        let closing = Arc::new(AtomicBool::new(false));
        let (counted, losses, expected) = (metrics.connection(), Arc::clone(&metrics), Arc::clone(&closing));
        tokio::spawn(async move {
            let _counted = counted;
            // Dropped in reverse order: users are notified of the loss first, then the I/O thread ends.
            let _socket = socket;
            let _lost = ended.clone().drop_guard();
            loop {
                let event = tokio::select! {
                    event = events.next() => event,
                    () = ended.cancelled() => None,
                };
                match event {
                    Some(Event::ConnectionBlocked(reason)) => {
                        warn!(%tenant, purpose, reason = reason.escape_debug().to_string(), "broker blocked the connection");
                        set_blocked.send_replace(true);
                    }
                    Some(Event::ConnectionUnblocked) => {
                        info!(%tenant, purpose, "broker unblocked the connection");
                        set_blocked.send_replace(false);
                    }
                    // lapin reports errors of single channels here, too; they do not affect other streams.
                    Some(Event::Error(error)) if error.is_amqp_soft_error() && status.connected() => {
                        debug!(%tenant, purpose, %error, "channel closed by the broker");
                    }
                    Some(Event::Error(error)) => {
                        warn!(%tenant, purpose, %error, "broker connection lost");
                        break;
                    }
                    Some(_) => {}
                    // The stream of events ends with the connection.
                    None => break,
                }
            }
            if !expected.load(Ordering::Relaxed) {
                losses.connection_lost();
            }
        });
        Self {
            connection,
            lost,
            blocked,
            channels: Arc::default(),
            metrics,
            leaf,
            stale_channels: AtomicUsize::new(0),
            closing,
            opened: Instant::now(),
        }
    }

    /// The time since it was opened.
    pub(super) fn age(&self) -> Duration {
        self.opened.elapsed()
    }

    /// The certificate that the connection was opened with.
    pub(super) fn leaf(&self) -> &Arc<Leaf> {
        &self.leaf
    }

    /// Whether new channels can be opened on it.
    pub(super) fn is_usable(&self) -> bool {
        let is_worn_out = self.stale_channels.load(Ordering::Relaxed) >= MAX_STALE_CHANNELS;
        !self.is_lost() && !is_worn_out && self.connection.status().connected()
    }

    pub(super) fn is_lost(&self) -> bool {
        self.lost.is_cancelled()
    }

    /// Whether the connection has a user with a channel, or one that is about to open a channel.
    pub(super) fn is_used(&self) -> bool {
        self.channels.load(Ordering::Relaxed) > 0
    }

    /// Registers one more user.
    pub(super) fn guard(&self) -> ChannelGuard {
        self.channels.fetch_add(1, Ordering::Relaxed);
        ChannelGuard {
            channels: Arc::clone(&self.channels),
            lost: self.lost.clone(),
            blocked: self.blocked.clone(),
            status: self.connection.status().clone(),
            _counted: self.metrics.channel(),
        }
    }

    /// Opens a channel for the holder of a guard.
    pub(super) async fn channel(&self, guard: &ChannelGuard, timeout: Duration) -> Result<Channel, Error> {
        let opening = async {
            // lapin writes nothing while the connection is blocked: the request would wait in an unbounded queue.
            guard.unblocked().await;
            loop {
                let opened = self.connection.create_channel().await;
                if !self.skip_stale_error(opened.as_ref().err()) {
                    return opened;
                }
            }
        };
        tokio::select! {
            opened = tokio::time::timeout(timeout, opening) => match opened {
                Ok(Err(error)) if error.is_amqp_soft_error() => Err(Error::Unreachable(None)),
                Ok(opened) => Ok(opened?),
                Err(_) if guard.blocked() => Err(Error::Timeout),
                Err(_) => {
                    // A connection on which no channel can be opened is useless, so the next attempt opens a new
                    // connection.
                    warn!("the broker did not open a channel in time, replacing the connection");
                    self.lost.cancel();
                    Err(Error::Timeout)
                }
            },
            () = self.lost.cancelled() => Err(Error::Unreachable(None)),
        }
    }

    /// lapin 4.12 keeps the error that closed a channel under its number and reports it to the next channel with that
    /// number, once all numbers have been used. Returns whether this is such an error and another number should be
    /// tried.
    fn skip_stale_error(&self, error: Option<&lapin::Error>) -> bool {
        error.is_some_and(lapin::Error::is_amqp_soft_error)
            && self.stale_channels.fetch_add(1, Ordering::Relaxed) < MAX_STALE_CHANNELS
    }

    /// Ends the connection without closing it: its users see a loss and continue on another one.
    pub(super) fn abort(&self) {
        self.closing.store(true, Ordering::Relaxed);
        self.lost.cancel();
    }

    /// Closes the connection, waiting at most 1 s for the broker's response.
    pub(super) async fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
        if self.connection.status().connected() {
            // A blocked or frozen broker does not respond; shutting the socket down ends the connection regardless.
            let closing = self.connection.close(200, "idle".into());
            let _ = tokio::time::timeout(Duration::from_secs(1), closing).await;
        }
        self.lost.cancel();
    }
}

impl Drop for BrokerConnection {
    fn drop(&mut self) {
        // Either lost before, and counted as such, or ended by the gateway.
        self.abort();
    }
}
