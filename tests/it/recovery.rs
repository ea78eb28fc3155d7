//! Broken connections to the broker under open streams: frozen, half-open, reset. Streams are notified, keep
//! unconfirmed messages, and continue; nothing is left over at the broker.

use std::time::{Duration, Instant};

use warrengate::pb::{self, Outcome, subscribe_response::Event};

use crate::harness::{
    Tenant,
    broker::Management,
    consumer::{RawSubscription, bodies, ids, start},
    dedicated::DedicatedStack,
    proxy::Proxy,
    publisher::RawPublisher,
    serve::Serve,
    to_queue,
    wait::until,
};

/// The time within which a silent broker is noticed.
const NOTICED_WITHIN: Duration = Duration::from_secs(15);
/// The time within which streams work again.
const WORKING_WITHIN: Duration = Duration::from_secs(5);

/// A stack whose gateway reaches its broker through a proxy.
async fn behind_a_proxy(name: &str, settings: &[(&str, &str)]) -> (DedicatedStack, Proxy) {
    let proxy = Proxy::start().await;
    let endpoint = proxy.endpoint();
    let dedicated =
        DedicatedStack::start(name, &[settings, &[("WARRENGATE_BROKER__ENDPOINTS", &endpoint)]].concat()).await;
    proxy.forward_to(dedicated.stack.node().amqps_port());
    (dedicated, proxy)
}

/// One publish stream and one subscribe stream on the same queue.
struct Streams {
    consumer: RawSubscription,
    publisher: RawPublisher,
    sent: usize,
}

impl Streams {
    async fn open(tenant: &Tenant) -> Self {
        tenant.queue("jobs").await;
        let consumer = RawSubscription::open(&tenant.client, start("jobs")).await;
        let publisher = RawPublisher::open(&tenant.client).await;
        Self { consumer, publisher, sent: 0 }
    }

    async fn send(&mut self) {
        self.publisher.send(vec![to_queue("jobs", self.sent.to_string())]).await;
        self.sent += 1;
    }

    async fn confirmed(&mut self) {
        let results = self.publisher.results(1).await;
        assert_eq!(results[0].outcome(), Outcome::Confirmed, "{results:?}");
    }

    async fn received(&mut self) {
        let last = (self.sent - 1).to_string();
        loop {
            // If an acknowledgement was on its way when the connection broke, its message is delivered again.
            let delivery = self.consumer.take(1).await;
            self.consumer.ack(&ids(&delivery)).await;
            if bodies(&delivery) == [last.as_str()] {
                return;
            }
        }
    }

    /// Publishes, receives and acknowledges one message, so that nothing is on its way: an acknowledgement on a broken
    /// connection is reported as unknown.
    async fn round_trip(&mut self) {
        self.send().await;
        self.confirmed().await;
        self.received().await;
        self.consumer.is_quiet().await;
    }

    async fn interrupted(&mut self) {
        let event = self.consumer.event().await.unwrap();
        assert!(matches!(event, Some(Event::Interrupted(_))), "{event:?}");
    }

    async fn resumed(&mut self) {
        let event = self.consumer.event().await.unwrap();
        assert!(matches!(event, Some(Event::Resumed(_))), "{event:?}");
    }

    /// Waits until messages sent during the interruption are confirmed and delivered; returns the time.
    async fn works_again(&mut self) -> Duration {
        let began = Instant::now();
        self.resumed().await;
        self.confirmed().await;
        self.received().await;
        self.round_trip().await;
        began.elapsed()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_broker_is_noticed_and_streams_continue_when_it_resumes() {
    let dedicated = DedicatedStack::start("frozen", &[]).await;
    let tenant = dedicated.tenant().await;
    let mut streams = Streams::open(&tenant).await;
    streams.round_trip().await;
    dedicated.stack.node().pause().unwrap();
    let began = Instant::now();
    // Published while the broker is paused: kept, and confirmed later.
    streams.send().await;
    streams.interrupted().await;
    let noticed = began.elapsed();
    dedicated.stack.node().resume().unwrap();
    let working = streams.works_again().await;
    eprintln!("measured: paused broker noticed after {noticed:?}, streams work {working:?} after it resumed");
    assert!(
        noticed < NOTICED_WITHIN && working < WORKING_WITHIN,
        "noticed after {noticed:?}, working after {working:?}"
    );
    dedicated.stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_open_connection_is_noticed_and_replaced() {
    let (dedicated, proxy) = behind_a_proxy("half-open", &[]).await;
    let tenant = dedicated.tenant().await;
    let mut streams = Streams::open(&tenant).await;
    streams.round_trip().await;
    proxy.hold();
    let began = Instant::now();
    streams.send().await;
    streams.interrupted().await;
    let noticed = began.elapsed();
    proxy.resume();
    let working = streams.works_again().await;
    eprintln!("measured: half-open connection noticed after {noticed:?}, streams work {working:?} after it");
    assert!(
        noticed < NOTICED_WITHIN && working < WORKING_WITHIN,
        "noticed after {noticed:?}, working after {working:?}"
    );
    dedicated.stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_network_is_noticed_at_once_and_streams_continue_afterwards() {
    let (dedicated, proxy) = behind_a_proxy("cut", &[]).await;
    let tenant = dedicated.tenant().await;
    let mut streams = Streams::open(&tenant).await;
    streams.round_trip().await;
    proxy.cut();
    let began = Instant::now();
    streams.send().await;
    streams.interrupted().await;
    let noticed = began.elapsed();
    // Until the pauses between attempts have their maximum length.
    until("failed attempts", async || (proxy.refused() > 12).then_some(())).await;
    proxy.resume();
    let working = streams.works_again().await;
    eprintln!("measured: interrupted network noticed after {noticed:?}, streams work {working:?} after it");
    assert!(
        noticed < NOTICED_WITHIN && working < WORKING_WITHIN,
        "noticed after {noticed:?}, working after {working:?}"
    );
    dedicated.stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outcomes_belong_to_their_messages_after_others_expired_before_they_were_written() {
    const LARGE: usize = 56;
    const SMALL: usize = 200;
    let (dedicated, proxy) = behind_a_proxy("given-up", &[("WARRENGATE_BROKER__PUBLISH_DEADLINE", "3s")]).await;
    let tenant = dedicated.tenant().await;
    tenant.queue("jobs").await;
    let mut publisher = RawPublisher::open(&tenant.client).await;
    publisher.send(vec![to_queue("jobs", "first")]).await;
    assert_eq!(publisher.results(1).await[0].outcome(), Outcome::Confirmed);
    // Nothing is forwarded, and the connection stays open. Some messages are written and wait for their confirms; most,
    // more than the sockets buffer, wait to be written. All pass their deadline before the connection is considered
    // broken.
    proxy.hold();
    for _ in 0..LARGE / 4 {
        let large = || to_queue("jobs", vec![b'x'; 512 * 1024]);
        publisher.send(vec![large(), large(), large(), large()]).await;
    }
    let given_up = publisher.results(LARGE).await;
    assert!(given_up.iter().all(|result| result.outcome() == Outcome::Unknown), "{given_up:?}");
    // They are written after all, and their confirms arrive between those of the following messages on the same
    // channel.
    proxy.resume();
    let named = |number: usize| {
        let queue = if number.is_multiple_of(3) { "void" } else { "jobs" };
        let mut publication = to_queue(queue, "small");
        publication.message.as_mut().unwrap().message_id = number.to_string();
        publication
    };
    for frame in 0..SMALL / 10 {
        publisher.send((frame * 10..frame * 10 + 10).map(named).collect()).await;
    }
    for result in publisher.results(SMALL).await {
        let number: usize = result.message_id.parse().unwrap();
        let right = if number.is_multiple_of(3) { Outcome::Unroutable } else { Outcome::Confirmed };
        assert_eq!(result.outcome(), right, "{result:?}");
    }
    let stored = (1 + LARGE + SMALL - SMALL.div_ceil(3)) as u64;
    tenant.has_depth("jobs", stored).await;
    assert_eq!(proxy.connections(), 2, "the connections are still the first ones");
    dedicated.stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_many_reconnects_the_broker_has_exactly_the_channels_that_open_streams_need() {
    let (dedicated, proxy) = behind_a_proxy("losses", &[("WARRENGATE_BROKER__IDLE_TIMEOUT", "5s")]).await;
    let gateway = Serve::start(&dedicated, &[]).await;
    let tenant = dedicated.tenant().await;
    tenant.queue("jobs").await;
    let client = gateway.client(&dedicated, &tenant).await;
    let mut consumers = Vec::new();
    let mut publishers = Vec::new();
    for _ in 0..5 {
        consumers.push(RawSubscription::open(&client, start("jobs")).await);
        publishers.push(RawPublisher::open(&client).await);
    }
    for round in 0..10 {
        for publisher in &mut publishers {
            publisher.send(vec![to_queue("void", round.to_string())]).await;
            publisher.results(1).await;
        }
        proxy.reset();
        for consumer in &mut consumers {
            for what in ["interrupted", "resumed"] {
                let event = consumer.event().await.unwrap();
                let right = matches!(
                    (what, &event),
                    ("interrupted", Some(Event::Interrupted(_))) | ("resumed", Some(Event::Resumed(_)))
                );
                assert!(right, "{event:?} instead of {what}");
            }
        }
    }
    for publisher in &mut publishers {
        publisher.send(vec![to_queue("void", "last")]).await;
        publisher.results(1).await;
    }
    let broker = Management::of(dedicated.stack.config());
    let count = async |what: &str| {
        let vhost = format!("wg.{}", tenant.id);
        let all = broker.get(what).await.unwrap();
        let connections = broker.get("connections").await.unwrap();
        let of_tenant =
            |one: &&serde_json::Value| one["vhost"] == vhost.as_str() || one["queue"]["vhost"] == vhost.as_str();
        // Statistics of a channel that arrive after its end remain for two minutes, without its connection.
        let is_current = |one: &&serde_json::Value| {
            let its = &one["connection_details"]["name"];
            what != "channels" || connections.as_array().unwrap().iter().any(|connection| connection["name"] == *its)
        };
        all.as_array().unwrap().iter().filter(of_tenant).filter(is_current).count()
    };
    // The stack's own gateway declared the queue and has closed its connection. Statistics arrive some seconds late.
    let exactly = async |what: &str, expected: usize| {
        until(&format!("exactly {expected} {what}"), async || (count(what).await == expected).then_some(())).await;
    };
    exactly("consumers", 5).await;
    // Idle publish streams have neither a channel nor a connection.
    exactly("channels", 5).await;
    exactly("connections", 1).await;
    until("a thread for each connection", async || {
        gateway.broker_threads().is_none_or(|threads| threads == 1).then_some(())
    })
    .await;
    consumers.into_iter().for_each(drop);
    publishers.into_iter().for_each(drop);
    exactly("consumers", 0).await;
    exactly("channels", 0).await;
    dedicated.stack.stop().await.unwrap();
}

#[tokio::test]
async fn an_error_that_closed_a_channel_is_never_reported_to_a_later_one() {
    // The channel numbers of a connection (channel_max in broker-config/rabbitmq.conf); each call below uses its own
    // channel.
    const CHANNEL_MAX: usize = 1_024;
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    let mut topology = tenant.client.topology();
    let request = pb::DeleteQueueRequest { name: "missing".into(), ..Default::default() };
    let status = topology.delete_queue(request).await.expect_err("the queue does not exist");
    assert_eq!(status.code(), tonic::Code::NotFound, "{status}");
    for _ in 0..CHANNEL_MAX + 100 {
        topology.purge_queue(pb::PurgeQueueRequest { name: "jobs".into() }).await.unwrap();
    }
}
