//! The memory budget of a gateway: deliveries and publishes in flight are charged to the tenant. A tenant that has used
//! its share is slowed or refused, and continues when it has settled something; another tenant is not affected.

use std::{collections::BTreeSet, time::Duration};

use prost::Message as _;
use tonic::Code;
use tonic_types::StatusExt as _;
use warrengate::pb::{self, Outcome, subscribe_response::Event};

use crate::harness::{
    Tenant,
    consumer::{RawSubscription, start},
    http2::{Http2, Http2Call},
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
async fn the_letters_that_a_redrive_sends_are_charged_until_it_ends() {
    const LETTERS: usize = 10;
    let gateway = small_gateway().await;
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    for number in 0..LETTERS {
        tenant.publish_to("jobs", vec![number as u8; BODY]).await;
    }
    let mut consumer = RawSubscription::open(&tenant.client, start("jobs")).await;
    for _ in 0..LETTERS {
        let delivery = consumer.one().await;
        consumer.nack(&[delivery.delivery_id], pb::NackAction::DeadLetter).await;
    }
    consumer.close().await;
    let listed = pb::ListDeadLettersRequest { without_bodies: true, ..Default::default() };
    until("all dead letters", async || {
        let page = tenant.dead_letter_page(listed.clone()).await.unwrap();
        (page.dead_letters.len() == LETTERS).then_some(())
    })
    .await;
    let client = tenant.client_at(&gateway.endpoint()).await;
    let selection = Some(pb::DeadLetterSelection { all: true, ..Default::default() });
    let request = pb::RedriveDeadLettersRequest { selection, max_per_second: 1, edit: None };
    let mut reports = client.topology().redrive_dead_letters(request).await.unwrap().into_inner();
    within("a report", reports.message()).await.unwrap().expect("a report");
    let charged = gateway.buffered().await;
    assert!(charged > LETTERS / 2 * BODY && charged <= BUDGET / 2, "{charged}");
    drop(reports);
    until("the end of the redrive", async || (gateway.buffered().await < BODY).then_some(())).await;
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

/// Makes a call whose response is not read.
async fn unread(connection: &Http2, method: &str, token: &str, request: &impl prost::Message) -> Http2Call {
    let mut call = connection.call(&format!("warrengate.v1.Topology/{method}"), Some(token)).await;
    call.data(web::framed(request), true).await;
    call
}

#[tokio::test]
async fn responses_are_charged_until_they_are_read_and_refused_when_a_tenant_leaves_too_many_unread() {
    const CALLS: usize = 20;
    // Large, so that few calls fill the budget: calls of `PeekMessages` to one queue run one after another.
    const LARGE: usize = 3_900_000;
    let gateway = small_gateway().await;
    let tenant = Tenant::fresh().await;
    // A page of names alone is larger than what is never charged.
    for number in 0..95 {
        tenant.exchange(&format!("{number:0>200}"), pb::ExchangeType::Topic).await;
    }
    tenant.queue("jobs").await;
    tenant.publish_to("jobs", vec![7; LARGE]).await;
    let client = tenant.client_at(&gateway.endpoint()).await;
    let list = pb::ListExchangesRequest::default();
    let page = client.topology().list_exchanges(list.clone()).await.unwrap().into_inner().encoded_len();
    let token = gateway.token(&tenant.client_id, &tenant.secret).await;
    until("the end of the charge of what was read", async || (gateway.buffered().await == 0).then_some(())).await;

    let connection = Http2::connect_unread(gateway.running.grpc_address()).await;
    let mut calls = Vec::new();
    for _ in 0..CALLS {
        calls.push(unread(&connection, "ListExchanges", &token, &list).await);
    }
    let charged = CALLS * (page + 5 - 16 * 1024);
    until("the charge", async || (gateway.buffered().await == charged).then_some(())).await;

    // Responses of `PeekMessages` are charged to the same budget as deliveries.
    let peek = pb::PeekMessagesRequest { queue: "jobs".into(), ..Default::default() };
    let refusal = until("a refusal", async || {
        let mut call = unread(&connection, "PeekMessages", &token, &peek).await;
        // Otherwise the call below may get the only message first, and this response would be empty.
        call.head().await;
        calls.push(call);
        match client.topology().peek_messages(peek.clone()).await {
            Ok(_) => None,
            Err(status) => Some(reason(&status)),
        }
    })
    .await;
    assert_eq!(refusal, "MEMORY_EXHAUSTED");
    assert!(gateway.buffered().await <= BUDGET / 2 + charged);
    // Another tenant, and small responses, are not affected.
    client.auth().who_am_i(pb::WhoAmIRequest {}).await.unwrap();
    let other = Tenant::fresh().await;
    other.queue("jobs").await;
    other.publish_to("jobs", vec![7; LARGE]).await;
    other.client_at(&gateway.endpoint()).await.topology().peek_messages(peek.clone()).await.unwrap();

    drop((calls, connection));
    until("the end of the charges", async || (gateway.buffered().await == 0).then_some(())).await;
    client.topology().peek_messages(peek).await.unwrap();
    gateway.running.shutdown().await;
}

#[tokio::test]
async fn each_watch_of_a_tenant_is_charged_while_it_is_open() {
    const WATCHES: usize = 3;
    let gateway = small_gateway().await;
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    let client = tenant.client_at(&gateway.endpoint()).await;
    let interval = Some(prost_types::Duration { seconds: 1, nanos: 0 });
    let mut watches = Vec::new();
    for _ in 0..WATCHES {
        let request = pb::WatchTenantRequest { interval, ..Default::default() };
        let mut watch = client.admin().watch_tenant(request).await.unwrap().into_inner();
        let snapshot = within("a snapshot", watch.message()).await.unwrap().expect("the stream continues");
        assert_eq!(snapshot.queues.len(), 1);
        watches.push(watch);
    }
    // Two snapshots that wait, and one that is encoded.
    let charged = gateway.buffered().await;
    assert!(charged >= WATCHES * 3 * size_of::<pb::QueueFigures>(), "{charged} bytes");
    drop(watches);
    until("the end of the charges", async || (gateway.buffered().await == 0).then_some(())).await;
    gateway.running.shutdown().await;
}
