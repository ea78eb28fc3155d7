//! A client that disappears without closing its connection: the gateway detects it, and other consumers receive the
//! messages that it had not acknowledged.

use std::time::{Duration, Instant};

use crate::harness::{
    consumer::{RawSubscription, bodies, start},
    dedicated::DedicatedStack,
    proxy::Proxy,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unacknowledged_messages_of_a_silent_client_are_delivered_to_another() {
    let settings = [("WARRENGATE_LIMITS__KEEPALIVE_INTERVAL", "1s"), ("WARRENGATE_LIMITS__KEEPALIVE_TIMEOUT", "1s")];
    let dedicated = DedicatedStack::start("dead-clients", &settings).await;
    let tenant = dedicated.tenant().await;
    tenant.queue("jobs").await;
    for n in 0..3 {
        tenant.publish_to("jobs", n.to_string()).await;
    }
    let network = Proxy::to(dedicated.stack.gateway().grpc_address().port()).await;
    let endpoint = format!("https://{}", network.endpoint());
    let client = dedicated.client_at(&endpoint, &tenant.client_id, &tenant.secret).await;
    let mut silent = RawSubscription::open(&client, start("jobs")).await;
    silent.take(3).await;
    let mut other = RawSubscription::open(&tenant.client, start("jobs")).await;
    network.hold();
    let began = Instant::now();
    let taken_over = other.take(3).await;
    let took = began.elapsed();
    eprintln!(
        "measured: with keep-alive 1 s + 1 s, another consumer received the messages of a silent client after {took:?}"
    );
    assert_eq!(bodies(&taken_over), ["0", "1", "2"]);
    assert!(took < Duration::from_secs(15), "{took:?}");
    assert!(network.connections() > 0, "the client's own side is still open");
    dedicated.stack.stop().await.unwrap();
}
