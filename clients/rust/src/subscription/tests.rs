//! The subscription against a scripted peer.

use std::sync::{Arc, Mutex};

use tonic::{Code, Status};

use super::*;
use crate::{
    Lifecycle, LifecycleEvent,
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
    let Frame::Nack(nack) = side.frame().await else { panic!("a nack expected") };
    assert_eq!(
        (nack.delivery_ids, nack.action, nack.reason.as_str()),
        (vec![2], pb::NackAction::Retry.into(), "not now")
    );
    assert_eq!(acknowledged(side.frame().await), [1]);
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
async fn a_stream_queue_resumes_after_what_was_settled_when_the_stream_broke() {
    let mut peer = Peer::start().await;
    let handled = Arc::new(Mutex::new(None::<(Settler, Delivery)>));
    let settled_late = Arc::clone(&handled);
    // The client reports the end of a stream before it invalidates the stream's ids.
    let settle = move |event: LifecycleEvent| {
        if let Lifecycle::Disconnected = event.kind
            && let Some((settler, delivery)) = settled_late.lock().expect("no panic").take()
        {
            settler.ack(&delivery).expect("open");
        }
    };
    let client = peer.client_from(|options| options.on_event(settle)).await;
    let opening = tokio::spawn(async move { client.subscribe(SubscribeOptions::queue("log").from_first()).await });
    let mut side = peer.subscribe_stream().await;
    side.start().await;
    let mut subscription = opening.await.expect("no panic").expect("a subscription");
    let deliveries = vec![pb::Delivery { delivery_id: 1, stream_offset: Some(41), ..Default::default() }];
    side.event(subscribe_response::Event::Deliveries(pb::Deliveries { deliveries })).await;
    let only = delivery(&mut subscription).await;
    *handled.lock().expect("no panic") = Some((subscription.settler(), only));
    side.respond(Err(Status::unavailable("killed"))).await;
    drop(side);

    let mut side = peer.subscribe_stream().await;
    let position = side.start().await.position.and_then(|position| position.position);
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

async fn consuming<H, F>(peer: &mut Peer, options: SubscribeOptions, handler: H) -> (Client, Consumer, SubscribeSide)
where
    H: Fn(Delivery) -> F + Send + Sync + 'static,
    F: Future<Output = Result<(), HandlerError>> + Send + 'static,
{
    let client = peer.client().await;
    let consumers = client.clone();
    let opening = tokio::spawn(async move { consumers.consume(options, handler).await });
    let mut side = peer.subscribe_stream().await;
    side.start().await;
    (client, opening.await.expect("no panic").expect("a consumer"), side)
}

#[tokio::test]
async fn a_handler_acknowledges_retries_and_settles_explicitly() {
    let mut peer = Peer::start().await;
    let (_client, consumer, mut side) = consuming(&mut peer, SubscribeOptions::queue("q"), async |delivery| {
        match delivery.id() {
            1 => return Err("out of stock".into()),
            2 => panic!("a defect"),
            3 => delivery.dead_letter("no such customer"),
            _ => {}
        }
        Ok(())
    })
    .await;
    side.deliver(1..=4).await;
    for (id, action, reason) in [
        (1, pb::NackAction::Retry, "out of stock"),
        (2, pb::NackAction::Retry, "the handler panicked"),
        (3, pb::NackAction::DeadLetter, "no such customer"),
    ] {
        let Frame::Nack(nack) = side.frame().await else { panic!("a nack expected") };
        assert_eq!((nack.delivery_ids.as_slice(), nack.action(), nack.reason.as_str()), (&[id][..], action, reason));
    }
    assert_eq!(acknowledged(side.frame().await), [4]);
    let closing = tokio::spawn(async move { consumer.close(Duration::from_secs(5)).await });
    assert!(side.request().await.is_none(), "the sending side is closed");
    drop(side);
    closing.await.expect("no panic").expect("closed");
}

#[tokio::test]
async fn no_more_handlers_run_than_allowed_and_close_waits_for_them() {
    let mut peer = Peer::start().await;
    let (release, released) = tokio::sync::watch::channel(false);
    let options = SubscribeOptions::queue("q").concurrency(2);
    let (client, consumer, mut side) = consuming(&mut peer, options, move |_| {
        let mut released = released.clone();
        async move {
            released.wait_for(|released| *released).await?;
            Ok(())
        }
    })
    .await;
    side.deliver(1..=5).await;
    while consumer.running() < 2 {
        tokio::task::yield_now().await;
    }
    let closing = tokio::spawn(async move { client.close(Duration::from_secs(20)).await });
    consumer.stop_requested().await;
    assert_eq!(consumer.running(), 2);
    release.send(true).expect("handlers wait");
    let Frame::Ack(ack) = side.frame().await else { panic!("an acknowledgement expected") };
    assert_eq!((ack.through, ack.delivery_ids.len()), (2, 0), "the third message was not started");
    assert!(side.request().await.is_none(), "the sending side is closed");
    drop(side);
    closing.await.expect("no panic");
    assert!(consumer.is_finished() && consumer.error().is_none());
}

#[tokio::test]
async fn a_handler_that_does_not_end_is_aborted_after_the_limit() {
    let mut peer = Peer::start().await;
    let (_client, consumer, mut side) =
        consuming(&mut peer, SubscribeOptions::queue("q"), async |_| std::future::pending().await).await;
    side.deliver([1]).await;
    while consumer.running() < 1 {
        tokio::task::yield_now().await;
    }
    let closing = tokio::spawn(async move {
        let _ = consumer.close(Duration::from_millis(50)).await;
        consumer.running()
    });
    assert!(side.request().await.is_none(), "the stream is closed without a settlement");
    drop(side);
    assert_eq!(closing.await.expect("no panic"), 0);
}

#[tokio::test]
async fn a_drain_returns_messages_that_were_not_started() {
    let mut peer = Peer::start().await;
    let (mut subscription, mut side) = subscribed(&mut peer, SubscribeOptions::queue("q")).await;
    side.deliver([1, 2, 3]).await;
    let started = delivery(&mut subscription).await;
    side.event(subscribe_response::Event::Draining(draining())).await;
    started.ack();
    assert_eq!(acknowledged(side.frame().await), [1]);
    assert!(side.request().await.is_none(), "the others are not waited for");
    drop(side);
    let mut side = peer.subscribe_stream().await;
    side.start().await;
    side.deliver([1]).await;
    let next = delivery(&mut subscription).await;
    assert_eq!((next.id(), next.epoch()), (1, 1), "a delivery of the next stream");
}

#[tokio::test]
async fn a_subscription_is_a_stream_that_ends_with_its_error() {
    use futures_util::StreamExt as _;
    let mut peer = Peer::start().await;
    let (subscription, side) = subscribed(&mut peer, SubscribeOptions::queue("q")).await;
    side.deliver([1, 2]).await;
    side.respond(Err(Status::not_found("the queue was deleted"))).await;
    let items: Vec<_> = subscription.map(|item| item.map(|delivery| delivery.id())).collect().await;
    assert!(matches!(items[..], [Ok(1), Ok(2), Err(_)]), "{items:?}");
}
