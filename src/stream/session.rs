//! The session of a stream: its caller, and when it must be warned or ended.
//!
//! Notices are delivered in the order in which they become due: the token expires soon, the gateway drains, the stream
//! must end (because of its token, client, tenant or gateway). A stream that awaits [`Session::notice`] in its loop
//! cannot outlive any of them.

use std::{
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::{FutureExt as _, future::BoxFuture};
use tokio::time::{Instant, Sleep};
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::{
    connection_end::ConnectionEnd,
    drain::Drain,
    open_streams::{ListedStream, OpenStreams},
};
use crate::{
    audit::AuditContext,
    auth::Verifier,
    error::{Failure, Kind},
    memory::{MemoryBudget, TenantBudgets},
    telemetry::{Call, Limit, MessageTracer, Metrics, OpenStream, StreamKind, TenantMetrics, Traces},
    tenant::{EffectiveGrants, Plan, StreamPermit, TenantScope},
};

/// The components of the gateway that sessions use.
#[derive(Clone)]
pub struct SessionContext {
    /// Verifies newer tokens.
    pub verifier: Arc<Verifier>,
    /// How long before its token expires a stream is warned. Default 60 s.
    pub warn_before: Duration,
    /// The gateway's shutdown.
    pub drain: Drain,
    /// Where streams are listed.
    pub open_streams: OpenStreams,
    /// Where streams are counted.
    pub metrics: Metrics,
    /// Where messages are traced.
    pub traces: Traces,
    /// The largest body that any plan allows, so that a client with default limits can receive every message.
    pub max_body_bytes: u64,
    /// What is buffered for each tenant.
    pub memory: TenantBudgets,
}

/// By then the client has connected to another gateway, or noticed that this connection is closed.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A notice to the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// Notify the client that its token expires at this time.
    AuthExpiring(SystemTime),
    /// Notify the client that the gateway stops at this time.
    Draining(SystemTime),
    /// End the stream with this failure.
    Ended(Failure),
}

/// External reasons for the end of the stream. The future is stored because every iteration of a stream's loop polls
/// it.
enum Ending {
    Pending(BoxFuture<'static, Failure>),
    Reached(Failure),
}

/// A grant that the stream needs while it is open, and the failure without it.
#[derive(Clone)]
struct RequiredGrant {
    is_granted: Arc<dyn Fn(&EffectiveGrants<'_>) -> bool + Send + Sync>,
    failure: Failure,
}

impl Ending {
    fn of(scope: &TenantScope, drain: &Drain, listed: &ListedStream, required: Option<RequiredGrant>) -> Self {
        let (scope, drain, closed) = (scope.clone(), drain.clone(), listed.closed());
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
                failure = closed => failure,
                () = drain.over() => draining(),
            }
        };
        Self::Pending(ended.boxed())
    }

    /// Waits for the end, which is final.
    async fn reached(&mut self) -> Failure {
        loop {
            match self {
                Self::Reached(failure) => return failure.clone(),
                Self::Pending(pending) => *self = Self::Reached(pending.await),
            }
        }
    }
}

/// The session of one stream. It owns the tenant's permit for the stream.
pub struct Session {
    context: SessionContext,
    scope: TenantScope,
    audit_context: AuditContext,
    _permit: StreamPermit,
    metrics: Arc<TenantMetrics>,
    tracer: MessageTracer,
    open: OpenStream,
    listed: ListedStream,
    connection: ConnectionEnd,
    timer: Pin<Box<Sleep>>,
    warned: bool,
    /// The beginning of the shutdown; `None` once the stream was notified.
    begun: Option<BoxFuture<'static, ()>>,
    end: Ending,
    required: Option<RequiredGrant>,
    /// Dropped when the stream has ended completely.
    _counted: TaskTrackerToken,
}

impl Session {
    /// # Errors
    /// When the plan's limit of streams is reached, or the gateway drains.
    pub fn open(
        context: &SessionContext,
        scope: TenantScope,
        kind: StreamKind,
        call: Option<&Call>,
        audit_context: AuditContext,
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
        let listed =
            context.open_streams.open(scope.tenant(), scope.caller().client(), kind, audit_context.peer_address());
        let mut session = Self {
            begun: Some(async move { begun.begun().await }.boxed()),
            end: Ending::of(&scope, &context.drain, &listed, None),
            required: None,
            context: context.clone(),
            scope,
            audit_context,
            _permit: permit,
            open: metrics.open_stream(kind),
            listed,
            connection: ConnectionEnd::default(),
            metrics,
            tracer,
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            warned: false,
            _counted: context.drain.count(),
        };
        session.set_timer();
        Ok(session)
    }

    /// Sets the connection of the stream.
    pub fn on_connection(self, connection: ConnectionEnd) -> Self {
        Self { connection, ..self }
    }

    /// The end of its connection.
    pub(super) fn connection_end(&self) -> ConnectionEnd {
        self.connection.clone()
    }

    /// The scope of the stream.
    pub fn scope(&self) -> &TenantScope {
        &self.scope
    }

    /// The audit context in which refusals of the stream are recorded.
    pub fn audit_context(&self) -> &AuditContext {
        &self.audit_context
    }

    /// Whether the stream was notified of the shutdown; it gets no new messages from then on.
    pub fn is_draining(&self) -> bool {
        self.begun.is_none()
    }

    /// Whether the gateway is stopping, whether or not the stream was notified: a stream that ends now was not ended
    /// by its client.
    pub fn gateway_stops(&self) -> bool {
        self.context.drain.is_begun()
    }

    /// Whether the time for the shutdown is over, and the remaining streams are ended.
    pub fn is_cut(&self) -> bool {
        self.context.drain.is_over()
    }

    /// The metrics of the stream's tenant.
    pub fn metrics(&self) -> &TenantMetrics {
        &self.metrics
    }

    /// The metrics of the stream's tenant, shared.
    pub fn shared_metrics(&self) -> Arc<TenantMetrics> {
        Arc::clone(&self.metrics)
    }

    /// The memory budget of the stream's tenant.
    pub fn memory(&self) -> MemoryBudget {
        self.context.memory.of(self.scope.tenant().as_str())
    }

    /// Reports the stream's messages in flight and their bytes.
    pub fn set_in_flight(&mut self, messages: usize, bytes: usize) {
        self.open.set_in_flight(messages, bytes);
        self.listed.set_in_flight(messages, bytes);
    }

    /// The stream's entry in the list of open streams.
    pub fn listed(&self) -> &ListedStream {
        &self.listed
    }

    /// The largest body that may be published now; never more than any plan allows.
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
    /// When the token is invalid or belongs to another client.
    pub fn reauthenticate(&mut self, token: &str) -> Result<(), Failure> {
        let caller = self.context.verifier.verify(token)?;
        self.scope = self.scope.renewed(caller)?;
        self.end = Ending::of(&self.scope, &self.context.drain, &self.listed, self.required.clone());
        self.warned = false;
        self.set_timer();
        self.metrics.reauthenticated();
        Ok(())
    }

    /// Ends the stream with this failure as soon as its client no longer has the grant, even if its token contains it.
    ///
    /// # Errors
    /// When the client does not have it now.
    pub fn require(
        &mut self,
        failure: Failure,
        is_granted: impl Fn(&EffectiveGrants<'_>) -> bool + Send + Sync + 'static,
    ) -> Result<(), Failure> {
        if !is_granted(&self.scope.grants()) {
            return Err(failure);
        }
        self.required = Some(RequiredGrant { is_granted: Arc::new(is_granted), failure });
        self.end = Ending::of(&self.scope, &self.context.drain, &self.listed, self.required.clone());
        Ok(())
    }

    /// Waits for the next notice. Cancel safe.
    pub async fn notice(&mut self) -> Notice {
        let expires = self.scope.caller().expires();
        tokio::select! {
            biased;
            failure = self.end.reached() => Notice::Ended(failure),
            () = drain_begun(&mut self.begun) => {
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

    /// Sets the timer to the warning, or after it to the expiry. A token with a short remaining lifetime is not
    /// renewed in a loop: a twentieth of its lifetime passes first.
    fn set_timer(&mut self) {
        let left = self.scope.caller().expires().duration_since(SystemTime::now()).unwrap_or_default();
        let until = if self.warned { left } else { left.saturating_sub(self.context.warn_before).max(left / 20) };
        self.timer.as_mut().reset(Instant::now() + until);
    }
}

async fn drain_begun(begun: &mut Option<BoxFuture<'static, ()>>) {
    match begun {
        Some(begun) => begun.await,
        None => std::future::pending().await,
    }
}

/// The failure of a stream that ends or is refused because the gateway stops.
pub fn draining() -> Failure {
    let failure =
        Failure::new(Kind::Unavailable, "DRAINING", "this gateway is stopping; connect again to reach another");
    Failure { retry_after: Some(RETRY_AFTER), ..failure }
}
