//! Failed deliveries. Each gets another attempt or becomes a dead letter, according to the retry policy of its queue.
//!
//! Invariant: the broker keeps the original until its copy is stored durably. If the stream ends earlier, the message
//! is still in its queue.

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

/// How long an ending stream waits for the confirms of copies. Messages without a confirmed copy are delivered again,
/// and no attempt is counted.
const FINISH: Duration = Duration::from_secs(10);
/// The same, for a stream that must end now.
const FINISH_CUT: Duration = Duration::from_millis(500);
/// The interval between two attempts to read a policy.
const POLICY_RETRY: Duration = Duration::from_secs(5);

/// Why an attempt failed.
#[derive(Debug)]
pub(super) enum FailureCause {
    /// The consumer rejected it.
    Nacked {
        /// `None` for the back-off of the queue.
        delay: Option<Duration>,
        reason: String,
    },
    /// It was not settled in time.
    LeaseExpired,
    /// The client disconnected without settling it.
    ClientDisconnected,
}

type Retained = Box<RetainedDelivery>;

/// One stream's failed deliveries.
pub(super) struct Failing {
    redeliverer: Redeliverer,
    policies: Policies,
    scope: TenantScope,
    queue: QueueName,
    policy: Policy,
    /// Deliveries that wait for the policy.
    undecided: Vec<(u64, Retained, FailureCause)>,
    /// The spans of settlements, by tag; they end when the copy is stored.
    spans: HashMap<u64, Settling>,
}

enum Policy {
    /// No delivery has failed yet, or reading the policy failed and is repeated at this time.
    Unknown(Option<Instant>),
    Reading(BoxFuture<'static, Option<RetryPolicy>>),
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
    pub(super) fn retry(&mut self, (tag, retained): Failed<Retained>, why: FailureCause, span: Settling) {
        // Only messages of a stream queue are not retained, and they are never retried.
        let Some(retained) = retained else { return };
        self.spans.insert(tag, span);
        match &self.policy {
            Policy::Known(policy) => {
                let disposition = disposition(retained.failures(), Some(policy), why);
                self.push(tag, retained, disposition);
            }
            _ => self.undecided.push((tag, retained, why)),
        }
    }

    /// Moves a delivery to the dead letters because its consumer rejected it.
    pub(super) fn dead_letter(&mut self, (tag, retained): Failed<Retained>, reason: String, span: Settling) {
        let Some(retained) = retained else { return };
        self.spans.insert(tag, span);
        let when_full = RetryPolicy::default().max_backoff();
        self.push(tag, retained, Disposition::DeadLetter { code: DeadLetterCode::Rejected, reason, when_full });
    }

    fn push(&mut self, tag: u64, retained: Retained, disposition: Disposition) {
        if let Some(span) = self.spans.get_mut(&tag) {
            match &disposition {
                Disposition::Retry { delay, .. } => span.retries_after(*delay),
                Disposition::DeadLetter { code, .. } => span.dead_letters(code.as_str()),
            }
        }
        self.redeliverer.push(tag, retained, disposition);
    }

    fn done(&mut self, tags: &[u64]) {
        tags.iter().filter_map(|tag| self.spans.remove(tag)).for_each(Settling::done);
    }

    /// Whether no failed delivery is being moved.
    pub(super) fn is_idle(&self) -> bool {
        self.undecided.is_empty() && self.redeliverer.is_idle()
    }

    /// Removes everything, because the broker has requeued all deliveries.
    pub(super) fn clear(&mut self) {
        self.undecided.clear();
        self.spans.clear();
        self.redeliverer.clear();
    }

    /// Waits for the tags of deliveries whose copies are stored. Cancel safe. Pending while no delivery has failed.
    pub(super) async fn settled(&mut self) -> Vec<u64> {
        loop {
            if !self.undecided.is_empty() {
                self.read_policy();
            }
            tokio::select! {
                tags = self.redeliverer.settled() => {
                    self.done(&tags);
                    return tags;
                }
                policy = policy_read(&mut self.policy) => self.decide(policy),
            }
        }
    }

    /// Reads the policy, or decides without it when reading failed a moment ago.
    fn read_policy(&mut self) {
        match self.policy {
            Policy::Unknown(until) if until.is_some_and(|until| until > Instant::now()) => self.decide(None),
            Policy::Unknown(_) => {
                let (policies, scope, queue) = (self.policies.clone(), self.scope.clone(), self.queue.clone());
                self.policy = Policy::Reading(async move { policies.of(&scope, &queue).await }.boxed());
            }
            Policy::Reading(_) | Policy::Known(_) => {}
        }
    }

    fn decide(&mut self, policy: Option<RetryPolicy>) {
        self.policy = match policy {
            Some(policy) => Policy::Known(policy),
            None => Policy::Unknown(Some(Instant::now() + POLICY_RETRY)),
        };
        for (tag, retained, why) in std::mem::take(&mut self.undecided) {
            let disposition = disposition(retained.failures(), policy.as_ref(), why);
            self.push(tag, retained, disposition);
        }
    }
}

/// Waits for the policy. Cancel safe.
async fn policy_read(policy: &mut Policy) -> Option<RetryPolicy> {
    match policy {
        Policy::Reading(reading) => reading.await,
        Policy::Unknown(_) | Policy::Known(_) => std::future::pending().await,
    }
}

/// The disposition of a message that has failed once more, after this number of earlier failures. While the policy is
/// unknown, no message is dead-lettered.
fn disposition(failures_before: u32, policy: Option<&RetryPolicy>, why: FailureCause) -> Disposition {
    let failures = failures_before.saturating_add(1);
    let default = RetryPolicy::default();
    let is_last = policy.is_some_and(|policy| failures >= policy.max_attempts());
    let policy = policy.unwrap_or(&default);
    let (delay, reason) = match why {
        FailureCause::Nacked { delay, reason } => {
            (delay.unwrap_or_else(|| policy.backoff(failures, rand::random_range(-1.0..=1.0))), reason)
        }
        // The message has waited already, for the end of its lease or for the keep-alive timeout.
        FailureCause::LeaseExpired => (Duration::ZERO, "the lease expired".to_owned()),
        FailureCause::ClientDisconnected => (Duration::ZERO, "the client disconnected".to_owned()),
    };
    match is_last {
        true => {
            Disposition::DeadLetter { code: DeadLetterCode::DeliveryLimit, reason, when_full: policy.max_backoff() }
        }
        false => Disposition::Retry { delay, reason },
    }
}

impl Machine {
    /// Fails deliveries whose lease has expired. A stream queue always keeps its messages.
    pub(super) fn expire(&mut self, consumer: &mut Consumer) -> Result<(), End> {
        for (id, failed) in self.outstanding.expire(Instant::now()) {
            self.unread.expired_delivery_ids.push(id);
            self.session.metrics().settled(Settlement::TakenBack, 1);
            let settling = self.spans.settling(&[id], 0, Settlement::TakenBack, "");
            match failed {
                (tag, None) => {
                    self.acknowledge_stored(consumer, vec![tag])?;
                    settling.done();
                }
                retained => self.failing.retry(retained, FailureCause::LeaseExpired, settling),
            }
        }
        Ok(())
    }

    /// Acknowledges deliveries whose copies are stored.
    pub(super) fn acknowledge_stored(&mut self, consumer: &mut Consumer, tags: Vec<u64>) -> Result<(), End> {
        let tags = self.outstanding.remove_stored(tags);
        self.acknowledge(consumer, tags)
    }

    /// Waits for a limited time until the failed deliveries of a stream that has ended are moved. All deliveries that
    /// were sent to a client that disconnected and not settled have failed, unless the gateway closed its connection.
    pub(super) async fn finish(&mut self, consumer: &mut Consumer, end: &Result<(), End>) {
        let broken = |end: &End| match end {
            End::ClientDisconnected => true,
            End::Failed(failure) => failure.reason == "STREAM_BROKEN",
            End::ConnectionLost(_) => false,
        };
        let limit = match end {
            Err(end) if !broken(end) => FINISH_CUT,
            _ => FINISH,
        };
        let connection = self.session.connection_end();
        if end.as_ref().is_err_and(broken)
            && !self.session.gateway_stops()
            && self.outstanding.len() > 0
            && !connection.is_closed_by_gateway().await
        {
            for (id, failed) in self.outstanding.fail_sent() {
                let settling = self.spans.settling(&[id], 0, Settlement::TakenBack, "");
                self.failing.retry(failed, FailureCause::ClientDisconnected, settling);
            }
        }
        let finishing = async {
            while !self.failing.is_idle() {
                consumer.stop().await?;
                let tags = self.failing.settled().await;
                self.acknowledge_stored(consumer, tags)?;
            }
            Ok::<(), End>(())
        };
        // Messages without a stored copy by then are delivered again.
        let _ = tokio::time::timeout(limit, finishing).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nacked(delay: Option<Duration>) -> FailureCause {
        FailureCause::Nacked { delay, reason: "why".into() }
    }

    #[test]
    fn the_last_attempt_ends_in_the_dead_letters_and_one_before_does_not() {
        let policy = RetryPolicy::default().with_max_attempts(3).expect("in range");
        for (failures, is_last) in [(0, false), (1, false), (2, true), (7, true)] {
            for why in [
                nacked(None),
                nacked(Some(Duration::ZERO)),
                FailureCause::LeaseExpired,
                FailureCause::ClientDisconnected,
            ] {
                let disposition = disposition(failures, Some(&policy), why);
                assert_eq!(
                    matches!(disposition, Disposition::DeadLetter { .. }),
                    is_last,
                    "{failures}: {disposition:?}"
                );
            }
        }
    }

    #[test]
    fn nothing_is_dead_lettered_while_the_policy_is_unknown() {
        let Disposition::Retry { delay, .. } = disposition(1_000, None, nacked(None)) else { panic!("dead-lettered") };
        assert!(delay >= RetryPolicy::default().max_backoff().mul_f64(0.9), "{delay:?}");
    }

    #[test]
    fn the_consumers_delay_has_priority_over_the_policy() {
        let policy = RetryPolicy::default();
        let given = Duration::from_secs(77);
        assert!(
            matches!(disposition(0, Some(&policy), nacked(Some(given))), Disposition::Retry { delay, .. } if delay == given)
        );
    }
}
