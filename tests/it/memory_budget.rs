//! The memory budget of a gateway: deliveries and publishes in flight are charged to the tenant. A tenant that has used
//! its share is slowed or refused, and continues when it has settled something; another tenant is not affected.

use std::{collections::BTreeSet, time::Duration};

use tonic::Code;
use tonic_types::StatusExt as _;
use warrengate::pb::{self, Outcome, subscribe_response::Event};

use crate::harness::{
    Tenant,
    consumer::{RawSubscription, start},
    raw::{RawPublish, reason},
    to_queue,
    wait::{until, within},
    web::{self, OwnGateway},
};

const BUDGET: usize = 64 << 20;
const BODY: usize = 2_000_000;
/// How many messages of this size fit into half of the budget.
const FITTING: usize = 16;
const MESSAGES: usize = 30;

async fn small_gateway() -> OwnGateway {
    web::gateway(|config| {
        config.limits.max_buffered_bytes = BUDGET;
        // Until then, a unary request waits for memory.
        config.limits.request_timeout = Duration::from_secs(1);
    })
    .await
}

/// Two subscriptions of one tenant that keep unsettled as much as its memory allows: the number of each message, by
/// subscription.
struct Holders {
    tenant: Tenant,
    subscriptions: [RawSubscription; 2],
    unsettled: [Vec<(u64, u8)>; 2],
}

impl Holders {
    async fn at(gateway: &OwnGateway) -> Self {
        let tenant = Tenant::fresh().await;
        tenant.queue("jobs").await;
        for number in 0..MESSAGES {
            tenant.publish_to("jobs", vec![number as u8; BODY]).await;
        }
        let client = tenant.client_at(&gateway.endpoint()).await;
        let window = pb::SubscribeStart { max_outstanding_bytes: 256 << 20, ..start("jobs") };
        let first = RawSubscription::open(&client, window.clone()).await;
        let second = RawSubscription::open(&client, window).await;
        let mut holders = Self { tenant, subscriptions: [first, second], unsettled: Default::default() };
        holders.until(FITTING).await;
        holders
    }

    /// Waits until this many were delivered.
    async fn until(&mut self, count: usize) {
        within("deliveries", async {
            while self.unsettled.iter().map(Vec::len).sum::<usize>() < count {
                let [first, second] = &mut self.subscriptions;
                let (of, event) = tokio::select! {
                    event = first.event() => (0, event),
                    event = second.event() => (1, event),
                };
                let Ok(Some(Event::Deliveries(frame))) = event else { panic!("{event:?} instead of deliveries") };
                for delivery in frame.deliveries {
                    assert_eq!(delivery.attempt, 1, "what waits for memory uses up no attempt");
                    self.unsettled[of].push((delivery.delivery_id, delivery.message.unwrap().body[0]));
                }
            }
        })
        .await;
    }

    async fn acknowledge(&mut self) -> BTreeSet<u8> {
        let mut numbers = BTreeSet::new();
        for (subscription, unsettled) in self.subscriptions.iter().zip(&self.unsettled) {
            subscription.ack(&unsettled.iter().map(|(id, _)| *id).collect::<Vec<_>>()).await;
            numbers.extend(unsettled.iter().map(|(_, number)| *number));
        }
        self.unsettled = Default::default();
        numbers
    }
}

#[tokio::test]
async fn deliveries_beyond_a_tenants_memory_wait_until_others_are_settled() {
    let gateway = small_gateway().await;
    let mut holders = Holders::at(&gateway).await;
    for subscription in &mut holders.subscriptions {
        subscription.is_quiet().await;
    }
    // Another tenant has the other half.
    let other = Tenant::fresh().await;
    other.queue("jobs").await;
    other.publish_to("jobs", vec![1; BODY]).await;
    let client = other.client_at(&gateway.endpoint()).await;
    let mut subscription = RawSubscription::open(&client, start("jobs")).await;
    assert_eq!(subscription.one().await.message.unwrap().body.len(), BODY);

    let mut numbers = holders.acknowledge().await;
    assert_eq!(numbers.len(), FITTING);
    holders.until(MESSAGES - FITTING).await;
    numbers.extend(holders.acknowledge().await);
    assert_eq!(numbers.len(), MESSAGES, "each once");
    holders.tenant.has_depth("jobs", 0).await;
    gateway.running.shutdown().await;
}

#[tokio::test]
async fn what_a_tenant_sends_on_streams_that_wait_for_memory_does_not_use_up_the_gateways() {
    /// With as many windows of 256 KiB, more than the other half of the budget.
    const STREAMS: usize = 150;
    let gateway = small_gateway().await;
    let mut holders = Holders::at(&gateway).await;
    let client = holders.tenant.client_at(&gateway.endpoint()).await;
    holders.tenant.queue("other").await;
    let large = to_queue("other", vec![7; BODY]);
    let mut publishing = tokio::task::JoinSet::new();
    for _ in 0..STREAMS {
        let (mut stream, large) = (RawPublish::open(&client).await.unwrap(), large.clone());
        publishing.spawn(async move { stream.publish(large).await });
    }
    let other = Tenant::fresh().await;
    other.queue("other").await;
    let client = other.client_at(&gateway.endpoint()).await;
    for _ in 0..20 {
        // Unary requests are refused when there is no memory for them.
        let outcomes = client.publish_batch(vec![large.clone()]).await.expect("the other half is free");
        assert_eq!(outcomes[0].outcome(), Outcome::Confirmed);
    }
    assert!(publishing.try_join_next().is_none(), "the streams still wait");
    // They continue when there is memory again, although not all at once.
    holders.acknowledge().await;
    let mut confirmed = 0;
    for _ in 0..STREAMS {
        let result = within("a publish", publishing.join_next()).await.expect("one of them").unwrap().unwrap();
        assert!(matches!(result.outcome(), Outcome::Confirmed | Outcome::Throttled), "{result:?}");
        confirmed += usize::from(result.outcome() == Outcome::Confirmed);
    }
    assert!(confirmed > 0, "all were throttled");
    gateway.running.shutdown().await;
}

#[tokio::test]
async fn a_tenant_without_memory_is_refused_or_slowed_until_it_has_some() {
    let gateway = small_gateway().await;
    let mut holders = Holders::at(&gateway).await;
    let client = holders.tenant.client_at(&gateway.endpoint()).await;
    holders.tenant.queue("other").await;
    let large = to_queue("other", vec![7; BODY]);
    let request = pb::PublishBatchRequest { publications: vec![large.clone()] };
    let refused = client.raw_messaging().publish_batch(request).await.expect_err("no memory");
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::ResourceExhausted, "MEMORY_EXHAUSTED"));
    assert!(refused.get_error_details().retry_info().is_some(), "{refused:?}");

    let list = async || {
        let list = pb::ListDeadLettersRequest::default();
        client.topology().list_dead_letters(list).await.map_err(|status| (status.code(), reason(&status)))
    };
    let refused = list().await.expect_err("no memory for a page of dead letters");
    assert_eq!(refused, (Code::ResourceExhausted, "MEMORY_EXHAUSTED".to_owned()));

    let mut stream = RawPublish::open(&client).await.unwrap();
    let mut publishing = std::pin::pin!(stream.publish(large.clone()));
    let waited = tokio::time::timeout(Duration::from_millis(500), &mut publishing).await;
    assert!(waited.is_err(), "a stream is slowed: {waited:?}");
    // Another tenant does not notice.
    let other = Tenant::fresh().await;
    other.queue("other").await;
    let outcomes = other.client_at(&gateway.endpoint()).await.publish_batch(vec![large]).await.unwrap();
    assert_eq!(outcomes[0].outcome(), Outcome::Confirmed);

    // Those that come next take the memory, and return it, too.
    let mut left = MESSAGES;
    while left > 0 {
        left -= holders.acknowledge().await.len();
        holders.until(left.min(1)).await;
    }
    let result = within("the outcome", publishing).await.unwrap();
    assert!(matches!(result.outcome(), Outcome::Confirmed | Outcome::Throttled), "{result:?}");
    until("a list of dead letters", async || list().await.ok()).await;
    gateway.running.shutdown().await;
}
