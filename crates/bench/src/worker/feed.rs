//! The messages of a publishing stream and their timing: warm-up messages, then after "go" either as many as possible
//! or those that are due.
//!
//! At a fixed rate each body begins with the time at which it was due, in nanoseconds from the process's epoch, so that
//! the consumer can compute its latency.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use super::tally::Tally;
use crate::Error;

/// When a message was due: nanoseconds from the epoch; 0 for a message without a fixed time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Due(u64);

impl Due {
    pub(super) const NEVER: Self = Self(0);

    /// Reads it from a body.
    pub(super) fn of(body: &[u8]) -> Self {
        body.first_chunk().map_or(Self::NEVER, |bytes| Self(u64::from_be_bytes(*bytes)))
    }

    pub(super) fn at(self, epoch: Instant) -> Option<Instant> {
        (self.0 > 0).then(|| epoch + Duration::from_nanos(self.0))
    }
}

/// A message to send.
pub(super) struct Item {
    pub(super) body: Bytes,
    pub(super) due: Due,
}

/// The messages of one stream.
pub(super) struct Feed {
    warm: usize,
    bodies: Arc<[Bytes]>,
    /// The number of bodies sent.
    sent: usize,
    go: watch::Receiver<Option<Instant>>,
    tally: Arc<Tally>,
    source: Source,
    limits_backlog: bool,
}

enum Source {
    Full { duration: Duration },
    Paced(mpsc::UnboundedReceiver<Item>),
    Nothing,
}

impl Feed {
    /// `warm` messages at once; the others only after "go".
    pub(super) fn full(warm: usize, shared: &FeedContext, duration: Duration) -> Self {
        shared.feed(warm, Source::Full { duration })
    }

    /// The messages that arrive through the channel.
    pub(super) fn paced(warm: usize, shared: &FeedContext, items: mpsc::UnboundedReceiver<Item>) -> Self {
        shared.feed(warm, Source::Paced(items))
    }

    /// The warm-up messages only.
    pub(super) fn nothing(warm: usize, shared: &FeedContext) -> Self {
        shared.feed(warm, Source::Nothing)
    }

    /// The next messages, at max `max`; `None` at the end. Counts them as published. Cancel-safe.
    pub(super) async fn next(&mut self, max: usize) -> Option<Vec<Item>> {
        let items = self.wait(max).await?;
        self.tally.published(items.len());
        Some(items)
    }

    async fn wait(&mut self, max: usize) -> Option<Vec<Item>> {
        if self.warm > 0 {
            let count = max.min(self.warm);
            self.warm -= count;
            return Some(self.plain(count));
        }
        let started = (*self.go.wait_for(Option::is_some).await.ok()?)?;
        match &mut self.source {
            Source::Nothing => None,
            Source::Full { duration } => {
                let end = started + *duration;
                if self.limits_backlog {
                    self.tally.wait_for_capacity().await;
                }
                (Instant::now() < end && !self.tally.done().is_cancelled()).then(|| self.plain(max))
            }
            Source::Paced(items) => {
                let mut batch = Vec::new();
                (items.recv_many(&mut batch, max).await > 0).then_some(batch)
            }
        }
    }

    fn plain(&mut self, count: usize) -> Vec<Item> {
        let from = self.sent;
        self.sent += count;
        (from..self.sent)
            .map(|number| Item { body: self.bodies[number % self.bodies.len()].clone(), due: Due::NEVER })
            .collect()
    }
}

/// The state that all feeds of a process share.
pub(super) struct FeedContext {
    pub(super) tally: Arc<Tally>,
    pub(super) go: watch::Receiver<Option<Instant>>,
    /// Bodies without a due time, which are sent in turn; at least one.
    pub(super) bodies: Arc<[Bytes]>,
    /// Whether publishing waits until the consumer has caught up.
    pub(super) limits_backlog: bool,
}

impl FeedContext {
    fn feed(&self, warm: usize, source: Source) -> Feed {
        Feed {
            warm,
            bodies: Arc::clone(&self.bodies),
            sent: 0,
            go: self.go.clone(),
            tally: Arc::clone(&self.tally),
            source,
            limits_backlog: self.limits_backlog,
        }
    }
}

/// Bodies of these sizes. Those of equal size share their bytes.
pub(super) fn bodies(sizes: &[usize]) -> Arc<[Bytes]> {
    let largest = body(sizes.iter().copied().max().unwrap_or_default());
    sizes.iter().map(|size| largest.slice(..*size)).collect()
}

/// Incompressible bytes for a body, beginning with no due time.
pub(super) fn body(size: usize) -> Bytes {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut body: Vec<u8> = (0..size)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[0]
        })
        .collect();
    body.iter_mut().take(8).for_each(|byte| *byte = 0);
    body.into()
}

/// Sends bodies at their times from a separate thread, because the runtime's timer has a resolution of one millisecond.
/// The first tenth is not measured.
///
/// # Errors
/// When no thread can be started.
pub(super) fn pace(
    streams: Vec<mpsc::UnboundedSender<Item>>,
    plain: Bytes,
    epoch: Instant,
    per_second: f64,
    duration: Duration,
) -> Result<(), Error> {
    let interval = Duration::from_secs_f64(1.0 / per_second.max(0.001));
    let run = move || {
        let start = Instant::now();
        let unmeasured = duration / 10;
        for (index, stream) in (0_u32..).zip(streams.iter().cycle()) {
            let offset = interval * index;
            if offset >= duration {
                break;
            }
            let due = start + offset;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let nanos = u64::try_from(due.saturating_duration_since(epoch).as_nanos()).unwrap_or(u64::MAX);
            let due = if offset < unmeasured { Due::NEVER } else { Due(nanos) };
            let mut body = plain.to_vec();
            body.iter_mut().zip(due.0.to_be_bytes()).for_each(|(to, byte)| *to = byte);
            if stream.send(Item { body: body.into(), due }).is_err() {
                break;
            }
        }
    };
    std::thread::Builder::new().name("pace".to_owned()).spawn(run).map_err(Error::Pipe)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_contains_the_time_at_which_it_was_due() {
        let epoch = Instant::now();
        assert_eq!(Due::of(&body(64)), Due::NEVER);
        assert_eq!(Due::of(b"short"), Due::NEVER);
        let (stream, mut items) = mpsc::unbounded_channel();
        pace(vec![stream], body(16), epoch, 1_000.0, Duration::from_millis(20)).expect("a thread");
        let mut seen = Vec::new();
        while let Some(item) = items.blocking_recv() {
            assert_eq!(item.body.len(), 16);
            assert_eq!(Due::of(&item.body), item.due);
            seen.push(item.due);
        }
        assert_eq!(seen.len(), 20);
        assert!(seen[..2].iter().all(|due| *due == Due::NEVER), "the first tenth is not measured");
        assert!(seen[2..].iter().all(|due| due.at(epoch).is_some()));
    }
}
