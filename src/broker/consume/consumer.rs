//! The consumer of one stream, on a channel of its own. It returns batches of ready deliveries within the subscriber's
//! windows.
//!
//! The broker limits a prefetch by messages only, and lapin buffers deliveries without a bound. So all deliveries are
//! read from lapin at once, and those that do not fit into the byte window lose their bodies and return to the queue.
//! The consumer is cancelled first, so that they go to other consumers, and started again when there is capacity, with
//! a prefetch for the sizes seen. On a queue that serves one consumer at a time the consumer is not cancelled: there,
//! deliveries that do not fit remain unsettled and are requeued one by one when they fit. Deliveries that exceed the
//! tenant's memory budget are treated in the same way.
//!
//! When the consumer ends, the [`Error`] shows whether the connection was lost (a new consumer may continue) or the
//! queue is unusable.

use std::{collections::BTreeSet, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture};
use lapin::{
    Channel,
    message::Delivery,
    options::{BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions},
    types::{AMQPValue, FieldTable},
};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::{
    acks::Acks,
    charge::{self, DeliveryCharge, UnreadFrame},
    inbox::{Excess, Inbox},
    incoming::{Capacity, Incoming},
};
use crate::{
    broker::{
        connection::{
            live::{ChannelGuard, CloseOnDrop},
            tenant_connections::TenantConnections,
        },
        error::Error,
        message::{
            properties,
            retained::{self, RetainedDelivery},
            size::encoded_size,
        },
        publish::confirms,
    },
    memory::MemoryBudget,
    names::QueueName,
};

const SETUP_TIMEOUT: Duration = Duration::from_secs(10);
/// For a batch smaller than this, the task yields and reads again: a frame costs as much as many messages.
const BATCH: usize = 32;
/// How much is converted before other tasks run.
const MAX_WEIGHT_AT_ONCE: usize = 2 * 1024 * 1024;
const MAX_YIELDS: usize = 2;
/// The first prefetch is at most this, because the sizes of the queue's messages are not known yet.
const FIRST_PREFETCH: u16 = 256;
/// How much the prefetch grows at a time.
const GROWTH: usize = 4;
/// For how long after deliveries did not fit the next ones are expected to be as large as those.
const EXPECT_AS_LARGE: Duration = Duration::from_secs(1);
/// The minimum interval between two small changes of the prefetch.
const SMALL_CHANGES: Duration = Duration::from_millis(20);
/// The interval between two lookups of how the queue is shared, after one that failed.
const LOOKUP_INTERVAL: Duration = Duration::from_secs(5);
/// How long a requeued delivery is expected here again; another consumer may have received it.
const REQUEUE_TIMEOUT: Duration = Duration::from_secs(1);
/// RabbitMQ does not keep the order of more than 32 deliveries that are returned together.
const MAX_RETURNED_TOGETHER: usize = 32;
/// There is a pause after this many returns, because RabbitMQ combines them when more than 32 wait for its log.
const RETURNS_AT_A_TIME: usize = 16;
const RETURN_PAUSE: Duration = Duration::from_millis(10);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Where to start in a stream queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAt {
    /// The oldest message.
    First,
    /// The newest chunk.
    Last,
    /// Messages published from now on.
    Next,
    /// This offset.
    Offset(u64),
    /// Seconds since the epoch.
    Timestamp(u64),
}

/// The options of a consumer.
#[derive(Debug, Clone)]
pub struct ConsumeSpec {
    /// The queue.
    pub queue: QueueName,
    /// The maximum number of unsettled deliveries.
    pub max_messages: u16,
    /// Their maximum total size: body, properties and headers.
    pub max_bytes: usize,
    /// For stream queues only.
    pub start: Option<StartAt>,
    /// Whether no other consumer is allowed.
    pub exclusive: bool,
    /// Consumers of higher priority are served first.
    pub priority: i32,
    /// Whether deliveries are retained until they are settled, so that they can be published again. Never those of a
    /// stream queue.
    pub keep: bool,
}

/// Whether other consumers may receive a queue's messages while this one is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// One consumer at a time: after a cancel, another consumer would be the active one.
    Single,
    /// Any number of consumers. If the queue expires soon without a consumer, this one is not cancelled.
    Shared {
        /// Whether the queue expires soon without a consumer.
        expires_soon: bool,
    },
}

/// Looks up how a queue is shared; `None` when that cannot be determined.
pub type SharingLookup = Arc<dyn Fn() -> BoxFuture<'static, Option<Sharing>> + Send + Sync>;

/// A consumer on a channel of its own.
pub struct Consumer {
    channel: Channel,
    /// `None` while the broker delivers nothing.
    deliveries: Option<lapin::Consumer>,
    guard: ChannelGuard,
    /// Completes when the connection is lost; `None` afterwards.
    lost: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    spec: ConsumeSpec,
    acks: Acks,
    inbox: Inbox,
    charge: DeliveryCharge,
    capacity: Capacity,
    prefetch: u16,
    flow: Flow,
    sharing: Option<Sharing>,
    lookup: SharingLookup,
    lookup_not_before: Instant,
    /// The last time that deliveries did not fit.
    last_excess: Option<Instant>,
    /// The size of the first delivery that did not fit.
    blocked_by: usize,
    /// The last change of the flow.
    changed: Instant,
    /// The unsettled deliveries of the present consumer, while its prefetch is smaller than the window: when the
    /// prefetch is used up, the broker delivers nothing more.
    unsettled: BTreeSet<u64>,
    /// Until when requeued deliveries are expected here again.
    requeued_until: Instant,
    /// The offset of the last delivery of a stream queue. Messages cannot be returned to a stream: RabbitMQ
    /// closes the connection on `nack` and `reject`.
    offset: Option<u64>,
    stream: bool,
    stopped: bool,
}

/// How deliveries flow from the broker.
enum Flow {
    Running,
    /// Running, while a lookup of how the queue is shared is in progress.
    LookingUp(BoxFuture<'static, Option<Sharing>>),
    /// The cancel was sent, and deliveries may still arrive. Afterwards the consumer starts again with this prefetch.
    Cancelling {
        answer: Option<BoxFuture<'static, Result<(), lapin::Error>>>,
        next: Option<u16>,
    },
    /// Deliveries that did not fit are being returned.
    Returning(BoxFuture<'static, Result<(), lapin::Error>>),
    Paused,
    Starting {
        answer: BoxFuture<'static, Result<lapin::Consumer, lapin::Error>>,
        prefetch: u16,
    },
}

/// A completed step of the flow.
enum Step {
    Shared(Option<Sharing>),
    Cancelled(Result<(), lapin::Error>),
    Returned(Result<(), lapin::Error>),
    Started(Result<lapin::Consumer, lapin::Error>),
}

impl Consumer {
    pub(in crate::broker) async fn open(
        connections: &TenantConnections,
        spec: &ConsumeSpec,
        lookup: SharingLookup,
        memory: MemoryBudget,
    ) -> Result<Self, Error> {
        // RabbitMQ admits no other consumer together with an exclusive one.
        let mut sharing = spec.exclusive.then_some(Sharing::Single);
        let is_large = spec.max_messages > FIRST_PREFETCH;
        if is_large && sharing.is_none() {
            sharing = lookup().await;
        }
        let prefetch = match sharing {
            // It is never cancelled, so the prefetch cannot be changed later.
            Some(Sharing::Single) => spec.max_messages,
            None if is_large => spec.max_messages,
            _ => spec.max_messages.min(FIRST_PREFETCH),
        };
        let (channel, guard) = connections.consume.channel().await?;
        let close_on_drop = CloseOnDrop::new(&channel);
        let opening = consume(channel.clone(), spec.clone(), prefetch);
        let deliveries = tokio::time::timeout(SETUP_TIMEOUT, opening).await.map_err(|_| Error::Timeout)??;
        close_on_drop.disarm();
        Ok(Self {
            acks: Acks::new(channel.clone(), spec.max_messages),
            channel,
            deliveries: Some(deliveries),
            lost: Some(Box::pin(guard.lost().clone().cancelled_owned())),
            guard,
            inbox: Inbox::default(),
            charge: DeliveryCharge::new(memory),
            capacity: Capacity { messages: spec.max_messages.into(), bytes: spec.max_bytes, unsettled: 0 },
            prefetch,
            flow: Flow::Running,
            sharing,
            lookup,
            lookup_not_before: Instant::now(),
            last_excess: None,
            blocked_by: 0,
            changed: Instant::now(),
            unsettled: BTreeSet::new(),
            requeued_until: Instant::now(),
            offset: None,
            // The broker refuses a position for all other types of queues, so this is a stream.
            stream: spec.start.is_some(),
            stopped: false,
            spec: spec.clone(),
        })
    }

    /// Sets the capacity that the subscriber has from now on.
    pub fn set_capacity(&mut self, capacity: Capacity) {
        self.capacity = capacity;
        self.charge.release();
    }

    /// The oldest delivery that the subscriber has not received, and that newer ones may overtake. No cumulative
    /// acknowledgement may cover it.
    pub fn oldest_undelivered(&self) -> Option<u64> {
        self.inbox.first_excess().map(|excess| excess.tag)
    }

    /// Waits for deliveries that fit, and returns those that are ready: at most `most` messages of `frame` bytes
    /// together, or one larger message. They are charged to the memory budget until they are settled and the
    /// [`UnreadFrame`] is dropped. Cancel safe: no received delivery is lost.
    ///
    /// # Errors
    /// When the consumer has ended; see [`Error::is_connection_error`].
    pub async fn next(&mut self, most: usize, frame: usize) -> Result<(Vec<Incoming>, UnreadFrame), Error> {
        loop {
            self.receive_all().await?;
            self.adjust_flow()?;
            for _ in 0..MAX_YIELDS {
                let before = self.inbox.len();
                if before == 0 || before >= most.min(BATCH) || self.inbox.bytes() >= frame {
                    break;
                }
                tokio::task::yield_now().await;
                self.receive_all().await?;
                if self.inbox.len() == before {
                    break;
                }
            }
            let batch = self.inbox.next_batch(most, frame, self.capacity);
            if !batch.is_empty() {
                let unread = self.charge.send(batch.iter().map(|delivery| delivery.tag));
                return Ok((batch, unread));
            }
            self.step().await?;
        }
    }

    /// Waits until the consumer ends, while the window is full and nothing can be delivered. Cancel safe.
    pub async fn ended(&mut self) -> Error {
        loop {
            let done = self.receive_all().await.and_then(|()| self.adjust_flow());
            if let Err(error) = done {
                return error;
            }
            if let Err(error) = self.step().await {
                return error;
            }
        }
    }

    /// Waits for the next event and processes it. Cancel safe.
    async fn step(&mut self) -> Result<(), Error> {
        let Some(lost) = &mut self.lost else { return Err(Error::Unreachable(None)) };
        let next_timer = match self.flow {
            Flow::Running if self.inbox.first_excess().is_some() => {
                Some(if self.inbox.is_expecting() { self.requeued_until } else { self.lookup_not_before })
            }
            Flow::Running | Flow::Paused => Some(self.changed + SMALL_CHANGES),
            _ => None,
        };
        let now = Instant::now();
        let next_timer = next_timer.into_iter().chain(self.charge.retry()).filter(|at| *at > now).min();
        tokio::select! {
            biased;
            next = delivered(&mut self.deliveries) => drop(self.receive(next)?),
            () = lost => {
                self.lost = None;
                return Err(Error::Unreachable(None));
            }
            () = self.acks.due() => self.acks.flush()?,
            step = self.flow.step() => self.advance(step)?,
            () = sleep_until(next_timer.unwrap_or_else(Instant::now)), if next_timer.is_some() => {}
        }
        Ok(())
    }

    /// Reads all deliveries that lapin has buffered. Other tasks run in between, because messages with thousands of headers
    /// take long to convert. Cancel safe.
    async fn receive_all(&mut self) -> Result<(), Error> {
        let mut weight = 0;
        while let Some(next) = delivered(&mut self.deliveries).now_or_never() {
            weight += self.receive(next)?;
            if weight > MAX_WEIGHT_AT_ONCE {
                weight = 0;
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    /// Returns the weight of the delivery.
    fn receive(&mut self, next: Option<lapin::Result<Delivery>>) -> Result<usize, Error> {
        let delivery = match next {
            Some(Ok(delivery)) => delivery,
            Some(Err(error)) => return Err(self.guard.explain(error.into())),
            None if self.guard.lost().is_cancelled() => return Err(Error::Unreachable(None)),
            None if matches!(self.flow, Flow::Cancelling { .. }) => {
                self.deliveries = None;
                return self.cancelled().map(|()| 0);
            }
            // The broker cancels a consumer when its queue is deleted.
            None => return Err(Error::QueueDeleted(self.spec.queue.to_string())),
        };
        if self.prefetch < self.spec.max_messages {
            self.unsettled.insert(delivery.delivery_tag);
        }
        let bytes = size(&delivery);
        let offset = offset(&delivery.properties);
        self.stream |= offset.is_some();
        // A message larger than the window, when nothing else is unsettled, and the message of a consumer that only
        // keeps a queue from expiring.
        let is_kept_alive = self.expires_soon() && self.prefetch == 1;
        let spare = usize::from(self.capacity.is_idle() || is_kept_alive);
        let tag = delivery.delivery_tag;
        let weight = charge::weight(bytes, &delivery.properties);
        let is_in_window = self.inbox.keeps(bytes, delivery.redelivered, self.capacity, spare);
        if is_in_window && self.charge.charge(tag, weight) {
            self.offset = offset.or(self.offset);
            self.inbox.keep(Incoming { weight, ..convert(delivery, bytes, self.spec.keep) });
        } else {
            let bytes = if is_in_window { weight } else { bytes };
            self.inbox.drop_body(Excess { tag, bytes, offset });
            self.last_excess = Some(Instant::now());
        }
        Ok(weight)
    }

    /// Starts the next step that is necessary to respect the windows, or to fill them.
    fn adjust_flow(&mut self) -> Result<(), Error> {
        if self.stopped {
            return Ok(());
        }
        match &self.flow {
            Flow::Running if self.inbox.first_excess().is_some() => self.return_excess(),
            Flow::Running => {
                if let Some(prefetch) = self.larger_prefetch() {
                    match self.may_cancel() {
                        true => self.cancel(Some(prefetch)),
                        false => self.look_up_sharing(),
                    }
                }
                Ok(())
            }
            Flow::Paused => {
                if !self.charge.is_blocked()
                    && let Some(prefetch) = self.prefetch_to_resume()
                {
                    self.start(prefetch);
                }
                Ok(())
            }
            Flow::LookingUp(_) | Flow::Cancelling { .. } | Flow::Returning(_) | Flow::Starting { .. } => Ok(()),
        }
    }

    /// Whether the consumer may be cancelled without losing its position among the queue's consumers.
    fn may_cancel(&self) -> bool {
        self.stream || matches!(self.sharing, Some(Sharing::Shared { .. }))
    }

    /// Whether the queue expires soon when it has no consumer.
    fn expires_soon(&self) -> bool {
        matches!(self.sharing, Some(Sharing::Shared { expires_soon: true }))
    }

    /// Returns deliveries that do not fit: all of them if other consumers may receive them, otherwise as many as fit
    /// now.
    fn return_excess(&mut self) -> Result<(), Error> {
        let is_blocked = self.charge.is_blocked();
        // The message of a consumer that only keeps a queue from expiring remains unsettled, without its body.
        let keeps_alive = is_blocked && self.expires_soon() && self.prefetch == 1;
        if self.may_cancel() && !keeps_alive {
            self.cancel(None);
            return Ok(());
        }
        self.look_up_sharing();
        if is_blocked {
            return Ok(());
        }
        if self.inbox.is_expecting() {
            if Instant::now() < self.requeued_until {
                return Ok(());
            }
            self.inbox.expect_none();
        }
        let capacity = Capacity { bytes: self.inbox.bytes() + self.bytes_left(), ..self.capacity };
        for excess in self.inbox.take_fitting(capacity) {
            self.requeued_until = Instant::now() + REQUEUE_TIMEOUT;
            let options = BasicNackOptions { multiple: false, requeue: true };
            // The first poll passes it to lapin, in order with all other frames.
            self.channel.basic_nack(excess.tag, options).now_or_never().transpose()?;
        }
        Ok(())
    }

    /// Looks up how the queue is shared, unless that is known or a lookup failed recently.
    fn look_up_sharing(&mut self) {
        if self.sharing.is_none() && Instant::now() >= self.lookup_not_before {
            self.flow = Flow::LookingUp((self.lookup)());
        }
    }

    fn cancel(&mut self, next: Option<u16>) {
        let Some(tag) = self.deliveries.as_ref().map(lapin::Consumer::tag) else { return };
        let channel = self.channel.clone();
        let cancelling = async move { channel.basic_cancel(tag, BasicCancelOptions::default()).await };
        self.changed = Instant::now();
        self.flow = Flow::Cancelling { answer: Some(cancelling.boxed()), next };
    }

    fn start(&mut self, prefetch: u16) {
        let mut spec = self.spec.clone();
        if let Some(offset) = self.offset {
            spec.start = Some(StartAt::Offset(offset.saturating_add(1)));
        }
        let answer = consume(self.channel.clone(), spec, prefetch).boxed();
        self.flow = Flow::Starting { answer, prefetch };
    }

    fn advance(&mut self, step: Step) -> Result<(), Error> {
        match step {
            Step::Shared(sharing) => {
                self.flow = Flow::Running;
                self.sharing = sharing;
                self.lookup_not_before = Instant::now() + LOOKUP_INTERVAL;
                Ok(())
            }
            Step::Cancelled(answer) => {
                answer.map_err(|error| self.guard.explain(error.into()))?;
                self.cancelled()
            }
            Step::Returned(answer) => {
                answer.map_err(|error| self.guard.explain(error.into()))?;
                self.returned();
                Ok(())
            }
            Step::Started(answer) => match answer.map_err(|error| self.guard.explain(error.into())) {
                Ok(deliveries) => {
                    if let Flow::Starting { prefetch, .. } = self.flow {
                        self.prefetch = prefetch;
                    }
                    self.deliveries = Some(deliveries);
                    self.unsettled.clear();
                    (self.flow, self.changed) = (Flow::Running, Instant::now());
                    Ok(())
                }
                Err(Error::NoQueue(queue)) => Err(Error::QueueDeleted(queue)),
                Err(error) => Err(error),
            },
        }
    }

    /// Continues when the broker has confirmed the cancel and the last delivery has been read.
    fn cancelled(&mut self) -> Result<(), Error> {
        let Flow::Cancelling { answer: None, next } = &self.flow else { return Ok(()) };
        if self.deliveries.is_some() {
            return Ok(());
        }
        let next = *next;
        (self.flow, self.changed) = (Flow::Paused, Instant::now());
        if let Some(first) = self.inbox.first_excess() {
            self.blocked_by = first.bytes;
            let tags = self.inbox.take_excess().into_iter().map(|excess| excess.tag).collect();
            if !self.stream {
                self.flow = Flow::Returning(return_one_by_one(self.channel.clone(), tags).boxed());
            }
        } else if let Some(prefetch) = next {
            self.start(prefetch);
        }
        Ok(())
    }

    fn returned(&mut self) {
        (self.flow, self.changed) = (Flow::Paused, Instant::now());
        if self.expires_soon() {
            self.start(1);
        }
    }

    /// How many more messages the windows allow, by the sizes of recent deliveries.
    fn fitting(&self) -> usize {
        let left = self.bytes_left();
        let was_excess = self.last_excess.is_some_and(|last| last.elapsed() < EXPECT_AS_LARGE);
        let as_large = if was_excess { left / self.blocked_by.max(1) } else { usize::MAX };
        self.inbox.fit(left).min(as_large).min(self.capacity.messages.saturating_sub(self.inbox.len()))
    }

    /// How many more bytes the window and the memory budget allow.
    fn bytes_left(&self) -> usize {
        self.capacity.bytes.saturating_sub(self.inbox.bytes()).min(self.charge.spare())
    }

    /// Whether a small change may be made now.
    fn may_change_little(&self) -> bool {
        self.changed.elapsed() >= SMALL_CHANGES
    }

    /// A prefetch for more deliveries, when the present one is used up and the windows allow more.
    fn larger_prefetch(&self) -> Option<u16> {
        if self.prefetch >= self.spec.max_messages || self.unsettled.len() < usize::from(self.prefetch) {
            return None;
        }
        let fitting = self.fitting();
        let is_gain = fitting >= usize::from(self.prefetch) / 2 || self.may_change_little();
        let next = fitting.min(usize::from(self.prefetch).saturating_mul(GROWTH));
        (fitting > 0 && is_gain).then(|| self.bounded(next))
    }

    /// The prefetch to continue with, once the delivery that did not fit would fit.
    fn prefetch_to_resume(&self) -> Option<u16> {
        let left = self.bytes_left();
        let is_empty = self.inbox.len() == 0 && self.capacity.messages > 0;
        let fits = left >= self.blocked_by && (left >= self.spec.max_bytes / 2 || self.may_change_little());
        (is_empty && (fits || self.capacity.is_idle())).then(|| self.bounded(self.fitting()))
    }

    fn bounded(&self, prefetch: usize) -> u16 {
        u16::try_from(prefetch).unwrap_or(u16::MAX).clamp(1, self.spec.max_messages)
    }

    /// Acknowledges one delivery. It is written in order with all other frames, and deliveries do not wait for that.
    /// The acknowledgements that wait to be written are bounded by the window.
    ///
    /// # Errors
    /// When the channel has ended; unacknowledged deliveries return to the queue.
    pub fn ack(&mut self, tag: u64) -> Result<(), Error> {
        self.unsettled.remove(&tag);
        self.charge.settle(tag);
        self.acks.single(tag)
    }

    /// Acknowledges this delivery and all before it. Acknowledgements are combined for some milliseconds, and written
    /// while the consumer waits for deliveries.
    ///
    /// # Errors
    /// As [`Self::ack`].
    pub fn ack_through(&mut self, tag: u64) -> Result<(), Error> {
        if !self.unsettled.is_empty() {
            self.unsettled = self.unsettled.split_off(&tag.saturating_add(1));
        }
        self.charge.settle_through(tag);
        self.acks.through(tag)
    }

    /// Cancels the consumer; unsettled deliveries remain unsettled.
    ///
    /// # Errors
    /// As [`Self::ack`].
    pub async fn stop(&mut self) -> Result<(), Error> {
        if std::mem::replace(&mut self.stopped, true) {
            return Ok(());
        }
        match std::mem::replace(&mut self.flow, Flow::Paused) {
            Flow::Cancelling { answer, .. } => {
                if let Some(answer) = answer {
                    answer.await?;
                }
            }
            Flow::Returning(answer) => answer.await?,
            Flow::Starting { answer, .. } => self.deliveries = Some(answer.await?),
            Flow::Running | Flow::LookingUp(_) | Flow::Paused => {}
        }
        if let Some(deliveries) = &self.deliveries {
            self.channel.basic_cancel(deliveries.tag(), BasicCancelOptions::default()).await?;
        }
        Ok(())
    }

    /// Cancels the consumer, returns all unsettled deliveries in their order (those that the subscriber has not settled
    /// and those that it has not received), and closes the channel.
    pub async fn close(mut self, unsettled: Vec<u64>) {
        let close_on_drop = CloseOnDrop::new(&self.channel);
        let closing = async {
            self.acks.flush()?;
            self.stop().await?;
            let mut tags = unsettled;
            tags.extend(self.inbox.tags());
            // The broker has confirmed the cancel, so its last delivery has been received.
            while let Some(Some(Ok(delivery))) = delivered(&mut self.deliveries).now_or_never() {
                self.stream |= offset(&delivery.properties).is_some();
                tags.push(delivery.delivery_tag);
            }
            if !self.stream {
                return_in_order(&self.channel, tags).await?;
            }
            Ok::<(), Error>(self.channel.close(200, "done".into()).await?)
        };
        // When the channel has ended, the broker has requeued everything already.
        if tokio::time::timeout(CLOSE_TIMEOUT, closing).await.is_ok() {
            close_on_drop.disarm();
        }
    }
}

impl Flow {
    /// Waits for the present step. Cancel safe.
    async fn step(&mut self) -> Step {
        match self {
            Self::LookingUp(answer) => Step::Shared(answer.await),
            Self::Cancelling { answer, .. } => match answer {
                Some(waiting) => {
                    let done = waiting.await;
                    *answer = None;
                    Step::Cancelled(done)
                }
                None => std::future::pending().await,
            },
            Self::Returning(answer) => Step::Returned(answer.await),
            Self::Starting { answer, .. } => Step::Started(answer.await),
            Self::Running | Self::Paused => std::future::pending().await,
        }
    }
}

/// Returns all unsettled deliveries to the queue in their order.
pub(in crate::broker) async fn return_in_order(channel: &Channel, mut tags: Vec<u64>) -> Result<(), lapin::Error> {
    tags.sort_unstable();
    for (count, together) in tags.chunks(MAX_RETURNED_TOGETHER).enumerate() {
        if count > 0 && count % RETURNS_AT_A_TIME == 0 {
            tokio::time::sleep(RETURN_PAUSE).await;
        }
        // `multiple` is safe: all earlier deliveries were returned or acknowledged.
        let Some(last) = together.last() else { continue };
        channel.basic_nack(*last, BasicNackOptions { multiple: true, requeue: true }).await?;
    }
    Ok(())
}

/// Returns deliveries to the queue while older ones remain unsettled.
async fn return_one_by_one(channel: Channel, tags: Vec<u64>) -> Result<(), lapin::Error> {
    for (count, tag) in tags.into_iter().enumerate() {
        if count > 0 && count % RETURNS_AT_A_TIME == 0 {
            tokio::time::sleep(RETURN_PAUSE).await;
        }
        channel.basic_nack(tag, BasicNackOptions { multiple: false, requeue: true }).await?;
    }
    Ok(())
}

/// Returns the next delivery; pending without a consumer.
async fn delivered(deliveries: &mut Option<lapin::Consumer>) -> Option<lapin::Result<Delivery>> {
    match deliveries {
        Some(deliveries) => deliveries.next().await,
        None => std::future::pending().await,
    }
}

/// Starts a consumer.
pub(in crate::broker) async fn consume(
    channel: Channel,
    spec: ConsumeSpec,
    prefetch: u16,
) -> Result<lapin::Consumer, lapin::Error> {
    channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
    let mut arguments = FieldTable::default();
    if spec.priority != 0 {
        arguments.insert("x-priority".into(), AMQPValue::LongInt(spec.priority));
    }
    if let Some(start) = spec.start {
        let value = match start {
            StartAt::First => AMQPValue::LongString("first".into()),
            StartAt::Last => AMQPValue::LongString("last".into()),
            StartAt::Next => AMQPValue::LongString("next".into()),
            StartAt::Offset(offset) => AMQPValue::LongLongInt(i64::try_from(offset).unwrap_or(i64::MAX)),
            StartAt::Timestamp(seconds) => AMQPValue::Timestamp(seconds),
        };
        arguments.insert("x-stream-offset".into(), value);
    }
    let options = BasicConsumeOptions { exclusive: spec.exclusive, ..BasicConsumeOptions::default() };
    channel.basic_consume(spec.queue.as_str().into(), "".into(), options, arguments).await
}

/// The size of a delivery as it counts in the windows.
fn size(delivery: &Delivery) -> usize {
    delivery.data.len() + encoded_size(&delivery.properties)
}

fn offset(properties: &lapin::BasicProperties) -> Option<u64> {
    retained::integer(properties, "x-stream-offset").and_then(|offset| u64::try_from(offset).ok())
}

/// A delivery that is only shown.
pub(in crate::broker) fn read(delivery: Delivery) -> Incoming {
    let bytes = size(&delivery);
    convert(delivery, bytes, false)
}

fn convert(delivery: Delivery, bytes: usize, keep: bool) -> Incoming {
    let Delivery { delivery_tag, exchange, routing_key, redelivered, properties, data, .. } = delivery;
    let attempt = retained::failures(&properties).saturating_add(1);
    let offset = offset(&properties);
    let (first_exchange, first_key) = retained::origin(&properties);
    let body = Bytes::from(data);
    // Shared instead of copied.
    let kept = (keep && offset.is_none()).then(|| body.clone());
    Incoming {
        tag: delivery_tag,
        bytes,
        weight: bytes,
        exchange: first_exchange.unwrap_or(exchange.as_str()).to_owned(),
        routing_key: first_key.unwrap_or(routing_key.as_str()).to_owned(),
        redelivered: redelivered || attempt > 1,
        attempt,
        offset,
        accepted: confirms::accepted(&properties),
        message: properties::from_amqp(&properties, body),
        // Moved instead of copied, because every delivery is retained and few are published again.
        retained: kept.map(|body| Box::new(RetainedDelivery::new(properties, body, exchange, routing_key))),
    }
}
