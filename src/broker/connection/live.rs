//! One connection that stands, followed until its end. What its users hold says when it is lost and whether the broker has
//! blocked it. Invariant: when it is lost, its socket is shut down, so that lapin's thread ends whatever the peer does.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt as _;
use lapin::{Channel, Connection, ConnectionStatus, Event};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{connect::Socket, slot::Purpose};
use crate::{
    broker::Error,
    names::TenantId,
    pki::Leaf,
    telemetry::{BrokerMetrics, OpenGuard},
};

/// A connection has 1,024 numbers for channels. With fewer left than half of them it is used for no new one.
const MAX_SPOILED: usize = 512;

/// A connection that stands.
pub(in crate::broker) struct Live {
    connection: Connection,
    lost: CancellationToken,
    blocked: watch::Receiver<bool>,
    channels: Arc<AtomicUsize>,
    metrics: Arc<BrokerMetrics>,
    leaf: Arc<Leaf>,
    /// Numbers of channels that lapin tells an old error of.
    spoiled: AtomicUsize,
    /// We end it ourselves.
    closing: Arc<AtomicBool>,
}

/// What a user of a channel holds beside it.
#[derive(Debug)]
pub(in crate::broker) struct ChannelGuard {
    channels: Arc<AtomicUsize>,
    lost: CancellationToken,
    blocked: watch::Receiver<bool>,
    status: ConnectionStatus,
    _counted: OpenGuard,
}

impl ChannelGuard {
    /// Cancelled when the connection is gone.
    pub(in crate::broker) fn lost(&self) -> &CancellationToken {
        &self.lost
    }

    /// What an error on the channel means: when the connection is gone it may be anybody's.
    pub(in crate::broker) fn explain(&self, error: Error) -> Error {
        if self.status.connected() || error.is_link() { error } else { Error::Unreachable(None) }
    }

    /// Whether the broker has blocked the connection (a memory or disk alarm).
    pub(in crate::broker) fn blocked(&self) -> bool {
        *self.blocked.borrow()
    }

    /// Waits until the broker takes something again; over at once when the connection is gone.
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

/// A channel on which something was asked for that is not waited for any more. Dropping lapin's handles does not close it, as an
/// answer is still due: a quorum queue without a majority gives it when it has one again, and then the broker has a consumer
/// that nobody listens to. And when they do close it while the broker closes it for an error, lapin takes that for an error of the
/// connection, and tells it to all others there. So it is told to close, after the answer, from here.
pub(in crate::broker) struct Unfinished(Option<Channel>);

impl Unfinished {
    pub(in crate::broker) fn new(channel: &Channel) -> Self {
        Self(Some(channel.clone()))
    }

    pub(in crate::broker) fn done(mut self) {
        self.0 = None;
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let (Some(channel), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            // Over at the latest with the connection.
            runtime.spawn(async move { channel.close(200, "given up".into()).await });
        }
    }
}

impl Live {
    /// Follows the connection's events for as long as it lives.
    pub(in crate::broker) fn follow(
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
            // In this order: users learn of the loss, and the thread ends.
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
                    // lapin reports the errors of single channels here too; they touch no other stream.
                    Some(Event::Error(error)) if error.is_amqp_soft_error() && status.connected() => {
                        debug!(%tenant, purpose, %error, "channel closed by the broker");
                    }
                    Some(Event::Error(error)) => {
                        warn!(%tenant, purpose, %error, "broker connection lost");
                        break;
                    }
                    Some(_) => {}
                    // The connection's end ends the stream of events.
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
            spoiled: AtomicUsize::new(0),
            closing,
        }
    }

    /// The certificate that it was opened with.
    pub(in crate::broker) fn leaf(&self) -> &Arc<Leaf> {
        &self.leaf
    }

    /// Whether channels can be opened on it.
    pub(in crate::broker) fn is_usable(&self) -> bool {
        let is_worn = self.spoiled.load(Ordering::Relaxed) >= MAX_SPOILED;
        !self.is_lost() && !is_worn && self.connection.status().connected()
    }

    pub(in crate::broker) fn is_lost(&self) -> bool {
        self.lost.is_cancelled()
    }

    /// Whether anybody has a channel, or is about to open one.
    pub(in crate::broker) fn is_used(&self) -> bool {
        self.channels.load(Ordering::Relaxed) > 0
    }

    /// One more user.
    pub(in crate::broker) fn guard(&self) -> ChannelGuard {
        self.channels.fetch_add(1, Ordering::Relaxed);
        ChannelGuard {
            channels: Arc::clone(&self.channels),
            lost: self.lost.clone(),
            blocked: self.blocked.clone(),
            status: self.connection.status().clone(),
            _counted: self.metrics.channel(),
        }
    }

    /// A channel for who has a guard.
    pub(in crate::broker) async fn channel(&self, guard: &ChannelGuard, timeout: Duration) -> Result<Channel, Error> {
        let opening = async {
            // Nothing is written while blocked: the request would only wait in a queue without bounds.
            guard.unblocked().await;
            loop {
                let opened = self.connection.create_channel().await;
                if !self.is_told_of_another(opened.as_ref().err()) {
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
                    // A connection that opens no channel is of no use to anyone: the next attempt makes a new one.
                    warn!("the broker opens no channel");
                    self.lost.cancel();
                    Err(Error::Timeout)
                }
            },
            () = self.lost.cancelled() => Err(Error::Unreachable(None)),
        }
    }

    /// lapin 4.12 keeps the error that ended a channel under its number, and ends with it whoever gets that number next, when
    /// all have been given out once. Such a number is passed over.
    fn is_told_of_another(&self, error: Option<&lapin::Error>) -> bool {
        error.is_some_and(lapin::Error::is_amqp_soft_error)
            && self.spoiled.fetch_add(1, Ordering::Relaxed) < MAX_SPOILED
    }

    /// Ends it without a word: its users see a loss, and go on elsewhere.
    pub(in crate::broker) fn give_up(&self) {
        self.closing.store(true, Ordering::Relaxed);
        self.lost.cancel();
    }

    /// Says goodbye, for 1 s at most, and ends it.
    pub(in crate::broker) async fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
        if self.connection.status().connected() {
            // A broker that is blocked or frozen does not answer; shutting the socket down ends it all the same.
            let closing = self.connection.close(200, "idle".into());
            let _ = tokio::time::timeout(Duration::from_secs(1), closing).await;
        }
        self.lost.cancel();
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        // Lost before, and counted so; or given up by us.
        self.give_up();
    }
}
