//! Exclusive access to a tenant's dead letters. They are consumed without acknowledgement, and all return to the queue
//! when the session ends.
//!
//! A session must see every dead letter or fail, never report fewer. Therefore it begins only when the queue has no
//! consumer: then all dead letters are ready, and the number of ready messages is the number that the session has to
//! deliver. The queue serves one consumer at a time (`x-single-active-consumer`), so if two gateways begin at the same
//! moment, one of them receives nothing until the other has ended, and fails with [`Error::Busy`] if it receives none in
//! time.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use lapin::{
    Channel,
    options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions},
    types::FieldTable,
};
use tokio::{sync::OwnedMutexGuard, time::Instant};

use super::letter::DeadLetter;
use crate::broker::{
    connection::{live::ChannelGuard, tenant_connections::TenantConnections},
    error::Error,
    gateway_objects::DEAD_LETTERS,
    topology::queue_state,
};

/// How long to wait for access, and for the next dead letter.
const ACCESS_TIMEOUT: Duration = Duration::from_secs(15);
/// The interval between two checks whether another gateway has finished.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
const SETUP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait until the broker has processed all removals.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(30);
/// How many tags of letters that were removed out of order are remembered, to remove others together.
const MAX_REMEMBERED: usize = 2_000;

/// A consumer of all dead letters.
pub(super) struct ExclusiveSession {
    channel: Channel,
    guard: ChannelGuard,
    deliveries: lapin::Consumer,
    /// How many dead letters have not been delivered yet.
    remaining: u32,
    /// Whether one has been delivered.
    has_access: bool,
    removed: Removed,
    /// Excludes the other calls on this gateway.
    _lock: OwnedMutexGuard<()>,
}

impl ExclusiveSession {
    /// Waits for access.
    ///
    /// # Errors
    /// [`Error::Busy`] when other calls do not finish in time; otherwise when the broker cannot be reached.
    pub(super) async fn begin(connections: &Arc<TenantConnections>) -> Result<Self, Error> {
        let until = Instant::now() + ACCESS_TIMEOUT;
        let lock = Arc::clone(&connections.dead_letters).lock_owned();
        let lock = tokio::time::timeout_at(until, lock).await.map_err(|_| Error::Busy)?;
        let remaining = loop {
            let state = queue_state(connections, DEAD_LETTERS).await?;
            if state.consumers == 0 {
                break state.messages;
            }
            if Instant::now() > until {
                return Err(Error::Busy);
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        };
        let (channel, guard) = connections.consume.channel().await?;
        let opening = async {
            // Without a prefetch, because no dead letter is acknowledged before the last one has been delivered.
            channel.basic_qos(0, BasicQosOptions::default()).await?;
            let options = BasicConsumeOptions::default();
            channel.basic_consume(DEAD_LETTERS.into(), "".into(), options, FieldTable::default()).await
        };
        let deliveries = tokio::time::timeout(SETUP_TIMEOUT, opening).await.map_err(|_| Error::Timeout)??;
        Ok(Self { channel, guard, deliveries, remaining, has_access: false, removed: Removed::default(), _lock: lock })
    }

    /// The next dead letter and its tag; `None` after the last one.
    ///
    /// # Errors
    /// [`Error::Busy`] when another gateway has access; otherwise when the broker cannot be reached or delivers fewer
    /// letters than it had counted.
    pub(super) async fn next(&mut self) -> Result<Option<(u64, DeadLetter)>, Error> {
        if self.remaining == 0 {
            return Ok(None);
        }
        let next = tokio::select! {
            () = self.guard.lost().cancelled() => return Err(Error::Unreachable(None)),
            next = tokio::time::timeout(ACCESS_TIMEOUT, self.deliveries.next()) => next,
        };
        match next {
            Ok(Some(Ok(delivery))) => {
                self.remaining -= 1;
                self.has_access = true;
                Ok(Some((delivery.delivery_tag, DeadLetter::read(delivery))))
            }
            Ok(Some(Err(error))) => Err(self.guard.explain(error.into())),
            Ok(None) => Err(Error::QueueDeleted(DEAD_LETTERS.to_owned())),
            // Another gateway may have removed some after this session had counted them.
            Err(_) if self.has_access => Err(Error::Timeout),
            Err(_) => Err(Error::Busy),
        }
    }

    /// Removes dead letters. It is certain only when [`Self::end`] succeeds.
    ///
    /// # Errors
    /// When the broker cannot be reached; then the dead letters are still in the queue.
    pub(super) async fn remove(&mut self, tags: Vec<u64>) -> Result<(), Error> {
        for Removal { tag, multiple } in self.removed.add(tags) {
            self.channel.basic_ack(tag, BasicAckOptions { multiple }).await?;
        }
        Ok(())
    }

    /// Waits until all removals are certain, and returns all other letters to the queue. Dropping the session also
    /// returns them, a moment later, and may return some of those that were removed last.
    ///
    /// # Errors
    /// When the broker cannot be reached; some of those that were removed last may have returned to the queue.
    pub(super) async fn end(self) -> Result<(), Error> {
        let removed = match self.removed.is_empty() {
            true => Ok(()),
            false => tokio::select! {
                () = self.guard.lost().cancelled() => Err(Error::Unreachable(None)),
                removed = tokio::time::timeout(REMOVAL_TIMEOUT, self.complete_removals()) => {
                    removed.unwrap_or(Err(Error::Timeout))
                }
            },
        };
        // The consumer is not cancelled first: when the channel closes, the broker removes the consumer and returns its
        // deliveries in one step.
        let _ = tokio::time::timeout(SETUP_TIMEOUT, self.channel.close(200, "done".into())).await;
        removed
    }

    /// Waits until the queue has processed all acknowledgements. A channel of RabbitMQ keeps them back while 32 commands
    /// to a quorum queue are pending, and drops them when it closes. Adding and cancelling a consumer are commands to the
    /// same queue, in the same order, that the broker answers after it has processed them. This queue never delivers to a
    /// second consumer.
    async fn complete_removals(&self) -> Result<(), Error> {
        // Acknowledgements that were kept back follow when the first commands have been processed.
        for _ in 0..2 {
            let options = BasicConsumeOptions::default();
            let waiting = self.channel.basic_consume(DEAD_LETTERS.into(), "".into(), options, FieldTable::default());
            let waiting = waiting.await.map_err(|error| self.guard.explain(error.into()))?;
            self.channel.basic_cancel(waiting.tag(), BasicCancelOptions::default()).await?;
        }
        Ok(())
    }
}

/// The tags of removed letters.
#[derive(Debug, Default)]
struct Removed {
    /// All up to this one are removed.
    through: u64,
    /// Those after it.
    beyond: BTreeSet<u64>,
    /// Whether there were too many of these to remember them, so that all others are removed one by one.
    is_one_by_one: bool,
}

/// An acknowledgement.
#[derive(Debug, PartialEq, Eq)]
struct Removal {
    tag: u64,
    multiple: bool,
}

impl Removed {
    /// The acknowledgements of these letters: as few as possible, each for a letter that has not been acknowledged,
    /// because the broker closes the channel otherwise.
    fn add(&mut self, mut tags: Vec<u64>) -> Vec<Removal> {
        tags.sort_unstable();
        if !self.is_one_by_one {
            self.beyond.extend(&tags);
            while self.beyond.remove(&(self.through + 1)) {
                self.through += 1;
            }
        }
        if self.beyond.len() > MAX_REMEMBERED {
            self.is_one_by_one = true;
            self.beyond = BTreeSet::new();
        }
        let single = tags.split_off(tags.partition_point(|tag| *tag <= self.through));
        let all = tags.last().map(|tag| Removal { tag: *tag, multiple: true });
        all.into_iter().chain(single.into_iter().map(|tag| Removal { tag, multiple: false })).collect()
    }

    fn is_empty(&self) -> bool {
        self.through == 0 && self.beyond.is_empty() && !self.is_one_by_one
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_acknowledged_together_and_each_only_once() {
        let (all, one) = (|tag| Removal { tag, multiple: true }, |tag| Removal { tag, multiple: false });
        let mut removed = Removed::default();
        assert_eq!(removed.add(vec![2, 1]), [all(2)]);
        assert_eq!(removed.add(vec![6, 4]), [one(4), one(6)], "3 and 5 remain");
        assert_eq!(removed.add(vec![3]), [all(3)], "4 is acknowledged already");
        assert_eq!(removed.add(vec![7, 5]), [all(7)]);
        assert_eq!(removed.add(vec![9]), [one(9)]);
        assert_eq!(removed.add(vec![]), []);
    }

    #[test]
    fn letters_beyond_the_remembered_ones_are_acknowledged_one_by_one() {
        let one = |tag| Removal { tag, multiple: false };
        let mut removed = Removed::default();
        assert!(removed.is_empty());
        let last = MAX_REMEMBERED as u64 + 2;
        assert_eq!(removed.add((2..=last).collect()), (2..=last).map(one).collect::<Vec<_>>());
        assert!(removed.beyond.is_empty() && !removed.is_empty());
        assert_eq!(removed.add(vec![1, last + 1]), [one(1), one(last + 1)], "2 is acknowledged already");
    }
}
