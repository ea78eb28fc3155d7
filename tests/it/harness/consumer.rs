//! A subscribe stream at the protocol level, for what the client hides: ids, settlement reports, interruptions.

use std::{collections::VecDeque, time::Duration};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use warrengate::{
    client::Client,
    pb::{
        Ack, Delivery, Nack, NackAction, Settled, SubscribeRequest, SubscribeResponse, SubscribeStart,
        SubscribeStarted, subscribe_request::Frame, subscribe_response::Event,
    },
};

use super::wait::within;

pub struct RawSubscription {
    frames: Option<mpsc::Sender<SubscribeRequest>>,
    events: Streaming<SubscribeResponse>,
    ready: VecDeque<Delivery>,
    pub started: SubscribeStarted,
}

/// A start frame for this queue.
pub fn start(queue: &str) -> SubscribeStart {
    SubscribeStart { queue: queue.into(), ..SubscribeStart::default() }
}

impl RawSubscription {
    /// Opens a subscription and waits until it has started.
    pub async fn open(client: &Client, start: SubscribeStart) -> Self {
        Self::try_open(client, start).await.unwrap()
    }

    pub async fn try_open(client: &Client, start: SubscribeStart) -> Result<Self, Status> {
        let (frames, requests) = mpsc::channel(64);
        frames.send(SubscribeRequest { frame: Some(Frame::Start(start)) }).await.unwrap();
        let mut messaging = client.raw_messaging();
        let opening = messaging.subscribe(ReceiverStream::new(requests));
        let events = Box::pin(within("the subscribe call", opening)).await?.into_inner();
        let started = SubscribeStarted::default();
        let mut subscription = Self { frames: Some(frames), events, ready: VecDeque::new(), started };
        match subscription.event().await? {
            Some(Event::Started(started)) => subscription.started = started,
            other => panic!("the first event is {other:?}"),
        }
        Ok(subscription)
    }

    /// The next event other than a heartbeat; `None` when the stream ends with OK.
    pub async fn event(&mut self) -> Result<Option<Event>, Status> {
        // One deadline for all: heartbeats would extend it for ever.
        within("an event of the subscription", self.any_time_event()).await
    }

    /// The same without a deadline.
    pub async fn any_time_event(&mut self) -> Result<Option<Event>, Status> {
        loop {
            let response = self.events.message().await?;
            match response.map(|response| response.event.expect("an event is set")) {
                Some(Event::Heartbeat(_)) => {}
                event => return Ok(event),
            }
        }
    }

    /// The next `count` deliveries, without other events between them.
    pub async fn take(&mut self, count: usize) -> Vec<Delivery> {
        while self.ready.len() < count {
            match self.event().await.unwrap() {
                Some(Event::Deliveries(frame)) => self.ready.extend(frame.deliveries),
                other => panic!("{other:?} instead of {count} deliveries; {} are there", self.ready.len()),
            }
        }
        self.ready.drain(..count).collect()
    }

    pub async fn one(&mut self) -> Delivery {
        self.take(1).await.remove(0)
    }

    /// The next report, without a delivery before it.
    pub async fn settled(&mut self) -> Settled {
        assert!(self.ready.is_empty(), "{:?} was delivered", self.ready);
        match self.event().await.unwrap() {
            Some(Event::Settled(settled)) => settled,
            other => panic!("{other:?} instead of a report"),
        }
    }

    /// Waits until the gateway has processed all earlier frames, and checks that it delivers nothing: a settlement of
    /// an unknown id is reported, and there is no delivery before the report.
    pub async fn is_quiet(&mut self) {
        for unknown in [u64::MAX - 1, u64::MAX] {
            self.ack(&[unknown]).await;
            assert_eq!(self.settled().await.unknown_delivery_ids, [unknown]);
        }
    }

    pub async fn send(&self, frame: Frame) {
        let frames = self.frames.as_ref().expect("the sending side is open");
        frames.send(SubscribeRequest { frame: Some(frame) }).await.unwrap();
    }

    pub async fn ack(&self, ids: &[u64]) {
        self.send(Frame::Ack(Ack { delivery_ids: ids.to_vec(), through: 0 })).await;
    }

    pub async fn ack_through(&self, through: u64) {
        self.send(Frame::Ack(Ack { delivery_ids: Vec::new(), through })).await;
    }

    pub async fn nack(&self, ids: &[u64], action: NackAction) {
        self.send(Frame::Nack(Nack { delivery_ids: ids.to_vec(), action: action.into(), ..Nack::default() })).await;
    }

    /// Nacks for another attempt after `delay`.
    pub async fn retry(&self, ids: &[u64], delay: Duration) {
        let delay = Some(delay.try_into().unwrap());
        let action = NackAction::Retry.into();
        self.send(Frame::Nack(Nack { delivery_ids: ids.to_vec(), action, delay, ..Nack::default() })).await;
    }

    /// Nacks with a reason.
    pub async fn nack_with_reason(&self, ids: &[u64], action: NackAction, reason: &str) {
        let reason = reason.to_owned();
        self.send(Frame::Nack(Nack { delivery_ids: ids.to_vec(), action: action.into(), reason, delay: None })).await;
    }

    /// Closes the sending side and waits for the end, ignoring events before it.
    pub async fn close(mut self) {
        self.frames = None;
        while self.event().await.unwrap().is_some() {}
    }

    /// Waits for the status that the stream ends with.
    pub async fn failure(&mut self) -> Status {
        loop {
            match self.event().await {
                Err(status) => return status,
                Ok(None) => panic!("the stream ended with OK"),
                Ok(Some(_)) => {}
            }
        }
    }
}

/// The bodies, as text.
pub fn bodies(deliveries: &[Delivery]) -> Vec<String> {
    let body = |delivery: &Delivery| delivery.message.as_ref().expect("a message").body.to_vec();
    deliveries.iter().map(|delivery| String::from_utf8(body(delivery)).unwrap()).collect()
}

/// The ids.
pub fn ids(deliveries: &[Delivery]) -> Vec<u64> {
    deliveries.iter().map(|delivery| delivery.delivery_id).collect()
}
