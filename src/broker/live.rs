//! One connection that stands, followed until its end. What its users hold says when it is lost and whether the broker has
//! blocked it. Invariant: when it is lost, its socket is shut down, so that lapin's thread ends whatever the peer does.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use futures_util::StreamExt as _;
use lapin::{Channel, Connection, Event};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{Error, connect::Socket, link::Purpose};
use crate::{
    names::TenantId,
    telemetry::{BrokerMetrics, OpenGuard},
};

/// A connection that stands.
pub(super) struct Live {
    connection: Connection,
    lost: CancellationToken,
    blocked: watch::Receiver<bool>,
    channels: Arc<AtomicUsize>,
    metrics: Arc<BrokerMetrics>,
    renew_after: SystemTime,
    /// We end it ourselves.
    closing: Arc<AtomicBool>,
}

/// What a user of a channel holds beside it.
#[derive(Debug)]
pub(super) struct ChannelGuard {
    channels: Arc<AtomicUsize>,
    lost: CancellationToken,
    blocked: watch::Receiver<bool>,
    _counted: OpenGuard,
}

impl ChannelGuard {
    /// Cancelled when the connection is gone.
    pub(super) fn lost(&self) -> &CancellationToken {
        &self.lost
    }

    /// Whether the broker has blocked the connection (a memory or disk alarm).
    pub(super) fn blocked(&self) -> bool {
        *self.blocked.borrow()
    }

    /// Waits until the broker takes something again; over at once when the connection is gone.
    pub(super) fn unblocked(&self) -> impl Future<Output = ()> + Send + 'static {
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

impl Live {
    /// Follows the connection's events for as long as it lives.
    pub(super) fn follow(
        connection: Connection,
        socket: Socket,
        tenant: TenantId,
        purpose: Purpose,
        metrics: Arc<BrokerMetrics>,
        renew_after: SystemTime,
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
        Self { connection, lost, blocked, channels: Arc::default(), metrics, renew_after, closing }
    }

    /// Whether the certificate that it was opened with should be replaced.
    pub(super) fn is_due(&self) -> bool {
        self.renew_after <= SystemTime::now()
    }

    /// Whether channels can be opened on it.
    pub(super) fn is_usable(&self) -> bool {
        !self.is_lost() && self.connection.status().connected()
    }

    pub(super) fn is_lost(&self) -> bool {
        self.lost.is_cancelled()
    }

    /// Whether anybody has a channel, or is about to open one.
    pub(super) fn is_used(&self) -> bool {
        self.channels.load(Ordering::Relaxed) > 0
    }

    /// One more user.
    pub(super) fn guard(&self) -> ChannelGuard {
        self.channels.fetch_add(1, Ordering::Relaxed);
        ChannelGuard {
            channels: Arc::clone(&self.channels),
            lost: self.lost.clone(),
            blocked: self.blocked.clone(),
            _counted: self.metrics.channel(),
        }
    }

    /// A channel for who has a guard.
    pub(super) async fn channel(&self, guard: &ChannelGuard, timeout: Duration) -> Result<Channel, Error> {
        let opening = async {
            // Nothing is written while blocked: the request would only wait in a queue without bounds.
            guard.unblocked().await;
            self.connection.create_channel().await
        };
        tokio::select! {
            opened = tokio::time::timeout(timeout, opening) => match opened {
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

    /// Ends it without a word: its users see a loss, and go on elsewhere.
    pub(super) fn give_up(&self) {
        self.closing.store(true, Ordering::Relaxed);
        self.lost.cancel();
    }

    /// Says goodbye, for 1 s at most, and ends it.
    pub(super) async fn close(&self) {
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
