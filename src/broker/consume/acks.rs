//! Acknowledgements of one channel, combined into few `basic.ack` frames, because each frame costs the broker a TLS
//! record, and a quorum queue an entry in its log.
//!
//! Invariant: gathered acknowledgements are written within [`MAX_DELAY`] while the consumer waits for deliveries, and
//! before the channel is closed.

use std::{pin::Pin, time::Duration};

use futures_util::FutureExt as _;
use lapin::{Channel, options::BasicAckOptions};
use tokio::time::{Instant, Sleep};

use crate::broker::error::Error;

/// The number of tags that are acknowledged together. With a small window there are fewer, because deliveries would
/// otherwise wait for acknowledgements that are not written yet.
const MAX_GATHERED: u64 = 64;
const SHARE_OF_WINDOW: u16 = 4;
/// The longest that an acknowledgement waits for others.
const MAX_DELAY: Duration = Duration::from_millis(2);

pub(in crate::broker) struct Acks {
    channel: Channel,
    gathered: Gathered,
    timer: Pin<Box<Sleep>>,
}

impl Acks {
    /// For a consumer with this many unacknowledged deliveries at most.
    pub(in crate::broker) fn new(channel: Channel, window: u16) -> Self {
        Self { channel, gathered: Gathered::new(window), timer: Box::pin(tokio::time::sleep(Duration::ZERO)) }
    }

    /// Acknowledges all deliveries up to and including this tag, together with later ones.
    pub(in crate::broker) fn through(&mut self, tag: u64) -> Result<(), Error> {
        if self.gathered.is_empty() {
            self.timer.as_mut().reset(Instant::now() + MAX_DELAY);
        }
        if self.gathered.add(tag) { self.flush() } else { Ok(()) }
    }

    /// Acknowledges one delivery at once.
    pub(in crate::broker) fn single(&self, tag: u64) -> Result<(), Error> {
        self.write(tag, false)
    }

    /// Writes the gathered acknowledgements.
    pub(in crate::broker) fn flush(&mut self) -> Result<(), Error> {
        self.gathered.take().map_or(Ok(()), |tag| self.write(tag, true))
    }

    /// Waits until [`Self::flush`] is due; pending while nothing was gathered. Cancel safe.
    pub(in crate::broker) async fn due(&mut self) {
        match self.gathered.is_empty() {
            true => std::future::pending().await,
            false => self.timer.as_mut().await,
        }
    }

    /// Passes the frame to the connection, in order with all others, without waiting until it is written.
    fn write(&self, tag: u64, multiple: bool) -> Result<(), Error> {
        // The first poll passes it to lapin. If the connection is lost before it is written, the next delivery fails.
        self.channel.basic_ack(tag, BasicAckOptions { multiple }).now_or_never().transpose()?;
        Ok(())
    }
}

/// Tags that have not been acknowledged to the broker yet.
struct Gathered {
    max: u64,
    /// The last tag that was acknowledged.
    acknowledged: u64,
    /// The last tag that is to be acknowledged.
    through: u64,
}

impl Gathered {
    fn new(window: u16) -> Self {
        let max = u64::from(window / SHARE_OF_WINDOW).clamp(1, MAX_GATHERED);
        Self { max, acknowledged: 0, through: 0 }
    }

    fn is_empty(&self) -> bool {
        self.through == self.acknowledged
    }

    /// Adds all tags up to this one; returns whether they should be acknowledged now.
    fn add(&mut self, tag: u64) -> bool {
        self.through = self.through.max(tag);
        self.through - self.acknowledged >= self.max
    }

    fn take(&mut self) -> Option<u64> {
        let tag = (!self.is_empty()).then_some(self.through);
        self.acknowledged = self.through;
        tag
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_tags_are_acknowledged_by_the_last_one_and_only_once() {
        let mut gathered = Gathered::new(1_000);
        assert!((1..MAX_GATHERED).all(|tag| !gathered.add(tag)));
        assert!(gathered.add(MAX_GATHERED));
        assert_eq!((gathered.take(), gathered.take()), (Some(MAX_GATHERED), None));
        assert!(!gathered.add(MAX_GATHERED + 10));
        assert_eq!((gathered.take(), gathered.is_empty()), (Some(MAX_GATHERED + 10), true));
    }

    #[test]
    fn a_small_window_does_not_wait_for_its_own_acknowledgements() {
        assert!(Gathered::new(1).add(1));
        assert!(Gathered::new(4).add(1));
        let mut of_forty = Gathered::new(40);
        assert!(!of_forty.add(9) && of_forty.add(10));
    }
}
