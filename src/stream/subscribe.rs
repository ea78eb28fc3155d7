//! The subscribing machine. Deliveries enter as fast as both windows allow and leave in batches of whatever is ready;
//! settlements and leases come back. Invariant: what this stream has taken from the broker and not settled is in
//! `outstanding`, and goes back to the queue when the stream ends, however it ends; what failed goes another round first.

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
    broker::{self, Consumer, Held},
    error::{Failure, Kind},
    pb::{
        AuthExpiring, Deliveries, Delivery, Draining, Heartbeat, Interrupted, Resumed, Settled, SubscribeRequest,
        SubscribeResponse, subscribe_response::Event,
    },
    telemetry::{DeliverySpans, Settlement},
};

/// Frames to the client; the last may be a failure.
pub type Responses = mpsc::Receiver<Result<SubscribeResponse, Failure>>;

/// Bytes and messages of one frame of deliveries: clients take 4 MiB by default.
const FRAME_BYTES: usize = 1024 * 1024;
const FRAME_MESSAGES: usize = 128;
/// Settlement reports that a client leaves unread before its frames are read no more.
const UNREAD_REPORTS: usize = 10_000;

/// Runs a subscribe stream until its end.
pub fn run(context: SubscribeContext, session: Session, incoming: impl Incoming<SubscribeRequest>) -> Responses {
    let (frames, responses) = mpsc::channel(FRAMES_AHEAD);
    let witness = session.witness().clone();
    let running = async move {
        if let Err(End::Failed(failure)) = serve(context, session, incoming, frames.clone()).await {
            witness.ended(failure.kind, failure.reason);
            // As much as the client leaves room for; it sees the end of the stream in any case.
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
    frames: mpsc::Sender<Result<SubscribeResponse, Failure>>,
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
        full: false,
        heartbeat,
        leases: Box::pin(sleep_until(Instant::now())),
        session,
        frames,
    };
    let mut consumer = Some(consumer);
    let end = loop {
        let Some(current) = &mut consumer else { break Ok(()) };
        match machine.consume(current, &mut subscription, &mut incoming).await {
            Err(End::LinkLost(error)) => {
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
        consumer.close().await;
    }
    end
}

struct Machine {
    session: Session,
    frames: mpsc::Sender<Result<SubscribeResponse, Failure>>,
    outstanding: Outstanding<Box<Held>>,
    /// What was not done, until it has found its place.
    failing: Failing,
    /// Of each delivery, from when it is handed over; none with auto-ack.
    lease: Option<Duration>,
    /// Of deliveries whose trace is kept.
    spans: DeliverySpans,
    /// Frames that wait for the client to read.
    outbox: VecDeque<Event>,
    /// A settlement report that waits likewise, merged.
    unread: Settled,
    /// The next delivery does not fit into the byte window; settlements make room.
    full: bool,
    heartbeat: Interval,
    /// The next look at leases that may have run out. Most are settled long before: it comes too early, and is set again.
    leases: Pin<Box<Sleep>>,
}

enum End {
    Failed(Failure),
    ClientGone,
    LinkLost(broker::Error),
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<broker::Error> for End {
    fn from(error: broker::Error) -> Self {
        if error.is_link() { Self::LinkLost(error) } else { Self::Failed(error.into()) }
    }
}

impl Machine {
    /// Until the client closes its side, or something ends.
    async fn consume(
        &mut self,
        consumer: &mut Consumer,
        subscription: &mut Subscription,
        incoming: &mut impl Incoming<SubscribeRequest>,
    ) -> Result<(), End> {
        let frames = self.frames.clone();
        // Asked once, not in every turn.
        let mut gone = pin!(frames.closed());
        loop {
            self.queue_report();
            self.session.holds(self.outstanding.len(), self.outstanding.bytes());
            let leased = self.set_leases();
            let messages = subscription.max_messages().saturating_sub(self.outstanding.len());
            let bytes = subscription.max_bytes().saturating_sub(self.outstanding.bytes());
            let room =
                self.outbox.is_empty() && !self.full && messages > 0 && (bytes > 0 || self.outstanding.len() == 0);
            let alone = self.outstanding.len() == 0;
            let draining = self.session.is_draining();
            if draining && alone && self.outbox.is_empty() {
                return Err(session::draining().into());
            }
            // A gateway that stops hands out nothing more.
            let room = room && !draining;
            tokio::select! {
                biased;
                () = &mut gone => return Err(End::ClientGone),
                notice = self.session.notice() => self.tell(notice)?,
                permit = frames.reserve(), if !self.outbox.is_empty() => {
                    let permit = permit.map_err(|_| End::ClientGone)?;
                    let event = self.hand_over();
                    permit.send(Ok(SubscribeResponse { event }));
                    self.heartbeat.reset();
                }
                frame = incoming.next(), if self.reports() < UNREAD_REPORTS => match frame {
                    None => return Ok(()),
                    Some(frame) => {
                        self.take(consumer, subscription, frame?)?;
                        self.full = false;
                    }
                },
                () = &mut self.leases, if leased => self.expire(consumer)?,
                tags = self.failing.settled() => self.left(consumer, tags)?,
                batch = async {
                    match room {
                        true => consumer.next(messages.min(FRAME_MESSAGES), bytes.min(FRAME_BYTES), alone).await,
                        false => Err(consumer.ended().await),
                    }
                } => {
                    let batch = batch?;
                    // Larger than a frame's share, but not than the window: alone in its frame.
                    let batch = if batch.is_empty() && bytes > FRAME_BYTES {
                        consumer.next(1, bytes, alone).await?
                    } else {
                        batch
                    };
                    self.full = batch.is_empty();
                    self.deliver(consumer, subscription, batch).await?;
                }
                _ = self.heartbeat.tick() => {
                    let time = Some(SystemTime::now().into());
                    self.outbox.push_back(Event::Heartbeat(Heartbeat { time }));
                }
            }
        }
    }

    /// Whether there are leases; the next look at them is set.
    fn set_leases(&mut self) -> bool {
        let Some(next) = self.outstanding.next_lease() else { return false };
        if self.leases.is_elapsed() || next < self.leases.deadline() {
            self.leases.as_mut().reset(next);
        }
        true
    }

    /// Puts a batch before the transport.
    async fn deliver(
        &mut self,
        consumer: &mut Consumer,
        subscription: &mut Subscription,
        mut batch: Vec<broker::Incoming>,
    ) -> Result<(), End> {
        let Some(last) = batch.last() else { return Ok(()) };
        let last_tag = last.tag;
        let batch_size = batch.len() as u64;
        let batch_bytes = batch.iter().map(|delivery| delivery.message.body.len()).sum::<usize>() as u64;
        let redelivered = batch.iter().filter(|delivery| delivery.redelivered).count() as u64;
        // Later deliveries tell of consumers, and a stream's of how far back they read.
        let is_first = |delivery: &broker::Incoming| delivery.attempt == 1 && delivery.offset.is_none();
        let accepted: Vec<_> = batch.iter().map(|delivery| delivery.accepted.filter(|_| is_first(delivery))).collect();
        subscription.seen(last.offset);
        let kept = |delivery: &mut broker::Incoming| (delivery.tag, delivery.message.body.len(), delivery.held.take());
        let ids = self.outstanding.add(batch.iter_mut().map(kept));
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
        let last_id = deliveries.last().map_or(0, |delivery| delivery.delivery_id);
        let now = SystemTime::now();
        for (delivery, accepted) in deliveries.iter_mut().zip(accepted) {
            let trace = self.spans.delivered(delivery, subscription.spec().queue.as_str());
            if let Some(accepted) = accepted {
                // Another gateway's clock may be ahead.
                let took = now.duration_since(accepted).unwrap_or_default();
                self.session.metrics().arrived_after(took, trace);
            }
        }
        self.session.metrics().delivered(batch_size, batch_bytes, redelivered);
        self.outbox.push_back(Event::Deliveries(Deliveries { deliveries }));
        if subscription.auto_ack() {
            let frame = SubscribeResponse { event: self.outbox.pop_back() };
            // Acknowledged only when the transport has it.
            self.frames.send(Ok(frame)).await.map_err(|_| End::ClientGone)?;
            self.outstanding.clear();
            let settling = self.spans.settling(&[], last_id, Settlement::Ack, "");
            consumer.ack_through(last_tag)?;
            settling.done();
            self.session.metrics().settled(Settlement::Ack, batch_size);
        }
        Ok(())
    }

    /// The next frame for the transport; the leases of what is in it begin now.
    fn hand_over(&mut self) -> Option<Event> {
        let mut event = self.outbox.pop_front();
        if let (Some(Event::Deliveries(frame)), Some(lease)) = (&mut event, self.lease)
            && let [first, ..] = &frame.deliveries[..]
        {
            let first = first.delivery_id;
            self.outstanding.lease(first..=first + (frame.deliveries.len() as u64 - 1), Instant::now() + lease);
            let expires = Some((SystemTime::now() + lease).into());
            frame.deliveries.iter_mut().for_each(|delivery| delivery.lease_expires = expires);
        }
        event
    }

    fn tell(&mut self, notice: Notice) -> Result<(), End> {
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

    /// The merged report goes out as soon as nothing is before it.
    fn queue_report(&mut self) {
        if self.reports() > 0 && self.outbox.is_empty() {
            // Replayed, invented, or of before an interruption: nothing is done for them.
            match self.unread.unknown_delivery_ids.len() as u64 {
                0 => {}
                times => self.session.witness().refused_times("DELIVERY_UNKNOWN", times),
            }
            self.outbox.push_back(Event::Settled(std::mem::take(&mut self.unread)));
        }
    }

    /// Says that the link is gone, and gets a new consumer; everything outstanding is void.
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
        self.full = false;
        // Deliveries that the client has not got yet are void too.
        self.outbox.retain(|event| !matches!(event, Event::Deliveries(_)));
        let reason = "the link to the broker is gone; unsettled deliveries are void and will come again".to_owned();
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
                Err(error) if error.is_link() => tracing::debug!(?error, "subscription not resumed yet"),
                Err(error) => return Err(End::Failed(error.into())),
            }
        }
    }

    /// Waits for something while the stream stays alive.
    async fn wait<T>(&mut self, what: &mut (impl Future<Output = T> + Unpin)) -> Result<T, End> {
        let frames = self.frames.clone();
        loop {
            tokio::select! {
                biased;
                () = frames.closed() => return Err(End::ClientGone),
                notice = self.session.notice() => self.tell(notice)?,
                permit = frames.reserve(), if !self.outbox.is_empty() => {
                    let permit = permit.map_err(|_| End::ClientGone)?;
                    permit.send(Ok(SubscribeResponse { event: self.outbox.pop_front() }));
                }
                done = &mut *what => return Ok(done),
            }
        }
    }
}

/// The peer broke the order of frames.
fn out_of_order(message: &'static str) -> Failure {
    Failure { field: Some("frame".into()), ..Failure::new(Kind::Invalid, "FRAME_ORDER", message) }
}
