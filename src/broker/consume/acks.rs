//! Acknowledgements of one channel, combined: each `basic.ack` frame costs the broker a TLS record of its own, and a quorum queue an
//! entry in its log.
//!
//! Invariant: an acknowledgement is sent at most [`LONGEST`] after it was added, while deliveries are awaited, and before the
//! channel is closed.

use std::{pin::Pin, time::Duration};

use futures_util::FutureExt as _;
use lapin::{Channel, options::BasicAckOptions};
use tokio::time::{Instant, Sleep};

use crate::broker::Error;

/// So many are combined; fewer in a small window, which must not wait for its own acknowledgements.
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
    /// For a consumer with so many unacknowledged deliveries at most.
    pub(in crate::broker) fn new(channel: Channel, window: u16) -> Self {
        Self { channel, gathered: Gathered::new(window), timer: Box::pin(tokio::time::sleep(Duration::ZERO)) }
    }

    /// Acknowledges all up to and including this one.
    pub(in crate::broker) fn through(&mut self, tag: u64) -> Result<(), Error> {
        if self.gathered.is_empty() {
            self.timer.as_mut().reset(Instant::now() + LONGEST);
        }
        if self.gathered.add(tag) { self.say() } else { Ok(()) }
    }

    /// Acknowledges this one.
    pub(in crate::broker) fn single(&self, tag: u64) -> Result<(), Error> {
        self.give(tag, false)
    }

    /// Sends what was combined.
    pub(in crate::broker) fn say(&mut self) -> Result<(), Error> {
        self.gathered.take().map_or(Ok(()), |tag| self.give(tag, true))
    }

    /// Waits until something has to be sent; never returns when there is nothing. Cancel safe.
    pub(in crate::broker) async fn due(&mut self) {
        match self.gathered.is_empty() {
            true => std::future::pending().await,
            false => self.timer.as_mut().await,
        }
    }

    /// Passes an acknowledgement to the connection, in order with everything else, without waiting until it is written.
    fn give(&self, tag: u64, multiple: bool) -> Result<(), Error> {
        // The first poll passes it on. A connection that breaks before it is written fails the next delivery.
        self.channel.basic_ack(tag, BasicAckOptions { multiple }).now_or_never().transpose()?;
        Ok(())
    }
}

/// What was not sent yet.
struct Gathered {
    most: u64,
    /// The last tag that was sent.
    said: u64,
    /// The last tag that is to be sent.
    through: u64,
}

impl Gathered {
    fn new(window: u16) -> Self {
        Self { most: u64::from(window / SHARE_OF_WINDOW).clamp(1, MOST), said: 0, through: 0 }
    }

    fn is_empty(&self) -> bool {
        self.through == self.said
    }

    /// Adds all up to this tag; returns whether that is enough to be sent now.
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
