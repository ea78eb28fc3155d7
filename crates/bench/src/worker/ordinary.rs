//! Path (a): a direct client as most programs have it. Each publish is awaited before the next, confirms are read as
//! they arrive, and each delivery is acknowledged separately. One channel for each stream.

use std::sync::Arc;

use futures_util::StreamExt as _;
use lapin::{Channel, Confirmation, Connection, PublisherConfirm, options::BasicAckOptions};

use super::{
    amqp,
    feed::{Due, Feed},
    in_flight::InFlight,
    run::Streams,
    tally::{Recorder, Tally},
};
use crate::{
    Error,
    job::{Account, Job},
};

/// RabbitMQ's documentation recommends 100 to 300 for most programs.
const PREFETCH: u16 = 250;

pub(super) async fn open(job: &Job, account: &Account) -> Result<Streams, Error> {
    let mut streams = Streams::default();
    if job.mode.publishes() {
        let connection = Arc::new(amqp::connect(&job.endpoints, account, "bench ordinary publish").await?);
        for queue in &account.queues {
            let channel = amqp::confirming(&connection).await?;
            let (connection, queue, window) = (Arc::clone(&connection), queue.clone(), job.tuning.window);
            streams.publisher(move |feed, tally| publish(connection, channel, queue, window, feed, tally));
        }
    }
    if job.mode.consumes() {
        let connection = Arc::new(amqp::connect(&job.endpoints, account, "bench ordinary consume").await?);
        for queue in &account.queues {
            let channel = connection.create_channel().await?;
            let (connection, queue, is_stream) = (Arc::clone(&connection), queue.clone(), job.is_stream_queue);
            streams.consumer(move |tally| consume(connection, channel, queue, is_stream, tally));
        }
    }
    Ok(streams)
}

async fn publish(
    _connection: Arc<Connection>,
    channel: Channel,
    queue: String,
    window: usize,
    mut feed: Feed,
    tally: Arc<Tally>,
) -> Result<(), Error> {
    let mut unconfirmed: InFlight<PublisherConfirm> = InFlight::new();
    let mut recorder = Recorder::default();
    let mut more = true;
    while more || !unconfirmed.is_empty() {
        let free = window - unconfirmed.len();
        tokio::select! {
            biased;
            items = feed.next(free.min(64)), if more && free > 0 => match items {
                Some(items) => for item in items {
                    unconfirmed.push(amqp::publish(&channel, &queue, &item.body).await?, item.due);
                },
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

/// A returned message is acknowledged, too.
pub(super) fn is_confirmed(confirm: &Confirmation) -> bool {
    matches!(confirm, Confirmation::Ack(None))
}

async fn consume(
    _connection: Arc<Connection>,
    channel: Channel,
    queue: String,
    is_stream: bool,
    tally: Arc<Tally>,
) -> Result<(), Error> {
    let mut deliveries = amqp::consume(&channel, &queue, PREFETCH, is_stream).await?;
    let mut recorder = Recorder::default();
    loop {
        let delivery = tokio::select! {
            biased;
            delivery = deliveries.next() => delivery.ok_or(Error::ConsumerEnded)??,
            () = tally.done().cancelled() => break,
        };
        recorder.record(Due::of(&delivery.data), tally.epoch());
        delivery.acker.ack(BasicAckOptions::default()).await?;
        tally.consumed(1);
    }
    tally.keep_end_to_end(&recorder);
    Ok(())
}
