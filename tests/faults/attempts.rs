//! Checks of delivery attempts and retry delays in the ledger: wrong counts, and deliveries that are too early or too
//! late.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use crate::{
    inject::Injected,
    ledger::{How, Ledger, Message, Stream},
    message::{Fate, POISON_ATTEMPTS, POISON_BACKOFF, POISON_LONGEST},
};

/// How far a delay may be from the policy's.
const TOLERATED: f64 = 0.2;
/// What a consumer saw may be in the ledger so much later, on a machine that is busy.
const NOTED_WITHIN: Duration = Duration::from_secs(2);

/// What became of attempts.
#[derive(Default)]
pub struct Tries {
    /// Delays that no fault touched.
    pub measured: u64,
    /// The farthest from the policy's, as parts of it.
    least: f64,
    most: f64,
    wrong: Vec<String>,
    off: Vec<String>,
}

impl Tries {
    /// Attempts that were counted wrongly, and delays that were cut short.
    pub fn broken(&self) -> Option<String> {
        some(&self.wrong, "attempts are wrong")
    }

    /// Delays that were too long.
    pub fn late(&self) -> Option<String> {
        some(&self.off, "delays are too long")
    }

    pub fn remark(&self) -> String {
        match self.measured {
            0 => "none was free of faults".to_owned(),
            _ => format!("delays without a fault, {:+.0} % to {:+.0} %", self.least * 100.0, self.most * 100.0),
        }
    }
}

/// What was asked for before `began` is not measured: a tenant's first retries make the queues for its delays.
pub fn judge(ledger: &Ledger, injected: &[Injected], began: Instant) -> Tries {
    let (streams, broken) = (ledger.streams(), ledger.broken());
    ledger.fold(Tries::default(), |tries, id, message| {
        tries.count(id, message, &streams, &broken);
        if message.fate == Fate::Poison {
            tries.measure(id, message, injected, began);
        }
    })
}

impl Tries {
    /// No attempt is used up but by a retry, or by a client that went away with the message; it may never have seen it.
    fn count(&mut self, id: &str, message: &Message, streams: &[Stream], broken: &[(usize, Instant)]) {
        let mut retries = 0;
        for delivery in &message.deliveries {
            let tenant = &streams[delivery.stream].tenant;
            let of_tenant = |road: usize| streams.iter().any(|stream| stream.road == road && stream.tenant == *tenant);
            let may_have = |at: Instant| at >= message.sent && at <= delivery.at + NOTED_WITHIN;
            let lost = || broken.iter().filter(|(road, at)| may_have(*at) && of_tenant(*road)).count() as u32;
            if delivery.attempt > 1 + retries && delivery.attempt > 1 + retries + lost() {
                let line = format!(
                    "{id} came with attempt {} after {retries} retries and {} losses",
                    delivery.attempt,
                    lost()
                );
                return self.wrong.push(line);
            }
            retries += u32::from(matches!(delivery.settled, Some((How::Retry, _))));
        }
        let most = message.deliveries.iter().map(|delivery| delivery.attempt).max().unwrap_or(0);
        if message.fate == Fate::Poison && most > POISON_ATTEMPTS {
            self.wrong.push(format!("{id} was tried {most} times"));
        }
    }

    /// The times between a retry and the next attempt.
    fn measure(&mut self, id: &str, message: &Message, injected: &[Injected], began: Instant) {
        // Of two copies nobody can say which one's delay was over.
        let tried = message.deliveries.iter().filter(|one| matches!(one.settled, Some((How::Retry, _))));
        let mut attempts = HashSet::new();
        if !tried.map(|one| one.attempt).all(|attempt| attempts.insert(attempt)) {
            return;
        }
        for (one, next) in message.deliveries.iter().zip(message.deliveries.iter().skip(1)) {
            let Some((How::Retry, asked)) = one.settled else { continue };
            let touched = injected.iter().any(|done| done.touches(asked, next.at));
            if touched || asked < began || next.attempt != one.attempt + 1 {
                continue;
            }
            let policy = POISON_BACKOFF.saturating_mul(1 << (one.attempt - 1).min(10)).min(POISON_LONGEST);
            let took = next.at.saturating_duration_since(asked);
            let off = took.as_secs_f64() / policy.as_secs_f64() - 1.0;
            self.measured += 1;
            (self.least, self.most) = (self.least.min(off), self.most.max(off));
            if off.abs() > TOLERATED {
                let at = (asked - began).as_secs();
                let line = format!(
                    "{id} waited {took:.2?} after attempt {} instead of {policy:?}, {at} s from the beginning",
                    one.attempt
                );
                if off > 0.0 { self.off.push(line) } else { self.wrong.push(line) }
            }
        }
    }
}

fn some(all: &[String], what: &str) -> Option<String> {
    let some = all.iter().take(5).map(String::as_str).collect::<Vec<_>>().join("; ");
    (!all.is_empty()).then(|| format!("{} {what}: {some}", all.len()))
}
