//! A gateway stops: streams are told, nothing new is taken, what was taken is answered, the rest goes back, and it ends in
//! time whatever its peers do.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use tokio::io::AsyncReadExt as _;
use warrengate::{
    client::SubscribeOptions,
    pb::{Outcome, subscribe_response::Event as Heard},
};

use crate::harness::{
    consumer::{RawSubscription, start},
    own::Own,
    proxy::Proxy,
    raw::tls_to,
    serve::Serve,
    to_queue,
    wait::{until, within},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_it_at_once() {
    let own = Own::start("drain-twice", &[]).await;
    let mut gateway = Serve::start(&own, &[]).await;
    let tenant = own.tenant().await;
    let client = gateway.client(&own, &tenant).await;
    tenant.queue("jobs").await;
    tenant.publish_to("jobs", "held").await;
    let mut consumer = RawSubscription::open(&client, start("jobs")).await;
    consumer.take(1).await;
    gateway.terminate();
    let heard = consumer.event().await.unwrap();
    assert!(matches!(heard, Some(Heard::Draining(_))), "{heard:?}");
    let began = Instant::now();
    gateway.terminate();
    gateway.ended().await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    tenant.holds("jobs", &["held"]).await;
    own.stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_moves_on_draining_loses_nothing_and_sees_nothing_again_that_it_acknowledged() {
    const MESSAGES: usize = 500;
    let own = Own::start("moving", &[]).await;
    let first = own.stack.another_gateway().await.unwrap();
    // One address before several gateways.
    let address = Proxy::to(first.grpc_address().port()).await;
    let tenant = own.tenant().await;
    tenant.queue("jobs").await;
    let endpoint = format!("https://{}", address.endpoint());
    let client = own.client_at(&endpoint, &tenant.client_id, &tenant.secret).await;
    let mut subscription =
        until("a subscription", async || client.subscribe(SubscribeOptions::queue("jobs")).await.ok()).await;
    let publish = async |from: usize, to: usize| {
        let all = (from..to).map(|n| to_queue("jobs", n.to_string())).collect();
        assert!(tenant.outcomes(all).await.iter().all(|outcome| *outcome == Outcome::Confirmed));
    };
    publish(0, MESSAGES / 2).await;
    let mut acknowledged = BTreeSet::new();
    let mut first = Some(first);
    let mut draining = None;
    while acknowledged.len() < MESSAGES {
        let delivery = within("a delivery", subscription.next()).await.unwrap().expect("the stream goes on");
        let body = delivery.message().body.clone();
        subscription.ack(&delivery).unwrap();
        assert!(acknowledged.insert(body.clone()), "{body:?} was acknowledged before");
        if acknowledged.len() == 100 {
            address.forward_to(own.stack.gateway().grpc_address().port());
            draining = first.take().map(|first| tokio::spawn(first.shutdown()));
            publish(MESSAGES / 2, MESSAGES).await;
        }
    }
    within("the drain", draining.unwrap()).await.unwrap();
    within("the end", subscription.close()).await.unwrap();
    assert_eq!(tenant.depth("jobs").await, 0);
    own.stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_says_nothing_after_its_handshake_is_cut() {
    let world = crate::harness::World::get();
    let mut silent = tls_to(world.stack.gateway().grpc_address(), &world.stack.gateway_ca()).await;
    let began = Instant::now();
    // The server's own first frame does not come before the client's.
    let read = within("the end of the connection", silent.read(&mut [0; 64])).await;
    assert!(!matches!(read, Ok(1..)), "{read:?}");
    let allowed = world.stack.config().limits.handshake_timeout;
    assert!(began.elapsed() >= allowed, "{:?}", began.elapsed());
}
