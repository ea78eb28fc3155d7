//! Acknowledgements of one channel, gathered. Tags enter as "all up to and with this one"; the fewest `basic.ack` frames that say
//! the same leave. Each frame costs the broker a TLS record of its own, and a quorum queue an entry in its log. Invariant: what
//! entered has left after [`LONGEST`] of waiting for deliveries, and before the channel is closed.

use std::{pin::Pin, time::Duration};

use futures_util::FutureExt as _;
use lapin::{Channel, options::BasicAckOptions};
use tokio::time::{Instant, Sleep};

use crate::broker::Error;

/// So many are said at once; fewer where the window is small, which must not wait for its own acknowledgements.
const MOST: u64 = 64;
const SHARE_OF_WINDOW: u16 = 4;
/// The longest that an acknowledgement waits for others.
const LONGEST: Duration = Duration::from_millis(2);

pub(in crate::broker) struct Acks {
    channel: Channel,
    gathered: Gathered,
    timer: Pin<Box<Sleep>>,
}

impl Acks {
    /// For a consumer that may have so many unacknowledged.
    pub(in crate::broker) fn new(channel: Channel, window: u16) -> Self {
        Self { channel, gathered: Gathered::new(window), timer: Box::pin(tokio::time::sleep(Duration::ZERO)) }
    }

    /// Done with all up to and with this one.
    pub(in crate::broker) fn through(&mut self, tag: u64) -> Result<(), Error> {
        if self.gathered.is_empty() {
            self.timer.as_mut().reset(Instant::now() + LONGEST);
        }
        if self.gathered.add(tag) { self.say() } else { Ok(()) }
    }

    /// Done with this one.
    pub(in crate::broker) fn single(&self, tag: u64) -> Result<(), Error> {
        self.give(tag, false)
    }

    /// Says what was gathered.
    pub(in crate::broker) fn say(&mut self) -> Result<(), Error> {
        self.gathered.take().map_or(Ok(()), |tag| self.give(tag, true))
    }

    /// Waits until something has to be said; for ever when there is nothing. Cancel safe.
    pub(in crate::broker) async fn due(&mut self) {
        match self.gathered.is_empty() {
            true => std::future::pending().await,
            false => self.timer.as_mut().await,
        }
    }

    /// Given to the connection, in order with all else; nobody waits until it is written.
    fn give(&self, tag: u64, multiple: bool) -> Result<(), Error> {
        // The first poll hands it over. A link that breaks before it is written says so at the next delivery.
        self.channel.basic_ack(tag, BasicAckOptions { multiple }).now_or_never().transpose()?;
        Ok(())
    }
}

/// What the broker was not told yet.
struct Gathered {
    most: u64,
    /// The last tag that the broker was told.
    said: u64,
    /// The last one that it is to be told.
    through: u64,
}

impl Gathered {
    fn new(window: u16) -> Self {
        Self { most: u64::from(window / SHARE_OF_WINDOW).clamp(1, MOST), said: 0, through: 0 }
    }

    fn is_empty(&self) -> bool {
        self.through == self.said
    }

    /// Takes all up to this one in; whether that is enough to be said now.
    fn add(&mut self, tag: u64) -> bool {
        self.through = self.through.max(tag);
        self.through - self.said >= self.most
    }

    fn take(&mut self) -> Option<u64> {
        let tag = (!self.is_empty()).then_some(self.through);
        self.said = self.through;
        tag
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_are_said_by_the_last_one_and_what_was_said_is_not_said_again() {
        let mut gathered = Gathered::new(1_000);
        assert!((1..MOST).all(|tag| !gathered.add(tag)));
        assert!(gathered.add(MOST));
        assert_eq!((gathered.take(), gathered.take()), (Some(MOST), None));
        assert!(!gathered.add(MOST + 10));
        assert_eq!((gathered.take(), gathered.is_empty()), (Some(MOST + 10), true));
    }

    #[test]
    fn a_small_window_is_not_held_up_by_its_own_acknowledgements() {
        assert!(Gathered::new(1).add(1));
        assert!(Gathered::new(4).add(1));
        let mut of_forty = Gathered::new(40);
        assert!(!of_forty.add(9) && of_forty.add(10));
    }
}
