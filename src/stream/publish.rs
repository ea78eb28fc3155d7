//! A publish stream: frames of publications in, exactly one outcome for each message out, `CONFIRMED` only after the
//! broker's confirm.
//!
//! Nothing is buffered without a bound. While the stream's window, the tenant's limit in flight (`intake.rs`) or its
//! memory budget (`charges.rs`) is full, no frame is read, and HTTP/2 flow control slows the client. A message over the
//! plan's rates or over the memory budget is `THROTTLED` before any other work is done for it.

mod batch;
mod charges;
mod intake;

use std::{
    pin::pin,
    time::{Duration, SystemTime},
};

use futures_util::StreamExt as _;
use prost::Message as _;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tracing::Instrument as _;

pub use self::batch::run_batch;
use self::{charges::FrameCharges, intake::Intake};
use super::{
    FRAMES_AHEAD, Incoming,
    session::{Notice, Session},
};
use crate::{
    broker::{PendingPublish, PublishOutcome, PublishStatus, Publisher},
    error::{Failure, Kind},
    long_work::{self, Turn},
    pb::{
        AuthExpiring, Draining, Message, Outcome, Publication, PublishRequest, PublishResponse, PublishResult,
        PublishResults, publish_request::Frame, publish_response::Event,
    },
    telemetry::{Limit, strip_baggage},
    tenant::{self, RateCheck, TenantScope},
};

/// Maximum number of messages of a frame or a batch.
pub const MAX_PUBLICATIONS: usize = 1_000;
/// Maximum number of unanswered messages of one stream; frames are read while there are fewer.
const WINDOW_MESSAGES: usize = 2_000;
/// Maximum size of these messages in bytes.
const WINDOW_BYTES: usize = 32 * 1024 * 1024;

/// A frame whose messages weigh so much more than they are large has so many headers that checking it takes long.
const LONG_WEIGHT: usize = 4 * 1024 * 1024;
/// How often a stream that waits for memory checks whether there is some.
const MEMORY_POLL: Duration = Duration::from_millis(50);
/// How long the end of a stream waits for a client that reads slowly, for each frame of remaining outcomes.
const FINAL_OUTCOMES_GRACE: Duration = Duration::from_millis(500);

/// Frames to the client; the last may be a failure.
pub type Responses = mpsc::Receiver<Result<PublishResponse, Failure>>;

/// Runs a publish stream until its end.
pub fn run(publisher: Publisher, session: Session, incoming: impl Incoming<PublishRequest>) -> Responses {
    let (frames, responses) = mpsc::channel(FRAMES_AHEAD);
    let audit_context = session.audit_context().clone();
    let running = async move {
        let intake = Intake::new(session.scope());
        let charges = FrameCharges::new(session.memory());
        let frames_out = frames.clone();
        let mut machine =
            Machine { publisher, session, intake, charges, frames: frames_out, order: 0, bytes: 0, pause: None };
        if let Err(End::Failed(failure)) = machine.run(incoming).await {
            audit_context.record_end(failure.kind, failure.reason);
            machine.report_remaining().await;
            // A client that reads nothing must not keep the stream open: it gets the failure only if it fits into the
            // buffer.
            let _ = frames.try_send(Err(failure));
        }
    };
    tokio::spawn(running.in_current_span());
    responses
}

/// Measures how long the broker took to confirm; the clock is read once.
fn time(session: &Session, settled: &[PublishOutcome]) {
    let now = Instant::now();
    let confirmed = settled.iter().filter(|settled| settled.status == PublishStatus::Confirmed);
    for (pushed, span) in confirmed.filter_map(|settled| Some((settled.pushed?, &settled.span))) {
        session.metrics().confirmed_after(now - pushed, span.as_ref().map(|span| span.trace_id()));
    }
}

/// Counts outcomes, equal ones together.
fn count(session: &Session, results: &[PublishResult]) {
    session.listed().count(results.len());
    for run in results.chunk_by(|a, b| a.outcome == b.outcome) {
        session.metrics().published(run[0].outcome(), run.len() as u64);
    }
}

struct Machine {
    publisher: Publisher,
    session: Session,
    intake: Intake,
    charges: FrameCharges,
    frames: mpsc::Sender<Result<PublishResponse, Failure>>,
    order: u64,
    bytes: usize,
    /// Nothing is read until then.
    pause: Option<Instant>,
}

enum End {
    Failed(Failure),
    ClientDisconnected,
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl Machine {
    async fn run(&mut self, mut incoming: impl Incoming<PublishRequest>) -> Result<(), End> {
        let mut open = true;
        let frames = self.frames.clone();
        // One future for all iterations.
        let mut disconnected = pin!(frames.closed());
        while open || self.publisher.in_flight() > 0 || !self.intake.is_empty() {
            let window = self.publisher.in_flight() < WINDOW_MESSAGES && self.bytes < WINDOW_BYTES;
            let is_short = self.charges.is_short();
            let may_read = window && self.intake.is_empty() && self.pause.is_none() && !is_short;
            let busy = self.publisher.in_flight() > 0;
            let (waits, pause) = (!self.intake.is_empty(), self.pause);
            self.session.set_in_flight(self.publisher.in_flight(), self.bytes);
            tokio::select! {
                biased;
                () = &mut disconnected => return Err(End::ClientDisconnected),
                notice = self.session.notice() => self.send_notice(notice).await?,
                settled = self.publisher.settled(), if busy => {
                    time(&self.session, &settled);
                    self.bytes -= settled.iter().map(|settled| settled.bytes).sum::<usize>();
                    self.intake.settled(&settled);
                    self.charges.settled(settled.iter().map(|settled| settled.order));
                    self.answer(settled.into_iter().map(result).collect()).await?;
                }
                leaving = self.intake.leave(), if waits => self.publisher.push(leaving),
                () = sleep_until_end(pause), if pause.is_some() => self.pause = None,
                () = async { tokio::time::sleep(MEMORY_POLL).await }, if open && is_short => {}
                frame = incoming.next(), if open && may_read => match frame {
                    None => open = false,
                    Some(frame) => self.process(frame?).await?,
                },
            }
        }
        Ok(())
    }

    async fn process(&mut self, request: PublishRequest) -> Result<(), End> {
        match request.frame {
            Some(Frame::Publications(frame)) => {
                check_count(frame.publications.len())?;
                let first = self.order;
                self.order += frame.publications.len() as u64;
                let sizes: Vec<_> = frame.publications.iter().map(size).collect();
                let weight = charges::weight(&frame.publications, &sizes);
                let permit = match self.charges.reserve(weight) {
                    Ok(permit) => permit,
                    Err(full) => {
                        let failure = Failure::from(full);
                        self.pause = failure.retry_after.map(|after| Instant::now() + after);
                        let results = frame.publications.into_iter().map(|it| throttled(it, &failure)).collect();
                        return self.answer(results).await;
                    }
                };
                let turn = turn(self.session.scope(), weight, &sizes).await;
                let Accepted { outgoing, refused, pause } =
                    accept(&self.session, turn, frame.publications, sizes, first);
                self.pause = pause.map(|pause| Instant::now() + pause);
                self.charges.keep(first, outgoing.len(), permit);
                self.bytes += outgoing.iter().map(PendingPublish::bytes).sum::<usize>();
                self.publisher.push(self.intake.enter(outgoing));
                if refused.is_empty() {
                    return Ok(());
                }
                self.answer(refused.into_iter().map(|(_, result)| result).collect()).await
            }
            Some(Frame::Reauthenticate(frame)) => Ok(self.session.reauthenticate(&frame.access_token)?),
            None => Err(Failure::invalid("frame", "must be publications or reauthenticate").into()),
        }
    }

    /// A stream that is ended because the gateway stops still reports an outcome for every message, as long as its
    /// client reads.
    async fn report_remaining(&mut self) {
        if !self.session.is_cut() {
            return;
        }
        self.publisher.push(self.intake.take_all());
        let results: Vec<_> = self.publisher.abandon().await.into_iter().map(result).collect();
        count(&self.session, &results);
        for results in results.chunks(MAX_PUBLICATIONS) {
            let event = Some(Event::Results(PublishResults { results: results.to_vec() }));
            if self.frames.send_timeout(Ok(PublishResponse { event }), FINAL_OUTCOMES_GRACE).await.is_err() {
                return;
            }
        }
    }

    async fn answer(&mut self, results: Vec<PublishResult>) -> Result<(), End> {
        count(&self.session, &results);
        self.send(Event::Results(PublishResults { results })).await
    }

    async fn send_notice(&mut self, notice: Notice) -> Result<(), End> {
        match notice {
            Notice::AuthExpiring(expires) => {
                self.send(Event::AuthExpiring(AuthExpiring { expires: Some(expires.into()) })).await
            }
            Notice::Draining(deadline) => {
                self.send(Event::Draining(Draining { deadline: Some(deadline.into()) })).await
            }
            Notice::Ended(failure) => Err(failure.into()),
        }
    }

    /// Waits until the client reads, but not beyond the end of the session.
    async fn send(&mut self, event: Event) -> Result<(), End> {
        let mut event = Some(event);
        loop {
            tokio::select! {
                biased;
                permit = self.frames.reserve() => {
                    let permit = permit.map_err(|_| End::ClientDisconnected)?;
                    permit.send(Ok(PublishResponse { event: event.take() }));
                    return Ok(());
                }
                // A warning cannot overtake what the client has not read.
                notice = self.session.notice() => if let Notice::Ended(failure) = notice {
                    return Err(failure.into());
                },
            }
        }
    }
}

async fn sleep_until_end(pause: Option<Instant>) {
    if let Some(pause) = pause {
        sleep_until(pause).await;
    }
}

fn check_count(count: usize) -> Result<(), Failure> {
    match count {
        0 => Err(Failure::invalid("publications", "must have at least one")),
        _ if count > MAX_PUBLICATIONS => {
            Err(Failure::invalid("publications", format!("has {count}; at most {MAX_PUBLICATIONS} are allowed")))
        }
        _ => Ok(()),
    }
}

/// The messages of a frame after the checks.
struct Accepted {
    /// The messages that may be published.
    outgoing: Vec<PendingPublish>,
    /// The results of the others, with their order.
    refused: Vec<(u64, PublishResult)>,
    /// How long to read nothing, because a message was throttled.
    pause: Option<Duration>,
}

/// What limits count of a message: body, properties and headers, as they are on the wire.
fn size(publication: &Publication) -> usize {
    publication.message.as_ref().map_or(0, Message::encoded_len)
}

fn body_size(publication: &Publication) -> usize {
    publication.message.as_ref().map_or(0, |message| message.body.len())
}

/// The turn for checking a frame of this weight, if that takes long.
fn turn(scope: &TenantScope, weight: usize, sizes: &[usize]) -> impl Future<Output = Option<Turn>> + use<> {
    let is_long = weight - sizes.iter().sum::<usize>() > LONG_WEIGHT;
    let tenant = is_long.then(|| scope.tenant().clone());
    async move {
        match tenant {
            Some(tenant) => Some(long_work::turn(tenant.as_str()).await),
            None => None,
        }
    }
}

/// Checks a frame's messages, in order; `first` is the number of the first of them.
fn accept(
    session: &Session,
    turn: Option<Turn>,
    publications: Vec<Publication>,
    sizes: Vec<usize>,
    first: u64,
) -> Accepted {
    let check = || check_frame(session, publications, &sizes, first);
    match turn {
        Some(turn) => long_work::run(turn, check),
        None => check(),
    }
}

fn check_frame(session: &Session, mut publications: Vec<Publication>, sizes: &[usize], first: u64) -> Accepted {
    let budget = session.scope().budget();
    let rate_check = budget.rate_check(publications.len(), sizes.iter().map(|size| *size as u64).sum());
    let max_body = session.max_body_bytes(budget.plan());
    // The clock, the plan and the rates are read once for a whole frame.
    let mut check = FrameCheck { session, rate_check, max_body, now: SystemTime::now(), refusals: Refusals::default() };
    let (mut taken_bytes, mut taken_bodies) = (0, 0);
    let mut outgoing = Vec::with_capacity(publications.len());
    let mut refused = Vec::new();
    // In place, because a publication is large.
    for ((order, publication), bytes) in (first..).zip(&mut publications).zip(sizes.iter().copied()) {
        publication.message.as_mut().map(strip_baggage);
        let (sequence, body) = (publication.sequence, body_size(publication));
        let span = session.tracer().publish(publication);
        match check.message(order, bytes, publication) {
            Ok(message) => {
                (taken_bytes, taken_bodies) = (taken_bytes + bytes as u64, taken_bodies + body as u64);
                outgoing.push(message.traced(span));
            }
            Err(Refused { outcome, failure, message_id }) => {
                let retry_after = failure.retry_after.and_then(|after| after.try_into().ok());
                let reason = sentence(&failure);
                let trace_id = span.map(|span| span.end(outcome, failure.reason)).unwrap_or_default();
                let outcome = outcome.into();
                refused.push((order, PublishResult { sequence, outcome, message_id, reason, retry_after, trace_id }));
            }
        }
    }
    let FrameCheck { rate_check, refusals, .. } = check;
    refusals.record(session);
    session.metrics().published_bytes(taken_bodies);
    let pause = rate_check.is_throttled().then(|| budget.pause());
    rate_check.count(outgoing.len(), taken_bytes, taken_bodies);
    Accepted { outgoing, refused, pause }
}

/// What the messages of one frame are checked against.
struct FrameCheck<'a> {
    session: &'a Session,
    rate_check: RateCheck<'a>,
    max_body: u64,
    now: SystemTime,
    refusals: Refusals,
}

/// A message that is not published.
struct Refused {
    outcome: Outcome,
    failure: Failure,
    message_id: String,
}

impl FrameCheck<'_> {
    /// Checks its size, the rates, its form and the grants. The rates come early, because refusing a client that
    /// ignores them must be cheap.
    fn message(&mut self, order: u64, bytes: usize, publication: &mut Publication) -> Result<PendingPublish, Refused> {
        let body = body_size(publication);
        if body as u64 > self.max_body {
            let failure = too_large(body, self.max_body);
            self.refusals.add(failure.reason, &publication.exchange, &publication.routing_key);
            return Err(Refused::of(Outcome::Rejected, failure, publication));
        }
        if let Err(over) = self.rate_check.take(bytes) {
            count_throttled(self.session, &over);
            return Err(Refused::of(Outcome::Throttled, over.into(), publication));
        }
        let message = match PendingPublish::check(order, bytes, publication, self.now) {
            Ok(message) => message,
            Err(failure) => {
                self.refusals.add(failure.reason, &publication.exchange, &publication.routing_key);
                return Err(Refused::of(Outcome::Rejected, failure, publication));
            }
        };
        if self.session.scope().grants().may_publish(message.exchange_in_grants(), message.routing_key()) {
            return Ok(message);
        }
        let failure = denied(&message);
        self.refusals.add(failure.reason, &publication.exchange, message.routing_key());
        Err(Refused { outcome: Outcome::Denied, failure, message_id: message.message_id().to_owned() })
    }
}

impl Refused {
    fn of(outcome: Outcome, failure: Failure, publication: &mut Publication) -> Self {
        let id = publication.message.as_mut().map(|message| std::mem::take(&mut message.message_id));
        Self { outcome, failure, message_id: id.unwrap_or_default() }
    }
}

/// The result for a message that exceeds the memory budget.
fn throttled(publication: Publication, failure: &Failure) -> PublishResult {
    PublishResult {
        sequence: publication.sequence,
        outcome: Outcome::Throttled.into(),
        message_id: publication.message.map(|message| message.message_id).unwrap_or_default(),
        reason: sentence(failure),
        retry_after: failure.retry_after.and_then(|after| after.try_into().ok()),
        trace_id: Default::default(),
    }
}

fn count_throttled(session: &Session, over: &tenant::Error) {
    let tenant::Error::Throttled { limit, .. } = over else { return };
    match limit {
        tenant::Limit::MessageRate => session.metrics().throttled(Limit::Messages, 1),
        tenant::Limit::ByteRate => session.metrics().throttled(Limit::Bytes, 1),
        // The amount of stored data is reported by the broker's own figures.
        tenant::Limit::StoredMessages | tenant::Limit::StoredBytes => {}
    }
}

/// The refusals of one frame, for the audit trail: for each reason the first destination, and how many.
#[derive(Default)]
struct Refusals(Vec<(&'static str, String, u64)>);

impl Refusals {
    fn add(&mut self, reason: &'static str, exchange: &str, key: &str) {
        match self.0.iter_mut().find(|(known, ..)| *known == reason) {
            Some((.., times)) => *times += 1,
            None => self.0.push((reason, format!("{exchange}/{key}"), 1)),
        }
    }

    fn record(self, session: &Session) {
        for (reason, object, times) in self.0 {
            session.audit_context().refused_messages(&object, reason, times);
        }
    }
}

fn too_large(size: usize, max: u64) -> Failure {
    Failure {
        field: Some("message.body".into()),
        ..Failure::new(Kind::Invalid, "MESSAGE_TOO_LARGE", format!("has {size} bytes; at most {max} are allowed"))
    }
}

fn denied(message: &PendingPublish) -> Failure {
    let exchange = message.exchange_in_grants();
    let text =
        format!("this client may not publish to exchange {exchange:?} with routing key {:?}", message.routing_key());
    Failure::new(Kind::Denied, "PUBLISH_NOT_GRANTED", text)
}

fn result(settled: PublishOutcome) -> PublishResult {
    let (outcome, code) = settled.status.outcome();
    let reason = match &settled.status {
        PublishStatus::Confirmed => String::new(),
        PublishStatus::Unroutable => {
            format!("{code}: no queue is bound for this exchange and routing key; nothing was stored")
        }
        PublishStatus::Rejected(failure) | PublishStatus::Unknown(failure) => sentence(failure),
    };
    PublishResult {
        sequence: settled.sequence,
        outcome: outcome.into(),
        message_id: settled.message_id,
        reason,
        retry_after: None,
        trace_id: settled.span.map(|span| span.end(outcome, code)).unwrap_or_default(),
    }
}

/// `CODE: field: sentence`.
fn sentence(failure: &Failure) -> String {
    match &failure.field {
        Some(field) => format!("{}: {field}: {}", failure.reason, failure.message),
        None => failure.to_string(),
    }
}
