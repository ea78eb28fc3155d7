//! Messages that were published to the broker directly, with texts that no client of the gateway can send.

use warrengate::pb::{ExchangeType, ListDeadLettersRequest, NackAction, value::Kind};

use crate::harness::{
    Tenant,
    amqp_frames::{Frames, long, short},
    consumer::{RawSubscription, start},
    wait::until,
};

/// The flags of the headers, the correlation id and the type, in the order of their fields.
const HEADERS: u16 = 1 << 13;
const CORRELATION_ID: u16 = 1 << 10;
const TYPE: u16 = 1 << 5;
const NOT_UTF_8: &[u8] = b"\xFF\xFEA\x80";

#[tokio::test]
async fn texts_that_are_not_utf_8_are_delivered_and_interrupt_no_subscription() {
    let tenant = Tenant::fresh().await;
    for queue in ["jobs", "others"] {
        tenant.queue(queue).await;
    }
    let mut others = RawSubscription::open(&tenant.client, start("others")).await;
    let header = [&short(NOT_UTF_8)[..], b"S", &long(b"value \xFF")].concat();
    let properties = [long(&header), short(NOT_UTF_8), short(NOT_UTF_8)].concat();
    let mut direct = Frames::open(&tenant.id).await;
    direct.publish("", b"jobs", HEADERS | CORRELATION_ID | TYPE, &properties, b"\xFFbody").await;
    tenant.publish_to("jobs", "behind it").await;

    let mut jobs = RawSubscription::open(&tenant.client, start("jobs")).await;
    let [first, second] = jobs.take(2).await.try_into().unwrap();
    let message = first.message.unwrap();
    assert_eq!((message.correlation_id.as_str(), message.r#type.as_str()), ("??A?", "??A?"));
    assert_eq!((&message.body[..], first.attempt), (&b"\xFFbody"[..], 1));
    assert_eq!(message.headers["??A?"].kind, Some(Kind::BytesValue(b"value \xFF".to_vec().into())));
    assert_eq!((&second.message.unwrap().body[..], second.attempt), (&b"behind it"[..], 1));
    jobs.ack(&[second.delivery_id]).await;
    jobs.nack(&[first.delivery_id], NackAction::DeadLetter).await;

    // The dead letters of the tenant can still be read.
    let letter = until("the dead letter", async || {
        let list = tenant.client.topology().list_dead_letters(ListDeadLettersRequest::default()).await;
        list.unwrap().into_inner().dead_letters.pop()
    })
    .await;
    assert_eq!(letter.message.unwrap().correlation_id, "??A?");
    tenant.publish_to("others", "not interrupted").await;
    assert_eq!(&others.one().await.message.unwrap().body[..], b"not interrupted");
}

#[tokio::test]
async fn a_routing_key_that_is_not_utf_8_is_delivered() {
    let tenant = Tenant::fresh().await;
    tenant.queue("jobs").await;
    tenant.exchange("events", ExchangeType::Fanout).await;
    tenant.bind("events", "jobs", "").await;
    Frames::open(&tenant.id).await.publish("events", b"a.\xF0\x9F", 0, b"", b"body").await;
    let delivery = RawSubscription::open(&tenant.client, start("jobs")).await.one().await;
    assert_eq!((delivery.exchange.as_str(), delivery.routing_key.as_str()), ("events", "a.??"));
}
