//! The first frame of a subscription: an untrusted `start`, checked against the limits and the client's grants.

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt as _, StreamExt as _};

use super::{Incoming, Notice, Policies, Session, out_of_order};
use crate::{
    backoff::Backoff,
    broker::{self, Broker, ConsumeSpec, Consumer, Sharing, SharingLookup, StartAt},
    error::{Failure, Kind},
    memory::TenantBudgets,
    names::QueueName,
    pb::{SubscribeRequest, SubscribeStart, SubscribeStarted, stream_position::Position, subscribe_request::Frame},
    provision::Inspector,
    tenant::TenantScope,
};

const DEFAULT_MESSAGES: u32 = 256;
const MAX_MESSAGES: u32 = 10_000;
const DEFAULT_BYTES: u64 = 16 * 1024 * 1024;
const MAX_BYTES: u64 = 256 * 1024 * 1024;
const DEFAULT_LEASE: Duration = Duration::from_secs(60);
const LEASES: std::ops::RangeInclusive<Duration> = Duration::from_secs(10)..=Duration::from_secs(3600);
/// How long the first frame may take after the stream was opened.
const FIRST_FRAME: Duration = Duration::from_secs(10);

/// The timeout of the lookup how a queue is shared.
const SHARING_TIMEOUT: Duration = Duration::from_secs(3);
/// A queue that expires sooner than this without a consumer keeps its consumer, even while no messages are delivered.
const EXPIRES_SOON: Duration = Duration::from_secs(24 * 3600);

/// The components of the gateway that subscriptions use.
#[derive(Clone)]
pub struct SubscribeContext {
    /// The broker.
    pub broker: Broker,
    /// Reads the properties of queues.
    pub inspector: Arc<Inspector>,
    /// The retry policies of queues.
    pub policies: Policies,
    /// How often a silent stream sends a heartbeat. Default 15 s.
    pub heartbeat_interval: Duration,
    /// The memory budgets of the tenants, to which deliveries are charged.
    pub memory: TenantBudgets,
}

impl SubscribeContext {
    /// Opens the first consumer. Only classic queues honour an exclusive consumer; the broker accepts the request for
    /// other types and ignores it, so they are refused here.
    pub(super) async fn open_first(&self, scope: &TenantScope, spec: &ConsumeSpec) -> Result<Consumer, Failure> {
        if spec.exclusive
            && let Some(queue) = self.inspector.queue(scope, &spec.queue).await?
            && queue.queue_type != "classic"
        {
            let text = format!(
                "queue {:?} is not a classic queue, and only classic queues can be consumed exclusively; a quorum queue declared \
                 with single_active_consumer serves one consumer at a time",
                spec.queue.as_str()
            );
            return Err(Failure::new(Kind::Precondition, "UNSUPPORTED_BY_QUEUE_TYPE", text).on_field("start.exclusive"));
        }
        Ok(self.open(scope.clone(), spec.clone()).await?)
    }

    pub(super) async fn open(&self, scope: TenantScope, spec: ConsumeSpec) -> Result<Consumer, broker::Error> {
        let memory = self.memory.of(scope.tenant().as_str());
        self.broker.consumer(&scope, &spec, self.sharing(&scope, &spec.queue), memory).await
    }

    /// Looks up how a queue is shared between consumers; called only when it matters.
    fn sharing(&self, scope: &TenantScope, queue: &QueueName) -> SharingLookup {
        let (inspector, scope, queue) = (Arc::clone(&self.inspector), scope.clone(), queue.clone());
        Arc::new(move || {
            let (inspector, scope, queue) = (Arc::clone(&inspector), scope.clone(), queue.clone());
            let lookup = async move {
                let found = tokio::time::timeout(SHARING_TIMEOUT, inspector.queue(&scope, &queue)).await;
                let queue = found.ok()?.ok()??;
                let is_single =
                    queue.arguments.get("x-single-active-consumer").is_some_and(|is| is.as_bool() == Some(true));
                let by_itself = queue.arguments.get("x-expires").and_then(serde_json::Value::as_u64);
                let by_plan = Some(scope.plan().queue_expires).filter(|millis| *millis > 0);
                let expires = by_itself.into_iter().chain(by_plan).min().map(Duration::from_millis);
                let expires_soon = expires.is_some_and(|expires| expires < EXPIRES_SOON);
                Some(if is_single { Sharing::Single } else { Sharing::Shared { expires_soon } })
            };
            lookup.boxed()
        })
    }

    /// The pauses between attempts to resume.
    pub(super) fn backoff(&self) -> Backoff {
        Backoff::new(Duration::from_millis(50), Duration::from_secs(1))
    }
}

/// A checked subscription.
pub(super) struct Subscription {
    spec: ConsumeSpec,
    max_messages: usize,
    max_bytes: usize,
    ack_deadline: Duration,
    auto_ack: bool,
    /// The last offset seen, in a stream queue.
    offset: Option<u64>,
}

impl Subscription {
    /// Waits for the first frame and checks it.
    pub(super) async fn receive(
        session: &mut Session,
        incoming: &mut impl Incoming<SubscribeRequest>,
    ) -> Result<Self, Failure> {
        let first = async {
            loop {
                tokio::select! {
                    frame = incoming.next() => return Ok(frame),
                    notice = session.notice() => if let Notice::Ended(failure) = notice { return Err(failure) },
                }
            }
        };
        let first = tokio::time::timeout(FIRST_FRAME, first)
            .await
            .map_err(|_| out_of_order("start did not arrive within 10 s"))??
            .ok_or_else(|| out_of_order("the stream was closed before start"))??;
        let Some(Frame::Start(start)) = first.frame else {
            return Err(out_of_order("the first frame must be start"));
        };
        session.audit_context().set_subject("", &start.queue);
        let subscription = Self::check(&start)?;
        session.listed().set_queue(subscription.spec.queue.as_str());
        require_grant(session, &subscription.spec.queue)?;
        Ok(subscription)
    }

    fn check(start: &SubscribeStart) -> Result<Self, Failure> {
        let queue = QueueName::parse(&start.queue).map_err(|error| Failure::from(error).on_field("start.queue"))?;
        let max_messages = or_default(start.max_outstanding_messages, DEFAULT_MESSAGES);
        if max_messages > MAX_MESSAGES {
            let text = format!("is {max_messages}; at most {MAX_MESSAGES}");
            return Err(Failure::invalid("start.max_outstanding_messages", text));
        }
        let max_bytes = or_default(start.max_outstanding_bytes, DEFAULT_BYTES);
        if max_bytes > MAX_BYTES {
            let text = format!("is {max_bytes}; at most {MAX_BYTES}");
            return Err(Failure::invalid("start.max_outstanding_bytes", text));
        }
        if !(-128..=127).contains(&start.priority) {
            return Err(Failure::invalid("start.priority", "must be from -128 to 127"));
        }
        let ack_deadline = match &start.ack_deadline {
            Some(requested) => lease("start.ack_deadline", requested)?,
            None => DEFAULT_LEASE,
        };
        let position = match &start.position {
            None => None,
            Some(position) => Some(match &position.position {
                Some(Position::First(_)) => StartAt::First,
                Some(Position::Last(_)) => StartAt::Last,
                Some(Position::Next(_)) => StartAt::Next,
                Some(Position::Offset(offset)) => StartAt::Offset(*offset),
                Some(Position::Timestamp(time)) => StartAt::Timestamp(
                    u64::try_from(time.seconds)
                        .map_err(|_| Failure::invalid("start.position.timestamp", "must not be before 1970"))?,
                ),
                None => return Err(Failure::invalid("start.position", "must specify where to begin")),
            }),
        };
        Ok(Self {
            spec: ConsumeSpec {
                queue,
                // Below 10,000, so it fits.
                max_messages: u16::try_from(max_messages).unwrap_or(u16::MAX),
                max_bytes: usize::try_from(max_bytes).unwrap_or(usize::MAX),
                start: position,
                exclusive: start.exclusive,
                priority: start.priority,
                keep: !start.auto_ack,
            },
            max_messages: max_messages as usize,
            max_bytes: usize::try_from(max_bytes).unwrap_or(usize::MAX),
            ack_deadline,
            auto_ack: start.auto_ack,
            offset: None,
        })
    }

    pub(super) fn started(&self, heartbeat: Duration) -> SubscribeStarted {
        SubscribeStarted {
            max_outstanding_messages: u32::from(self.spec.max_messages),
            max_outstanding_bytes: self.max_bytes as u64,
            ack_deadline: self.ack_deadline.try_into().ok(),
            heartbeat_interval: heartbeat.try_into().ok(),
        }
    }

    pub(super) fn spec(&self) -> &ConsumeSpec {
        &self.spec
    }

    /// A stream queue continues after the last message seen.
    pub(super) fn resume_spec(&self) -> ConsumeSpec {
        let start = self.offset.map(|offset| StartAt::Offset(offset + 1)).or(self.spec.start);
        ConsumeSpec { start, ..self.spec.clone() }
    }

    pub(super) fn seen(&mut self, offset: Option<u64>) {
        self.offset = offset.or(self.offset);
    }

    pub(super) fn is_stream(&self) -> bool {
        self.offset.is_some()
    }

    pub(super) fn max_messages(&self) -> usize {
        self.max_messages
    }

    pub(super) fn max_bytes(&self) -> usize {
        self.max_bytes
    }

    pub(super) fn ack_deadline(&self) -> Duration {
        self.ack_deadline
    }

    pub(super) fn auto_ack(&self) -> bool {
        self.auto_ack
    }
}

/// Requires, for as long as the stream is open, that its client may subscribe to its queue.
fn require_grant(session: &mut Session, queue: &QueueName) -> Result<(), Failure> {
    let text = format!("this client may not subscribe to queue {:?}", queue.as_str());
    let queue = queue.clone();
    let failure = Failure::new(Kind::Denied, "SUBSCRIBE_NOT_GRANTED", text);
    session.require(failure, move |grants| grants.may_subscribe(&queue))
}

/// A lease within its limits.
pub(super) fn lease(field: &'static str, requested: &prost_types::Duration) -> Result<Duration, Failure> {
    match Duration::try_from(*requested) {
        Ok(lease) if LEASES.contains(&lease) => Ok(lease),
        _ => Err(Failure::invalid(field, "must be from 10 s to 1 h")),
    }
}

fn or_default<T: Default + PartialEq>(given: T, default: T) -> T {
    if given == T::default() { default } else { given }
}
