//! The subscription against a scripted peer.

use tonic::{Code, Status};

use super::*;
use crate::{
    pb::{subscribe_request::Frame, subscribe_response},
    peer::{Peer, SubscribeSide, auth_expiring, draining},
};

async fn subscribed(peer: &mut Peer, options: SubscribeOptions) -> (Subscription, SubscribeSide) {
    let client = peer.client().await;
    let opening = tokio::spawn(async move { client.subscribe(options).await });
    let mut side = peer.subscribe_stream().await;
    side.start().await;
    (opening.await.expect("no panic").expect("a subscription"), side)
}

async fn delivery(subscription: &mut Subscription) -> Delivery {
    subscription.next().await.expect("no error").expect("a delivery")
}

fn acknowledged(frame: Frame) -> Vec<u64> {
    match frame {
        Frame::Ack(ack) => ack.delivery_ids,
        other => panic!("an acknowledgement expected, not {other:?}"),
    }
}

#[tokio::test]
async fn deliveries_arrive_in_order_and_settlements_are_written_before_the_end() {
    let mut peer = Peer::start().await;
    let (mut subscription, mut side) = subscribed(&mut peer, SubscribeOptions::queue("q")).await;
    side.event(subscribe_response::Event::Heartbeat(pb::Heartbeat::default())).await;
    side.deliver([1, 2, 3]).await;
    let first = delivery(&mut subscription).await;
    assert_eq!(first.body(), "message 1");
    let second = delivery(&mut subscription).await;
    subscription.ack(&first).expect("open");
    subscription.nack(&second, Nack::retry().because("not now")).expect("open");
    let closing = tokio::spawn(subscription.close());
    assert_eq!(acknowledged(side.frame().await), [1]);
    let Frame::Nack(nack) = side.frame().await else { panic!("a nack expected") };
    assert_eq!(
        (nack.delivery_ids, nack.action, nack.reason.as_str()),
        (vec![2], pb::NackAction::Retry.into(), "not now")
    );
    assert!(side.request().await.is_none(), "the sending side is closed");
    drop(side);
    closing.await.expect("no panic").expect("closed");
}

#[tokio::test]
async fn a_refused_subscription_returns_the_reason() {
    let mut peer = Peer::start().await;
    let client = peer.client().await;
    let opening = tokio::spawn(async move { client.subscribe(SubscribeOptions::queue("q")).await });
    let side = peer.subscribe_stream().await;
    side.respond(Err(Status::not_found("no such queue"))).await;
    let error = opening.await.expect("no panic").expect_err("refused");
    assert_eq!(error.code(), Some(Code::NotFound));
}

#[tokio::test]
async fn after_a_break_the_subscription_continues_and_old_settlements_have_no_effect() {
    let mut peer = Peer::start().await;
    let (mut subscription, side) = subscribed(&mut peer, SubscribeOptions::queue("q")).await;
    side.deliver([1, 2]).await;
    let old = delivery(&mut subscription).await;
    side.respond(Err(Status::unavailable("restarting"))).await;
    drop(side);

    let mut side = peer.subscribe_stream().await;
    side.start().await;
    side.deliver([1]).await;
    // The waiting delivery of the broken stream, "message 2", is invalid.
    let mut events = Vec::new();
    let new = loop {
        match subscription.next_event().await.expect("no error").expect("an event") {
            Event::Delivery(delivery) => break delivery,
            event => events.push(event),
        }
    };
    assert!(matches!(events[..], [Event::Interrupted { .. }, Event::Resumed]), "{events:?}");
    assert_eq!(new.body(), "message 1");
    subscription.ack(&old).expect("open");
    let settler = subscription.settler();
    settler.ack(&new).expect("open");
    assert_eq!(acknowledged(side.frame().await), [1], "the new one, once");
    let closing = tokio::spawn(subscription.close());
    assert!(side.request().await.is_none());
    drop(side);
    closing.await.expect("no panic").expect("closed");
    assert!(matches!(settler.ack(&new), Err(Error::Closed)));
}

#[tokio::test]
async fn a_drain_waits_for_settlements_and_a_stream_queue_resumes_at_its_position() {
    let mut peer = Peer::start().await;
    let options = SubscribeOptions::queue("log").from_first();
    let (mut subscription, mut side) = subscribed(&mut peer, options).await;
    let deliveries = vec![pb::Delivery { delivery_id: 1, stream_offset: Some(41), ..Default::default() }];
    side.event(subscribe_response::Event::Deliveries(pb::Deliveries { deliveries })).await;
    let only = delivery(&mut subscription).await;
    side.event(subscribe_response::Event::Draining(draining())).await;
    subscription.ack(&only).expect("open");
    assert_eq!(acknowledged(side.frame().await), [1]);
    assert!(side.request().await.is_none(), "all is settled, so the client closes its side");
    drop(side);

    let mut side = peer.subscribe_stream().await;
    let start = side.start().await;
    let position = start.position.and_then(|position| position.position);
    assert_eq!(position, Some(pb::stream_position::Position::Offset(42)));
}

#[tokio::test]
async fn an_expiring_token_is_renewed_while_no_delivery_is_awaited() {
    let mut peer = Peer::start().await;
    let (_subscription, mut side) = subscribed(&mut peer, SubscribeOptions::queue("q")).await;
    for id in 1..=50 {
        side.deliver([id]).await;
    }
    side.event(subscribe_response::Event::AuthExpiring(auth_expiring())).await;
    let Frame::Reauthenticate(again) = side.frame().await else { panic!("a new token expected") };
    assert_eq!(again.access_token, "token-2");
}

#[tokio::test]
async fn deleting_the_queue_ends_the_subscription_with_an_error() {
    let mut peer = Peer::start().await;
    let (mut subscription, side) = subscribed(&mut peer, SubscribeOptions::queue("q")).await;
    side.deliver([1]).await;
    side.respond(Err(Status::not_found("the queue was deleted"))).await;
    delivery(&mut subscription).await;
    let error = subscription.next().await.expect_err("the end");
    assert_eq!(error.code(), Some(Code::NotFound));
    assert!(subscription.next().await.expect("nothing more").is_none());
}
