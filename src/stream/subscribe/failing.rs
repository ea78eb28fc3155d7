//! Deliveries that were not done. They enter with the reason, get another attempt or become dead letters as their queue's
//! policy says, and leave, by their tag, when a durable place has taken them over. Invariant: until then nothing is said
//! to the broker about them, so that a stream that ends first leaves each where it was.

use std::{collections::HashMap, time::Duration};

use futures_util::{FutureExt as _, future::BoxFuture};
use tokio::time::Instant;

use super::{End, Machine, Policies, Session, SubscribeContext};
use crate::{
    broker::{Code, Consumer, Fate, Held, Resender, RetryPolicy},
    names::QueueName,
    stream::outstanding::Failed,
    telemetry::{Settlement, Settling},
    tenant::TenantScope,
};

/// How long an ending stream waits for what is on its way; after that it comes again, with no attempt used up.
const FINISH: Duration = Duration::from_secs(10);
/// The same, for a stream that must end.
const FINISH_CUT: Duration = Duration::from_millis(500);
/// Between two tries to learn a policy.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// Why an attempt failed.
#[derive(Debug)]
pub(super) enum Why {
    /// The consumer said so.
    Nacked {
        /// None: the queue's back-off.
        delay: Option<Duration>,
        reason: String,
    },
    /// Nobody said anything in time.
    LeaseExpired,
    /// The consumer went away without a word.
    ClientGone,
}

type Kept = Box<Held>;

/// One stream's failed deliveries.
pub(super) struct Failing {
    resender: Resender,
    policies: Policies,
    scope: TenantScope,
    queue: QueueName,
    policy: Policy,
    /// They wait for the policy.
    undecided: Vec<(u64, Kept, Why)>,
    /// The settlements' spans, by tag; they end where the message has found its place.
    spans: HashMap<u64, Settling>,
}

enum Policy {
    /// Nothing has failed yet, or nobody could be asked until then.
    Unknown(Option<Instant>),
    Asking(BoxFuture<'static, Option<RetryPolicy>>),
    Known(RetryPolicy),
}

impl Failing {
    pub(super) fn new(context: &SubscribeContext, session: &Session, queue: QueueName) -> Self {
        let scope = session.scope().clone();
        Self {
            resender: context.broker.resender(&scope, queue.clone(), session.shared_metrics()),
            policies: context.policies.clone(),
            scope,
            queue,
            policy: Policy::Unknown(None),
            undecided: Vec::new(),
            spans: HashMap::new(),
        }
    }

    /// Another attempt, if there is one left.
    pub(super) fn retry(&mut self, (tag, kept): Failed<Kept>, why: Why, span: Settling) {
        // Only what a stream queue delivers is not kept, and that is never tried again.
        let Some(kept) = kept else { return };
        self.spans.insert(tag, span);
        match &self.policy {
            Policy::Known(policy) => {
                let fate = fate(kept.failures(), Some(policy), why);
                self.push(tag, kept, fate);
            }
            _ => self.undecided.push((tag, kept, why)),
        }
    }

    /// To the dead letters, as its consumer wishes.
    pub(super) fn give_up(&mut self, (tag, kept): Failed<Kept>, reason: String, span: Settling) {
        let Some(kept) = kept else { return };
        self.spans.insert(tag, span);
        let when_full = RetryPolicy::default().max_backoff();
        self.push(tag, kept, Fate::DeadLetter { code: Code::Rejected, reason, when_full });
    }

    fn push(&mut self, tag: u64, kept: Kept, fate: Fate) {
        if let Some(span) = self.spans.get_mut(&tag) {
            match &fate {
                Fate::Retry { delay, .. } => span.retries_after(*delay),
                Fate::DeadLetter { code, .. } => span.dead_letters(code.as_str()),
            }
        }
        self.resender.push(tag, kept, fate);
    }

    fn done(&mut self, tags: &[u64]) {
        tags.iter().filter_map(|tag| self.spans.remove(tag)).for_each(Settling::done);
    }

    /// Whether nothing is on its way.
    pub(super) fn is_idle(&self) -> bool {
        self.undecided.is_empty() && self.resender.is_idle()
    }

    /// The broker has taken everything back.
    pub(super) fn clear(&mut self) {
        self.undecided.clear();
        self.spans.clear();
        self.resender.clear();
    }

    /// The tags of deliveries that have found their place. Cancel safe. Waits for ever when nothing has failed.
    pub(super) async fn settled(&mut self) -> Vec<u64> {
        loop {
            if !self.undecided.is_empty() {
                self.ask();
            }
            tokio::select! {
                tags = self.resender.settled() => {
                    self.done(&tags);
                    return tags;
                }
                policy = answer(&mut self.policy) => self.decide(policy),
            }
        }
    }

    /// Asks for the policy, or decides without when that failed a moment ago.
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
            let fate = fate(kept.failures(), policy.as_ref(), why);
            self.push(tag, kept, fate);
        }
    }
}

/// Cancel safe: the answer is waited for until it is there.
async fn answer(policy: &mut Policy) -> Option<RetryPolicy> {
    match policy {
        Policy::Asking(asking) => asking.await,
        Policy::Unknown(_) | Policy::Known(_) => std::future::pending().await,
    }
}

/// What becomes of a message that failed so often before, and now once more. While the policy is not known, nothing is
/// given up.
fn fate(failures_before: u32, policy: Option<&RetryPolicy>, why: Why) -> Fate {
    let failures = failures_before.saturating_add(1);
    let default = RetryPolicy::default();
    let is_last = policy.is_some_and(|policy| failures >= policy.max_attempts());
    let policy = policy.unwrap_or(&default);
    let (delay, reason) = match why {
        Why::Nacked { delay, reason } => {
            (delay.unwrap_or_else(|| policy.backoff(failures, rand::random_range(-1.0..=1.0))), reason)
        }
        // It has waited: for its lease, or for keep-alive.
        Why::LeaseExpired => (Duration::ZERO, "the lease ran out".to_owned()),
        Why::ClientGone => (Duration::ZERO, "the client went away".to_owned()),
    };
    match is_last {
        true => Fate::DeadLetter { code: Code::DeliveryLimit, reason, when_full: policy.max_backoff() },
        false => Fate::Retry { delay, reason },
    }
}

impl Machine {
    /// Takes back what was not settled in time; others get it. A stream keeps everything anyway.
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

    /// These have found their place: the broker may forget the old copies.
    pub(super) fn left(&mut self, consumer: &mut Consumer, tags: Vec<u64>) -> Result<(), End> {
        let tags = self.outstanding.left(tags);
        self.say(consumer, tags)
    }

    /// The stream is over, but perhaps not what has failed on it: waits for that, for a bounded time. A client that went
    /// away without a word has failed everything that it had in hand.
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
            for (id, failed) in self.outstanding.fail_handed() {
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
        // What is not done by then comes again.
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
                let fate = fate(failures, Some(&policy), why);
                assert_eq!(matches!(fate, Fate::DeadLetter { .. }), given_up, "{failures}: {fate:?}");
            }
        }
    }

    #[test]
    fn nothing_is_given_up_while_the_policy_is_not_known() {
        let Fate::Retry { delay, .. } = fate(1_000, None, nacked(None)) else { panic!("given up") };
        assert!(delay >= RetryPolicy::default().max_backoff().mul_f64(0.9), "{delay:?}");
    }

    #[test]
    fn a_delay_given_goes_before_the_policys() {
        let policy = RetryPolicy::default();
        let given = Duration::from_secs(77);
        assert!(matches!(fate(0, Some(&policy), nacked(Some(given))), Fate::Retry { delay, .. } if delay == given));
    }
}
