//! A subscribe stream. It sends deliveries in batches of the messages that are ready and fit into both windows, and
//! receives settlements and extensions of leases.
//!
//! Invariant: every delivery that this stream has received from the broker and not settled is in `outstanding` or in
//! its consumer, and returns to the queue when the stream ends, for whatever reason. Failed deliveries are published
//! again first.

mod failing;
mod frames;
mod policies;
mod start;

use std::{
    collections::VecDeque,
    pin::{Pin, pin},
    time::{Duration, SystemTime},
};

use futures_util::StreamExt as _;
use tokio::{
    sync::mpsc,
    time::{Instant, Interval, MissedTickBehavior, Sleep, sleep_until},
};
use tracing::Instrument as _;

use self::{failing::Failing, start::Subscription};
pub use self::{policies::Policies, start::SubscribeContext};
use super::{
    FRAMES_AHEAD, Incoming,
    outstanding::Outstanding,
    session::{self, Notice, Session},
};
use crate::{
    broker::{self, Capacity, Consumer, RetainedDelivery, UnreadFrame},
    error::{Failure, Kind},
    pb::{
        AuthExpiring, Deliveries, Delivery, Draining, Heartbeat, Interrupted, Resumed, Settled, SubscribeRequest,
        SubscribeResponse, subscribe_response::Event,
    },
    telemetry::{DeliverySpans, Settlement},
};

/// Frames to the client; the last may be a failure.
pub type Responses = mpsc::Receiver<Result<Frame, Failure>>;

/// A frame to the client. Its deliveries are charged to the tenant's memory budget until it is dropped.
#[derive(Debug)]
pub struct Frame {
    /// The response to the client.
    pub response: SubscribeResponse,
    unread: Option<UnreadFrame>,
}

impl Frame {
    /// The response, and the charge to be kept until the transport has taken the response.
    pub fn into_parts(self) -> (SubscribeResponse, Option<UnreadFrame>) {
        (self.response, self.unread)
    }
}

impl From<Option<Event>> for Frame {
    fn from(event: Option<Event>) -> Self {
        Self { response: SubscribeResponse { event }, unread: None }
    }
}

/// The maximum bytes and messages of one frame of deliveries. Clients accept 4 MiB by default.
const FRAME_BYTES: usize = 1024 * 1024;
const FRAME_MESSAGES: usize = 128;
/// Settlement reports that a client may leave unread before no more of its frames are read.
const UNREAD_REPORTS: usize = 10_000;

/// Runs a subscribe stream until its end.
pub fn run(context: SubscribeContext, session: Session, incoming: impl Incoming<SubscribeRequest>) -> Responses {
    let (frames, responses) = mpsc::channel(FRAMES_AHEAD);
    let audit_context = session.audit_context().clone();
    let running = async move {
        if let Err(End::Failed(failure)) = serve(context, session, incoming, frames.clone()).await {
            audit_context.record_end(failure.kind, failure.reason);
            // A client that does not read the failure in time still sees the end of the stream.
            let _ = tokio::time::timeout(Duration::from_secs(1), frames.send(Err(failure))).await;
        }
    };
    tokio::spawn(running.in_current_span());
    responses
}

async fn serve(
    context: SubscribeContext,
    mut session: Session,
    mut incoming: impl Incoming<SubscribeRequest>,
    frames: mpsc::Sender<Result<Frame, Failure>>,
) -> Result<(), End> {
    let mut subscription = Subscription::receive(&mut session, &mut incoming).await?;
    let consumer = context.open_first(session.scope(), subscription.spec()).await?;
    let mut heartbeat = tokio::time::interval(context.heartbeat_interval);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    heartbeat.reset();
    let mut machine = Machine {
        outbox: VecDeque::from([Event::Started(subscription.started(context.heartbeat_interval))]),
        outstanding: Outstanding::default(),
        failing: Failing::new(&context, &session, subscription.spec().queue.clone()),
        lease: (!subscription.auto_ack()).then(|| subscription.ack_deadline()),
        spans: DeliverySpans::new(session.tracer().clone()),
        unread: Settled::default(),
        unread_frame: None,
        heartbeat,
        leases: Box::pin(sleep_until(Instant::now())),
        session,
        frames,
    };
    let mut consumer = Some(consumer);
    let end = loop {
        let Some(current) = &mut consumer else { break Ok(()) };
        match machine.consume(current, &mut subscription, &mut incoming).await {
            Err(End::ConnectionLost(error)) => {
                consumer = None;
                match machine.reopen(&context, &mut subscription, error).await {
                    Ok(next) => consumer = Some(next),
                    Err(end) => break Err(end),
                }
            }
            end => break end,
        }
    };
    if let Some(mut consumer) = consumer {
        machine.finish(&mut consumer, &end).await;
        machine.session.metrics().settled(Settlement::TakenBack, machine.outstanding.len() as u64);
        consumer.close(machine.outstanding.tags()).await;
    }
    end
}

struct Machine {
    session: Session,
    frames: mpsc::Sender<Result<Frame, Failure>>,
    outstanding: Outstanding<Box<RetainedDelivery>>,
    /// Failed deliveries that are being moved to their next queue.
    failing: Failing,
    /// The lease of each delivery, from the time it is sent; `None` with auto-ack.
    lease: Option<Duration>,
    /// The spans of deliveries whose trace is sampled.
    spans: DeliverySpans,
    /// Frames that wait until the client reads.
    outbox: VecDeque<Event>,
    /// The merged settlement report that waits until the client reads.
    unread: Settled,
    /// The charge of the deliveries in `outbox`, which contains at most one frame of them.
    unread_frame: Option<UnreadFrame>,
    heartbeat: Interval,
    /// When leases are checked next. Most deliveries are settled long before, so it often fires too early and is set
    /// again.
    leases: Pin<Box<Sleep>>,
}

enum End {
    Failed(Failure),
    ClientDisconnected,
    ConnectionLost(broker::Error),
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<broker::Error> for End {
    fn from(error: broker::Error) -> Self {
        if error.is_connection_error() { Self::ConnectionLost(error) } else { Self::Failed(error.into()) }
    }
}

impl Machine {
    /// Runs until the client closes its side, or the session or the broker connection ends.
    async fn consume(
        &mut self,
        consumer: &mut Consumer,
        subscription: &mut Subscription,
        incoming: &mut impl Incoming<SubscribeRequest>,
    ) -> Result<(), End> {
        let frames = self.frames.clone();
        // One future for all iterations.
        let mut disconnected = pin!(frames.closed());
        loop {
            self.queue_report();
            self.session.set_in_flight(self.outstanding.len(), self.outstanding.bytes());
            let leased = self.set_leases();
            let capacity = Capacity {
                messages: subscription.max_messages().saturating_sub(self.outstanding.len()),
                bytes: subscription.max_bytes().saturating_sub(self.outstanding.bytes()),
                unsettled: self.outstanding.len(),
            };
            consumer.set_capacity(capacity);
            self.outstanding.set_undelivered(consumer.oldest_undelivered());
            let draining = self.session.is_draining();
            if draining && capacity.is_idle() && self.outbox.is_empty() {
                return Err(session::draining().into());
            }
            // A gateway that stops delivers nothing more.
            let takes_more = self.outbox.is_empty() && capacity.messages > 0 && !draining;
            tokio::select! {
                biased;
                () = &mut disconnected => return Err(End::ClientDisconnected),
                notice = self.session.notice() => self.queue_notice(notice)?,
                permit = frames.reserve(), if !self.outbox.is_empty() => {
                    let permit = permit.map_err(|_| End::ClientDisconnected)?;
                    let frame = self.next_frame();
                    let is_deliveries = frame.unread.is_some();
                    permit.send(Ok(frame));
                    self.heartbeat.reset();
                    if is_deliveries && subscription.auto_ack() {
                        self.acknowledge_all(consumer)?;
                    }
                }
                frame = incoming.next(), if self.reports() < UNREAD_REPORTS => match frame {
                    None => return Ok(()),
                    Some(frame) => self.process(consumer, subscription, frame?)?,
                },
                () = &mut self.leases, if leased => self.expire(consumer)?,
                tags = self.failing.settled() => self.acknowledge_stored(consumer, tags)?,
                batch = async {
                    match takes_more {
                        true => consumer.next(FRAME_MESSAGES, FRAME_BYTES).await,
                        false => Err(consumer.ended().await),
                    }
                } => {
                    let (batch, unread) = batch?;
                    self.unread_frame = Some(unread);
                    self.deliver(subscription, batch);
                }
                _ = self.heartbeat.tick() => {
                    let time = Some(SystemTime::now().into());
                    self.outbox.push_back(Event::Heartbeat(Heartbeat { time }));
                }
            }
        }
    }

    /// Sets the time of the next check of leases; returns whether there are any.
    fn set_leases(&mut self) -> bool {
        let Some(next) = self.outstanding.next_lease() else { return false };
        if self.leases.is_elapsed() || next < self.leases.deadline() {
            self.leases.as_mut().reset(next);
        }
        true
    }

    /// Queues a batch for the client.
    fn deliver(&mut self, subscription: &mut Subscription, mut batch: Vec<broker::Incoming>) {
        let Some(last) = batch.last() else { return };
        let batch_size = batch.len() as u64;
        let batch_bytes = batch.iter().map(|delivery| delivery.message.body.len()).sum::<usize>() as u64;
        let redelivered = batch.iter().filter(|delivery| delivery.redelivered).count() as u64;
        // The latency of a later attempt would depend on the consumers, and that of a stream queue on where reading
        // started.
        let is_first = |delivery: &broker::Incoming| delivery.attempt == 1 && delivery.offset.is_none();
        let accepted: Vec<_> = batch.iter().map(|delivery| delivery.accepted.filter(|_| is_first(delivery))).collect();
        subscription.seen(last.offset);
        let retained = |delivery: &mut broker::Incoming| (delivery.tag, delivery.bytes, delivery.retained.take());
        let ids = self.outstanding.add(batch.iter_mut().map(retained));
        let mut deliveries: Vec<_> = ids
            .zip(batch)
            .map(|(delivery_id, delivery)| Delivery {
                delivery_id,
                message: Some(delivery.message),
                exchange: delivery.exchange,
                routing_key: delivery.routing_key,
                redelivered: delivery.redelivered,
                attempt: delivery.attempt,
                lease_expires: None,
                stream_offset: delivery.offset,
            })
            .collect();
        let now = SystemTime::now();
        for (delivery, accepted) in deliveries.iter_mut().zip(accepted) {
            let trace = self.spans.delivered(delivery, subscription.spec().queue.as_str());
            if let Some(accepted) = accepted {
                // The clock of another gateway may be ahead.
                let took = now.duration_since(accepted).unwrap_or_default();
                self.session.metrics().arrived_after(took, trace);
            }
        }
        self.session.metrics().delivered(batch_size, batch_bytes, redelivered);
        self.session.listed().count(deliveries.len());
        self.outbox.push_back(Event::Deliveries(Deliveries { deliveries }));
    }

    /// Acknowledges the deliveries that were just passed to the transport, for a subscriber with auto-ack.
    fn acknowledge_all(&mut self, consumer: &mut Consumer) -> Result<(), End> {
        let (last, count) = (self.outstanding.last_id(), self.outstanding.len() as u64);
        let tags = self.outstanding.acknowledge(&[], last, &mut Vec::new());
        let settling = self.spans.settling(&[], last, Settlement::Ack, "");
        self.acknowledge(consumer, tags)?;
        settling.done();
        self.session.metrics().settled(Settlement::Ack, count);
        Ok(())
    }

    /// Takes the next frame for the transport; the leases of its deliveries begin now.
    fn next_frame(&mut self) -> Frame {
        let mut event = self.outbox.pop_front();
        if let (Some(Event::Deliveries(frame)), Some(lease)) = (&mut event, self.lease)
            && let [first, ..] = &frame.deliveries[..]
        {
            let first = first.delivery_id;
            self.outstanding.lease(first..=first + (frame.deliveries.len() as u64 - 1), Instant::now() + lease);
            let expires = Some((SystemTime::now() + lease).into());
            frame.deliveries.iter_mut().for_each(|delivery| delivery.lease_expires = expires);
        }
        let unread = matches!(event, Some(Event::Deliveries(_))).then(|| self.unread_frame.take()).flatten();
        Frame { unread, ..Frame::from(event) }
    }

    fn queue_notice(&mut self, notice: Notice) -> Result<(), End> {
        let event = match notice {
            Notice::AuthExpiring(expires) => Event::AuthExpiring(AuthExpiring { expires: Some(expires.into()) }),
            Notice::Draining(deadline) => Event::Draining(Draining { deadline: Some(deadline.into()) }),
            Notice::Ended(failure) => return Err(failure.into()),
        };
        self.outbox.push_back(event);
        Ok(())
    }

    fn reports(&self) -> usize {
        self.unread.unknown_delivery_ids.len() + self.unread.expired_delivery_ids.len()
    }

    /// Queues the merged report as soon as nothing is queued before it.
    fn queue_report(&mut self) {
        if self.reports() > 0 && self.outbox.is_empty() {
            // Repeated, invented, or from before an interruption: they have no effect.
            match self.unread.unknown_delivery_ids.len() as u64 {
                0 => {}
                times => self.session.audit_context().refused_times("DELIVERY_UNKNOWN", times),
            }
            self.outbox.push_back(Event::Settled(std::mem::take(&mut self.unread)));
        }
    }

    /// Reports that the broker connection is lost, and opens a new consumer. Everything outstanding is void.
    async fn reopen(
        &mut self,
        context: &SubscribeContext,
        subscription: &mut Subscription,
        error: broker::Error,
    ) -> Result<Consumer, End> {
        tracing::debug!(?error, queue = subscription.spec().queue.as_str(), "subscription interrupted");
        self.outstanding.clear();
        self.failing.clear();
        self.spans.taken_back("LINK_LOST");
        // Deliveries that were not sent yet are void, too.
        self.outbox.retain(|event| !matches!(event, Event::Deliveries(_)));
        self.unread_frame = None;
        let reason = "the connection to the broker was lost; unsettled deliveries are void and will be delivered again"
            .to_owned();
        self.outbox.push_back(Event::Interrupted(Interrupted { reason }));
        let mut backoff = context.backoff();
        loop {
            let mut pause = Box::pin(tokio::time::sleep(backoff.pause()));
            self.wait(&mut pause).await?;
            let mut opening = Box::pin(context.open(self.session.scope().clone(), subscription.resume_spec()));
            match self.wait(&mut opening).await? {
                Ok(consumer) => {
                    self.outbox.push_back(Event::Resumed(Resumed {}));
                    return Ok(consumer);
                }
                Err(error) if error.is_connection_error() => tracing::debug!(?error, "subscription not resumed yet"),
                Err(error) => return Err(End::Failed(error.into())),
            }
        }
    }

    /// Waits for a future while the stream is open.
    async fn wait<T>(&mut self, what: &mut (impl Future<Output = T> + Unpin)) -> Result<T, End> {
        let frames = self.frames.clone();
        loop {
            tokio::select! {
                biased;
                () = frames.closed() => return Err(End::ClientDisconnected),
                notice = self.session.notice() => self.queue_notice(notice)?,
                permit = frames.reserve(), if !self.outbox.is_empty() => {
                    let permit = permit.map_err(|_| End::ClientDisconnected)?;
                    permit.send(Ok(Frame::from(self.outbox.pop_front())));
                }
                done = &mut *what => return Ok(done),
            }
        }
    }
}

/// The client sent a frame out of order.
fn out_of_order(message: &'static str) -> Failure {
    Failure { field: Some("frame".into()), ..Failure::new(Kind::Invalid, "FRAME_ORDER", message) }
}
