//! Messages on another round: back to their queue, now or after a delay, or to the dead letters. Held deliveries enter with
//! what is to become of them; the tags of those that a durable place has taken over leave, to be acknowledged. Invariant:
//! a tag leaves only after the broker's confirm of the new copy, so a death in between makes a duplicate with the same
//! message id, and never a loss; what finds no place is tried again for as long as the stream lives, and what finds none in
//! a delay queue until its delay is over goes to its queue from here.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::{FutureExt as _, future::BoxFuture};
use tokio::time::Instant;

use super::{
    Code, Fate,
    delay_queues::{DELAY_EXCHANGE, ensure_dead_letters, ensure_delay},
    policy::step,
};
use crate::{
    broker::{
        Error, Outgoing, Publisher, Settled, Verdict,
        handle::Links,
        message::retained::{Failed, Held},
        topology::DEAD_LETTERS,
    },
    names::{ExchangeName, QueueName},
    telemetry::TenantMetrics,
    tenant::TenantScope,
};

/// Between two tries to place a message that was refused.
const PAUSE: Duration = Duration::from_secs(1);
/// The shortest wait of a message that is over the tenant's rates.
const MIN_THROTTLE: Duration = Duration::from_millis(20);
/// What waits for room in a full queue waits there, not in the gateway.
const FULL_QUEUE: Duration = Duration::from_secs(1);
/// A channel that is not used costs all others.
const IDLE: Duration = Duration::from_secs(5);

/// Sends a stream's deliveries round again. Nothing is connected until there is one.
pub struct Resender {
    links: Arc<Links>,
    deadline: Duration,
    queue: QueueName,
    scope: TenantScope,
    metrics: Arc<TenantMetrics>,
    publisher: Option<Publisher>,
    jobs: HashMap<u64, Job>,
    next_order: u64,
    /// To be published.
    ready: Vec<u64>,
    /// To be published then.
    waiting: BTreeSet<(Instant, u64)>,
    /// Delays whose queues, and the way back from them, were there when last seen.
    standing: HashSet<u64>,
    mending: Option<Mending>,
    /// Tags of what lies in a new delay queue, and from when that can be relied on: until then the old copies stay.
    resting: BTreeSet<(Instant, u64)>,
    idle_since: Instant,
}

struct Job {
    tag: u64,
    held: Box<Held>,
    fate: Fate,
    at: SystemTime,
    /// When its delay is over.
    due: Instant,
    /// Missing when it was published.
    needs: Option<Need>,
    /// Whether it was counted in the tenant's rates.
    counted: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    Delay(u64),
    DeadLetters,
}

impl Resender {
    pub(in crate::broker) fn new(
        links: Arc<Links>,
        deadline: Duration,
        queue: QueueName,
        scope: TenantScope,
        metrics: Arc<TenantMetrics>,
    ) -> Self {
        Self {
            links,
            deadline,
            queue,
            scope,
            metrics,
            publisher: None,
            jobs: HashMap::new(),
            next_order: 0,
            ready: Vec::new(),
            waiting: BTreeSet::new(),
            standing: HashSet::new(),
            mending: None,
            resting: BTreeSet::new(),
            idle_since: Instant::now(),
        }
    }

    /// Takes a delivery over; its tag comes back from [`Self::settled`] once, or never when this ends first.
    pub fn push(&mut self, tag: u64, held: Box<Held>, fate: Fate) {
        self.next_order += 1;
        let due = Instant::now() + fate.delay();
        self.jobs
            .insert(self.next_order, Job { tag, held, fate, at: SystemTime::now(), due, needs: None, counted: false });
        self.ready.push(self.next_order);
    }

    /// Whether nothing is on its way.
    pub fn is_idle(&self) -> bool {
        self.jobs.is_empty() && self.resting.is_empty()
    }

    /// Forgets everything: the broker has given all deliveries back.
    pub fn clear(&mut self) {
        let (links, queue, metrics) = (Arc::clone(&self.links), self.queue.clone(), Arc::clone(&self.metrics));
        *self = Self::new(links, self.deadline, queue, self.scope.clone(), metrics);
    }

    /// Waits until messages have found their place; the tags of their old copies. Cancel safe. Waits for ever when nothing
    /// is on its way.
    pub async fn settled(&mut self) -> Vec<u64> {
        loop {
            self.advance();
            let busy = !self.jobs.is_empty();
            let next = self.waiting.first().map(|(at, _)| *at);
            let rested = self.resting.first().map(|(at, _)| *at);
            tokio::select! {
                settled = published(&mut self.publisher), if busy => {
                    let tags = self.judge(settled);
                    if !tags.is_empty() {
                        self.idle_since = Instant::now();
                        return tags;
                    }
                }
                mended = mended(&mut self.mending) => self.mended(mended),
                () = tokio::time::sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                    let rest = self.waiting.split_off(&(Instant::now(), 0));
                    self.ready.extend(std::mem::replace(&mut self.waiting, rest).into_iter().map(|(_, order)| order));
                }
                () = tokio::time::sleep_until(rested.unwrap_or_else(Instant::now)), if rested.is_some() => {
                    let rest = self.resting.split_off(&(Instant::now(), 0));
                    let tags: Vec<_> = std::mem::replace(&mut self.resting, rest).into_iter().map(|(_, tag)| tag).collect();
                    if !tags.is_empty() {
                        return tags;
                    }
                }
                () = tokio::time::sleep_until(self.idle_since + IDLE), if !busy && self.publisher.is_some() => {
                    self.publisher = None;
                }
                else => std::future::pending().await,
            }
        }
    }

    /// Publishes what can be, and mends what is missing for the rest.
    fn advance(&mut self) {
        let (mut outgoing, now) = (Vec::new(), Instant::now());
        let budget = self.scope.budget();
        // Once one is over the tenant's rates, those after it wait as long.
        let mut throttled = None;
        for order in std::mem::take(&mut self.ready) {
            let Some(job) = self.jobs.get_mut(&order) else { continue };
            if let Destination::Delay(step) = job.destination() {
                if job.due <= now {
                    job.waits_no_more();
                } else if self.links.delays.was_silent(step) {
                    self.waiting.insert((job.due, order));
                    continue;
                }
            }
            match job.need(&self.standing) {
                Some(need) => {
                    if self.mending.is_none() {
                        self.mending = Some((need, mend(Arc::clone(&self.links), need, self.queue.clone())));
                    }
                    // Looked at again when the mending is over.
                    self.waiting.insert((Instant::now() + PAUSE, order));
                }
                None => {
                    if throttled.is_none() && !job.counted {
                        throttled = budget.take_again(job.held.body().len()).err();
                        job.counted = throttled.is_none();
                    }
                    match throttled {
                        Some(wait) if !job.counted => {
                            self.waiting.insert((now + wait.max(MIN_THROTTLE), order));
                        }
                        _ => outgoing.push(job.outgoing(order, &self.queue)),
                    }
                }
            }
        }
        if !outgoing.is_empty() {
            let new = || Publisher::new(Arc::clone(&self.links), self.deadline);
            self.publisher.get_or_insert_with(new).push(outgoing);
        }
    }

    /// What has no place yet is tried again; the tags of what has.
    fn judge(&mut self, settled: Vec<Settled>) -> Vec<u64> {
        let mut done = Vec::new();
        for Settled { order, verdict, .. } in settled {
            if verdict == Verdict::Confirmed {
                let Some(job) = self.jobs.remove(&order) else { continue };
                if let Fate::DeadLetter { code, .. } = &job.fate {
                    self.metrics.dead_lettered(code.counted());
                }
                match job.destination() {
                    Destination::Delay(step) if let Some(until) = self.links.delays.new_until(step) => {
                        self.resting.insert((until, job.tag));
                    }
                    _ => done.push(job.tag),
                }
                continue;
            }
            let Some(job) = self.jobs.get_mut(&order) else { continue };
            tracing::debug!(queue = self.queue.as_str(), ?verdict, "a message on another round found no place");
            let missing = match &verdict {
                Verdict::Unroutable => true,
                Verdict::Rejected(failure) => failure.reason == "EXCHANGE_NOT_FOUND",
                _ => false,
            };
            let full = matches!(&verdict, Verdict::Rejected(failure) if failure.reason == "BROKER_REJECTED");
            let at_once = match (job.destination(), missing) {
                // The default exchange is always there: it is the queue that is gone.
                (Destination::Queue, true) => {
                    job.give_up();
                    true
                }
                (Destination::Delay(step), true) => {
                    self.standing.remove(&step);
                    self.links.delays.is_missing(step);
                    true
                }
                (Destination::Delay(step), _) if matches!(verdict, Verdict::Unknown(_)) => {
                    self.links.delays.is_silent(step);
                    true
                }
                (Destination::DeadLetters, true) => {
                    job.needs = Some(Need::DeadLetters);
                    true
                }
                (_, false) => full && job.wait_for_room(),
            };
            if at_once { self.ready.push(order) } else { self.again_later(order) }
        }
        done
    }

    fn mended(&mut self, (need, result): (Need, Result<(), Error>)) {
        match &result {
            // One with other arguments is there, too: another version of the gateway made it.
            Ok(_) | Err(Error::Inequivalent { .. }) => match need {
                Need::Delay(step) => {
                    self.standing.insert(step);
                    self.links.delays.stands(step);
                }
                Need::DeadLetters => self.jobs.values_mut().for_each(|job| job.needs = None),
            },
            Err(Error::NoQueue(_) | Error::NoBindingEnd) if need != Need::DeadLetters => {
                let delayed = |job: &&mut Job| matches!(job.destination(), Destination::Delay(_));
                self.jobs.values_mut().filter(delayed).for_each(Job::give_up);
            }
            Err(error) => {
                tracing::warn!(queue = self.queue.as_str(), ?need, ?error, "cannot make what a retry needs");
                return;
            }
        }
        self.ready.extend(std::mem::take(&mut self.waiting).into_iter().map(|(_, order)| order));
    }

    fn again_later(&mut self, order: u64) {
        self.waiting.insert((Instant::now() + PAUSE, order));
    }
}

/// What is being made.
type Mending = (Need, BoxFuture<'static, Result<(), Error>>);

/// Where a job's message goes.
enum Destination {
    Queue,
    Delay(u64),
    DeadLetters,
}

impl Job {
    fn destination(&self) -> Destination {
        match &self.fate {
            Fate::Retry { delay, .. } if delay.is_zero() => Destination::Queue,
            Fate::Retry { delay, .. } => Destination::Delay(step(*delay)),
            Fate::DeadLetter { .. } => Destination::DeadLetters,
        }
    }

    fn need(&self, standing: &HashSet<u64>) -> Option<Need> {
        match self.destination() {
            Destination::Delay(step) => (!standing.contains(&step)).then_some(Need::Delay(step)),
            _ => self.needs,
        }
    }

    fn reason(&self) -> &str {
        match &self.fate {
            Fate::Retry { reason, .. } | Fate::DeadLetter { reason, .. } => reason,
        }
    }

    /// Its queue is gone.
    fn give_up(&mut self) {
        let reason = self.reason().to_owned();
        self.fate = Fate::DeadLetter { code: Code::QueueDeleted, reason, when_full: FULL_QUEUE };
    }

    /// Goes into a delay queue instead of one that is full; whether that is something else than before.
    fn wait_for_room(&mut self) -> bool {
        let delay = match &self.fate {
            Fate::Retry { delay, .. } if delay.is_zero() => FULL_QUEUE,
            Fate::Retry { .. } => return false,
            Fate::DeadLetter { when_full, .. } => *when_full,
        };
        self.fate = Fate::Retry { delay, reason: self.reason().to_owned() };
        self.due = Instant::now() + delay;
        true
    }

    /// Its delay was over before a queue took it.
    fn waits_no_more(&mut self) {
        self.fate = Fate::Retry { delay: Duration::ZERO, reason: self.reason().to_owned() };
    }

    fn outgoing(&self, order: u64, queue: &QueueName) -> Outgoing {
        let failed = Failed { reason: self.reason().to_owned(), at: self.at };
        let (exchange, key, properties) = match (self.destination(), &self.fate) {
            (_, Fate::DeadLetter { code, .. }) => {
                (DEAD_LETTERS, "", self.held.as_dead_letter(&failed, queue.as_str(), code.as_str()))
            }
            (Destination::Delay(step), _) => {
                (DELAY_EXCHANGE, queue.as_str(), self.held.after_failure(&failed, Some(step)))
            }
            _ => ("", queue.as_str(), self.held.after_failure(&failed, None)),
        };
        let exchange = ExchangeName::of_gateway(exchange);
        Outgoing::round(order, exchange, key.to_owned(), self.held.body().clone(), properties)
    }
}

fn mend(links: Arc<Links>, need: Need, queue: QueueName) -> BoxFuture<'static, Result<(), Error>> {
    async move {
        match need {
            Need::Delay(step) => ensure_delay(&links, step, &queue).await,
            Need::DeadLetters => ensure_dead_letters(&links).await,
        }
    }
    .boxed()
}

async fn published(publisher: &mut Option<Publisher>) -> Vec<Settled> {
    match publisher {
        Some(publisher) => publisher.settled().await,
        None => std::future::pending().await,
    }
}

/// Cancel safe: the mending is forgotten only when it is over.
async fn mended(mending: &mut Option<Mending>) -> (Need, Result<(), Error>) {
    match mending {
        Some((need, future)) => {
            let (need, result) = (*need, future.await);
            *mending = None;
            (need, result)
        }
        None => std::future::pending().await,
    }
}
