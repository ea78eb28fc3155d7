//! Consuming for one stream, on a channel of its own. A queue's name and a window enter; batches of whatever is ready
//! leave, with what they were made of where it may be needed again, and acknowledgements go back. When the consumer ends, the [`Error`] says whether the link
//! is at fault (a new consumer may go on) or the queue (nothing will).

use std::{
    collections::VecDeque,
    pin::Pin,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _};
use lapin::{
    Channel,
    message::Delivery,
    options::{BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions},
    types::{AMQPValue, FieldTable},
};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::acks::Acks;
use crate::{
    broker::{
        Error,
        connection::live::{ChannelGuard, Unfinished},
        handle::Links,
        message::{
            properties,
            retained::{self, Held},
        },
        publish::confirms,
    },
    names::QueueName,
    pb::Message,
};

const SETUP: Duration = Duration::from_secs(10);
/// A batch of fewer looks again, after everybody else had a turn, for what came meanwhile: a frame costs as much as many messages.
const BATCH: usize = 32;
const LOOKS: usize = 2;

/// Where to begin in a stream queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAt {
    /// The oldest message.
    First,
    /// The newest chunk.
    Last,
    /// What comes from now on.
    Next,
    /// This offset.
    Offset(u64),
    /// Seconds since the epoch.
    Timestamp(u64),
}

/// What to consume, and how.
#[derive(Debug, Clone)]
pub struct ConsumeSpec {
    /// The queue.
    pub queue: QueueName,
    /// Most unsettled deliveries.
    pub prefetch: u16,
    /// For stream queues only.
    pub start: Option<StartAt>,
    /// No other consumer.
    pub exclusive: bool,
    /// Consumers of higher priority are served first.
    pub priority: i32,
    /// Whether deliveries are kept until they are settled, to be sent round again. Never those of a stream queue.
    pub keep: bool,
}

/// A delivery as the broker gave it.
#[derive(Debug)]
pub struct Incoming {
    /// The channel's number for it.
    pub tag: u64,
    /// The message, as its producer wrote it.
    pub message: Message,
    /// The exchange it was published to, also after retries.
    pub exchange: String,
    /// The routing key it was published with.
    pub routing_key: String,
    /// Whether it may have been delivered before.
    pub redelivered: bool,
    /// 1 for the first attempt.
    pub attempt: u32,
    /// In a stream queue.
    pub offset: Option<u64>,
    /// When a gateway accepted it; none when it came another way.
    pub accepted: Option<SystemTime>,
    /// What it was made of.
    pub held: Option<Box<Held>>,
}

/// A consumer on a channel of its own.
pub struct Consumer {
    channel: Channel,
    deliveries: lapin::Consumer,
    guard: ChannelGuard,
    /// The link's end, asked once for all deliveries; over for good when it is none.
    lost: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    queue: QueueName,
    acks: Acks,
    /// Taken from lapin and not handed out yet: a batch in the making, or what was too large for the window that was left.
    gathered: VecDeque<Incoming>,
    /// Deliveries have an offset. A stream takes nothing back: RabbitMQ answers `nack` and `reject` with the end of the
    /// whole connection.
    stream: bool,
    keep: bool,
    stopped: bool,
}

impl Consumer {
    pub(in crate::broker) async fn open(links: &Links, spec: &ConsumeSpec) -> Result<Self, Error> {
        let (channel, guard) = links.consume.channel().await?;
        let unfinished = Unfinished::new(&channel);
        let deliveries = tokio::time::timeout(SETUP, consume(&channel, spec)).await.map_err(|_| Error::Timeout)??;
        unfinished.done();
        // A position is for stream queues only; the broker has refused it for all others.
        let stream = spec.start.is_some();
        Ok(Self {
            acks: Acks::new(channel.clone(), spec.prefetch),
            channel,
            deliveries,
            lost: Some(Box::pin(guard.lost().clone().cancelled_owned())),
            guard,
            queue: spec.queue.clone(),
            gathered: VecDeque::new(),
            stream,
            keep: spec.keep,
            stopped: false,
        })
    }

    /// Waits for a delivery, and takes with it what else is ready, up to so many messages and bytes. Empty when the next
    /// one is larger than the room and `alone` is false; it is kept for a later call. Cancel safe: what was gathered is not lost.
    ///
    /// # Errors
    /// When the consumer has ended; see [`Error::is_link`].
    pub async fn next(&mut self, most: usize, room: usize, alone: bool) -> Result<Vec<Incoming>, Error> {
        if self.gathered.is_empty() {
            let first = self.first().await?;
            self.stream |= first.offset.is_some();
            self.gathered.push_back(first);
        }
        let mut bytes = self.gather(most, room);
        for _ in 0..LOOKS {
            let before = self.gathered.len();
            if before >= most.min(BATCH) || bytes >= room {
                break;
            }
            tokio::task::yield_now().await;
            bytes = self.gather(most, room);
            if self.gathered.len() == before {
                break;
            }
        }
        Ok(self.hand_out(most, room, alone))
    }

    /// Takes what is ready, as long as there is room for it; the bytes that are here now.
    fn gather(&mut self, most: usize, room: usize) -> usize {
        let mut bytes: usize = self.gathered.iter().map(|delivery| delivery.message.body.len()).sum();
        while self.gathered.len() < most && bytes < room {
            // A consumer that ended says so again at the next call.
            let Some(Some(Ok(delivery))) = self.deliveries.next().now_or_never() else { break };
            let next = convert(delivery, self.keep);
            bytes += next.message.body.len();
            self.gathered.push_back(next);
        }
        bytes
    }

    /// What fits, in order; one that does not is let out alone when that is asked for.
    fn hand_out(&mut self, most: usize, room: usize, alone: bool) -> Vec<Incoming> {
        let (mut fits, mut bytes) = (0, 0);
        for delivery in self.gathered.iter().take(most) {
            bytes += delivery.message.body.len();
            if bytes > room && !(alone && fits == 0) {
                break;
            }
            fits += 1;
        }
        self.gathered.drain(..fits).collect()
    }

    /// Waits until the consumer ends, while there is no room for deliveries: a full window must not hide the end. Cancel safe.
    pub async fn ended(&mut self) -> Error {
        while self.gathered.is_empty() {
            match self.first().await {
                Ok(delivery) => self.gathered.push_back(delivery),
                Err(error) => return error,
            }
        }
        let lost = self.guard.lost().cancelled();
        let mut lost = std::pin::pin!(lost);
        loop {
            tokio::select! {
                biased;
                () = &mut lost => return Error::Unreachable(None),
                () = self.acks.due() => if let Err(error) = self.acks.say() {
                    return error;
                },
            }
        }
    }

    async fn first(&mut self) -> Result<Incoming, Error> {
        loop {
            let Some(lost) = &mut self.lost else { return Err(Error::Unreachable(None)) };
            tokio::select! {
                biased;
                first = self.deliveries.next() => return self.incoming(first),
                () = lost => self.lost = None,
                () = self.acks.due() => self.acks.say()?,
            }
        }
    }

    fn incoming(&self, next: Option<lapin::Result<Delivery>>) -> Result<Incoming, Error> {
        match next {
            Some(Ok(delivery)) => Ok(convert(delivery, self.keep)),
            Some(Err(error)) => Err(self.guard.explain(error.into())),
            None if self.guard.lost().is_cancelled() => Err(Error::Unreachable(None)),
            // The broker cancels a consumer when its queue goes away.
            None => Err(Error::QueueDeleted(self.queue.to_string())),
        }
    }

    /// Done with this one. The broker hears of it in order with all else; deliveries do not wait until it is written. What
    /// waits to be written is bounded by the window.
    ///
    /// # Errors
    /// When the channel is gone; what is unacknowledged will come again.
    pub fn ack(&self, tag: u64) -> Result<(), Error> {
        self.acks.single(tag)
    }

    /// Done with this one and all before it. The broker hears of it with others, while deliveries are waited for, in
    /// milliseconds.
    ///
    /// # Errors
    /// As [`Self::ack`].
    pub fn ack_through(&mut self, tag: u64) -> Result<(), Error> {
        self.acks.through(tag)
    }

    /// Asks the broker for no more deliveries; what is unsettled stays so.
    ///
    /// # Errors
    /// As [`Self::ack`].
    pub async fn stop(&mut self) -> Result<(), Error> {
        if std::mem::replace(&mut self.stopped, true) {
            return Ok(());
        }
        Ok(self.channel.basic_cancel(self.deliveries.tag(), BasicCancelOptions::default()).await?)
    }

    /// Whether the queue is a stream, which takes nothing back. Known once something was delivered.
    pub fn is_stream(&self) -> bool {
        self.stream
    }

    /// Stops deliveries, hands back everything unsettled, and closes the channel.
    pub async fn close(mut self) {
        let unfinished = Unfinished::new(&self.channel);
        let closing = async {
            // What was never looked at tells a stream, too, before and after the broker has stopped.
            self.look_at_one();
            self.acks.say()?;
            self.stop().await?;
            self.look_at_one();
            if !self.stream {
                // Tag 0 with `multiple`: all outstanding (AMQP 0-9-1, basic.nack).
                self.channel.basic_nack(0, BasicNackOptions { multiple: true, requeue: true }).await?;
            }
            Ok::<(), Error>(self.channel.close(200, "done".into()).await?)
        };
        // A channel that is gone has given everything back already.
        if tokio::time::timeout(Duration::from_secs(2), closing).await.is_ok() {
            unfinished.done();
        }
    }

    fn look_at_one(&mut self) {
        if let Some(Some(Ok(delivery))) = self.deliveries.next().now_or_never() {
            self.stream |= convert(delivery, false).offset.is_some();
        }
        self.stream |= self.gathered.iter().any(|delivery| delivery.offset.is_some());
    }
}

async fn consume(channel: &Channel, spec: &ConsumeSpec) -> Result<lapin::Consumer, Error> {
    channel.basic_qos(spec.prefetch, BasicQosOptions::default()).await?;
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
    Ok(channel.basic_consume(spec.queue.as_str().into(), "".into(), options, arguments).await?)
}

fn convert(delivery: Delivery, keep: bool) -> Incoming {
    let Delivery { delivery_tag, exchange, routing_key, redelivered, properties, data, .. } = delivery;
    let attempt = retained::failures(&properties).saturating_add(1);
    let offset = retained::integer(&properties, "x-stream-offset").and_then(|offset| u64::try_from(offset).ok());
    let (first_exchange, first_key) = retained::origin(&properties);
    let body = Bytes::from(data);
    // Shared, not copied.
    let kept = (keep && offset.is_none()).then(|| body.clone());
    Incoming {
        tag: delivery_tag,
        exchange: first_exchange.unwrap_or(exchange.as_str()).to_owned(),
        routing_key: first_key.unwrap_or(routing_key.as_str()).to_owned(),
        redelivered: redelivered || attempt > 1,
        attempt,
        offset,
        accepted: confirms::accepted(&properties),
        message: properties::from_amqp(&properties, body),
        // Moved, not copied: this is done for every delivery, and needed for few.
        held: kept.map(|body| Box::new(Held::new(properties, body, exchange, routing_key))),
    }
}
