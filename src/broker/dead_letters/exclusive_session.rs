//! One turn with the dead letters. The queue serves one consumer at a time (`x-single-active-consumer`), so that all who
//! look, on all gateways, see every dead letter; a turn is as short as a look through all of them. They are consumed
//! without an acknowledgement, and are all back when the channel closes.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use lapin::{
    Channel,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions},
    types::FieldTable,
};
use tokio::time::Instant;

use super::DeadLetter;
use crate::broker::{
    Error,
    connection::live::ChannelGuard,
    handle::Links,
    topology::{DEAD_LETTERS, QueueState, queue_state},
};

/// For one's turn to come.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Between two questions whether it has.
const TICK: Duration = Duration::from_millis(50);
/// For the next dead letter, before the broker is asked whether there is one.
const QUIET: Duration = Duration::from_secs(1);
const SETUP: Duration = Duration::from_secs(10);

/// A consumer of all dead letters.
pub(super) struct Turn {
    links: Arc<Links>,
    channel: Channel,
    guard: ChannelGuard,
    deliveries: lapin::Consumer,
    /// How many there are, as far as we know.
    expected: u64,
    seen: u64,
    until: Instant,
}

impl Turn {
    /// Waits for the turn.
    ///
    /// # Errors
    /// [`Error::Busy`] when it does not come, and when the broker is away.
    pub(super) async fn begin(links: &Arc<Links>) -> Result<Self, Error> {
        let until = Instant::now() + TIMEOUT;
        let state = loop {
            let state = queue_state(links, DEAD_LETTERS).await?;
            if state.consumers == 0 {
                break state;
            }
            if Instant::now() > until {
                return Err(Error::Busy);
            }
            tokio::time::sleep(TICK).await;
        };
        let (channel, guard) = links.consume.channel().await?;
        let opening = async {
            // No limit: whoever looks must get to the last one.
            channel.basic_qos(0, BasicQosOptions::default()).await?;
            let options = BasicConsumeOptions::default();
            channel.basic_consume(DEAD_LETTERS.into(), "".into(), options, FieldTable::default()).await
        };
        let deliveries = tokio::time::timeout(SETUP, opening).await.map_err(|_| Error::Timeout)??;
        let expected = state.messages.into();
        Ok(Self { links: Arc::clone(links), channel, guard, deliveries, expected, seen: 0, until })
    }

    /// The next dead letter and its tag; none after the last.
    ///
    /// # Errors
    /// When the broker is away.
    pub(super) async fn next(&mut self) -> Result<Option<(u64, DeadLetter)>, Error> {
        while self.seen < self.expected {
            let next = tokio::select! {
                () = self.guard.lost().cancelled() => return Err(Error::Unreachable(None)),
                next = tokio::time::timeout(QUIET, self.deliveries.next()) => next,
            };
            match next {
                Ok(Some(Ok(delivery))) => {
                    self.seen += 1;
                    return Ok(Some((delivery.delivery_tag, DeadLetter::read(delivery))));
                }
                Ok(Some(Err(error))) => return Err(self.guard.explain(error.into())),
                Ok(None) => return Err(Error::QueueDeleted(DEAD_LETTERS.to_owned())),
                Err(_) => {
                    // Somebody was a moment earlier, and has taken some; or has the turn still.
                    let QueueState { messages, consumers } = queue_state(&self.links, DEAD_LETTERS).await?;
                    if messages == 0 && (consumers <= 1 || self.seen > 0) {
                        break;
                    }
                    if Instant::now() > self.until && self.seen == 0 {
                        return Err(Error::Busy);
                    }
                }
            }
        }
        Ok(None)
    }

    /// Takes one out.
    ///
    /// # Errors
    /// When the broker is away; it is still there then.
    pub(super) async fn ack(&self, tag: u64) -> Result<(), Error> {
        Ok(self.channel.basic_ack(tag, BasicAckOptions::default()).await?)
    }

    /// Gives all others back. (Dropping it does so too, a moment later.)
    pub(super) async fn end(self) {
        // Not cancelled first: the broker takes the consumer and gives back what it had in one step only when it goes.
        let _ = tokio::time::timeout(SETUP, self.channel.close(200, "done".into())).await;
    }
}
