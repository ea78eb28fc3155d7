//! Why a stream must be warned or ended. A scope enters; notices leave, in the order in which they become true: the token
//! ends soon, the gateway drains, the stream is over (token, client, tenant or gateway). A stream that asks for
//! [`Session::notice`] in its loop cannot outlive any of them.

use std::{
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::{FutureExt as _, future::BoxFuture};
use tokio::time::{Instant, Sleep};
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::drain::Drain;
use crate::{
    audit::Witness,
    auth::Verifier,
    error::{Failure, Kind},
    telemetry::{Call, Limit, MessageTracer, Metrics, OpenStream, StreamKind, TenantMetrics, Traces},
    tenant::{Plan, StreamPermit, TenantScope},
};

/// What a session needs of its gateway.
#[derive(Clone)]
pub struct SessionContext {
    /// For newer tokens.
    pub verifier: Arc<Verifier>,
    /// How long before the token's end the stream is warned. Default 60 s.
    pub warn_before: Duration,
    /// The gateway's end.
    pub drain: Drain,
    /// Where streams are counted.
    pub metrics: Metrics,
    /// Where messages are traced.
    pub traces: Traces,
    /// The largest body that any plan allows: one that the gateway takes, a client with default limits can receive.
    pub max_body_bytes: u64,
}

/// By then another gateway has the client's connection, or a client that asks again sees that this one is closed.
const COME_BACK_AFTER: Duration = Duration::from_secs(1);

/// What the stream must do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// Tell the client that its token ends then.
    AuthExpiring(SystemTime),
    /// Tell the client that the gateway stops then.
    Draining(SystemTime),
    /// End the stream with this.
    Ended(Failure),
}

/// What ends the stream from outside. Asked once and kept, since every turn of a stream's loop asks.
enum Ending {
    Waited(BoxFuture<'static, Failure>),
    Came(Failure),
}

impl Ending {
    fn of(scope: &TenantScope, drain: &Drain) -> Self {
        let (scope, drain) = (scope.clone(), drain.clone());
        let ended = async move {
            tokio::select! {
                biased;
                why = scope.ended() => why.into(),
                () = drain.over() => draining(),
            }
        };
        Self::Waited(ended.boxed())
    }

    /// Waits for it; it stays so.
    async fn came(&mut self) -> Failure {
        loop {
            match self {
                Self::Came(failure) => return failure.clone(),
                Self::Waited(waited) => *self = Self::Came(waited.await),
            }
        }
    }
}

/// A stream's standing. Holds the tenant's permit for the stream.
pub struct Session {
    context: SessionContext,
    scope: TenantScope,
    witness: Witness,
    _permit: StreamPermit,
    metrics: Arc<TenantMetrics>,
    tracer: MessageTracer,
    open: OpenStream,
    timer: Pin<Box<Sleep>>,
    warned: bool,
    /// The drain's beginning; none when the stream was told.
    begun: Option<BoxFuture<'static, ()>>,
    end: Ending,
    /// Given back when the stream has ended whole.
    _counted: TaskTrackerToken,
}

impl Session {
    /// # Errors
    /// When the plan's streams are all open, or the gateway drains.
    pub fn open(
        context: &SessionContext,
        scope: TenantScope,
        kind: StreamKind,
        call: Option<&Call>,
        witness: Witness,
    ) -> Result<Self, Failure> {
        if context.drain.is_begun() {
            return Err(draining());
        }
        // The handles are resolved here, once a stream.
        let metrics = context.metrics.tenant(scope.tenant());
        let plan = scope.plan();
        for (limit, value) in [
            (Limit::Streams, plan.max_streams.into()),
            (Limit::Messages, plan.max_publish_messages_per_second.into()),
            (Limit::Bytes, plan.max_publish_bytes_per_second),
            (Limit::InFlightMessages, plan.max_in_flight_messages.into()),
            (Limit::InFlightBytes, plan.max_in_flight_bytes),
        ] {
            metrics.limit(limit, value);
        }
        let permit = scope.open_stream().inspect_err(|_| metrics.throttled(Limit::Streams, 1))?;
        let tracer =
            context.traces.messages(scope.tenant(), scope.caller().client(), scope.plan().sampling_ratio(), call);
        let begun = context.drain.clone();
        let mut session = Self {
            begun: Some(async move { begun.begun().await }.boxed()),
            end: Ending::of(&scope, &context.drain),
            context: context.clone(),
            scope,
            witness,
            _permit: permit,
            open: metrics.open_stream(kind),
            metrics,
            tracer,
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            warned: false,
            _counted: context.drain.count(),
        };
        session.set_timer();
        Ok(session)
    }

    /// On whose behalf the stream is.
    pub fn scope(&self) -> &TenantScope {
        &self.scope
    }

    /// Who puts on record what is refused to it.
    pub fn witness(&self) -> &Witness {
        &self.witness
    }

    /// Whether the stream was told that its gateway stops; it gets no new work from then on.
    pub fn is_draining(&self) -> bool {
        self.begun.is_none()
    }

    /// Whether the gateway stops, told or not: what ends now is not the client's doing.
    pub fn gateway_stops(&self) -> bool {
        self.context.drain.is_begun()
    }

    /// Whether the drain's time is over: what the stream still has is ended now.
    pub fn is_cut(&self) -> bool {
        self.context.drain.is_over()
    }

    /// Where the stream is counted.
    pub fn metrics(&self) -> &TenantMetrics {
        &self.metrics
    }

    /// The same, to be kept.
    pub fn shared_metrics(&self) -> Arc<TenantMetrics> {
        Arc::clone(&self.metrics)
    }

    /// What the stream has in flight now: messages, and their body bytes.
    pub fn holds(&mut self, messages: usize, bytes: usize) {
        self.open.holds(messages, bytes);
    }

    /// The largest body that may be published now; never more than a plan allows.
    pub fn max_body_bytes(&self, plan: &Plan) -> u64 {
        match plan.max_message_bytes {
            0 => self.context.max_body_bytes,
            max => max.min(self.context.max_body_bytes),
        }
    }

    /// What its messages are traced with.
    pub fn tracer(&self) -> &MessageTracer {
        &self.tracer
    }

    /// Goes on with a newer token.
    ///
    /// # Errors
    /// When it is not valid, or another client's.
    pub fn reauthenticate(&mut self, token: &str) -> Result<(), Failure> {
        let caller = self.context.verifier.verify(token)?;
        self.scope = self.scope.renewed(caller)?;
        self.end = Ending::of(&self.scope, &self.context.drain);
        self.warned = false;
        self.set_timer();
        self.metrics.reauthenticated();
        Ok(())
    }

    /// Waits for the next notice. Cancel safe.
    pub async fn notice(&mut self) -> Notice {
        let expires = self.scope.caller().expires();
        tokio::select! {
            biased;
            failure = self.end.came() => Notice::Ended(failure),
            () = told(&mut self.begun) => {
                self.begun = None;
                Notice::Draining(self.context.drain.deadline())
            }
            () = self.timer.as_mut() => {
                if self.warned {
                    Notice::Ended(Failure::new(
                        Kind::Unauthenticated,
                        "TOKEN_EXPIRED",
                        "the token has expired; fetch a new one and open the stream again",
                    ))
                } else {
                    self.warned = true;
                    self.set_timer();
                    Notice::AuthExpiring(expires)
                }
            }
        }
    }

    /// To the warning, or after it to the end. A token shorter than the usual warning is not renewed in circles: a twentieth
    /// of its life comes first.
    fn set_timer(&mut self) {
        let left = self.scope.caller().expires().duration_since(SystemTime::now()).unwrap_or_default();
        let until = if self.warned { left } else { left.saturating_sub(self.context.warn_before).max(left / 20) };
        self.timer.as_mut().reset(Instant::now() + until);
    }
}

async fn told(begun: &mut Option<BoxFuture<'static, ()>>) {
    match begun {
        Some(begun) => begun.await,
        None => std::future::pending().await,
    }
}

/// Why a stream ends, or is not opened, when the gateway stops.
pub fn draining() -> Failure {
    let failure =
        Failure::new(Kind::Unavailable, "DRAINING", "this gateway is stopping; connect again to reach another");
    Failure { retry_after: Some(COME_BACK_AFTER), ..failure }
}
