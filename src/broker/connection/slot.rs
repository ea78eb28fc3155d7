//! One tenant's connection for one purpose, made on first use, made anew after a loss and closed when idle. Channels
//! leave; while one is open, its [`ChannelGuard`] keeps the connection from being closed as idle and says when it is lost.
//! lapin's own recovery is off: docs/adr/0002 says why.
//!
//! Invariant: at most one attempt to connect at a time, in a task of its own. Streams wait for its outcome, whatever it
//! is, so a hundred streams make one connection, and one that is not looked after (its client reads nothing) holds up no other.

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

use super::live::ChannelGuard;
use super::{
    connect::{External, Target, connect},
    context::{Identity, Shared},
    live::Live,
};
use crate::{backoff::Backoff, broker::Error, names::TenantId, telemetry::BrokerPurpose};

const BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
/// How long streams may go on using a connection that was replaced.
const CLOSE_GRACE: Duration = Duration::from_secs(5);

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::broker) enum Purpose {
    Publish,
    Consume,
}

impl Purpose {
    pub(in crate::broker) fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Consume => "consume",
        }
    }

    fn counted(self) -> BrokerPurpose {
        match self {
            Self::Publish => BrokerPurpose::Publish,
            Self::Consume => BrokerPurpose::Consume,
        }
    }
}

/// A place for one connection.
pub(in crate::broker) struct Link(Arc<Inner>);

struct Inner {
    tenant: TenantId,
    vhost: String,
    purpose: Purpose,
    shared: Arc<Shared>,
    place: Mutex<Place>,
    /// Nothing is connected any more.
    closed: CancellationToken,
}

struct Place {
    state: State,
    /// The pause after the next failed attempt, and when the next attempt may begin.
    backoff: Backoff,
    not_before: Instant,
    idle_since: Option<Instant>,
}

enum State {
    Empty,
    Connecting(Attempt),
    Live(Arc<Live>),
}

type Attempt = SharedFuture<BoxFuture<'static, Result<(), Error>>>;

/// What to do for a channel.
enum Step {
    Open(Arc<Live>, ChannelGuard),
    Wait(Attempt),
}

impl Link {
    pub(in crate::broker) fn new(tenant: TenantId, purpose: Purpose, shared: Arc<Shared>) -> Self {
        let place = Place { state: State::Empty, backoff: BACKOFF, not_before: Instant::now(), idle_since: None };
        let place = Mutex::new(place);
        let closed = CancellationToken::new();
        Self(Arc::new(Inner { vhost: tenant.vhost(), tenant, purpose, shared, place, closed }))
    }

    /// Opens a channel, on a new connection when there is none. After attempts that failed, the next waits: 50 ms,
    /// doubling to 1 s, half of it at random.
    ///
    /// # Errors
    /// When the broker cannot be reached, refuses the tenant, or a limit is reached.
    pub(in crate::broker) async fn channel(&self) -> Result<(Channel, ChannelGuard), Error> {
        loop {
            match self.0.next_step() {
                Step::Open(live, guard) => {
                    let channel = live.channel(&guard, self.0.shared.options.connect_timeout).await?;
                    return Ok((channel, guard));
                }
                Step::Wait(connecting) => connecting.await?,
            }
        }
    }

    /// Closes the connection when it has had no channel for this long. Whether the link holds none afterwards.
    pub(in crate::broker) async fn close_if_idle(&self, timeout: Duration) -> bool {
        let live = {
            let mut place = self.0.place();
            let live = match &place.state {
                State::Empty => return true,
                State::Connecting(_) => return false,
                State::Live(live) => Arc::clone(live),
            };
            if !live.is_lost() {
                if live.is_used() {
                    place.idle_since = None;
                    return false;
                }
                if place.idle_since.get_or_insert_with(Instant::now).elapsed() < timeout {
                    return false;
                }
            }
            place.state = State::Empty;
            place.idle_since = None;
            live
        };
        live.close().await;
        true
    }

    /// As [`Self::renew`], when the certificate that the connection was opened with is not the tenant's current one any more.
    pub(in crate::broker) async fn renew_if_due(&self) -> Result<(), Error> {
        let shown = match &self.0.place().state {
            State::Live(live) => Arc::clone(live.leaf()),
            State::Empty | State::Connecting(_) => return Ok(()),
        };
        if self.0.shared.certificates().is_current(&self.0.tenant, &shown) { Ok(()) } else { self.renew().await }
    }

    /// Puts a new connection, with the certificate as it is now, in the place of the one that stands. The old one goes when
    /// nobody uses it any more, and after [`CLOSE_GRACE`] whoever does: its users then go on with the new one, as after a loss.
    ///
    /// # Errors
    /// When there is no new connection; the old one stays.
    async fn renew(&self) -> Result<(), Error> {
        let standing = |place: &Place| match &place.state {
            State::Live(live) if live.is_usable() => Some(Arc::clone(live)),
            // The next one is new anyway.
            _ => None,
        };
        let Some(old) = standing(&self.0.place()) else { return Ok(()) };
        let new = Arc::new(self.0.connect().await?);
        let is_replaced = {
            let mut place = self.0.place();
            let still = standing(&place).is_some_and(|live| Arc::ptr_eq(&live, &old));
            let is_replaced = still && !self.0.closed.is_cancelled();
            if is_replaced {
                place.state = State::Live(Arc::clone(&new));
                place.idle_since = None;
            }
            is_replaced
        };
        if !is_replaced {
            new.close().await;
            return Ok(());
        }
        let closed = self.0.closed.clone();
        tokio::spawn(async move {
            let end = Instant::now() + CLOSE_GRACE;
            while old.is_used() && !old.is_lost() && Instant::now() < end && !closed.is_cancelled() {
                tokio::time::sleep(CLOSE_GRACE / 20).await;
            }
            // A goodbye would look like the end of their queues to whoever still consumes; a loss is what they live through.
            if old.is_used() { old.give_up() } else { old.close().await }
        });
        Ok(())
    }

    /// Closes the connection, whoever uses it, and makes no other.
    pub(in crate::broker) async fn close(&self) {
        self.0.closed.cancel();
        let state = std::mem::replace(&mut self.0.place().state, State::Empty);
        if let State::Live(live) = state {
            live.close().await;
        }
    }
}

impl Inner {
    fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_step(self: &Arc<Self>) -> Step {
        let mut place = self.place();
        let attempt = match &place.state {
            State::Live(live) if live.is_usable() => {
                // Taken under the lock, so that the connection is not closed as idle in between.
                let step = Step::Open(Arc::clone(live), live.guard());
                place.idle_since = None;
                return step;
            }
            State::Connecting(attempt) => attempt.clone(),
            State::Empty | State::Live(_) => Arc::clone(self).attempt(place.not_before),
        };
        place.state = State::Connecting(attempt.clone());
        Step::Wait(attempt)
    }

    /// Begins to connect, in a task of its own.
    fn attempt(self: Arc<Self>, not_before: Instant) -> Attempt {
        let task = tokio::spawn(async move {
            let connected = tokio::select! {
                connected = async {
                    tokio::time::sleep_until(not_before).await;
                    self.connect().await
                } => connected,
                () = self.closed.cancelled() => Err(Error::Unreachable(None)),
            };
            let mut place = self.place();
            let (state, outcome) = match connected {
                // Closed in this moment: dropping the connection closes it.
                Ok(_) if self.closed.is_cancelled() => (State::Empty, Err(Error::Unreachable(None))),
                Ok(live) => {
                    place.backoff.reset();
                    (State::Live(Arc::new(live)), Ok(()))
                }
                Err(error) => {
                    place.not_before = Instant::now() + place.backoff.pause();
                    (State::Empty, Err(error))
                }
            };
            place.state = state;
            place.idle_since = None;
            outcome
        });
        // A runtime that shuts down ends the task, and everybody with it.
        task.map(|joined| joined.unwrap_or(Err(Error::Unreachable(None)))).boxed().shared()
    }

    /// Tries the endpoints in turn: those that failed lately come last.
    async fn connect(&self) -> Result<Live, Error> {
        let mut last = Error::Unreachable(None);
        for (index, endpoint) in self.shared.endpoints() {
            // Until the broker has said open-ok, or the attempt is over; `connect_timeout` counts from here.
            let _turn = self.shared.turn(index).await;
            let Identity { tls, leaf } = self.shared.identity(&self.tenant)?;
            let target = Target {
                endpoint,
                vhost: &self.vhost,
                tls: Arc::clone(&tls),
                heartbeat: self.shared.options.heartbeat,
                timeout: self.shared.options.connect_timeout,
                name: format!("warrengate {} {}", self.tenant, self.purpose.as_str()),
            };
            let connected = connect(target, External).await;
            self.shared.tried(index, !connected.as_ref().is_err_and(Error::is_link));
            match connected {
                Ok((connection, socket)) => {
                    info!(tenant = %self.tenant, purpose = self.purpose.as_str(), "broker connection opened");
                    let metrics = Arc::clone(self.shared.metrics.broker(self.purpose.counted()));
                    return Ok(Live::follow(connection, socket, self.tenant.clone(), self.purpose, metrics, leaf));
                }
                Err(error) => {
                    debug!(tenant = %self.tenant, ?error, "broker connection failed");
                    last = error;
                }
            }
        }
        self.shared.metrics.broker(self.purpose.counted()).connection_failed();
        warn!(tenant = %self.tenant, purpose = self.purpose.as_str(), error = ?last, "no broker connection");
        Err(last)
    }
}
