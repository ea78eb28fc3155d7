//! Path (c): through the gateway with the public client, as an application uses it. Acknowledgements are batched as in
//! (b).

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};

use super::{
    feed::{Due, Feed, body},
    in_flight::InFlight,
    run::Streams,
    tally::{Recorder, Tally},
};
use warrengate::{
    client::{
        Client, ClientOptions, Credentials, Publisher, PublisherOptions, Receipt, SubscribeOptions, Subscription,
        publication,
    },
    pb,
};

use crate::{
    Error,
    job::{Account, Endpoints, Job, Tuning},
};

/// Pairs of streams on a connection; the gateway limits the streams of a connection.
const STREAMS_PER_CONNECTION: usize = 40;
const MAX_CONCURRENT_OPENS: usize = 32;

pub(super) async fn open(job: &Job, account: &Account) -> Result<Streams, Error> {
    let mut streams = Streams::default();
    for queues in account.queues.chunks(STREAMS_PER_CONNECTION) {
        let client = connect(&job.endpoints, account).await?;
        for queue in queues {
            if job.mode.publishes() {
                let options =
                    PublisherOptions::default().max_in_flight_messages(job.tuning.window).max_frame_messages(job.frame);
                let publisher = client.publisher_with(options);
                let (queue, tuning) = (queue.clone(), job.tuning.clone());
                streams.publisher(move |feed, tally| publish(publisher, queue, tuning, feed, tally));
            }
            if job.mode.consumes() {
                let (client, options, tuning) = (client.clone(), subscribe(job, queue), job.tuning.clone());
                streams.consumer(move |tally| consume(client, options, tuning, tally));
            }
        }
    }
    Ok(streams)
}

/// A stream that is only kept open.
pub(super) enum IdleStream {
    Publish { _open: Publisher },
    Subscribe { _open: Subscription },
}

/// Opens every stream of the job's direction and keeps it open. A publish stream sends one message, because the client
/// opens it with the first; a subscription settles nothing.
pub(super) async fn open_idle(job: &Job) -> Result<Vec<IdleStream>, Error> {
    // By index, because the compiler does not accept a closure over borrowed accounts in a task.
    let tenants = stream::iter(0..job.accounts.len()).map(|tenant| open_idle_tenant(job, tenant));
    let streams: Vec<Vec<IdleStream>> = tenants.buffer_unordered(MAX_CONCURRENT_OPENS).try_collect().await?;
    Ok(streams.into_iter().flatten().collect())
}

async fn open_idle_tenant(job: &Job, tenant: usize) -> Result<Vec<IdleStream>, Error> {
    let account = &job.accounts[tenant];
    let mut streams = Vec::with_capacity(account.queues.len());
    for queues in account.queues.chunks(2 * STREAMS_PER_CONNECTION) {
        let client = connect(&job.endpoints, account).await?;
        for queue in queues {
            if job.mode.consumes() {
                streams.push(IdleStream::Subscribe { _open: client.subscribe(subscribe(job, queue)).await? });
            }
            if job.mode.publishes() {
                let publisher = client.publisher_with(PublisherOptions::default());
                let result = publisher.send(publication("", queue, body(job.size))).await?.await;
                if result.outcome() != pb::Outcome::Confirmed {
                    return Err(Error::Worker(format!("a message was not confirmed: {}", result.reason)));
                }
                streams.push(IdleStream::Publish { _open: publisher });
            }
        }
    }
    Ok(streams)
}

/// Connects as the tenant's client, on a separate connection.
pub(crate) async fn connect(endpoints: &Endpoints, account: &Account) -> Result<Client, Error> {
    let credentials = Credentials::Token(account.token.clone().into());
    let options = ClientOptions::new(&endpoints.gateway, credentials).ca_certificate(endpoints.gateway_ca.clone());
    let client = Client::connect(options).await?;
    // A gateway learns of a client that was created through another gateway within a second.
    for _ in 0..60 {
        if client.auth().who_am_i(pb::WhoAmIRequest {}).await.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(client)
}

fn subscribe(job: &Job, queue: &str) -> SubscribeOptions {
    let options = SubscribeOptions::queue(queue)
        .max_outstanding_messages(job.tuning.prefetch.into())
        .max_outstanding_bytes(64 << 20);
    if job.is_stream_queue { options.from_first() } else { options }
}

async fn publish(
    publisher: Publisher,
    queue: String,
    tuning: Tuning,
    mut feed: Feed,
    tally: Arc<Tally>,
) -> Result<(), Error> {
    let mut unanswered: InFlight<Receipt> = InFlight::new();
    let mut recorder = Recorder::default();
    let mut more = true;
    while more || !unanswered.is_empty() {
        let free = tuning.window - unanswered.len();
        tokio::select! {
            biased;
            items = feed.next(free.min(64)), if more && free > 0 => match items {
                Some(items) => for item in items {
                    unanswered.push(publisher.send(publication("", &queue, item.body)).await?, item.due);
                },
                None => more = false,
            },
            (result, due) = unanswered.next() => {
                answered(&result, due, &tally, &mut recorder);
                while let Some((result, due)) = unanswered.ready() {
                    answered(&result, due, &tally, &mut recorder);
                }
            }
        }
    }
    tally.keep_confirm(&recorder);
    Ok(publisher.close().await?)
}

fn answered(result: &pb::PublishResult, due: Due, tally: &Tally, recorder: &mut Recorder) {
    let is_confirmed = result.outcome() == pb::Outcome::Confirmed;
    if !is_confirmed {
        tally.keep_refusal(&result.reason);
    }
    tally.answered(is_confirmed, due, recorder);
}

async fn consume(client: Client, options: SubscribeOptions, tuning: Tuning, tally: Arc<Tally>) -> Result<(), Error> {
    let mut subscription = client.subscribe(options).await?;
    let mut recorder = Recorder::default();
    loop {
        let mut delivery = tokio::select! {
            biased;
            delivery = subscription.next() => delivery?.ok_or(Error::ConsumerEnded)?,
            () = tally.done().cancelled() => break,
        };
        let mut taken = 1;
        recorder.record(Due::of(delivery.body()), tally.epoch());
        while taken < tuning.ack_every
            && let Some(next) = subscription.next().now_or_never()
        {
            delivery = next?.ok_or(Error::ConsumerEnded)?;
            taken += 1;
            recorder.record(Due::of(delivery.body()), tally.epoch());
        }
        subscription.settler().ack_through(&delivery)?;
        tally.consumed(taken);
    }
    tally.keep_end_to_end(&recorder);
    Ok(subscription.close().await?)
}
