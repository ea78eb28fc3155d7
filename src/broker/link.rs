//! One tenant's connection for one purpose, made on first use, made anew after a loss and closed when idle. Channels
//! leave; while one is open, its [`ChannelGuard`] keeps the connection from being closed as idle and says when it is lost.
//! lapin's own recovery is off: docs/adr/0002 says why.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::StreamExt as _;
use lapin::{Channel, Connection, Event};
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    Error,
    connect::{External, Target, connect},
    shared::{Identity, Shared},
};
use crate::names::TenantId;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Purpose {
    Publish,
    Consume,
}

impl Purpose {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Consume => "consume",
        }
    }
}

/// A place for one connection.
pub(super) struct Link {
    tenant: TenantId,
    vhost: String,
    purpose: Purpose,
    shared: Arc<Shared>,
    /// Held while connecting, so that a hundred streams make one connection.
    live: Mutex<Option<Live>>,
}

struct Live {
    connection: Connection,
    lost: CancellationToken,
    blocked: watch::Receiver<bool>,
    channels: Arc<AtomicUsize>,
    idle_since: Option<Instant>,
}

/// What a user of a channel holds beside it.
#[derive(Debug)]
pub(super) struct ChannelGuard {
    channels: Arc<AtomicUsize>,
    lost: CancellationToken,
    blocked: watch::Receiver<bool>,
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
}

impl Drop for ChannelGuard {
    fn drop(&mut self) {
        self.channels.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Link {
    pub(super) fn new(tenant: TenantId, purpose: Purpose, shared: Arc<Shared>) -> Self {
        Self { vhost: tenant.vhost(), tenant, purpose, shared, live: Mutex::new(None) }
    }

    /// Opens a channel, on a new connection when there is none.
    ///
    /// # Errors
    /// When the broker cannot be reached, refuses the tenant, or a limit is reached.
    pub(super) async fn channel(&self) -> Result<(Channel, ChannelGuard), Error> {
        let mut live = self.live.lock().await;
        if live.as_ref().is_some_and(|live| live.lost.is_cancelled() || !live.connection.status().connected()) {
            *live = None;
        }
        let live = match &mut *live {
            Some(live) => live,
            none => none.insert(self.open().await?),
        };
        live.channels.fetch_add(1, Ordering::Relaxed);
        live.idle_since = None;
        let guard = ChannelGuard {
            channels: Arc::clone(&live.channels),
            lost: live.lost.clone(),
            blocked: live.blocked.clone(),
        };
        let opened = tokio::time::timeout(self.shared.options.connect_timeout, live.connection.create_channel()).await;
        match opened {
            Ok(opened) => Ok((opened?, guard)),
            Err(_) => {
                // A connection that opens no channel is of no use to anyone: the next attempt makes a new one.
                warn!(tenant = %self.tenant, purpose = self.purpose.as_str(), "the broker opens no channel");
                live.lost.cancel();
                Err(Error::Timeout)
            }
        }
    }

    /// Tries the endpoints in turn, beginning with another one each time.
    async fn open(&self) -> Result<Live, Error> {
        let Identity { tls } = self.shared.identity(&self.tenant)?;
        let mut last = Error::Unreachable(None);
        for endpoint in self.shared.endpoints_from_next() {
            let target = Target {
                endpoint,
                vhost: &self.vhost,
                tls: Arc::clone(&tls),
                heartbeat: self.shared.options.heartbeat,
                timeout: self.shared.options.connect_timeout,
                name: format!("warrengate {} {}", self.tenant, self.purpose.as_str()),
            };
            match connect(target, External).await {
                Ok(connection) => {
                    info!(tenant = %self.tenant, purpose = self.purpose.as_str(), "broker connection opened");
                    return Ok(self.watch(connection));
                }
                Err(error) => {
                    debug!(tenant = %self.tenant, ?error, "broker connection failed");
                    last = error;
                }
            }
        }
        warn!(tenant = %self.tenant, purpose = self.purpose.as_str(), error = ?last, "no broker connection");
        Err(last)
    }

    /// Follows the connection's events for as long as it lives.
    fn watch(&self, connection: Connection) -> Live {
        let lost = CancellationToken::new();
        let (set_blocked, blocked) = watch::channel(false);
        let mut events = connection.events_listener();
        let status = connection.status().clone();
        let (tenant, purpose, ended) = (self.tenant.clone(), self.purpose.as_str(), lost.clone());
        tokio::spawn(async move {
            // The connection's end ends the stream of events.
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
                    None => break,
                }
            }
        });
        Live { connection, lost, blocked, channels: Arc::default(), idle_since: None }
    }

    /// Closes the connection when it has had no channel for this long. Whether the link holds none afterwards.
    pub(super) async fn close_if_idle(&self, timeout: Duration) -> bool {
        // Somebody is connecting: not idle.
        let Ok(mut live) = self.live.try_lock() else { return false };
        let Some(held) = &mut *live else { return true };
        if held.channels.load(Ordering::Relaxed) > 0 && !held.lost.is_cancelled() {
            held.idle_since = None;
            return false;
        }
        let since = *held.idle_since.get_or_insert_with(Instant::now);
        if since.elapsed() < timeout && !held.lost.is_cancelled() {
            return false;
        }
        if let Some(held) = live.take() {
            drop(live);
            held.close().await;
        }
        true
    }

    /// Closes the connection, whoever uses it.
    pub(super) async fn close(&self) {
        let held = self.live.lock().await.take();
        if let Some(held) = held {
            held.close().await;
        }
    }
}

impl Live {
    async fn close(self) {
        if self.connection.status().connected() {
            // A broker that is blocked or frozen does not answer; dropping the connection ends it all the same.
            let closing = self.connection.close(200, "idle".into());
            let _ = tokio::time::timeout(Duration::from_secs(1), closing).await;
        }
        self.lost.cancel();
    }
}
