//! The common counters of all streams of a process, and the end of the work.
//!
//! A run ends only when every message sent has its outcome and every confirmed one was acknowledged, if there is a
//! consumer.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::feed::Due;
use crate::job::Latencies;

/// The counters of all streams.
pub(super) struct Tally {
    /// Deliveries contain the time at which they were due, relative to this.
    epoch: Instant,
    backlog: u64,
    published: AtomicU64,
    confirmed: AtomicU64,
    refused: AtomicU64,
    consumed: AtomicU64,
    target: AtomicU64,
    changed: Notify,
    done: CancellationToken,
    error: Mutex<Option<String>>,
    /// The reason of the first message that was not confirmed, if one is known.
    refusal: Mutex<Option<String>>,
    end_to_end: Mutex<Recorder>,
    confirm: Mutex<Recorder>,
}

/// A snapshot of the counters.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) published: u64,
    pub(super) confirmed: u64,
    pub(super) refused: u64,
    pub(super) consumed: u64,
}

impl Tally {
    /// `backlog` is the maximum number of messages between publishing and consuming.
    pub(super) fn new(backlog: u64) -> Self {
        Self {
            epoch: Instant::now(),
            backlog,
            published: AtomicU64::new(0),
            confirmed: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            consumed: AtomicU64::new(0),
            target: AtomicU64::new(u64::MAX),
            changed: Notify::new(),
            done: CancellationToken::new(),
            error: Mutex::default(),
            refusal: Mutex::default(),
            end_to_end: Mutex::default(),
            confirm: Mutex::default(),
        }
    }

    pub(super) fn epoch(&self) -> Instant {
        self.epoch
    }

    pub(super) fn counts(&self) -> Counts {
        Counts {
            published: self.published.load(Relaxed),
            confirmed: self.confirmed.load(Relaxed),
            refused: self.refused.load(Relaxed),
            consumed: self.consumed.load(Relaxed),
        }
    }

    pub(super) fn published(&self, messages: usize) {
        self.published.fetch_add(messages as u64, Relaxed);
    }

    pub(super) fn answered(&self, confirmed: bool, due: Due, recorder: &mut Recorder) {
        if confirmed { &self.confirmed } else { &self.refused }.fetch_add(1, Relaxed);
        recorder.record(due, self.epoch);
        if self.waits_for_answers() {
            self.changed.notify_waiters();
        }
    }

    fn waits_for_answers(&self) -> bool {
        let counts = self.counts();
        counts.confirmed + counts.refused == counts.published
    }

    pub(super) fn consumed(&self, messages: usize) {
        let before = self.consumed.fetch_add(messages as u64, Relaxed);
        if before + messages as u64 >= self.target.load(Relaxed) {
            self.done.cancel();
        }
        self.changed.notify_waiters();
    }

    /// Waits while the queues contain the maximum backlog.
    pub(super) async fn wait_for_capacity(&self) {
        loop {
            let changed = self.changed.notified();
            let counts = self.counts();
            if counts.published.saturating_sub(counts.consumed) < self.backlog || self.done.is_cancelled() {
                return;
            }
            changed.await;
        }
    }

    /// Waits until the counters satisfy the condition, or the work is done.
    pub(super) async fn until(&self, condition: impl Fn(Counts) -> bool) {
        loop {
            let changed = self.changed.notified();
            if condition(self.counts()) || self.done.is_cancelled() {
                return;
            }
            tokio::select! {
                () = changed => {}
                () = self.done.cancelled() => return,
                // The counters are not read atomically, so the condition is also checked at intervals.
                () = tokio::time::sleep(Duration::from_millis(5)) => {}
            }
        }
    }

    /// The work is done when this number of messages was consumed.
    pub(super) fn set_target(&self, consumed: u64) {
        self.target.store(consumed, Relaxed);
        if self.consumed.load(Relaxed) >= consumed {
            self.done.cancel();
        }
    }

    pub(super) fn done(&self) -> &CancellationToken {
        &self.done
    }

    /// Ends the work; the first error is kept.
    pub(super) fn fail(&self, why: impl Into<String>) {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why.into());
        self.done.cancel();
    }

    pub(super) fn error(&self) -> Option<String> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn keep_refusal(&self, reason: &str) {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| reason.to_owned());
    }

    pub(super) fn refusal(&self) -> Option<String> {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn keep_end_to_end(&self, recorder: &Recorder) {
        self.end_to_end.lock().unwrap_or_else(PoisonError::into_inner).add(recorder);
    }

    pub(super) fn keep_confirm(&self, recorder: &Recorder) {
        self.confirm.lock().unwrap_or_else(PoisonError::into_inner).add(recorder);
    }

    pub(super) fn end_to_end(&self) -> Latencies {
        self.end_to_end.lock().unwrap_or_else(PoisonError::into_inner).latencies()
    }

    pub(super) fn confirm(&self) -> Latencies {
        self.confirm.lock().unwrap_or_else(PoisonError::into_inner).latencies()
    }
}

/// The latencies of one stream. They are measured from when a message was due, not from when it was sent, so that a
/// delayed sender does not hide the delay (coordinated omission).
#[derive(Default)]
pub(super) struct Recorder(Option<Histogram<u64>>);

impl Recorder {
    /// Records the latency of a message that has arrived now; messages without a due time are ignored.
    pub(super) fn record(&mut self, due: Due, epoch: Instant) {
        let Some(due) = due.at(epoch) else { return };
        let taken = u64::try_from(Instant::now().saturating_duration_since(due).as_micros()).unwrap_or(u64::MAX);
        if self.0.is_none() {
            // Three digits are always a valid precision, and the histogram resizes itself.
            self.0 = Histogram::new(3).ok();
        }
        if let Some(histogram) = &mut self.0 {
            // The saturating method does not resize the histogram.
            let _ = histogram.record(taken);
        }
    }

    fn add(&mut self, other: &Self) {
        match (&mut self.0, &other.0) {
            // A histogram that resizes itself accepts all values.
            (Some(own), Some(other)) => drop(own.add(other)),
            (None, Some(other)) => self.0 = Some(other.clone()),
            (_, None) => {}
        }
    }

    fn latencies(&self) -> Latencies {
        let values = self.0.iter().flat_map(|histogram| histogram.iter_recorded());
        Latencies(values.map(|value| (value.value_iterated_to(), value.count_at_value())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_of_all_magnitudes_are_recorded() {
        let (tally, mut recorder) = (Tally::new(10), Recorder::default());
        let epoch = Instant::now().checked_sub(Duration::from_secs(5)).expect("the machine is up for longer");
        recorder.record(Due::of(&1_u64.to_be_bytes()), epoch);
        tally.keep_end_to_end(&recorder);
        let kept = tally.end_to_end().0;
        assert!(matches!(kept[..], [(micros, 1)] if micros >= 4_990_000), "{kept:?}");
    }

    #[tokio::test]
    async fn the_work_is_done_when_all_confirmed_messages_are_consumed() {
        let tally = Tally::new(10);
        tally.published(3);
        let mut recorder = Recorder::default();
        (0..3).for_each(|_| tally.answered(true, Due::NEVER, &mut recorder));
        tally.consumed(2);
        tally.set_target(3);
        assert!(!tally.done().is_cancelled());
        tally.consumed(1);
        assert!(tally.done().is_cancelled());
        assert!(tally.confirm().0.is_empty(), "a message without a due time has no latency");
    }
}
