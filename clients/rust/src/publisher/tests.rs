//! The publisher against a scripted peer.

use std::time::Duration;

use tonic::Status;

use super::*;
use crate::{
    pb::{
        Outcome,
        error::{Failure, Kind},
        publish_request::Frame,
        publish_response::Event,
    },
    peer::{Peer, auth_expiring, draining},
    publication,
};

#[tokio::test]
async fn every_message_gets_its_own_outcome() {
    let mut peer = Peer::start().await;
    let client = peer.client().await;
    let publisher = client.publisher();
    let first = publisher.send(publication("", "q", "1")).await.expect("taken");
    let second = publisher.send(publication("", "nowhere", "2")).await.expect("taken");

    let mut stream = peer.publish_stream().await;
    assert_eq!(stream.authorization, "Bearer token-1");
    let mut got = stream.publications().await;
    while got.len() < 2 {
        got.extend(stream.publications().await);
    }
    stream.answer(&got[1..], Outcome::Unroutable).await;
    stream.answer(&got[..1], Outcome::Confirmed).await;

    let id = first.message_id().to_owned();
    let result = first.await;
    assert_eq!((result.outcome(), result.message_id), (Outcome::Confirmed, id));
    assert_eq!(second.await.outcome(), Outcome::Unroutable);

    let closing = tokio::spawn(publisher.close());
    assert!(stream.request().await.is_none(), "the sending side is closed");
    drop(stream);
    closing.await.expect("no panic").expect("closed");
}

#[tokio::test]
async fn unanswered_messages_of_a_broken_stream_are_sent_again_with_the_same_id() {
    let mut peer = Peer::start().await;
    let client = peer.client().await;
    let publisher = client.publisher();
    let answered = publisher.send(publication("", "q", "1")).await.expect("taken");
    let mut stream = peer.publish_stream().await;
    let got = stream.publications().await;
    stream.answer(&got, Outcome::Confirmed).await;
    assert_eq!(answered.await.outcome(), Outcome::Confirmed);

    let unanswered = publisher.send(publication("", "q", "2")).await.expect("taken");
    let before = stream.publications().await;
    stream.respond(Err(Status::unavailable("going"))).await;
    drop(stream);

    let mut stream = peer.publish_stream().await;
    let again = stream.publications().await;
    assert_eq!(again, before);
    stream.answer(&again, Outcome::Confirmed).await;
    assert_eq!(unanswered.await.outcome(), Outcome::Confirmed);
}

#[tokio::test]
async fn a_message_larger_than_the_gateways_frames_is_rejected_and_the_others_are_sent_again() {
    let mut peer = Peer::start().await;
    let client = peer.client().await;
    let publisher = client.publisher();
    let small = publisher.send(publication("", "q", "small")).await.expect("taken");
    let large = publisher.send(publication("", "q", vec![0; 512 << 10])).await.expect("taken");
    let mut stream = peer.publish_stream().await;
    while stream.publications().await.iter().all(|one| one.message.as_ref().is_some_and(|it| it.body.len() < 6)) {}
    let refusal = Failure::new(Kind::Invalid, "MALFORMED_FRAME", "the message is too large");
    stream.respond(Err(Status::from(refusal))).await;
    drop(stream);
    let result = large.await;
    assert_eq!(result.outcome(), Outcome::Rejected);
    assert!(result.reason.starts_with("MESSAGE_TOO_LARGE"), "{}", result.reason);

    let mut stream = peer.publish_stream().await;
    let again = stream.publications().await;
    assert_eq!(again.len(), 1);
    stream.answer(&again, Outcome::Confirmed).await;
    assert_eq!(small.await.outcome(), Outcome::Confirmed);
}

#[tokio::test]
async fn a_draining_gateway_finishes_its_stream_and_the_next_one_takes_the_rest() {
    let mut peer = Peer::start().await;
    let client = peer.client().await;
    let publisher = client.publisher();
    let before = publisher.send(publication("", "q", "before")).await.expect("taken");
    let mut old = peer.publish_stream().await;
    let got = old.publications().await;
    old.event(Event::Draining(draining())).await;
    assert!(old.request().await.is_none(), "the client closes its side");
    let after = publisher.send(publication("", "q", "after")).await.expect("taken");
    old.answer(&got, Outcome::Confirmed).await;
    drop(old);
    assert_eq!(before.await.outcome(), Outcome::Confirmed);

    let mut new = peer.publish_stream().await;
    let got = new.publications().await;
    assert_eq!(got.len(), 1);
    new.answer(&got, Outcome::Confirmed).await;
    assert_eq!(after.await.outcome(), Outcome::Confirmed);
}

#[tokio::test]
async fn an_expiring_token_is_renewed_on_the_stream() {
    let mut peer = Peer::start().await;
    let client = peer.client().await;
    let publisher = client.publisher();
    let receipt = publisher.send(publication("", "q", "1")).await.expect("taken");
    let mut stream = peer.publish_stream().await;
    let got = stream.publications().await;
    stream.event(Event::AuthExpiring(auth_expiring())).await;
    let frame = stream.request().await.and_then(|request| request.frame);
    let Some(Frame::Reauthenticate(again)) = frame else { panic!("a new token expected, not {frame:?}") };
    assert_eq!(again.access_token, "token-2");
    stream.answer(&got, Outcome::Confirmed).await;
    assert_eq!(receipt.await.outcome(), Outcome::Confirmed);
}

#[tokio::test]
async fn a_refused_token_is_replaced_once_and_then_the_messages_end_with_its_error() {
    let mut peer = Peer::start().await;
    let client = peer.client().await;
    let publisher = client.publisher();
    let receipt = publisher.send(publication("", "q", "1")).await.expect("taken");
    for token in ["Bearer token-1", "Bearer token-2"] {
        let stream = peer.publish_stream().await;
        assert_eq!(stream.authorization, token);
        stream.respond(Err(Status::unauthenticated("revoked"))).await;
    }
    let error = receipt.confirmed().await.expect_err("not confirmed");
    assert!(error.to_string().contains("revoked"), "{error}");
    assert!(!error.is_retryable() || error.outcome() == Some(crate::Outcome::Unknown));

    // The next message tries again.
    let next = publisher.send(publication("", "q", "2")).await.expect("taken");
    let mut stream = peer.publish_stream().await;
    let got = stream.publications().await;
    stream.answer(&got, Outcome::Confirmed).await;
    assert_eq!(next.await.outcome(), Outcome::Confirmed);
    drop(stream);
    publisher.close().await.expect("a result after the refusal");
}

#[tokio::test]
async fn a_message_without_an_answer_is_unknown_after_the_deadline() {
    let mut peer = Peer::start().await;
    let client = peer.client().await;
    let publisher = client.publisher_with(PublisherOptions::default().deadline(Duration::from_millis(300)));
    let receipt = publisher.send(publication("", "q", "1")).await.expect("taken");
    let mut stream = peer.publish_stream().await;
    stream.publications().await;
    let error = receipt.confirmed().await.expect_err("no answer");
    assert_eq!((error.outcome(), error.reason()), (Some(crate::Outcome::Unknown), "UNKNOWN"));
    assert!(error.is_retryable());
    // There is capacity again.
    publisher.flush().await;
    assert_eq!(publisher.in_flight(), 0);
}

#[tokio::test]
async fn throttled_and_unknown_messages_are_sent_again_on_the_same_stream() {
    let mut peer = Peer::start().await;
    let client = peer.client().await;
    let publisher = client.publisher();
    let receipt = publisher.send(publication("", "q", "1")).await.expect("taken");
    let mut stream = peer.publish_stream().await;
    let first = stream.publications().await;
    for outcome in [Outcome::Throttled, Outcome::Unknown] {
        stream.answer(&first, outcome).await;
        assert_eq!(stream.publications().await, first, "{outcome:?}");
    }
    stream.answer(&first, Outcome::Confirmed).await;
    let confirmation = receipt.confirmed().await.expect("confirmed");
    assert!(!confirmation.message_id.is_empty());
}

#[tokio::test]
async fn a_publisher_that_does_not_retry_throttled_messages_reports_them() {
    let mut peer = Peer::start().await;
    let client = peer.client().await;
    let publisher = client.publisher_with(PublisherOptions::default().retry_throttled(false));
    let receipt = publisher.send(publication("", "q", "1")).await.expect("taken");
    let mut stream = peer.publish_stream().await;
    let got = stream.publications().await;
    stream.answer(&got, Outcome::Throttled).await;
    let error = receipt.confirmed().await.expect_err("throttled");
    assert_eq!((error.outcome(), error.is_retryable()), (Some(crate::Outcome::Throttled), true));
}

#[tokio::test]
async fn a_closed_client_ends_its_publishers() {
    let mut peer = Peer::start().await;
    let client = peer.client().await;
    let publisher = client.publisher();
    let receipt = publisher.send(publication("", "q", "1")).await.expect("taken");
    let mut stream = peer.publish_stream().await;
    stream.publications().await;
    client.close(Duration::from_millis(50)).await;
    assert_eq!(receipt.confirmed().await.expect_err("no answer").outcome(), Some(crate::Outcome::Unknown));
    let error = publisher.send(publication("", "q", "2")).await.expect_err("closed");
    assert_eq!(error.reason(), "CLOSED");
    let error = client.whoami().await.expect_err("closed");
    assert_eq!((error.reason(), error.is_retryable()), ("CLOSED", false));
}

#[tokio::test]
async fn sending_waits_for_capacity_in_the_window() {
    let mut peer = Peer::start().await;
    let client = peer.client().await;
    let publisher = client.publisher_with(PublisherOptions::default().max_in_flight_messages(1));
    let first = publisher.send(publication("", "q", "1")).await.expect("taken");
    let mut stream = peer.publish_stream().await;
    let got = stream.publications().await;
    {
        let second = std::pin::pin!(publisher.send(publication("", "q", "2")));
        assert!(futures_util::poll!(second).is_pending());
    }
    stream.answer(&got, Outcome::Confirmed).await;
    assert_eq!(first.await.outcome(), Outcome::Confirmed);
    let _receipt = publisher.send(publication("", "q", "3")).await.expect("there is capacity again");
}
