//! Shutdown of a gateway: streams are notified, no new work is accepted, accepted work is completed, the rest is
//! returned, and the process ends in time regardless of its peers.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use tokio::{io::AsyncReadExt as _, net::TcpStream};
use tonic_types::StatusExt as _;
use warrengate::{
    client::SubscribeOptions,
    pb::{
        Outcome, SubscribeStart, publish_response::Event as PublishEvent, subscribe_response::Event as SubscribeEvent,
    },
};

use crate::harness::{
    consumer::{RawSubscription, ids, start},
    dedicated::DedicatedStack,
    proxy::Proxy,
    publisher::RawPublisher,
    raw::{reason, tls_to},
    serve::Serve,
    tenant::known,
    to_queue,
    wait::{until, within},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_answers_accepted_messages_returns_the_rest_and_exits_with_0() {
    let dedicated = DedicatedStack::start("drain", &[]).await;
    let mut gateway = Serve::start(&dedicated, &[]).await;
    let tenant = dedicated.tenant().await;
    let client = gateway.client(&dedicated, &tenant).await;
    tenant.queue("jobs").await;
    tenant.queue("other").await;
    for n in 0..10 {
        tenant.publish_to("jobs", n.to_string()).await;
    }
    until("readiness", async || (gateway.readiness().await == 200).then_some(())).await;
    let window = SubscribeStart { max_outstanding_messages: 5, ..start("jobs") };
    let mut consumer = RawSubscription::open(&client, window).await;
    let outstanding = consumer.take(5).await;
    let mut publisher = RawPublisher::open(&client).await;
    publisher.send(vec![to_queue("other", "before")]).await;
    assert_eq!(publisher.results(1).await[0].outcome(), Outcome::Confirmed);

    let began = Instant::now();
    gateway.terminate();
    let notice = consumer.event().await.unwrap();
    assert!(matches!(notice, Some(SubscribeEvent::Draining(_))), "{notice:?}");
    let answered = publisher.event().await.unwrap();
    assert!(matches!(answered, Some(PublishEvent::Draining(_))), "{answered:?}");
    assert_eq!(gateway.readiness().await, 503);
    // On the same connection, for one second. After that the gRPC library opens another, which is not accepted.
    let refused = RawPublisher::try_open(&client).await.err().expect("no new streams");
    assert_eq!((refused.code(), reason(&refused).as_str()), (tonic::Code::Unavailable, "DRAINING"), "{refused:?}");
    assert!(refused.get_details_retry_info().is_some(), "{refused:?}");

    // Messages accepted before, and those that arrive after the warning, are answered.
    publisher.send(vec![to_queue("other", "after")]).await;
    assert_eq!(publisher.results(1).await[0].outcome(), Outcome::Confirmed);
    assert!(publisher.close().await.is_empty());
    // Settlements count but do not lead to new deliveries; the stream ends when nothing is outstanding.
    consumer.ack(&ids(&outstanding[..2])).await;
    consumer.ack(&ids(&outstanding[2..4])).await;
    consumer.is_quiet().await;
    consumer.ack(&ids(&outstanding[4..])).await;
    let status = consumer.failure().await;
    assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}");
    let status = gateway.ended().await;
    let took = began.elapsed();
    eprintln!("measured: a drain whose streams end took {took:?}");
    assert!(status.success() && took < Duration::from_secs(20), "{status} after {took:?}");
    // Returned messages may change their order.
    tenant.has_depth("jobs", 5).await;
    let mut rest = tenant.take("jobs", 5).await;
    rest.sort();
    assert_eq!(rest, ["5", "6", "7", "8", "9"]);
    tenant.holds("other", &["before", "after"]).await;
    dedicated.stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_with_a_thousand_streams_and_silent_sockets_ends_within_its_deadline() {
    let dedicated = DedicatedStack::start("drain-thousand", &[]).await;
    let mut gateway = Serve::start(&dedicated, &[("WARRENGATE_LIMITS__DRAIN_DEADLINE", "10s")]).await;
    let mut streams = Vec::new();
    for _ in 0..10 {
        let tenant = dedicated.tenant().await;
        tenant.queue("jobs").await;
        let client = gateway.client(&dedicated, &tenant).await;
        let opening = (0..100).map(|_| RawSubscription::open(&client, start("jobs")));
        streams.extend(futures_util::future::join_all(opening).await);
    }
    assert_eq!(streams.len(), 1_000);
    // One that never sends anything, one that is silent after its handshake, and one that stops reading while a message
    // is outstanding.
    let mute = TcpStream::connect(gateway.grpc).await.unwrap();
    let after_tls = tls_to(gateway.grpc, &dedicated.stack.gateway_ca()).await;
    let stalled = Proxy::to(gateway.grpc.port()).await;
    let tenant = dedicated.tenant().await;
    tenant.queue("jobs").await;
    let through =
        dedicated.client_at(&format!("https://{}", stalled.endpoint()), &tenant.client_id, &tenant.secret).await;
    known(&through).await;
    let mut stuck = RawSubscription::open(&through, start("jobs")).await;
    tenant.publish_to("jobs", "outstanding").await;
    stuck.take(1).await;
    stalled.hold();

    let began = Instant::now();
    gateway.terminate();
    let status = gateway.ended().await;
    let took = began.elapsed();
    eprintln!("measured: a drain of 1,000 streams and three silent sockets took {took:?} of 10 s");
    assert!(status.success() && took < Duration::from_secs(10), "{status} after {took:?}");
    for stream in &mut streams {
        let failure = stream.failure().await;
        assert_eq!(failure.code(), tonic::Code::Unavailable, "{failure:?}");
    }
    // Returned to the queue.
    tenant.holds("jobs", &["outstanding"]).await;
    drop((mute, after_tls));
    dedicated.stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ended_publish_stream_reports_an_outcome_for_each_message_in_flight() {
    let proxy = Proxy::start().await;
    let endpoint = proxy.endpoint();
    let dedicated = DedicatedStack::start("drain-cut", &[]).await;
    proxy.forward_to(dedicated.stack.node().amqps_port());
    let settings = [("WARRENGATE_BROKER__ENDPOINTS", endpoint.as_str()), ("WARRENGATE_LIMITS__DRAIN_DEADLINE", "4s")];
    let mut gateway = Serve::start(&dedicated, &settings).await;
    let tenant = dedicated.tenant().await;
    let client = gateway.client(&dedicated, &tenant).await;
    tenant.queue("jobs").await;
    let mut publisher = RawPublisher::open(&client).await;
    publisher.send(vec![to_queue("jobs", "before")]).await;
    assert_eq!(publisher.results(1).await[0].outcome(), Outcome::Confirmed);
    // The broker is paused, so messages sent now remain in flight until the end.
    proxy.hold();
    publisher.send((0..10).map(|n| to_queue("jobs", n.to_string())).collect()).await;
    gateway.terminate();
    let answered = publisher.event().await.unwrap();
    assert!(matches!(answered, Some(PublishEvent::Draining(_))), "{answered:?}");
    let results = publisher.results(10).await;
    let outcomes: Vec<_> = results.iter().map(|result| (result.sequence, result.outcome())).collect();
    assert_eq!(outcomes, (1..=10).map(|n| (n, Outcome::Unknown)).collect::<Vec<_>>());
    assert!(results.iter().all(|result| result.reason.starts_with("DRAINING: ")), "{results:?}");
    let end = publisher.event().await.expect_err("it is disconnected");
    assert_eq!((end.code(), reason(&end).as_str()), (tonic::Code::Unavailable, "DRAINING"), "{end:?}");
    assert!(gateway.ended().await.success());
    dedicated.stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_the_gateway_at_once() {
    let dedicated = DedicatedStack::start("drain-twice", &[]).await;
    let mut gateway = Serve::start(&dedicated, &[]).await;
    let tenant = dedicated.tenant().await;
    let client = gateway.client(&dedicated, &tenant).await;
    tenant.queue("jobs").await;
    tenant.publish_to("jobs", "outstanding").await;
    let mut consumer = RawSubscription::open(&client, start("jobs")).await;
    consumer.take(1).await;
    gateway.terminate();
    let notice = consumer.event().await.unwrap();
    assert!(matches!(notice, Some(SubscribeEvent::Draining(_))), "{notice:?}");
    let began = Instant::now();
    gateway.terminate();
    let status = gateway.ended().await;
    let took = began.elapsed();
    assert!(status.code() == Some(1) && took < Duration::from_secs(10), "{status} after {took:?}");
    tenant.holds("jobs", &["outstanding"]).await;
    dedicated.stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reconnects_on_draining_loses_no_message_and_gets_no_acknowledged_one_again() {
    const MESSAGES: usize = 500;
    let dedicated = DedicatedStack::start("moving", &[]).await;
    let first = dedicated.stack.another_gateway().await.unwrap();
    // One address for several gateways.
    let address = Proxy::to(first.grpc_address().port()).await;
    let tenant = dedicated.tenant().await;
    tenant.queue("jobs").await;
    let endpoint = format!("https://{}", address.endpoint());
    let client = dedicated.client_at(&endpoint, &tenant.client_id, &tenant.secret).await;
    let mut subscription = within("a subscription", client.subscribe(SubscribeOptions::queue("jobs"))).await.unwrap();
    let publish = async |from: usize, to: usize| {
        let all = (from..to).map(|n| to_queue("jobs", n.to_string())).collect();
        assert!(tenant.outcomes(all).await.iter().all(|outcome| *outcome == Outcome::Confirmed));
    };
    publish(0, MESSAGES / 2).await;
    let mut acknowledged = BTreeSet::new();
    let mut first = Some(first);
    let mut draining = None;
    while acknowledged.len() < MESSAGES {
        let delivery = within("a delivery", subscription.next()).await.unwrap().expect("the stream continues");
        let body = delivery.message().body.clone();
        subscription.ack(&delivery).unwrap();
        assert!(acknowledged.insert(body.clone()), "{body:?} was acknowledged before");
        if acknowledged.len() == 100 {
            address.forward_to(dedicated.stack.gateway().grpc_address().port());
            draining = first.take().map(|first| tokio::spawn(first.shutdown()));
            publish(MESSAGES / 2, MESSAGES).await;
        }
    }
    within("the drain", draining.unwrap()).await.unwrap();
    within("the end", subscription.close()).await.unwrap();
    assert_eq!(tenant.depth("jobs").await, 0);
    dedicated.stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_is_silent_after_its_handshake_is_disconnected() {
    let shared = crate::harness::SharedStack::get();
    let mut silent = tls_to(shared.stack.gateway().grpc_address(), &shared.stack.gateway_ca()).await;
    let began = Instant::now();
    // The server sends its first frame only after the client's.
    let read = within("the end of the connection", silent.read(&mut [0; 64])).await;
    assert!(!matches!(read, Ok(1..)), "{read:?}");
    let allowed = shared.stack.config().limits.handshake_timeout;
    assert!(began.elapsed() >= allowed, "{:?}", began.elapsed());
}
