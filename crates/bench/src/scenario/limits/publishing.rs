//! Messages over a limit on one publish stream at the protocol level, so that throttled messages are not sent again and
//! frames have the required size. Frames are sent at their pace or as fast as the gateway reads them; results over the
//! limit are counted.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};
use tokio_stream::wrappers::ReceiverStream;

use super::{cases::Over, offender::Tally};
use warrengate::{
    client::{self, Client, publication},
    pb::{Outcome, Publications, PublishRequest, PublishResult, publish_request::Frame, publish_response::Event},
};

use crate::Error;

/// The messages to send.
pub(super) struct Load {
    pub(super) queue: String,
    pub(super) frames_per_second: u32,
    pub(super) messages_per_frame: u64,
    /// The size of a body.
    pub(super) bytes: usize,
    pub(super) over: Over,
}

/// Sends until the stream ends, which is an error.
pub(super) async fn run(client: Client, load: Load, tally: Arc<Tally>) -> Result<(), Error> {
    let (frames, outgoing) = mpsc::channel(1);
    let opened = client.raw_messaging().publish(ReceiverStream::new(outgoing)).await;
    let mut answers = opened.map_err(client::Error::from)?.into_inner();
    let receiving = async {
        while let Some(answer) = answers.message().await.map_err(client::Error::from)? {
            if let Some(Event::Results(frame)) = answer.event {
                tally.answered(frame.results.len() as u64, over(&load, &frame.results)?);
            }
        }
        Err(Error::Scenario("its stream ended".to_owned()))
    };
    tokio::select! {
        ended = receiving => ended,
        () = send(&load, &frames) => Ok(()),
    }
}

/// Never ends; the receiving side reports the end of the stream.
async fn send(load: &Load, frames: &mpsc::Sender<PublishRequest>) {
    let body = Bytes::from(vec![b'x'; load.bytes]);
    let mut ticks = interval(Duration::from_secs(1) / load.frames_per_second);
    // Late frames are not caught up with, because that would be a burst.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    for number in 0_u64.. {
        ticks.tick().await;
        let first = number * load.messages_per_frame;
        let publications = (first..first + load.messages_per_frame).map(|sequence| {
            let mut publication = publication("", &load.queue, body.clone());
            publication.sequence = sequence;
            publication
        });
        let frame = Some(Frame::Publications(Publications { publications: publications.collect() }));
        if frames.send(PublishRequest { frame }).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// The number of results that were over the limit.
fn over(load: &Load, results: &[PublishResult]) -> Result<u64, Error> {
    let has = |wanted: Outcome, reason: &str| {
        let is_over = |result: &&PublishResult| {
            result.outcome() == wanted && result.reason.split(':').next().is_some_and(|found| found == reason)
        };
        results.iter().filter(is_over).count() as u64
    };
    match load.over {
        Over::Throttled(reason) => Ok(has(Outcome::Throttled, reason)),
        Over::Rejected(reason) => Ok(has(Outcome::Rejected, reason)),
        Over::Delayed(in_flight) => delayed(load, results, in_flight),
    }
}

/// A frame has far more messages than the limit allows in flight, so the gateway passes them to the broker gradually
/// and cannot answer more than the limit at once. All but the first messages of a frame were delayed.
fn delayed(load: &Load, results: &[PublishResult], in_flight: u64) -> Result<u64, Error> {
    if let Some(other) = results.iter().find(|result| result.outcome() != Outcome::Confirmed) {
        return Err(Error::Scenario(format!("a message was not confirmed: {}", other.reason)));
    }
    if results.len() as u64 > in_flight {
        let text = format!("{} messages were answered at once where {in_flight} may be in flight", results.len());
        return Err(Error::Scenario(text));
    }
    let has_waited = |result: &&PublishResult| result.sequence % load.messages_per_frame >= in_flight;
    Ok(results.iter().filter(has_waited).count() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(over: Over) -> Load {
        Load { queue: String::new(), frames_per_second: 1, messages_per_frame: 100, bytes: 1, over }
    }

    fn results(sequences: std::ops::Range<u64>, outcome: Outcome, reason: &str) -> Vec<PublishResult> {
        let result = |sequence| PublishResult {
            sequence,
            outcome: outcome.into(),
            reason: reason.to_owned(),
            ..PublishResult::default()
        };
        sequences.map(result).collect()
    }

    #[test]
    fn results_over_the_limit_are_counted_by_their_reason() {
        let load = load(Over::Throttled("MESSAGE_RATE"));
        let count = |outcome, reason| over(&load, &results(0..3, outcome, reason)).expect("counted");
        assert_eq!(count(Outcome::Throttled, "MESSAGE_RATE: too many"), 3);
        assert_eq!(count(Outcome::Throttled, "BYTE_RATE: too much"), 0);
        assert_eq!(count(Outcome::Rejected, "MESSAGE_RATE: too many"), 0);
        assert_eq!(count(Outcome::Confirmed, ""), 0);
    }

    #[test]
    fn all_but_the_first_messages_of_a_frame_were_delayed() {
        let load = load(Over::Delayed(10));
        let count = |sequences| over(&load, &results(sequences, Outcome::Confirmed, "")).ok();
        assert_eq!(count(300..310), Some(0));
        assert_eq!(count(305..315), Some(5));
        assert_eq!(count(390..400), Some(10));
        assert_eq!(count(300..311), None, "more than may be in flight");
    }
}
