//! Redriving: publishing dead letters to their queues again, with their attempts reset. They are published to the queue
//! that dead-lettered them and to no other, unless the caller gives another destination. A run consists of sessions of
//! some seconds, so that other calls can read the dead letters in between. It processes only messages that were
//! dead-lettered before it began, so that a message that fails again at once is not redriven repeatedly.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{
    sync::mpsc,
    time::{Instant, Interval, MissedTickBehavior, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{edit::DeadLetterEdit, exclusive_session::ExclusiveSession, handle::DeadLetters, letter::DeadLetter};
use crate::{
    broker::{
        error::Error,
        publish::{
            outcome::{PublishOutcome, PublishStatus},
            pending::PendingPublish,
            publisher::Publisher,
        },
    },
    memory::{Full, MESSAGE_OVERHEAD, MemoryBudget, MemoryPermit},
    names::{ExchangeName, QueueName},
    telemetry::MessageTracer,
};

/// The limits of one session.
const SESSION_MESSAGES: usize = 10_000;
const SESSION_BYTES: usize = 32 << 20;
const SESSION_TIME: Duration = Duration::from_secs(5);
/// The maximum number of unconfirmed copies.
const WINDOW: usize = 200;
/// The memory that a failure needs in addition to its id and its reason.
const FAILURE_OVERHEAD: usize = 128;
/// The interval between two progress reports.
const REPORT_INTERVAL: Duration = Duration::from_millis(500);

/// The progress of a redrive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Redriven {
    /// Those that were sent and confirmed.
    pub redriven: u64,
    /// Those that could not be sent and remain dead letters.
    pub failed: u64,
    /// Those that are selected and not processed yet.
    pub remaining: u64,
    /// The failures since the last report: id and reason.
    pub failures: Vec<(String, String)>,
}

/// One run, over several sessions.
struct Run {
    progress: Redriven,
    /// Those that failed in this run; they are not tried again in it.
    failed: HashSet<String>,
    /// The memory charged for the failures, of which a slow reader leaves all unread.
    failures_charge: MemoryPermit,
    /// Whether it has no memory for more failures.
    has_no_memory: bool,
    memory: MemoryBudget,
    began: u64,
    reports: mpsc::Sender<Redriven>,
    stop: CancellationToken,
    next_report: Instant,
    edit: DeadLetterEdit,
}

/// The dead letters that are being sent in one session.
struct Batch<'a> {
    session: &'a mut ExclusiveSession,
    publisher: Publisher,
    /// The ids of unconfirmed copies, by tag.
    in_flight: HashMap<u64, String>,
}

/// The dead letters that one session sends, by tag, and the memory charged for them.
struct Selected {
    letters: Vec<(u64, DeadLetter)>,
    _charge: MemoryPermit,
}

impl DeadLetters {
    /// Sends a selection to their queues again, at most so many per second, and reports progress. `may_send` returns
    /// how long a message of this size has to wait. When `stop` is cancelled or the receiver of the reports is closed,
    /// no more are sent, and the confirms of the others are awaited. Returns the last report: those that were sent are
    /// not dead letters any more.
    ///
    /// # Errors
    /// [`Error::Busy`] when another call reads the dead letters; [`Error::NoMemory`] when the memory budget has no
    /// capacity to record another failure; other errors when the broker cannot be reached. Letters that were sent
    /// before the error have been reported, and the last of them may still be in the dead-letter queue.
    pub async fn redrive(
        &self,
        selected: impl Fn(&DeadLetter) -> bool,
        (edit, per_second): (DeadLetterEdit, Option<u32>),
        may_send: impl Fn(usize) -> Result<(), Duration>,
        (reports, memory): (mpsc::Sender<Redriven>, MemoryBudget),
        tracer: &MessageTracer,
        stop: &CancellationToken,
    ) -> Result<Redriven, Error> {
        let began = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let mut run = Run {
            progress: Redriven::default(),
            failed: HashSet::new(),
            failures_charge: memory.try_reserve(0)?,
            has_no_memory: false,
            memory,
            began: u64::try_from(began).unwrap_or(u64::MAX),
            reports,
            stop: stop.clone(),
            next_report: Instant::now(),
            edit,
        };
        let mut pace = per_second.filter(|rate| *rate > 0).map(|rate| {
            let mut pace = tokio::time::interval(Duration::from_secs(1) / rate);
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            pace
        });
        loop {
            let mut session = tokio::select! {
                () = run.over() => return Ok(run.progress),
                session = ExclusiveSession::begin(&self.connections) => session?,
            };
            let selected = run.select(&mut session, &selected).await?;
            let is_last = selected.letters.is_empty();
            if !is_last {
                let publisher = Publisher::new(Arc::clone(&self.lanes));
                let batch = Batch { session: &mut session, publisher, in_flight: HashMap::new() };
                batch.send(selected, &mut run, &mut pace, &may_send, tracer).await?;
            }
            session.end().await?;
            if run.has_no_memory {
                let _ = run.reports.try_send(run.progress);
                return Err(Full.into());
            }
            if is_last || run.is_over() {
                return Ok(run.progress);
            }
        }
    }
}

impl Batch<'_> {
    /// Sends letters until all have an outcome. After [`SESSION_TIME`], or when the run is over, no more are sent.
    async fn send(
        mut self,
        selected: Selected,
        run: &mut Run,
        pace: &mut Option<Interval>,
        may_send: &impl Fn(usize) -> Result<(), Duration>,
        tracer: &MessageTracer,
    ) -> Result<(), Error> {
        let until = Instant::now() + SESSION_TIME;
        let mut letters = selected.letters.into_iter().peekable();
        let mut not_before = Instant::now();
        loop {
            let has_time = Instant::now() <= until && !run.is_over();
            let next_size = letters.peek().map(|(_, letter)| letter.size());
            let next_size = next_size.filter(|_| has_time && self.in_flight.len() < WINDOW);
            if next_size.is_none() && self.in_flight.is_empty() {
                return Ok(());
            }
            let is_throttled = not_before > Instant::now();
            tokio::select! {
                () = sleep_until(not_before), if next_size.is_some() && is_throttled => {}
                () = tick(pace), if next_size.is_some() && !is_throttled => match may_send(next_size.unwrap_or_default()) {
                    Ok(()) => if let Some((tag, letter)) = letters.next() {
                        self.publish(tag, letter, run, tracer);
                    },
                    Err(wait) => not_before = Instant::now() + wait,
                },
                outcomes = self.publisher.settled(), if !self.in_flight.is_empty() => {
                    let sent = outcomes.into_iter().filter_map(|outcome| self.settle(outcome, run)).collect();
                    self.session.remove(sent).await?;
                }
            }
            run.report();
        }
    }

    fn publish(&mut self, tag: u64, letter: DeadLetter, run: &mut Run, tracer: &MessageTracer) {
        let Some(copy) = copy(tag, &letter, &run.edit) else {
            return run.record_failure(letter.id, "its queue is unknown".into());
        };
        let span = tracer.redrive(&letter.queue, &letter.code, letter.redrives, || letter.message());
        self.publisher.push(vec![copy.traced(span)]);
        self.in_flight.insert(tag, letter.id);
    }

    /// Records an outcome; returns the tag of a letter that was sent.
    fn settle(&mut self, outcome: PublishOutcome, run: &mut Run) -> Option<u64> {
        let PublishOutcome { order: tag, status, span, .. } = outcome;
        if let Some(span) = span {
            let (outcome, code) = status.outcome();
            span.end(outcome, code);
        }
        let id = self.in_flight.remove(&tag)?;
        match status {
            PublishStatus::Confirmed => {
                run.record_success();
                return Some(tag);
            }
            PublishStatus::Unroutable if run.edit.destination.is_some() => {
                run.record_failure(id, "NO_ROUTE: no queue is bound for this exchange and routing key".into());
            }
            PublishStatus::Unroutable => run.record_failure(id, "QUEUE_NOT_FOUND: its queue does not exist".into()),
            PublishStatus::Rejected(failure) | PublishStatus::Unknown(failure) => {
                run.record_failure(id, failure.to_string());
            }
        }
        None
    }
}

impl Run {
    /// Whether nothing more is to be sent.
    fn is_over(&self) -> bool {
        self.reports.is_closed() || self.stop.is_cancelled() || self.has_no_memory
    }

    /// Waits until the caller or the gateway stops it.
    async fn over(&self) {
        tokio::select! {
            () = self.reports.closed() => {}
            () = self.stop.cancelled() => {}
        }
    }

    /// Reads all dead letters, and returns as many selected ones as one session can send, the oldest first; fewer when
    /// memory is short, but at least one.
    async fn select(
        &mut self,
        session: &mut ExclusiveSession,
        selected: &impl Fn(&DeadLetter) -> bool,
    ) -> Result<Selected, Error> {
        let (mut letters, mut charge) = (Vec::new(), self.memory.try_reserve(0)?);
        let (mut bytes, mut count, mut is_full) = (0, 0, false);
        while let Some((tag, letter)) = session.next().await? {
            if self.is_over() {
                letters.clear();
                break;
            }
            if letter.died > self.began || self.failed.contains(&letter.id) || !selected(&letter) {
                continue;
            }
            count += 1;
            is_full |= letters.len() >= SESSION_MESSAGES || bytes >= SESSION_BYTES;
            is_full |= !is_full && charge.try_grow(letter.size() + MESSAGE_OVERHEAD).is_err();
            if !is_full || letters.is_empty() {
                bytes += letter.size();
                letters.push((tag, letter));
            }
        }
        letters.sort_by(|(_, a), (_, b)| a.position().cmp(&b.position()));
        if !self.is_over() {
            self.progress.remaining = count;
        }
        Ok(Selected { letters, _charge: charge })
    }

    fn record_success(&mut self) {
        self.progress.redriven += 1;
        self.progress.remaining = self.progress.remaining.saturating_sub(1);
    }

    fn record_failure(&mut self, id: String, reason: String) {
        self.progress.failed += 1;
        self.progress.remaining = self.progress.remaining.saturating_sub(1);
        self.has_no_memory |= self.failures_charge.try_grow(2 * id.len() + reason.len() + FAILURE_OVERHEAD).is_err();
        self.progress.failures.push((id.clone(), reason));
        self.failed.insert(id);
    }

    /// Sends a report when one is due and fits into the channel: a slow reader does not slow the redrive.
    fn report(&mut self) {
        if Instant::now() < self.next_report {
            return;
        }
        if self.reports.try_send(self.progress.clone()).is_ok() {
            self.progress.failures.clear();
            self.next_report = Instant::now() + REPORT_INTERVAL;
        }
    }
}

async fn tick(pace: &mut Option<Interval>) {
    if let Some(pace) = pace {
        pace.tick().await;
    }
}

/// The copy for the letter's queue, by the default exchange, or for another destination; `None` when its queue is
/// needed and not known.
fn copy(tag: u64, letter: &DeadLetter, edit: &DeadLetterEdit) -> Option<PendingPublish> {
    let body = edit.body.clone().unwrap_or_else(|| letter.delivery.body().clone());
    if let Some(destination) = &edit.destination {
        let (exchange, key) = (destination.exchange.clone(), destination.routing_key.to_string());
        let properties = letter.delivery.redriven(exchange.as_str(), &key);
        return Some(PendingPublish::republish(tag, exchange, key, body, properties));
    }
    QueueName::parse(&letter.queue).ok()?;
    let properties = letter.delivery.redriven(&letter.exchange, &letter.routing_key);
    Some(PendingPublish::republish(tag, ExchangeName::of_gateway(""), letter.queue.clone(), body, properties))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_ends_when_there_is_no_memory_for_more_failures() {
        let memory = MemoryBudget::new(64 << 10);
        let (reports, _unread) = mpsc::channel(1);
        let mut run = Run {
            progress: Redriven::default(),
            failed: HashSet::new(),
            failures_charge: memory.try_reserve(0).expect("nothing"),
            has_no_memory: false,
            memory: memory.clone(),
            began: 0,
            reports,
            stop: CancellationToken::new(),
            next_report: Instant::now(),
            edit: DeadLetterEdit::default(),
        };
        let mut count = 0;
        while !run.is_over() {
            assert!(count < 1_000, "it does not end");
            run.record_failure(format!("{count:036}"), "QUEUE_NOT_FOUND: its queue does not exist".into());
            count += 1;
        }
        assert!(count > 100, "{count}");
        assert!(memory.used() > memory.limit() / 2, "{memory:?}");
        drop(run);
        assert_eq!(memory.used(), 0);
    }
}
