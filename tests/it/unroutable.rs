//! The proof for docs/adr/0003: lapin mixes up returned messages when publishes are pipelined, and the gateway does
//! not.

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use warrengate::{
    client::Client,
    pb::{
        ExchangeType, Outcome, Publication, Publications, PublishRequest, PublishResult, QueueType,
        publish_request::Frame, publish_response::Event,
    },
};

use crate::harness::{Tenant, values::to_exchange, wait::within};

const MESSAGES: u64 = 2_000;
const FRAME: usize = 64;

/// Publishes on a separate stream, in frames, as fast as the gateway accepts them; returns the outcomes by sequence.
async fn pipelined(client: &Client, publications: Vec<Publication>) -> Vec<PublishResult> {
    let count = publications.len();
    let frames: Vec<_> = publications
        .chunks(FRAME)
        .map(|chunk| {
            let frame = Frame::Publications(Publications { publications: chunk.to_vec() });
            PublishRequest { frame: Some(frame) }
        })
        .collect();
    let mut messaging = client.raw_messaging();
    let mut responses = within("a publish stream", messaging.publish(tokio_stream::iter(frames))).await.unwrap();
    let mut results = Vec::with_capacity(count);
    while let Some(response) = within("outcomes", responses.get_mut().message()).await.unwrap() {
        match response.event {
            Some(Event::Results(frame)) => results.extend(frame.results),
            other => panic!("{other:?} instead of outcomes"),
        }
    }
    results.sort_by_key(|result| result.sequence);
    assert_eq!(results.len(), count, "one outcome each");
    results
}

/// One run, in which a random share of the messages has no route.
async fn run(tenant: &Tenant, queue: &str, unroutable: f64, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let lost: Vec<bool> = (0..MESSAGES).map(|_| random.random_bool(unroutable)).collect();
    let publications = (0..MESSAGES).zip(&lost).map(|(sequence, lost)| {
        let key = if *lost { "nowhere" } else { queue };
        let mut publication = to_exchange("sorted", key, sequence.to_string());
        publication.sequence = sequence;
        // Ids may repeat, because outcomes must not be matched by them.
        publication.message.as_mut().unwrap().message_id = format!("id-{}", sequence % 7);
        publication
    });
    let results = pipelined(&tenant.client, publications.collect()).await;
    for ((sequence, lost), result) in (0..MESSAGES).zip(&lost).zip(&results) {
        let expected = if *lost { Outcome::Unroutable } else { Outcome::Confirmed };
        assert_eq!((result.sequence, result.outcome()), (sequence, expected), "seed {seed}: {result:?}");
    }
    let confirmed = lost.iter().filter(|lost| !**lost).count();
    assert_eq!(tenant.purge(queue).await, confirmed as u64, "seed {seed}: confirmed and stored");
}

async fn runs(count: u64, kind: QueueType, unroutable: f64) {
    let tenant = Tenant::fresh().await;
    tenant.exchange("sorted", ExchangeType::Direct).await;
    tenant.queue_typed("jobs", kind).await;
    tenant.bind("sorted", "jobs", "jobs").await;
    let first: u64 = rand::random();
    for seed in (0..count).map(|n| first.wrapping_add(n)) {
        run(&tenant, "jobs", unroutable, seed).await;
    }
}

#[tokio::test]
async fn no_outcome_is_wrong_when_a_tenth_is_unroutable_in_100_runs() {
    runs(100, QueueType::Quorum, 0.1).await;
}

#[tokio::test]
async fn no_outcome_is_wrong_in_a_classic_queue_either() {
    runs(20, QueueType::Classic, 0.1).await;
}

#[tokio::test]
async fn no_outcome_is_wrong_when_half_is_unroutable() {
    runs(20, QueueType::Quorum, 0.5).await;
}
