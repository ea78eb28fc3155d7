//! The slot for one tenant's connection for one purpose: opened on first use, replaced after a loss, closed when idle.
//! While a channel is open, its [`ChannelGuard`] prevents the connection from being closed as idle and reports when it
//! is lost. lapin's own recovery is disabled (docs/adr/0002).
//!
//! At most one attempt to connect is in progress for each slot, in a task of its own. All streams wait for its outcome,
//! so a hundred streams open one connection, and a stream that is not polled (its client does not read) delays no
//! other.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Shared as SharedFuture},
};
use lapin::Channel;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    connect::{External, Target, connect},
    context::{ConnectionContext, Identity},
    live::{BrokerConnection, ChannelGuard},
    purpose::Purpose,
};
use crate::{backoff::Backoff, broker::error::Error, names::TenantId};

const BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
/// A connection that was lost earlier than this counts as a failed attempt.
const STABLE_AFTER: Duration = Duration::from_secs(5);
/// How long streams may continue to use a connection that was replaced.
const REPLACED_CONNECTION_GRACE: Duration = Duration::from_secs(5);

/// Contains at most one connection.
pub(in crate::broker) struct ConnectionSlot(Arc<Inner>);

struct Inner {
    tenant: TenantId,
    vhost: String,
    purpose: Purpose,
    context: Arc<ConnectionContext>,
    slot: Mutex<Slot>,
    /// Cancelled when the slot must not connect any more.
    closed: CancellationToken,
}

struct Slot {
    state: State,
    /// The delay after failed attempts and connections lost within [`STABLE_AFTER`], and when the next attempt may
    /// start.
    backoff: Backoff,
    not_before: Instant,
    idle_since: Option<Instant>,
}

enum State {
    Empty,
    Connecting(Attempt),
    Connected(Arc<BrokerConnection>),
}

type Attempt = SharedFuture<BoxFuture<'static, Result<(), Error>>>;

/// The next step towards a channel.
enum Step {
    Open(Arc<BrokerConnection>, ChannelGuard),
    Wait(Attempt),
}

impl ConnectionSlot {
    pub(super) fn new(tenant: TenantId, purpose: Purpose, context: Arc<ConnectionContext>) -> Self {
        let slot = Slot { state: State::Empty, backoff: BACKOFF, not_before: Instant::now(), idle_since: None };
        let slot = Mutex::new(slot);
        let closed = CancellationToken::new();
        Self(Arc::new(Inner { vhost: tenant.vhost(), tenant, purpose, context, slot, closed }))
    }

    /// Opens a channel, on a new connection if none is open. After failed attempts the next one is delayed: 50 ms,
    /// doubling up to 1 s, half of it at random.
    ///
    /// # Errors
    /// When the broker cannot be reached, refuses the tenant, or a limit is reached.
    pub(in crate::broker) async fn channel(&self) -> Result<(Channel, ChannelGuard), Error> {
        loop {
            match self.0.next_step() {
                Step::Open(connection, guard) => {
                    let channel = connection.channel(&guard, self.0.context.options.connect_timeout).await?;
                    return Ok((channel, guard));
                }
                Step::Wait(connecting) => connecting.await?,
            }
        }
    }

    /// Closes the connection when it has had no channel for this long. Returns whether the slot is empty afterwards.
    pub(in crate::broker) async fn close_if_idle(&self, timeout: Duration) -> bool {
        let connection = {
            let mut slot = self.0.slot();
            let connection = match &slot.state {
                State::Empty => return true,
                State::Connecting(_) => return false,
                State::Connected(connection) => Arc::clone(connection),
            };
            if !connection.is_lost() {
                if connection.is_used() {
                    slot.idle_since = None;
                    return false;
                }
                if slot.idle_since.get_or_insert_with(Instant::now).elapsed() < timeout {
                    return false;
                }
            }
            slot.state = State::Empty;
            slot.idle_since = None;
            connection
        };
        connection.close().await;
        true
    }

    /// Replaces the connection when it was opened with another certificate than the tenant's current one.
    pub(super) async fn renew_if_due(&self) -> Result<(), Error> {
        let presented = match &self.0.slot().state {
            State::Connected(connection) => Arc::clone(connection.leaf()),
            State::Empty | State::Connecting(_) => return Ok(()),
        };
        if self.0.context.certificates().is_current(&self.0.tenant, &presented) { Ok(()) } else { self.renew().await }
    }

    /// Replaces the connection by one with the current certificate. The old one is closed as soon as it has no users,
    /// and aborted after [`REPLACED_CONNECTION_GRACE`]: its users then continue on the new one, as after a loss.
    ///
    /// # Errors
    /// When a new connection cannot be opened; the old one is kept.
    async fn renew(&self) -> Result<(), Error> {
        let usable = |slot: &Slot| match &slot.state {
            State::Connected(connection) if connection.is_usable() => Some(Arc::clone(connection)),
            // The next connection will be a new one anyway.
            _ => None,
        };
        let Some(old) = usable(&self.0.slot()) else { return Ok(()) };
        let new = Arc::new(self.0.connect().await?);
        let is_replaced = {
            let mut slot = self.0.slot();
            let is_unchanged = usable(&slot).is_some_and(|connection| Arc::ptr_eq(&connection, &old));
            let is_replaced = is_unchanged && !self.0.closed.is_cancelled();
            if is_replaced {
                slot.state = State::Connected(Arc::clone(&new));
                slot.idle_since = None;
            }
            is_replaced
        };
        if !is_replaced {
            new.close().await;
            return Ok(());
        }
        let closed = self.0.closed.clone();
        tokio::spawn(async move {
            let end = Instant::now() + REPLACED_CONNECTION_GRACE;
            while old.is_used() && !old.is_lost() && Instant::now() < end && !closed.is_cancelled() {
                tokio::time::sleep(REPLACED_CONNECTION_GRACE / 20).await;
            }
            // A consumer would treat an orderly close like the deletion of its queue, whereas it recovers from a lost
            // connection.
            if old.is_used() { old.abort() } else { old.close().await }
        });
        Ok(())
    }

    /// Closes the connection even if it is in use, and opens no other one.
    pub(super) async fn close(&self) {
        self.0.closed.cancel();
        let state = std::mem::replace(&mut self.0.slot().state, State::Empty);
        if let State::Connected(connection) = state {
            connection.close().await;
        }
    }
}

impl Slot {
    fn back_off(&mut self) {
        self.not_before = Instant::now() + self.backoff.pause();
    }
}

impl Inner {
    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_step(self: &Arc<Self>) -> Step {
        let mut slot = self.slot();
        let lost_after = match &slot.state {
            State::Connected(connection) if connection.is_usable() => {
                // The guard is taken under the lock, so that the connection is not closed as idle in between.
                let step = Step::Open(Arc::clone(connection), connection.guard());
                slot.idle_since = None;
                return step;
            }
            State::Connecting(attempt) => return Step::Wait(attempt.clone()),
            State::Connected(lost) => Some(lost.age()),
            State::Empty => None,
        };
        match lost_after {
            // Without this, a message that lapin cannot read would cost a new connection each time it is delivered.
            Some(age) if age < STABLE_AFTER => slot.back_off(),
            Some(_) => slot.backoff.reset(),
            None => {}
        }
        let attempt = Arc::clone(self).attempt(slot.not_before);
        slot.state = State::Connecting(attempt.clone());
        Step::Wait(attempt)
    }

    /// Starts an attempt to connect, in a task of its own.
    fn attempt(self: Arc<Self>, not_before: Instant) -> Attempt {
        let task = tokio::spawn(async move {
            let connected = tokio::select! {
                connected = async {
                    tokio::time::sleep_until(not_before).await;
                    self.connect().await
                } => connected,
                () = self.closed.cancelled() => Err(Error::Unreachable(None)),
            };
            let mut slot = self.slot();
            let (state, outcome) = match connected {
                // Closed meanwhile: dropping the connection ends it.
                Ok(_) if self.closed.is_cancelled() => (State::Empty, Err(Error::Unreachable(None))),
                Ok(connection) => (State::Connected(Arc::new(connection)), Ok(())),
                Err(error) => {
                    slot.back_off();
                    (State::Empty, Err(error))
                }
            };
            slot.state = state;
            slot.idle_since = None;
            outcome
        });
        // The task fails to join only when the runtime shuts down.
        task.map(|joined| joined.unwrap_or(Err(Error::Unreachable(None)))).boxed().shared()
    }

    /// Tries the endpoints one after the other; those that failed recently come last.
    async fn connect(&self) -> Result<BrokerConnection, Error> {
        let mut last = Error::Unreachable(None);
        for (index, endpoint) in self.context.endpoints.in_order() {
            // Held until the broker has opened the connection or the attempt has failed; `connect_timeout` starts here.
            let _permit = self.context.endpoints.connect_permit(index).await;
            let Identity { tls, leaf } = self.context.identity(&self.tenant)?;
            let target = Target {
                endpoint,
                vhost: &self.vhost,
                tls: Arc::clone(&tls),
                heartbeat: self.context.options.heartbeat,
                timeout: self.context.options.connect_timeout,
                name: format!("warrengate {} {}", self.tenant, self.purpose.as_str()),
            };
            let connected = connect(target, External).await;
            self.context.endpoints.record(index, !connected.as_ref().is_err_and(Error::is_connection_error));
            match connected {
                Ok((connection, socket)) => {
                    info!(tenant = %self.tenant, purpose = self.purpose.as_str(), "broker connection opened");
                    let metrics = Arc::clone(self.context.metrics.broker(self.purpose.metric_label()));
                    return Ok(BrokerConnection::watch(
                        connection,
                        socket,
                        self.tenant.clone(),
                        self.purpose,
                        metrics,
                        leaf,
                    ));
                }
                Err(error) => {
                    debug!(tenant = %self.tenant, ?error, "broker endpoint refused the connection");
                    last = error;
                }
            }
        }
        self.context.metrics.broker(self.purpose.metric_label()).connection_failed();
        warn!(tenant = %self.tenant, purpose = self.purpose.as_str(), error = ?last, "cannot connect to the broker");
        Err(last)
    }
}
