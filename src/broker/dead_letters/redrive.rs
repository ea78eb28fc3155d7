//! Sending dead letters to their queues again. A choice and a rate enter; what was done so far leaves, again and again.
//! They go to the queue that gave them up and to no other, as if never tried. It is done in turns of some seconds, so that
//! others can look at the dead letters meanwhile, and only to those that died before it began: what fails again at once is
//! not sent in circles.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{DeadLetter, DeadLetters, Turn};
use crate::{
    broker::{Error, Outgoing, Publisher, Settled, Verdict},
    names::{ExchangeName, QueueName},
    telemetry::MessageTracer,
};

/// What one turn takes at most.
const TURN_MESSAGES: usize = 10_000;
const TURN_BYTES: usize = 32 << 20;
const TURN_TIME: Duration = Duration::from_secs(5);
/// Unconfirmed copies.
const WINDOW: usize = 200;
/// How often progress is told.
const REPORT: Duration = Duration::from_millis(500);

/// What was done so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Redriven {
    /// Sent, and confirmed by their queues.
    pub redriven: u64,
    /// Still dead letters, because they could not be sent.
    pub failed: u64,
    /// Chosen, and not dealt with yet.
    pub remaining: u64,
    /// The failures since the last report: id and why.
    pub failures: Vec<(String, String)>,
}

/// One run, over several turns.
struct Run {
    progress: Redriven,
    /// They failed in this run, and are left alone for the rest of it.
    failed: HashSet<String>,
    began: u64,
    reports: mpsc::Sender<Redriven>,
    stop: CancellationToken,
    next_report: Instant,
}

impl DeadLetters {
    /// Sends those that are chosen to their queues again, at most so many a second, and tells of it from time to time.
    /// `may_send` says when a message of so many bytes may go. Stops in order when nobody listens any more, and when it is
    /// told to: what is on its way is waited for. The last report.
    ///
    /// # Errors
    /// When others are busy with them, or the broker is away; what was sent by then is told.
    pub async fn redrive(
        &self,
        chosen: impl Fn(&DeadLetter) -> bool,
        per_second: Option<u32>,
        may_send: impl Fn(usize) -> Result<(), Duration>,
        reports: mpsc::Sender<Redriven>,
        tracer: &MessageTracer,
        stop: &CancellationToken,
    ) -> Result<Redriven, Error> {
        let began = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let mut run = Run {
            progress: Redriven::default(),
            failed: HashSet::new(),
            began: u64::try_from(began).unwrap_or(u64::MAX),
            reports,
            stop: stop.clone(),
            next_report: Instant::now(),
        };
        let mut pace = per_second.filter(|rate| *rate > 0).map(|rate| {
            let mut pace = tokio::time::interval(Duration::from_secs(1) / rate);
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            pace
        });
        loop {
            let mut turn = Turn::begin(&self.links).await?;
            let batch = run.take(&mut turn, &chosen).await?;
            if batch.is_empty() {
                turn.end().await;
                break;
            }
            self.send(&turn, batch, &mut run, &mut pace, &may_send, tracer).await?;
            turn.end().await;
            if run.is_over() {
                break;
            }
        }
        Ok(run.progress)
    }

    async fn send(
        &self,
        turn: &Turn,
        batch: Vec<(u64, DeadLetter)>,
        run: &mut Run,
        pace: &mut Option<tokio::time::Interval>,
        may_send: &impl Fn(usize) -> Result<(), Duration>,
        tracer: &MessageTracer,
    ) -> Result<(), Error> {
        let mut publisher = Publisher::new(std::sync::Arc::clone(&self.links), self.publish_deadline);
        let mut on_the_way = HashMap::new();
        let mut batch = batch.into_iter();
        let until = Instant::now() + TURN_TIME;
        let mut next = batch.next();
        let mut not_before = Instant::now();
        while next.is_some() || !on_the_way.is_empty() {
            if Instant::now() > until || run.is_over() {
                next = None;
                if on_the_way.is_empty() {
                    break;
                }
            }
            let has_place = next.is_some() && on_the_way.len() < WINDOW;
            let throttled = not_before > Instant::now();
            tokio::select! {
                () = sleep_until(not_before), if has_place && throttled => {}
                () = tick(pace), if has_place && !throttled => {
                    let bytes = next.as_ref().map_or(0, |(_, letter)| letter.held.body().len());
                    if let Err(wait) = may_send(bytes) {
                        not_before = Instant::now() + wait;
                        continue;
                    }
                    if let Some((tag, letter)) = next.take() {
                        match outgoing(tag, &letter) {
                            Some(outgoing) => {
                                let message = || letter.message();
                                let span = tracer.redrive(&letter.queue, &letter.code, letter.redrives, message);
                                publisher.push(vec![outgoing.traced(span)]);
                                on_the_way.insert(tag, letter.id);
                            }
                            None => run.failed(letter.id, "its queue is not known".into()),
                        }
                    }
                    next = batch.next();
                }
                settled = publisher.settled(), if !on_the_way.is_empty() => {
                    for Settled { order: tag, verdict, span, .. } in settled {
                        if let Some(span) = span {
                            let (outcome, code) = verdict.outcome();
                            span.end(outcome, code);
                        }
                        let Some(id) = on_the_way.remove(&tag) else { continue };
                        match verdict {
                            Verdict::Confirmed => {
                                turn.ack(tag).await?;
                                run.progress.redriven += 1;
                                run.progress.remaining = run.progress.remaining.saturating_sub(1);
                            }
                            Verdict::Unroutable => run.failed(id, "QUEUE_NOT_FOUND: its queue is gone".into()),
                            Verdict::Rejected(failure) | Verdict::Unknown(failure) => {
                                run.failed(id, failure.to_string());
                            }
                        }
                    }
                }
            }
            run.report();
        }
        Ok(())
    }
}

impl Run {
    /// Whether nothing more is to be sent.
    fn is_over(&self) -> bool {
        self.reports.is_closed() || self.stop.is_cancelled()
    }

    /// Looks through all, and takes what one turn can deal with.
    async fn take(
        &mut self,
        turn: &mut Turn,
        chosen: &impl Fn(&DeadLetter) -> bool,
    ) -> Result<Vec<(u64, DeadLetter)>, Error> {
        let mut batch = Vec::new();
        let (mut bytes, mut count) = (0, 0);
        while let Some((tag, letter)) = turn.next().await? {
            // The broker's own deaths are known to the second.
            if letter.died > self.began || self.failed.contains(&letter.id) || !chosen(&letter) {
                continue;
            }
            count += 1;
            if batch.len() < TURN_MESSAGES && bytes < TURN_BYTES {
                bytes += letter.held.body().len();
                batch.push((tag, letter));
            }
        }
        batch.sort_by(|(_, a), (_, b)| a.place().cmp(&b.place()));
        self.progress.remaining = count;
        Ok(batch)
    }

    fn failed(&mut self, id: String, why: String) {
        self.progress.failed += 1;
        self.progress.remaining = self.progress.remaining.saturating_sub(1);
        self.progress.failures.push((id.clone(), why));
        self.failed.insert(id);
    }

    /// Tells, when it is time and there is room: a listener that reads slowly does not slow the sending.
    fn report(&mut self) {
        if Instant::now() < self.next_report {
            return;
        }
        if self.reports.try_send(self.progress.clone()).is_ok() {
            self.progress.failures.clear();
            self.next_report = Instant::now() + REPORT;
        }
    }
}

async fn tick(pace: &mut Option<tokio::time::Interval>) {
    if let Some(pace) = pace {
        pace.tick().await;
    }
}

/// Straight to its queue, by the default exchange.
fn outgoing(tag: u64, letter: &DeadLetter) -> Option<Outgoing> {
    QueueName::parse(&letter.queue).ok()?;
    let properties = letter.held.redriven(&letter.exchange, &letter.routing_key);
    let (exchange, body) = (ExchangeName::of_gateway(""), letter.held.body().clone());
    Some(Outgoing::round(tag, exchange, letter.queue.clone(), body, properties))
}
