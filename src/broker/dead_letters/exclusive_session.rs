//! Exclusive access to a tenant's dead letters. They are consumed without acknowledgement, and all return to the queue
//! when the session ends.
//!
//! A session must see every dead letter or fail, never report fewer. Therefore it begins only when the queue has no
//! consumer: then all dead letters are ready, and the number of ready messages is the number that the session has to
//! deliver. The queue serves one consumer at a time (`x-single-active-consumer`), so if two gateways begin at the same
//! moment, one of them receives nothing until the other has ended, and fails with [`Error::Busy`] if it does not
//! receive all in time.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use lapin::{
    Channel,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions},
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

/// A consumer of all dead letters.
pub(super) struct ExclusiveSession {
    channel: Channel,
    guard: ChannelGuard,
    deliveries: lapin::Consumer,
    /// How many dead letters have not been delivered yet.
    remaining: u32,
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
        Ok(Self { channel, guard, deliveries, remaining, _lock: lock })
    }

    /// The next dead letter and its tag; `None` after the last one.
    ///
    /// # Errors
    /// [`Error::Busy`] when another gateway has access; otherwise when the broker cannot be reached.
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
                Ok(Some((delivery.delivery_tag, DeadLetter::read(delivery))))
            }
            Ok(Some(Err(error))) => Err(self.guard.explain(error.into())),
            Ok(None) => Err(Error::QueueDeleted(DEAD_LETTERS.to_owned())),
            Err(_) => Err(Error::Busy),
        }
    }

    /// Removes a dead letter.
    ///
    /// # Errors
    /// When the broker cannot be reached; then the dead letter is still in the queue.
    pub(super) async fn ack(&self, tag: u64) -> Result<(), Error> {
        Ok(self.channel.basic_ack(tag, BasicAckOptions::default()).await?)
    }

    /// Returns all others to the queue. Dropping the session has the same effect a moment later.
    pub(super) async fn end(self) {
        // No cancel is sent first: when the channel closes, the broker removes the consumer and returns its deliveries
        // in one step.
        let _ = tokio::time::timeout(SETUP_TIMEOUT, self.channel.close(200, "done".into())).await;
    }
}
