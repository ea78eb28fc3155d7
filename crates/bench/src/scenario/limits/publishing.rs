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

/// What is sent.
pub(super) struct Load {
    pub(super) queue: String,
    pub(super) frames_a_second: u32,
    pub(super) messages_a_frame: u64,
    /// Of a body.
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
        Err(Error::Inside("its stream ended".to_owned()))
    };
    tokio::select! {
        ended = receiving => ended,
        () = send(&load, &frames) => Ok(()),
    }
}

/// Never ends: what the stream's end was, the receiving side hears.
async fn send(load: &Load, frames: &mpsc::Sender<PublishRequest>) {
    let body = Bytes::from(vec![b'x'; load.bytes]);
    let mut ticks = interval(Duration::from_secs(1) / load.frames_a_second);
    // What the gateway did not read in time is not made up for: that would be a burst.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    for number in 0_u64.. {
        ticks.tick().await;
        let first = number * load.messages_a_frame;
        let publications = (first..first + load.messages_a_frame).map(|sequence| {
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

/// How many of these results tell of the limit.
fn over(load: &Load, results: &[PublishResult]) -> Result<u64, Error> {
    let says = |wanted: Outcome, reason: &str| {
        let is_over = |result: &&PublishResult| {
            result.outcome() == wanted && result.reason.split(':').next().is_some_and(|told| told == reason)
        };
        results.iter().filter(is_over).count() as u64
    };
    match load.over {
        Over::Throttled(reason) => Ok(says(Outcome::Throttled, reason)),
        Over::Rejected(reason) => Ok(says(Outcome::Rejected, reason)),
        Over::HeldBack(room) => held_back(load, results, room),
    }
}

/// A frame has far more messages than there is room for, so the gateway hands them to the broker bit by bit, and nothing it
/// answers at once can be more than the room. What was behind the first of its frame has waited.
fn held_back(load: &Load, results: &[PublishResult], room: u64) -> Result<u64, Error> {
    if let Some(other) = results.iter().find(|result| result.outcome() != Outcome::Confirmed) {
        return Err(Error::Inside(format!("a message was not confirmed: {}", other.reason)));
    }
    if results.len() as u64 > room {
        let text = format!("{} messages were answered at once where {room} may be in flight", results.len());
        return Err(Error::Inside(text));
    }
    let has_waited = |result: &&PublishResult| result.sequence % load.messages_a_frame >= room;
    Ok(results.iter().filter(has_waited).count() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(over: Over) -> Load {
        Load { queue: String::new(), frames_a_second: 1, messages_a_frame: 100, bytes: 1, over }
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
    fn what_is_over_is_counted_by_its_own_reason() {
        let load = load(Over::Throttled("MESSAGE_RATE"));
        let count = |outcome, reason| over(&load, &results(0..3, outcome, reason)).expect("counted");
        assert_eq!(count(Outcome::Throttled, "MESSAGE_RATE: too many"), 3);
        assert_eq!(count(Outcome::Throttled, "BYTE_RATE: too much"), 0);
        assert_eq!(count(Outcome::Rejected, "MESSAGE_RATE: too many"), 0);
        assert_eq!(count(Outcome::Confirmed, ""), 0);
    }

    #[test]
    fn what_waits_is_what_is_behind_the_first_of_its_frame() {
        let load = load(Over::HeldBack(10));
        let count = |sequences| over(&load, &results(sequences, Outcome::Confirmed, "")).ok();
        assert_eq!(count(300..310), Some(0));
        assert_eq!(count(305..315), Some(5));
        assert_eq!(count(390..400), Some(10));
        assert_eq!(count(300..311), None, "more than there is room for");
    }
}
