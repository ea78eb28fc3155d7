//! Publish lanes (docs/adr/0017): the streams of a tenant share a few channels. Each stream keeps its order and gets
//! its own outcomes, regardless of the others.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use futures_util::future::join_all;
use lapin::options::ExchangeDeleteOptions;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::sync::mpsc;
use warrengate::pb::{Exchange, ExchangeType, Outcome, Publication, PublishResult};

use crate::harness::{
    SharedStack, Tenant,
    broker::{Login, Management, amqp, certificate_of, tls},
    dedicated::DedicatedStack,
    publisher::RawPublisher,
    to_queue,
    values::to_exchange,
    wait::{until, within},
};

const STREAMS: usize = 50;

async fn streams(tenant: &Tenant, count: usize) -> Vec<RawPublisher> {
    join_all((0..count).map(|_| RawPublisher::open(&tenant.client))).await
}

/// Publishes in frames without waiting for outcomes in between; returns the outcomes, one for each message.
async fn publish_all(stream: &mut RawPublisher, publications: Vec<Publication>, frame: usize) -> Vec<PublishResult> {
    let mut results = Vec::new();
    let count = publications.len();
    // At most four frames ahead of the outcomes, so that neither side waits for the other.
    for (index, chunk) in publications.chunks(frame).enumerate() {
        stream.send(chunk.to_vec()).await;
        if index >= 4 && results.len() < (index - 4) * frame {
            results.extend(stream.results((index - 4) * frame - results.len()).await);
        }
    }
    results.extend(stream.results(count - results.len()).await);
    let sequences: BTreeSet<_> = results.iter().map(|result| result.sequence).collect();
    assert_eq!((results.len(), sequences.len()), (count, count), "one outcome for each message");
    results.sort_by_key(|result| result.sequence);
    results
}

fn body(stream: usize, message: usize) -> String {
    format!("{stream}:{message}")
}

/// The stream and the number of a message.
fn parse(body: &[u8]) -> (usize, usize) {
    let (stream, message) = std::str::from_utf8(body).unwrap().split_once(':').unwrap();
    (stream.parse().unwrap(), message.parse().unwrap())
}

fn assert_confirmed(results: &[PublishResult]) {
    for result in results {
        assert_eq!(result.outcome(), Outcome::Confirmed, "{result:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_50_streams_that_share_lanes_keeps_its_order() {
    const MESSAGES: usize = 200;
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    let mut all = streams(&tenant, STREAMS).await;
    let publishing = all.iter_mut().enumerate().map(|(stream, publisher)| async move {
        let publications = (0..MESSAGES).map(|message| to_queue("jobs", body(stream, message))).collect();
        assert_confirmed(&publish_all(publisher, publications, 1 + stream % 10).await);
    });
    join_all(publishing).await;
    let mut next = BTreeMap::new();
    for body in tenant.take("jobs", STREAMS * MESSAGES).await {
        let (stream, message) = parse(&body);
        let expected = next.entry(stream).or_insert(0);
        assert_eq!(message, *expected, "stream {stream}");
        *expected += 1;
    }
    assert!(next.values().all(|count| *count == MESSAGES) && next.len() == STREAMS);
}

/// Publishes to a queue on all streams but the last while the last one publishes elsewhere; returns the last one's
/// outcomes.
async fn beside(all: &mut [RawPublisher], messages: usize, last: Vec<Publication>) -> Vec<PublishResult> {
    let (disturbing, others) = all.split_last_mut().unwrap();
    let publishing = others.iter_mut().enumerate().map(|(stream, publisher)| async move {
        let publications = (0..messages).map(|message| to_exchange("sorted", "jobs", body(stream, message))).collect();
        assert_confirmed(&publish_all(publisher, publications, 10).await);
    });
    let (_, results) = tokio::join!(join_all(publishing), publish_all(disturbing, last, 1));
    results
}

async fn tenant_with_an_exchange() -> Tenant {
    let tenant = Tenant::fresh().await;
    tenant.exchange("sorted", ExchangeType::Direct).await;
    tenant.queue("jobs").await;
    tenant.bind("sorted", "jobs", "jobs").await;
    tenant
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_exchange_of_one_stream_does_not_disturb_49_others() {
    const MESSAGES: usize = 100;
    let tenant = tenant_with_an_exchange().await;
    let mut all = streams(&tenant, STREAMS).await;
    let missing = (0..30).map(|n: usize| to_exchange("nowhere", "jobs", n.to_string())).collect();
    for result in beside(&mut all, MESSAGES, missing).await {
        assert_eq!(result.outcome(), Outcome::Rejected, "{result:?}");
        assert!(result.reason.starts_with("EXCHANGE_NOT_FOUND"), "{result:?}");
    }
    // No channel was closed, so no message was published twice.
    assert_eq!(tenant.purge("jobs").await, ((STREAMS - 1) * MESSAGES) as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_internal_exchange_of_one_stream_does_not_disturb_49_others() {
    const MESSAGES: usize = 100;
    let tenant = tenant_with_an_exchange().await;
    let inner = Exchange { name: "inner".into(), internal: true, ..Exchange::default() };
    tenant.exchange_of(Exchange { r#type: ExchangeType::Fanout.into(), ..inner }).await;
    let mut all = streams(&tenant, STREAMS).await;
    let internal = |count: usize| (0..count).map(|n| to_exchange("inner", "", n.to_string())).collect::<Vec<_>>();
    let rejected = |result: &PublishResult| {
        assert_eq!(result.outcome(), Outcome::Rejected, "{result:?}");
        assert!(result.reason.starts_with("EXCHANGE_IS_INTERNAL"), "{result:?}");
    };
    // The broker closes the shared channel for the first one. From then on the stream has a separate channel.
    publish_all(all.last_mut().unwrap(), internal(1), 1).await.iter().for_each(rejected);
    beside(&mut all, MESSAGES, internal(20)).await.iter().for_each(rejected);
    assert_eq!(tenant.purge("jobs").await, ((STREAMS - 1) * MESSAGES) as u64, "nothing was published twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exchange_that_is_deleted_at_the_broker_costs_no_other_stream_a_message() {
    const MESSAGES: usize = 200;
    let tenant = tenant_with_an_exchange().await;
    tenant.exchange("doomed", ExchangeType::Fanout).await;
    tenant.bind("doomed", "jobs", "").await;
    let mut all = streams(&tenant, STREAMS).await;
    let doomed = |message: usize| to_exchange("doomed", "", body(STREAMS - 1, message));
    // The lanes remember the exchange from now on.
    assert_confirmed(&publish_all(all.last_mut().unwrap(), vec![doomed(0)], 1).await);
    // Deleted without the gateway, which would look it up again.
    let vhost = format!("wg.{}", tenant.id);
    let connection = amqp(tls(Some(&certificate_of(&tenant.id))), &vhost, Login::External).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let deleting = async {
        channel.exchange_delete("doomed".into(), ExchangeDeleteOptions::default()).await.unwrap();
    };
    let last = (1..=MESSAGES).map(doomed).collect();
    let (results, ()) = tokio::join!(beside(&mut all, MESSAGES, last), deleting);
    let missing = results.iter().filter(|result| result.reason.starts_with("EXCHANGE_NOT_FOUND")).count();
    let confirmed = results.iter().filter(|result| result.outcome() == Outcome::Confirmed).count();
    assert_eq!(missing + confirmed, MESSAGES, "{results:?}");
    // Messages that were unanswered when the broker closed the channel are published again, so there may be more
    // copies, but not fewer.
    let depth = tenant.depth("jobs").await as usize;
    let bodies: BTreeSet<_> = tenant.take("jobs", depth).await.iter().map(|body| parse(body)).collect();
    let others = (0..STREAMS - 1).flat_map(|stream| (0..MESSAGES).map(move |message| (stream, message)));
    for message in others {
        assert!(bodies.contains(&message), "{message:?} is confirmed and missing");
    }
}

/// Publishes on streams that share lanes, a random tenth without a route, and compares each outcome.
async fn run(tenant: &Tenant, seed: u64) {
    const MESSAGES: usize = 40;
    let mut random = StdRng::seed_from_u64(seed);
    let mut all = streams(tenant, STREAMS).await;
    let lost: Vec<Vec<bool>> = (0..STREAMS).map(|_| (0..MESSAGES).map(|_| random.random_bool(0.1)).collect()).collect();
    let publishing = all.iter_mut().zip(&lost).enumerate().map(|(stream, (publisher, lost))| async move {
        let publications = lost.iter().enumerate().map(|(message, lost)| {
            let mut publication = to_exchange("sorted", if *lost { "nowhere" } else { "jobs" }, body(stream, message));
            // Ids may repeat, because outcomes must not be matched by them.
            publication.message.as_mut().unwrap().message_id = format!("id-{}", message % 7);
            publication
        });
        let results = publish_all(publisher, publications.collect(), 1 + stream % 20).await;
        for (lost, result) in lost.iter().zip(&results) {
            let expected = if *lost { Outcome::Unroutable } else { Outcome::Confirmed };
            assert_eq!(result.outcome(), expected, "seed {seed}, stream {stream}: {result:?}");
        }
    });
    join_all(publishing).await;
    let confirmed = lost.iter().flatten().filter(|lost| !**lost).count();
    assert_eq!(tenant.purge("jobs").await, confirmed as u64, "seed {seed}: confirmed and stored");
}

/// `WARRENGATE_TEST_LANE_RUNS=100 cargo test --test it lanes::no_outcome` is the complete test of docs/adr/0003.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_outcome_of_50_streams_is_wrong_when_a_tenth_is_unroutable() {
    let runs = std::env::var("WARRENGATE_TEST_LANE_RUNS").map_or(5, |runs| runs.parse().unwrap());
    let tenant = tenant_with_an_exchange().await;
    let first: u64 = rand::random();
    for seed in (0..runs).map(|n| first.wrapping_add(n)) {
        run(&tenant, seed).await;
    }
}

/// Publishes without a pause, a window ahead of the outcomes, until it is stopped; counts confirms.
async fn flood(publisher: &mut RawPublisher, confirmed: &AtomicUsize, stop: &AtomicBool) {
    const FRAME: usize = 100;
    let mut unanswered = 0;
    while !stop.load(Ordering::Relaxed) {
        publisher.send((0..FRAME).map(|n| to_queue("flood", n.to_string())).collect()).await;
        unanswered += FRAME;
        if unanswered >= 2_000 {
            let results = publisher.results(FRAME).await;
            assert_confirmed(&results);
            unanswered -= results.len();
            confirmed.fetch_add(results.len(), Ordering::Relaxed);
        }
    }
    assert_confirmed(&publisher.results(unanswered).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_publish_as_much_as_possible_do_not_delay_another_one() {
    // More streams than lanes, so that each lane has several.
    const FLOODS: usize = 12;
    const MESSAGES: usize = 9;
    let tenant = Tenant::fresh().await;
    tenant.queue("flood").await;
    tenant.queue("single").await;
    let mut all = streams(&tenant, FLOODS + 1).await;
    let (single, floods) = all.split_last_mut().unwrap();
    let (confirmed, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let flooding = floods.iter_mut().map(|publisher| flood(publisher, &confirmed, &stop));
    let other = async {
        let mut meanwhile = Vec::new();
        until("the floods", async || (confirmed.load(Ordering::Relaxed) > 10_000).then_some(())).await;
        for n in 0..MESSAGES {
            let before = confirmed.load(Ordering::Relaxed);
            single.send(vec![to_queue("single", n.to_string())]).await;
            assert_confirmed(&single.results(1).await);
            meanwhile.push(confirmed.load(Ordering::Relaxed) - before);
        }
        stop.store(true, Ordering::Relaxed);
        meanwhile.sort_unstable();
        meanwhile
    };
    let (_, meanwhile) = tokio::join!(join_all(flooding), other);
    // It waits for the messages that the lanes have sent (about 4,000), and not for those that the other streams have
    // pushed (24,000).
    let median = meanwhile[MESSAGES / 2];
    assert!(median < 12_000, "messages of the others were confirmed first: {meanwhile:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_streams_survive_a_killed_broker_and_no_confirmed_message_is_lost() {
    const MANY: usize = 40;
    const MESSAGES: usize = 300;
    // On a busy machine the broker takes long to start.
    let stack = DedicatedStack::start("lanes-killed", &[("WARRENGATE_BROKER__PUBLISH_DEADLINE", "5m")]).await;
    let tenant = stack.tenant().await;
    tenant.queue("jobs").await;
    stack.queue_is_on_disk(&tenant, "jobs").await;
    let mut all = streams(&tenant, MANY).await;
    let (begun, mut begins) = mpsc::unbounded_channel();
    let publishing = all.iter_mut().enumerate().map(|(stream, publisher)| {
        let begun = begun.clone();
        async move {
            let publications = |from: usize, to: usize| -> Vec<_> {
                (from..to).map(|message| to_queue("jobs", body(stream, message))).collect()
            };
            assert_confirmed(&publish_all(publisher, publications(0, 20), 10).await);
            begun.send(()).unwrap();
            assert_confirmed(&publish_all(publisher, publications(20, MESSAGES), 10).await);
        }
    });
    let killing = async {
        for _ in 0..MANY / 2 {
            within("the first outcomes", begins.recv()).await;
        }
        stack.stack.node().kill().unwrap();
        stack.stack.node().restart().await.unwrap();
    };
    tokio::join!(join_all(publishing), killing);
    let mut bodies = BTreeSet::new();
    let mut subscription = tenant.subscribe("jobs").await;
    while bodies.len() < MANY * MESSAGES {
        let delivery = within("a delivery", subscription.next()).await.unwrap().expect("the stream continues");
        bodies.insert(parse(&delivery.message().body));
        subscription.ack(&delivery).unwrap();
    }
    drop(subscription);
    stack.stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_streams_have_no_channel() {
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    let mut all = streams(&tenant, STREAMS).await;
    let each = async |all: &mut Vec<RawPublisher>| {
        let publishing = all.iter_mut().map(|publisher| publish_all(publisher, vec![to_queue("jobs", "x")], 1));
        join_all(publishing).await.iter().for_each(|results| assert_confirmed(results));
    };
    each(&mut all).await;
    let broker = Management::new();
    let path = format!("vhosts/wg.{}/channels", tenant.id);
    let channels = async || broker.get(&path).await.unwrap().as_array().unwrap().len();
    // The statistics arrive late, so the streams publish until they show the channels; these are not more than lanes (and
    // one of the operation that declared the queue).
    until("channels", async || {
        each(&mut all).await;
        (1..=5).contains(&channels().await).then_some(())
    })
    .await;
    until("no channel", async || (channels().await == 0).then_some(())).await;
    each(&mut all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_the_broker_refuses_without_naming_an_exchange_costs_no_other_stream_a_message() {
    const MESSAGES: usize = 50;
    // Until its deadline the message is sent again and again.
    let stack = DedicatedStack::start("lanes-size", &[("WARRENGATE_BROKER__PUBLISH_DEADLINE", "40s")]).await;
    // The broker answers a larger message by closing the channel with an error that names no exchange.
    // RabbitMQ 3.10 reads the limit from its environment, 4.x from a persistent term.
    let smaller = "application:set_env(rabbit, max_message_size, 10000), \
                   persistent_term:put(max_message_size, 10000).";
    assert_eq!(stack.stack.node().control(&["eval", smaller]).await.unwrap().trim(), "ok");
    let tenant = stack.tenant().await;
    tenant.queue("jobs").await;
    let mut all = streams(&tenant, STREAMS).await;
    let (refused, others) = all.split_last_mut().unwrap();
    refused.send(vec![to_queue("jobs", vec![b'x'; 20_000])]).await;
    let publish = async |others: &mut [RawPublisher], from: usize| {
        let publishing = others.iter_mut().enumerate().map(|(stream, publisher)| async move {
            let publications = (from..from + MESSAGES).map(|message| to_queue("jobs", body(stream, message))).collect();
            assert_confirmed(&publish_all(publisher, publications, 10).await);
        });
        join_all(publishing).await;
    };
    publish(others, 0).await;
    let [result] = &refused.results(1).await[..] else { panic!("one outcome") };
    assert_eq!(result.outcome(), Outcome::Unknown, "{result:?}");
    assert!(result.reason.starts_with("PUBLISH_DEADLINE"), "{result:?}");
    // The stream that published it has been found, so the others have their channel for themselves.
    publish(others, MESSAGES).await;
    let depth = tenant.depth("jobs").await as usize;
    let bodies: BTreeSet<_> = tenant.take("jobs", depth).await.iter().map(|body| parse(body)).collect();
    assert_eq!(bodies.len(), (STREAMS - 1) * 2 * MESSAGES, "each confirmed message is stored");
    stack.stack.stop().await.unwrap();
}

/// Suspends or resumes the process of a quorum queue on the shared broker.
async fn server(tenant: &Tenant, queue: &str, action: &str) {
    let command = format!("sys:{action}(list_to_atom(\"wg.{}_{queue}\")).", tenant.id);
    assert_eq!(SharedStack::get().stack.node().control(&["eval", &command]).await.unwrap().trim(), "ok");
}

/// Publishes to a suspended queue on many streams, and meanwhile to another queue on one stream. A channel's first
/// message to a suspended queue stops the channel, and later ones stop what is published after them.
async fn publish_beside_a_suspended_queue(is_known: bool) {
    // More than all lanes send before they wait for answers.
    const LARGE: usize = 8;
    const SMALL: usize = 50;
    let tenant = Tenant::fresh().await;
    tenant.queue("silent").await;
    tenant.queue("fine").await;
    let mut all = streams(&tenant, LARGE + SMALL + 1).await;
    let (other, silent) = all.split_last_mut().unwrap();
    let counts: Vec<_> = (0..LARGE + SMALL).map(|stream| if stream < LARGE { 800 } else { 15 }).collect();
    if is_known {
        // All lanes have published to the queue before.
        let publishing = silent.iter_mut().zip(&counts).enumerate().map(|(stream, (publisher, count))| async move {
            let publications = (0..*count).map(|message| to_queue("silent", body(stream, message))).collect();
            assert_confirmed(&publish_all(publisher, publications, 20).await);
        });
        join_all(publishing).await;
        tenant.purge("silent").await;
    }
    server(&tenant, "silent", "suspend").await;
    for (stream, (publisher, count)) in silent.iter_mut().zip(&counts).enumerate() {
        publisher.send((0..*count).map(|message| to_queue("silent", body(stream, message))).collect()).await;
    }
    for message in 0..20 {
        other.send(vec![to_queue("fine", message.to_string())]).await;
        assert_confirmed(&other.results(1).await);
    }
    server(&tenant, "silent", "resume").await;
    for (publisher, count) in silent.iter_mut().zip(&counts) {
        assert_confirmed(&publisher.results(*count).await);
    }
    // Messages on a channel that did not answer may be stored more than once. The first copies are in order.
    let depth = tenant.depth("silent").await as usize;
    let mut next = vec![0; LARGE + SMALL];
    for taken in tenant.take("silent", depth).await {
        let (stream, message) = parse(&taken);
        assert!(message <= next[stream], "stream {stream}: {message} comes before {}", next[stream]);
        if message == next[stream] {
            next[stream] += 1;
        }
    }
    assert_eq!(next, counts, "each confirmed message is stored");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_messages_to_a_suspended_queue_leave_another_stream_its_outcomes() {
    publish_beside_a_suspended_queue(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_messages_to_a_queue_that_was_suspended_before_leave_another_stream_its_outcomes() {
    publish_beside_a_suspended_queue(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_stream_with_a_suspended_queue_stops_another_stream_at_most_once() {
    let tenant = Tenant::fresh().await;
    tenant.queue("silent").await;
    tenant.queue("fine").await;
    let mut all = streams(&tenant, 2).await;
    let [silent, other] = &mut all[..] else { unreachable!() };
    let to_silent =
        |count: usize| (0..count).map(|message| to_queue("silent", message.to_string())).collect::<Vec<_>>();
    // RabbitMQ renews a channel's credit of 400 after 200 messages, unless a queue does not answer 32. So it stops
    // reading the connection 250 messages after these.
    assert_confirmed(&publish_all(silent, to_silent(150), 20).await);
    server(&tenant, "silent", "suspend").await;
    silent.send(to_silent(600)).await;
    until("the broker has more messages than the usual window", async || {
        let vhost = format!("wg.{}", tenant.id);
        let node = SharedStack::get().stack.node();
        let unconfirmed = node.control(&["list_channels", "-p", &vhost, "messages_unconfirmed"]).await.unwrap();
        unconfirmed
            .split_whitespace()
            .filter_map(|count| count.parse::<usize>().ok())
            .any(|count| count > 200)
            .then_some(())
    })
    .await;
    let started = std::time::Instant::now();
    let mut waits = Vec::new();
    for message in 0..10 {
        let sent = std::time::Instant::now();
        other.send(vec![to_queue("fine", message.to_string())]).await;
        assert_confirmed(&other.results(1).await);
        waits.push(sent.elapsed());
    }
    server(&tenant, "silent", "resume").await;
    assert_confirmed(&silent.results(600).await);
    assert!(started.elapsed().as_secs() < 25, "the other stream waited {waits:?}");
    assert_eq!(tenant.take("fine", 10).await.len(), 10);
    assert!(tenant.depth("silent").await >= 790, "each confirmed message is stored");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_to_a_suspended_queue_leaves_other_streams_their_outcomes() {
    let tenant = Tenant::fresh().await;
    tenant.queue("silent").await;
    tenant.queue("fine").await;
    let mut all = streams(&tenant, STREAMS).await;
    let (silent, others) = all.split_first_mut().unwrap();
    server(&tenant, "silent", "suspend").await;
    // One lane has capacity for all of these, so the messages to both queues are on one channel.
    silent.send(vec![to_queue("silent", "first")]).await;
    for (stream, publisher) in others.iter_mut().enumerate() {
        publisher.send((0..2).map(|message| to_queue("fine", body(stream, message))).collect()).await;
    }
    for publisher in others.iter_mut() {
        assert_confirmed(&publisher.results(2).await);
    }
    server(&tenant, "silent", "resume").await;
    assert_confirmed(&silent.results(1).await);
    assert_eq!(tenant.take("silent", 1).await, ["first"]);
    // Messages that the broker did not answer were published again, so each stream's may be stored more than once, but
    // none is missing.
    let depth = tenant.depth("fine").await as usize;
    let bodies: BTreeSet<_> = tenant.take("fine", depth).await.iter().map(|body| parse(body)).collect();
    assert_eq!(bodies.len(), 2 * (STREAMS - 1));
}
