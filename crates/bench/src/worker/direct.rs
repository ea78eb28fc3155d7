//! Path (b): a tuned direct client. Publishes are polled once in order and written together; a queue has several
//! publishing channels with one owner each; deliveries are acknowledged in batches.
//!
//! Streams share channels when there are more streams than channels, because hundreds of channels slow a lapin
//! connection down.

use std::sync::Arc;

use futures_util::{FutureExt as _, StreamExt as _, future::join_all};
use lapin::{Channel, Connection, PublisherConfirm, options::BasicAckOptions};

use super::{
    amqp,
    feed::{Due, Feed},
    in_flight::InFlight,
    ordinary::is_confirmed,
    run::Streams,
    tally::{Recorder, Tally},
};
use crate::{
    Error,
    job::{Account, Job, Load, Tuning},
};

/// The maximum number of channels of a connection in each direction.
const MAX_CHANNELS: usize = 16;

pub(super) async fn open(job: &Job, account: &Account) -> Result<Streams, Error> {
    let mut streams = Streams::default();
    if job.mode.publishes() {
        let connection = Arc::new(amqp::connect(&job.endpoints, account, "bench direct publish").await?);
        for queue in account.queues.iter().cycle().take(channels(job, account)) {
            let channel = amqp::confirming(&connection).await?;
            let (connection, queue, tuning) = (Arc::clone(&connection), queue.clone(), tuning(job, account));
            streams.publisher(move |feed, tally| publish(connection, channel, queue, tuning, feed, tally));
        }
    }
    if job.mode.consumes() {
        let connection = Arc::new(amqp::connect(&job.endpoints, account, "bench direct consume").await?);
        for queue in account.queues.iter().take(MAX_CHANNELS) {
            let channel = connection.create_channel().await?;
            let (connection, queue, tuning) = (Arc::clone(&connection), queue.clone(), job.tuning.clone());
            let is_stream = job.is_stream_queue;
            streams.consumer(move |tally| consume(connection, channel, queue, is_stream, tuning, tally));
        }
    }
    Ok(streams)
}

/// At a fixed rate one for each stream, because more would not be faster.
fn channels(job: &Job, account: &Account) -> usize {
    let streams = account.queues.len();
    match job.load {
        Load::Full { .. } => streams.max(job.tuning.direct_channels).min(MAX_CHANNELS),
        _ => streams.min(MAX_CHANNELS),
    }
}

/// The total window of all streams, divided among the channels.
fn tuning(job: &Job, account: &Account) -> Tuning {
    let window = job.tuning.window * account.queues.len().min(MAX_CHANNELS) / channels(job, account).max(1);
    Tuning { window: window.max(job.tuning.direct_batch), ..job.tuning.clone() }
}

async fn publish(
    _connection: Arc<Connection>,
    channel: Channel,
    queue: String,
    tuning: Tuning,
    mut feed: Feed,
    tally: Arc<Tally>,
) -> Result<(), Error> {
    let mut unconfirmed: InFlight<PublisherConfirm> = InFlight::new();
    let mut recorder = Recorder::default();
    let mut more = true;
    while more || !unconfirmed.is_empty() {
        let free = tuning.window - unconfirmed.len();
        tokio::select! {
            biased;
            items = feed.next(free.min(tuning.direct_batch)), if more && free >= tuning.direct_batch => match items {
                Some(items) => {
                    let sending = join_all(items.iter().map(|item| amqp::publish(&channel, &queue, &item.body))).await;
                    for (confirm, item) in sending.into_iter().zip(&items) {
                        unconfirmed.push(confirm?, item.due);
                    }
                }
                None => more = false,
            },
            (confirm, due) = unconfirmed.next() => {
                tally.answered(is_confirmed(&confirm?), due, &mut recorder);
                while let Some((confirm, due)) = unconfirmed.ready() {
                    tally.answered(is_confirmed(&confirm?), due, &mut recorder);
                }
            }
        }
    }
    tally.keep_confirm(&recorder);
    Ok(())
}

async fn consume(
    _connection: Arc<Connection>,
    channel: Channel,
    queue: String,
    is_stream: bool,
    tuning: Tuning,
    tally: Arc<Tally>,
) -> Result<(), Error> {
    let mut deliveries = amqp::consume(&channel, &queue, tuning.prefetch, is_stream).await?;
    let mut recorder = Recorder::default();
    loop {
        let mut delivery = tokio::select! {
            biased;
            delivery = deliveries.next() => delivery.ok_or(Error::ConsumerEnded)??,
            () = tally.done().cancelled() => break,
        };
        let mut taken = 1;
        recorder.record(Due::of(&delivery.data), tally.epoch());
        while taken < tuning.ack_every
            && let Some(Some(next)) = deliveries.next().now_or_never()
        {
            delivery = next?;
            taken += 1;
            recorder.record(Due::of(&delivery.data), tally.epoch());
        }
        channel.basic_ack(delivery.delivery_tag, BasicAckOptions { multiple: true }).await?;
        tally.consumed(taken);
    }
    tally.keep_end_to_end(&recorder);
    Ok(())
}
