//! A stream's session: on whose behalf it runs, and when it must be warned or ended.
//!
//! Notices come in the order in which they become true: the token ends soon, the gateway drains, the stream is over (token,
//! client, tenant or gateway). A stream that awaits [`Session::notice`] in its loop cannot outlive any of them.

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
    audit::AuditContext,
    auth::Verifier,
    error::{Failure, Kind},
    memory::{MemoryBudget, TenantBudgets},
    telemetry::{Call, Limit, MessageTracer, Metrics, OpenStream, StreamKind, TenantMetrics, Traces},
    tenant::{EffectiveGrants, Plan, StreamPermit, TenantScope},
};

/// What sessions need from their gateway.
#[derive(Clone)]
pub struct SessionContext {
    /// Verifies newer tokens.
    pub verifier: Arc<Verifier>,
    /// How long before the token's end the stream is warned. Default 60 s.
    pub warn_before: Duration,
    /// The gateway's shutdown.
    pub drain: Drain,
    /// Where streams are counted.
    pub metrics: Metrics,
    /// Where messages are traced.
    pub traces: Traces,
    /// The largest body that any plan allows: one that the gateway takes, a client with default limits can receive.
    pub max_body_bytes: u64,
    /// What is buffered for each tenant.
    pub memory: TenantBudgets,
}

/// By then the client is connected to another gateway, or sees that this connection is closed.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What the stream has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// Notify the client that its token expires then.
    AuthExpiring(SystemTime),
    /// Notify the client that the gateway stops then.
    Draining(SystemTime),
    /// End the stream with this failure.
    Ended(Failure),
}

/// What ends the stream from outside. The future is kept, since every iteration of a stream's loop polls it.
enum Ending {
    Waited(BoxFuture<'static, Failure>),
    Came(Failure),
}

/// The grant that a stream needs as long as it is open, and what it ends with without it.
#[derive(Clone)]
struct RequiredGrant {
    is_granted: Arc<dyn Fn(&EffectiveGrants<'_>) -> bool + Send + Sync>,
    failure: Failure,
}

impl Ending {
    fn of(scope: &TenantScope, drain: &Drain, required: Option<RequiredGrant>) -> Self {
        let (scope, drain) = (scope.clone(), drain.clone());
        let ended = async move {
            let lost = async {
                match required {
                    Some(required) => {
                        scope.grant_lost(|grants| (required.is_granted)(grants)).await;
                        required.failure
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                why = scope.ended() => why.into(),
                failure = lost => failure,
                () = drain.over() => draining(),
            }
        };
        Self::Waited(ended.boxed())
    }

    /// Waits for the end, which is final.
    async fn came(&mut self) -> Failure {
        loop {
            match self {
                Self::Came(failure) => return failure.clone(),
                Self::Waited(waited) => *self = Self::Came(waited.await),
            }
        }
    }
}

/// The session of one stream. It owns the tenant's permit for the stream.
pub struct Session {
    context: SessionContext,
    scope: TenantScope,
    witness: AuditContext,
    _permit: StreamPermit,
    metrics: Arc<TenantMetrics>,
    tracer: MessageTracer,
    open: OpenStream,
    timer: Pin<Box<Sleep>>,
    warned: bool,
    /// The beginning of the shutdown; none once the stream was notified.
    begun: Option<BoxFuture<'static, ()>>,
    end: Ending,
    required: Option<RequiredGrant>,
    /// Dropped when the stream has ended completely.
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
        witness: AuditContext,
    ) -> Result<Self, Failure> {
        if context.drain.is_begun() {
            return Err(draining());
        }
        // Metric handles are resolved once for each stream.
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
            end: Ending::of(&scope, &context.drain, None),
            required: None,
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

    /// Records what is refused to it in the audit trail.
    pub fn witness(&self) -> &AuditContext {
        &self.witness
    }

    /// Whether the stream was notified of the shutdown; it gets no new work from then on.
    pub fn is_draining(&self) -> bool {
        self.begun.is_none()
    }

    /// Whether the gateway stops, notified or not: a stream that ends now was not ended by its client.
    pub fn gateway_stops(&self) -> bool {
        self.context.drain.is_begun()
    }

    /// Whether the time for the shutdown is over, and streams are cut.
    pub fn is_cut(&self) -> bool {
        self.context.drain.is_over()
    }

    /// The metrics of the stream's tenant.
    pub fn metrics(&self) -> &TenantMetrics {
        &self.metrics
    }

    /// The same, shared.
    pub fn shared_metrics(&self) -> Arc<TenantMetrics> {
        Arc::clone(&self.metrics)
    }

    /// The memory budget of the stream's tenant.
    pub fn memory(&self) -> MemoryBudget {
        self.context.memory.of(self.scope.tenant().as_str())
    }

    /// Reports what the stream has in flight now: messages, and their bytes.
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

    /// The tracer of its messages.
    pub fn tracer(&self) -> &MessageTracer {
        &self.tracer
    }

    /// Continues with a newer token.
    ///
    /// # Errors
    /// When it is not valid, or another client's.
    pub fn reauthenticate(&mut self, token: &str) -> Result<(), Failure> {
        let caller = self.context.verifier.verify(token)?;
        self.scope = self.scope.renewed(caller)?;
        self.end = Ending::of(&self.scope, &self.context.drain, self.required.clone());
        self.warned = false;
        self.set_timer();
        self.metrics.reauthenticated();
        Ok(())
    }

    /// Ends the stream with this failure as soon as its client does not have the grant any more, whatever its token says.
    ///
    /// # Errors
    /// When it does not have it now.
    pub fn require(
        &mut self,
        failure: Failure,
        is_granted: impl Fn(&EffectiveGrants<'_>) -> bool + Send + Sync + 'static,
    ) -> Result<(), Failure> {
        if !is_granted(&self.scope.grants()) {
            return Err(failure);
        }
        self.required = Some(RequiredGrant { is_granted: Arc::new(is_granted), failure });
        self.end = Ending::of(&self.scope, &self.context.drain, self.required.clone());
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

    /// Sets the timer to the warning, or after it to the end. A token that is valid for less than the usual warning time is not
    /// renewed in a loop: a twentieth of its lifetime passes first.
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
    Failure { retry_after: Some(RETRY_AFTER), ..failure }
}
