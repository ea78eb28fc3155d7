//! Failed deliveries: each gets another attempt or becomes a dead letter, as the retry policy of its queue says.
//!
//! Invariant: the broker keeps the original until its copy is stored durably, so that a stream that ends before leaves every
//! message where it was.

use std::{collections::HashMap, time::Duration};

use futures_util::{FutureExt as _, future::BoxFuture};
use tokio::time::Instant;

use super::{End, Machine, Policies, Session, SubscribeContext};
use crate::{
    broker::{Consumer, DeadLetterCode, Disposition, Redeliverer, RetainedDelivery, RetryPolicy},
    names::QueueName,
    stream::outstanding::Failed,
    telemetry::{Settlement, Settling},
    tenant::TenantScope,
};

/// How long an ending stream waits for copies on their way. Messages without a confirmed copy come again, and no attempt is
/// counted.
const FINISH: Duration = Duration::from_secs(10);
/// The same, for a stream that must end now.
const FINISH_CUT: Duration = Duration::from_millis(500);
/// Between two attempts to read a policy.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// Why an attempt failed.
#[derive(Debug)]
pub(super) enum Why {
    /// The consumer rejected it.
    Nacked {
        /// None: the back-off of the queue.
        delay: Option<Duration>,
        reason: String,
    },
    /// It was not settled in time.
    LeaseExpired,
    /// The client disconnected without settling it.
    ClientGone,
}

type Kept = Box<RetainedDelivery>;

/// One stream's failed deliveries.
pub(super) struct Failing {
    redeliverer: Redeliverer,
    policies: Policies,
    scope: TenantScope,
    queue: QueueName,
    policy: Policy,
    /// Deliveries that wait for the policy.
    undecided: Vec<(u64, Kept, Why)>,
    /// The spans of settlements, by tag; they end when the copy is stored.
    spans: HashMap<u64, Settling>,
}

enum Policy {
    /// Nothing has failed yet, or it could not be read and is asked for again then.
    Unknown(Option<Instant>),
    Asking(BoxFuture<'static, Option<RetryPolicy>>),
    Known(RetryPolicy),
}

impl Failing {
    pub(super) fn new(context: &SubscribeContext, session: &Session, queue: QueueName) -> Self {
        let scope = session.scope().clone();
        Self {
            redeliverer: context.broker.redeliverer(&scope, queue.clone(), session.shared_metrics()),
            policies: context.policies.clone(),
            scope,
            queue,
            policy: Policy::Unknown(None),
            undecided: Vec::new(),
            spans: HashMap::new(),
        }
    }

    /// Schedules another attempt, if one is left.
    pub(super) fn retry(&mut self, (tag, kept): Failed<Kept>, why: Why, span: Settling) {
        // Only messages of a stream queue are not retained, and they are never retried.
        let Some(kept) = kept else { return };
        self.spans.insert(tag, span);
        match &self.policy {
            Policy::Known(policy) => {
                let disposition = disposition(kept.failures(), Some(policy), why);
                self.push(tag, kept, disposition);
            }
            _ => self.undecided.push((tag, kept, why)),
        }
    }

    /// Moves a delivery to the dead letters because its consumer rejected it.
    pub(super) fn give_up(&mut self, (tag, kept): Failed<Kept>, reason: String, span: Settling) {
        let Some(kept) = kept else { return };
        self.spans.insert(tag, span);
        let when_full = RetryPolicy::default().max_backoff();
        self.push(tag, kept, Disposition::DeadLetter { code: DeadLetterCode::Rejected, reason, when_full });
    }

    fn push(&mut self, tag: u64, kept: Kept, disposition: Disposition) {
        if let Some(span) = self.spans.get_mut(&tag) {
            match &disposition {
                Disposition::Retry { delay, .. } => span.retries_after(*delay),
                Disposition::DeadLetter { code, .. } => span.dead_letters(code.as_str()),
            }
        }
        self.redeliverer.push(tag, kept, disposition);
    }

    fn done(&mut self, tags: &[u64]) {
        tags.iter().filter_map(|tag| self.spans.remove(tag)).for_each(Settling::done);
    }

    /// Whether no failed delivery is on its way.
    pub(super) fn is_idle(&self) -> bool {
        self.undecided.is_empty() && self.redeliverer.is_idle()
    }

    /// Forgets everything: the broker has requeued all deliveries.
    pub(super) fn clear(&mut self) {
        self.undecided.clear();
        self.spans.clear();
        self.redeliverer.clear();
    }

    /// Waits for the tags of deliveries whose copies are stored. Cancel safe. Never returns when nothing has failed.
    pub(super) async fn settled(&mut self) -> Vec<u64> {
        loop {
            if !self.undecided.is_empty() {
                self.ask();
            }
            tokio::select! {
                tags = self.redeliverer.settled() => {
                    self.done(&tags);
                    return tags;
                }
                policy = answer(&mut self.policy) => self.decide(policy),
            }
        }
    }

    /// Reads the policy, or decides without it when reading failed a moment ago.
    fn ask(&mut self) {
        match self.policy {
            Policy::Unknown(until) if until.is_some_and(|until| until > Instant::now()) => self.decide(None),
            Policy::Unknown(_) => {
                let (policies, scope, queue) = (self.policies.clone(), self.scope.clone(), self.queue.clone());
                self.policy = Policy::Asking(async move { policies.of(&scope, &queue).await }.boxed());
            }
            Policy::Asking(_) | Policy::Known(_) => {}
        }
    }

    fn decide(&mut self, policy: Option<RetryPolicy>) {
        self.policy = match policy {
            Some(policy) => Policy::Known(policy),
            None => Policy::Unknown(Some(Instant::now() + ASK_AGAIN)),
        };
        for (tag, kept, why) in std::mem::take(&mut self.undecided) {
            let disposition = disposition(kept.failures(), policy.as_ref(), why);
            self.push(tag, kept, disposition);
        }
    }
}

/// Waits for the policy. Cancel safe.
async fn answer(policy: &mut Policy) -> Option<RetryPolicy> {
    match policy {
        Policy::Asking(asking) => asking.await,
        Policy::Unknown(_) | Policy::Known(_) => std::future::pending().await,
    }
}

/// Decides about a message that failed so often before, and now once more. While the policy is not known, no message is
/// dead-lettered.
fn disposition(failures_before: u32, policy: Option<&RetryPolicy>, why: Why) -> Disposition {
    let failures = failures_before.saturating_add(1);
    let default = RetryPolicy::default();
    let is_last = policy.is_some_and(|policy| failures >= policy.max_attempts());
    let policy = policy.unwrap_or(&default);
    let (delay, reason) = match why {
        Why::Nacked { delay, reason } => {
            (delay.unwrap_or_else(|| policy.backoff(failures, rand::random_range(-1.0..=1.0))), reason)
        }
        // It has waited already: for its lease, or for keep-alive.
        Why::LeaseExpired => (Duration::ZERO, "the lease expired".to_owned()),
        Why::ClientGone => (Duration::ZERO, "the client disconnected".to_owned()),
    };
    match is_last {
        true => {
            Disposition::DeadLetter { code: DeadLetterCode::DeliveryLimit, reason, when_full: policy.max_backoff() }
        }
        false => Disposition::Retry { delay, reason },
    }
}

impl Machine {
    /// Fails deliveries whose lease has expired. A stream queue keeps its messages in any case.
    pub(super) fn expire(&mut self, consumer: &mut Consumer) -> Result<(), End> {
        for (id, failed) in self.outstanding.expire(Instant::now()) {
            self.unread.expired_delivery_ids.push(id);
            self.session.metrics().settled(Settlement::TakenBack, 1);
            let settling = self.spans.settling(&[id], 0, Settlement::TakenBack, "");
            match failed {
                (tag, None) => {
                    self.left(consumer, vec![tag])?;
                    settling.done();
                }
                kept => self.failing.retry(kept, Why::LeaseExpired, settling),
            }
        }
        Ok(())
    }

    /// Acknowledges deliveries whose copies are stored.
    pub(super) fn left(&mut self, consumer: &mut Consumer, tags: Vec<u64>) -> Result<(), End> {
        let tags = self.outstanding.left(tags);
        self.say(consumer, tags)
    }

    /// Waits, for a bounded time, for the failed deliveries of a stream that has ended. A client that disconnected has failed
    /// everything that was sent to it and not settled.
    pub(super) async fn finish(&mut self, consumer: &mut Consumer, end: &Result<(), End>) {
        let broken = |end: &End| match end {
            End::ClientGone => true,
            End::Failed(failure) => failure.reason == "STREAM_BROKEN",
            End::LinkLost(_) => false,
        };
        let limit = match end {
            Err(end) if !broken(end) => FINISH_CUT,
            _ => FINISH,
        };
        if end.as_ref().is_err_and(broken) && !self.session.gateway_stops() {
            for (id, failed) in self.outstanding.fail_sent() {
                let settling = self.spans.settling(&[id], 0, Settlement::TakenBack, "");
                self.failing.retry(failed, Why::ClientGone, settling);
            }
        }
        let finishing = async {
            while !self.failing.is_idle() {
                consumer.stop().await?;
                let tags = self.failing.settled().await;
                self.left(consumer, tags)?;
            }
            Ok::<(), End>(())
        };
        // What is not stored by then comes again.
        let _ = tokio::time::timeout(limit, finishing).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nacked(delay: Option<Duration>) -> Why {
        Why::Nacked { delay, reason: "why".into() }
    }

    #[test]
    fn the_last_attempt_ends_in_the_dead_letters_and_one_before_does_not() {
        let policy = RetryPolicy::default().with_max_attempts(3).expect("in range");
        for (failures, given_up) in [(0, false), (1, false), (2, true), (7, true)] {
            for why in [nacked(None), nacked(Some(Duration::ZERO)), Why::LeaseExpired, Why::ClientGone] {
                let disposition = disposition(failures, Some(&policy), why);
                assert_eq!(
                    matches!(disposition, Disposition::DeadLetter { .. }),
                    given_up,
                    "{failures}: {disposition:?}"
                );
            }
        }
    }

    #[test]
    fn nothing_is_given_up_while_the_policy_is_not_known() {
        let Disposition::Retry { delay, .. } = disposition(1_000, None, nacked(None)) else { panic!("given up") };
        assert!(delay >= RetryPolicy::default().max_backoff().mul_f64(0.9), "{delay:?}");
    }

    #[test]
    fn a_delay_given_goes_before_the_policys() {
        let policy = RetryPolicy::default();
        let given = Duration::from_secs(77);
        assert!(
            matches!(disposition(0, Some(&policy), nacked(Some(given))), Disposition::Retry { delay, .. } if delay == given)
        );
    }
}
