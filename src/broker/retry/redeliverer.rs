//! Publishes deliveries again: to their queue at once, to a delay queue, or to the dead letters. The old copy may be
//! acknowledged only after the broker has confirmed the new one, so a crash in between causes a duplicate with the same
//! message id but never loses a message. A message that cannot be published is tried again as long as the stream is
//! open. One that no delay queue accepts before its delay ends is published to its queue directly.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use futures_util::{FutureExt as _, future::BoxFuture};
use tokio::time::Instant;

use super::{
    delay_queues::DelayQueues,
    disposition::Disposition,
    job::{Destination, Job, JobState},
};
use crate::{
    broker::{
        connection::tenant_connections::TenantConnections,
        error::Error,
        gateway_objects::{check_queue, declare_dead_letters, declare_delay_queue},
        message::{delay_bucket::DelayBucket, retained::RetainedDelivery},
        publish::{
            lanes::Lanes,
            outcome::{PublishOutcome, PublishStatus},
            publisher::Publisher,
        },
    },
    names::QueueName,
    telemetry::TenantMetrics,
    tenant::TenantScope,
};

/// The interval between two attempts to publish a message that was refused.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// The shortest wait of a message that is over the tenant's rates.
const MIN_THROTTLE: Duration = Duration::from_millis(20);

/// Publishes one stream's deliveries again. Nothing is connected until there is one.
pub struct Redeliverer {
    connections: Arc<TenantConnections>,
    lanes: Arc<Lanes>,
    delay_queues: Arc<DelayQueues>,
    queue: QueueName,
    scope: TenantScope,
    metrics: Arc<TenantMetrics>,
    publisher: Publisher,
    jobs: HashMap<u64, Job>,
    next_order: u64,
    /// Jobs in [`JobState::Ready`].
    ready: Vec<u64>,
    /// When the jobs in [`JobState::Waiting`] and [`JobState::Settling`] continue.
    timers: BTreeSet<(Instant, u64)>,
    /// Delays whose queue, and the route from it, existed when last declared.
    declared: HashSet<DelayBucket>,
    dead_letters_missing: bool,
    /// Set when a message for the queue could not be routed, until it is known whether the queue exists.
    queue_doubtful: bool,
    declaration: Option<Declaration>,
}

/// An object of the gateway that a destination requires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RequiredObject {
    DelayQueue(DelayBucket),
    DeadLetters,
    /// The queue of the messages, which is only checked.
    Queue,
}

/// The declaration in progress.
type Declaration = (RequiredObject, BoxFuture<'static, Result<(), Error>>);

impl Redeliverer {
    pub(in crate::broker) fn new(
        lanes: Arc<Lanes>,
        delay_queues: Arc<DelayQueues>,
        queue: QueueName,
        scope: TenantScope,
        metrics: Arc<TenantMetrics>,
    ) -> Self {
        Self {
            connections: Arc::clone(&lanes.connections),
            publisher: Publisher::new(Arc::clone(&lanes)),
            lanes,
            delay_queues,
            queue,
            scope,
            metrics,
            jobs: HashMap::new(),
            next_order: 0,
            ready: Vec::new(),
            timers: BTreeSet::new(),
            declared: HashSet::new(),
            dead_letters_missing: false,
            queue_doubtful: false,
            declaration: None,
        }
    }

    /// Accepts a delivery; its tag is returned by [`Self::settled`] once, unless this is dropped or cleared first.
    pub fn push(&mut self, tag: u64, delivery: Box<RetainedDelivery>, disposition: Disposition) {
        self.next_order += 1;
        self.jobs.insert(self.next_order, Job::new(tag, delivery, disposition));
        self.ready.push(self.next_order);
    }

    /// Whether no delivery is left.
    pub fn is_idle(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Removes all deliveries, because the broker has requeued them.
    pub fn clear(&mut self) {
        *self = Self::new(
            Arc::clone(&self.lanes),
            Arc::clone(&self.delay_queues),
            self.queue.clone(),
            self.scope.clone(),
            Arc::clone(&self.metrics),
        );
    }

    /// Waits until new copies are stored; returns the tags of the old copies. Cancel safe. Pending while there is
    /// nothing to do.
    pub async fn settled(&mut self) -> Vec<u64> {
        loop {
            self.process_ready();
            let is_publishing = self.publisher.in_flight() > 0;
            let timer = self.timers.first().map(|(at, _)| *at);
            let tags = tokio::select! {
                outcomes = self.publisher.settled(), if is_publishing => {
                    outcomes.into_iter().filter_map(|outcome| self.settle(outcome)).collect()
                }
                (object, result) = finished(&mut self.declaration) => {
                    self.declaration_finished(object, &result);
                    Vec::new()
                }
                () = tokio::time::sleep_until(timer.unwrap_or_else(Instant::now)), if timer.is_some() => self.fire_timers(),
                else => std::future::pending().await,
            };
            if !tags.is_empty() {
                return tags;
            }
        }
    }

    /// Publishes the jobs that can be published, and starts to declare the objects that the others require.
    fn process_ready(&mut self) {
        let (mut to_publish, now) = (Vec::new(), Instant::now());
        let budget = self.scope.budget();
        // When one message is over the tenant's rates, the following ones wait as well.
        let mut throttled = None;
        for order in std::mem::take(&mut self.ready) {
            let Some(job) = self.jobs.get_mut(&order) else { continue };
            if let Destination::Delay(bucket) = job.destination() {
                if job.due <= now {
                    job.end_delay();
                } else if self.delay_queues.was_unresponsive(&self.connections.tenant, bucket) {
                    job.state = JobState::Waiting;
                    self.timers.insert((job.due, order));
                    continue;
                }
            }
            let required = match job.destination() {
                Destination::Delay(bucket) if !self.declared.contains(&bucket) => {
                    Some(RequiredObject::DelayQueue(bucket))
                }
                Destination::DeadLetters if self.dead_letters_missing => Some(RequiredObject::DeadLetters),
                Destination::Queue if self.queue_doubtful => Some(RequiredObject::Queue),
                _ => None,
            };
            match required {
                Some(object) => {
                    if self.declaration.is_none() {
                        let (connections, queue) = (Arc::clone(&self.connections), self.queue.clone());
                        self.declaration = Some((object, declare(connections, object, queue)));
                    }
                    job.state = JobState::Waiting;
                    self.timers.insert((now + RETRY_INTERVAL, order));
                }
                None => {
                    if throttled.is_none() && !job.is_counted {
                        throttled = budget.take_again(job.delivery.body().len()).err();
                        job.is_counted = throttled.is_none();
                    }
                    match throttled {
                        Some(wait) if !job.is_counted => {
                            job.state = JobState::Waiting;
                            self.timers.insert((now + wait.max(MIN_THROTTLE), order));
                        }
                        _ => {
                            to_publish.push(job.publish(order, &self.queue));
                            job.state = JobState::Publishing;
                        }
                    }
                }
            }
        }
        self.publisher.push(to_publish);
    }

    /// Evaluates one outcome; returns the tag of the old copy when it may be acknowledged now.
    fn settle(&mut self, PublishOutcome { order, status, .. }: PublishOutcome) -> Option<u64> {
        if status == PublishStatus::Confirmed {
            return self.confirmed(order);
        }
        tracing::debug!(queue = self.queue.as_str(), ?status, "cannot publish a message again");
        if self.continues_after_refusal(order, &status) {
            self.make_ready(order)
        } else {
            self.wait(order)
        }
        None
    }

    fn confirmed(&mut self, order: u64) -> Option<u64> {
        let job = self.jobs.get_mut(&order)?;
        if let Disposition::DeadLetter { code, .. } = &job.disposition {
            self.metrics.dead_lettered(code.metric_label());
        }
        if let Destination::Delay(bucket) = job.destination()
            && let Some(until) = self.delay_queues.new_until(&self.connections.tenant, bucket)
        {
            job.state = JobState::Settling;
            self.timers.insert((until, order));
            return None;
        }
        self.jobs.remove(&order).map(|job| job.tag)
    }

    /// Changes the job according to a refusal; returns whether it can continue at once.
    fn continues_after_refusal(&mut self, order: u64, status: &PublishStatus) -> bool {
        let Some(job) = self.jobs.get_mut(&order) else { return false };
        let is_missing = match status {
            PublishStatus::Unroutable => true,
            PublishStatus::Rejected(failure) => failure.reason == "EXCHANGE_NOT_FOUND",
            _ => false,
        };
        let is_full = matches!(status, PublishStatus::Rejected(failure) if failure.reason == "BROKER_REJECTED");
        match job.destination() {
            // The default exchange always exists. The queue may have been deleted, but a broker that is restoring its
            // queues, or has lost the node of this one, answers alike.
            Destination::Queue if is_missing => {
                self.queue_doubtful = true;
                false
            }
            Destination::Delay(bucket) if is_missing => {
                self.declared.remove(&bucket);
                self.delay_queues.record_missing(&self.connections.tenant, bucket);
                true
            }
            Destination::Delay(bucket) if matches!(status, PublishStatus::Unknown(_)) => {
                self.delay_queues.record_unresponsive(&self.connections.tenant, bucket);
                true
            }
            Destination::DeadLetters if is_missing => {
                self.dead_letters_missing = true;
                true
            }
            _ => is_full && job.delay_because_full(),
        }
    }

    fn declaration_finished(&mut self, object: RequiredObject, result: &Result<(), Error>) {
        match result {
            // An object with other arguments exists, too: another version of the gateway declared it.
            Ok(()) | Err(Error::Inequivalent { .. }) => match object {
                RequiredObject::DelayQueue(bucket) => {
                    self.declared.insert(bucket);
                    self.delay_queues.record_existing(&self.connections.tenant, bucket);
                }
                RequiredObject::DeadLetters => self.dead_letters_missing = false,
                RequiredObject::Queue => self.queue_doubtful = false,
            },
            Err(Error::NoQueue(_)) if object != RequiredObject::DeadLetters => {
                let is_affected =
                    |job: &&mut Job| job.state == JobState::Waiting && job.destination() != Destination::DeadLetters;
                self.jobs.values_mut().filter(is_affected).for_each(Job::queue_deleted);
            }
            Err(error) => {
                tracing::warn!(
                    queue = self.queue.as_str(),
                    ?object,
                    ?error,
                    "cannot declare an object that a retry requires"
                );
                return;
            }
        }
        let is_waiting = |order: &u64| self.jobs.get(order).is_some_and(|job| job.state == JobState::Waiting);
        let (waiting, settling): (BTreeSet<_>, _) =
            std::mem::take(&mut self.timers).into_iter().partition(|(_, order)| is_waiting(order));
        self.timers = settling;
        waiting.into_iter().for_each(|(_, order)| self.make_ready(order));
    }

    /// Continues the jobs whose timer has fired; returns the tags of those that are settled.
    fn fire_timers(&mut self) -> Vec<u64> {
        let later = self.timers.split_off(&(Instant::now(), 0));
        let mut tags = Vec::new();
        for (_, order) in std::mem::replace(&mut self.timers, later) {
            match self.jobs.get(&order).map(|job| job.state) {
                Some(JobState::Settling) => tags.extend(self.jobs.remove(&order).map(|job| job.tag)),
                Some(JobState::Waiting) => self.make_ready(order),
                _ => {}
            }
        }
        tags
    }

    fn make_ready(&mut self, order: u64) {
        if let Some(job) = self.jobs.get_mut(&order) {
            job.state = JobState::Ready;
            self.ready.push(order);
        }
    }

    fn wait(&mut self, order: u64) {
        if let Some(job) = self.jobs.get_mut(&order) {
            job.state = JobState::Waiting;
            self.timers.insert((Instant::now() + RETRY_INTERVAL, order));
        }
    }
}

fn declare(
    connections: Arc<TenantConnections>,
    object: RequiredObject,
    queue: QueueName,
) -> BoxFuture<'static, Result<(), Error>> {
    async move {
        match object {
            RequiredObject::DelayQueue(bucket) => declare_delay_queue(&connections, bucket, &queue).await,
            RequiredObject::DeadLetters => declare_dead_letters(&connections).await,
            RequiredObject::Queue => check_queue(&connections, &queue).await,
        }
    }
    .boxed()
}

/// Cancel safe: the declaration is removed only when it has finished.
async fn finished(declaration: &mut Option<Declaration>) -> (RequiredObject, Result<(), Error>) {
    match declaration {
        Some((object, future)) => {
            let (object, result) = (*object, future.await);
            *declaration = None;
            (object, result)
        }
        None => std::future::pending().await,
    }
}
