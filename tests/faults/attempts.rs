//! Checks of the recorded delivery attempts and retry delays: wrong counts, and deliveries that are too early or too
//! late.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use crate::{
    history::{History, Message, Settlement, Stream},
    inject::Injected,
    message::{Disposition, POISON_ATTEMPTS, POISON_BACKOFF, POISON_MAX_BACKOFF},
};

/// The tolerated deviation of a delay from the policy.
const TOLERANCE: f64 = 0.2;
/// The time within which an observation of a consumer is recorded on a busy machine.
const RECORDED_WITHIN: Duration = Duration::from_secs(2);

/// The result of the checks.
#[derive(Default)]
pub struct AttemptReport {
    /// The number of measured delays, which no fault affected.
    pub measured: u64,
    /// The smallest and the largest relative deviation from the policy.
    min: f64,
    max: f64,
    wrong: Vec<String>,
    late: Vec<String>,
}

impl AttemptReport {
    /// Wrong attempt numbers, and delays that were too short.
    pub fn violations(&self) -> Option<String> {
        some(&self.wrong, "attempts are wrong")
    }

    /// Delays that were too long.
    pub fn late(&self) -> Option<String> {
        some(&self.late, "delays are too long")
    }

    pub fn remark(&self) -> String {
        match self.measured {
            0 => "every delay was affected by a fault".to_owned(),
            _ => format!("delays without a fault, {:+.0} % to {:+.0} %", self.min * 100.0, self.max * 100.0),
        }
    }
}

/// Checks all messages. Retries before `began` are not measured, because the first retries of a tenant declare its
/// delay queues.
pub fn check(history: &History, injected: &[Injected], began: Instant) -> AttemptReport {
    let (streams, disconnects) = (history.streams(), history.disconnects());
    history.fold(AttemptReport::default(), |report, id, message| {
        report.count(id, message, &streams, &disconnects);
        if message.disposition == Disposition::Poison {
            report.measure(id, message, injected, began);
        }
    })
}

impl AttemptReport {
    /// Counts attempts: only a retry, or the loss of a client that may have had the message, counts as one.
    fn count(&mut self, id: &str, message: &Message, streams: &[Stream], disconnects: &[(usize, Instant)]) {
        let mut retries = 0;
        for delivery in &message.deliveries {
            let tenant = &streams[delivery.stream].tenant;
            let of_tenant =
                |route: usize| streams.iter().any(|stream| stream.route == route && stream.tenant == *tenant);
            let may_have = |at: Instant| at >= message.sent && at <= delivery.at + RECORDED_WITHIN;
            let lost = || disconnects.iter().filter(|(route, at)| may_have(*at) && of_tenant(*route)).count() as u32;
            if delivery.attempt > 1 + retries && delivery.attempt > 1 + retries + lost() {
                let line = format!(
                    "{id} was delivered with attempt {} after {retries} retries and {} losses",
                    delivery.attempt,
                    lost()
                );
                return self.wrong.push(line);
            }
            retries += u32::from(matches!(delivery.settled, Some((Settlement::Retry, _))));
        }
        let max = message.deliveries.iter().map(|delivery| delivery.attempt).max().unwrap_or(0);
        if message.disposition == Disposition::Poison && max > POISON_ATTEMPTS {
            self.wrong.push(format!("{id} had {max} attempts"));
        }
    }

    /// Measures the times between a retry and the next attempt.
    fn measure(&mut self, id: &str, message: &Message, injected: &[Injected], began: Instant) {
        // With two copies of a message, the delay that ended is ambiguous.
        let tried = message.deliveries.iter().filter(|one| matches!(one.settled, Some((Settlement::Retry, _))));
        let mut attempts = HashSet::new();
        if !tried.map(|one| one.attempt).all(|attempt| attempts.insert(attempt)) {
            return;
        }
        for (one, next) in message.deliveries.iter().zip(message.deliveries.iter().skip(1)) {
            let Some((Settlement::Retry, retried)) = one.settled else { continue };
            let affected = injected.iter().any(|done| done.affects(retried, next.at));
            if affected || retried < began || next.attempt != one.attempt + 1 {
                continue;
            }
            let policy = POISON_BACKOFF.saturating_mul(1 << (one.attempt - 1).min(10)).min(POISON_MAX_BACKOFF);
            let took = next.at.saturating_duration_since(retried);
            let deviation = took.as_secs_f64() / policy.as_secs_f64() - 1.0;
            self.measured += 1;
            (self.min, self.max) = (self.min.min(deviation), self.max.max(deviation));
            if deviation.abs() > TOLERANCE {
                let at = (retried - began).as_secs();
                let line = format!(
                    "{id} waited {took:.2?} after attempt {} instead of {policy:?}, {at} s after the start",
                    one.attempt
                );
                if deviation > 0.0 { self.late.push(line) } else { self.wrong.push(line) }
            }
        }
    }
}

fn some(all: &[String], what: &str) -> Option<String> {
    let some = all.iter().take(5).map(String::as_str).collect::<Vec<_>>().join("; ");
    (!all.is_empty()).then(|| format!("{} {what}: {some}", all.len()))
}
