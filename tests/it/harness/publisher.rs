//! A publish stream at the protocol level: frames out, results and notices in.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use warrengate::{
    client::Client,
    pb::{
        Publication, Publications, PublishRequest, PublishResponse, PublishResult, publish_request::Frame,
        publish_response::Event,
    },
};

use super::wait::within;

pub struct RawPublisher {
    frames: Option<mpsc::Sender<PublishRequest>>,
    events: Streaming<PublishResponse>,
    next: u64,
}

impl RawPublisher {
    pub async fn open(client: &Client) -> Self {
        Self::try_open(client).await.unwrap()
    }

    pub async fn try_open(client: &Client) -> Result<Self, Status> {
        let (frames, requests) = mpsc::channel(1);
        let mut messaging = client.raw_messaging();
        let opening = messaging.publish(ReceiverStream::new(requests));
        let events = Box::pin(within("the publish call", opening)).await?.into_inner();
        Ok(Self { frames: Some(frames), events, next: 0 })
    }

    /// Sends one frame. The publications are numbered from 0.
    pub async fn send(&mut self, mut publications: Vec<Publication>) {
        for publication in &mut publications {
            publication.sequence = self.next;
            self.next += 1;
        }
        let frame = Some(Frame::Publications(Publications { publications }));
        let frames = self.frames.as_ref().expect("the sending side is open");
        within("capacity for a frame", frames.send(PublishRequest { frame })).await.unwrap();
    }

    /// Like [`Self::send`], but returns false without sending if the gateway has no capacity within `time`.
    pub async fn send_within(&mut self, time: std::time::Duration, publications: Vec<Publication>) -> bool {
        let frames = self.frames.clone().expect("the sending side is open");
        match tokio::time::timeout(time, frames.reserve()).await {
            Err(_) => false,
            Ok(place) => {
                drop(place);
                self.send(publications).await;
                true
            }
        }
    }

    /// The next event; `None` when the stream ends with OK.
    pub async fn event(&mut self) -> Result<Option<Event>, Status> {
        let response = within("an event of the publish stream", self.events.message()).await?;
        Ok(response.map(|response| response.event.expect("an event is set")))
    }

    /// The results of `count` publications, without a notice between them.
    pub async fn results(&mut self, count: usize) -> Vec<PublishResult> {
        let mut results = Vec::new();
        while results.len() < count {
            match self.event().await.unwrap() {
                Some(Event::Results(frame)) => results.extend(frame.results),
                other => panic!("{other:?} instead of {count} results; {} are there", results.len()),
            }
        }
        results
    }

    /// Closes the sending side.
    pub fn finish(&mut self) {
        self.frames = None;
    }

    /// Closes the sending side and returns all remaining results.
    pub async fn close(mut self) -> Vec<PublishResult> {
        self.finish();
        let mut results = Vec::new();
        while let Some(event) = self.event().await.unwrap() {
            if let Event::Results(frame) = event {
                results.extend(frame.results);
            }
        }
        results
    }
}
