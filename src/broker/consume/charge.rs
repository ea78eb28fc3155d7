//! The memory that the deliveries of one consumer are charged to.
//!
//! Invariant: a delivery is charged before its body is stored, until it is settled and the transport has taken the
//! frame in which it was sent, whichever is later.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};
use tokio::time::Instant;

use crate::memory::{HEADER_OVERHEAD, MESSAGE_OVERHEAD, MemoryBudget, MemoryPermit};

/// Memory is reserved for several small messages at a time.
const STEP: usize = 16 * 1024;
/// How often a consumer without free memory checks whether there is some.
const RETRY: Duration = Duration::from_millis(50);

/// The memory charged for the deliveries of one consumer.
pub(super) struct DeliveryCharge {
    memory: MemoryBudget,
    permit: Option<MemoryPermit>,
    /// By tag.
    unsettled: BTreeMap<u64, Charged>,
    /// Settled deliveries whose frame was not taken by the transport.
    unread: VecDeque<Charged>,
    /// The weight of all of them.
    charged: usize,
    /// The number of the last frame.
    last_frame: u64,
    /// The number of the last frame that was taken.
    taken_frame: Arc<AtomicU64>,
    blocked: Option<Blocked>,
}

struct Charged {
    weight: usize,
    /// The frame that it was sent in; 0 before that.
    frame: u64,
}

/// A delivery for which there was no memory.
struct Blocked {
    weight: usize,
    retry: Instant,
}

/// Keeps the deliveries of one frame charged until it is dropped.
#[derive(Debug)]
pub struct UnreadFrame {
    number: u64,
    taken: Arc<AtomicU64>,
}

impl Drop for UnreadFrame {
    fn drop(&mut self) {
        self.taken.fetch_max(self.number, Ordering::Relaxed);
    }
}

impl DeliveryCharge {
    pub(super) fn new(memory: MemoryBudget) -> Self {
        Self {
            memory,
            permit: None,
            unsettled: BTreeMap::new(),
            unread: VecDeque::new(),
            charged: 0,
            last_frame: 0,
            taken_frame: Arc::default(),
            blocked: None,
        }
    }

    /// Charges a delivery, and returns whether there is memory for it.
    pub(super) fn charge(&mut self, tag: u64, weight: usize) -> bool {
        let missing = (self.charged + weight).saturating_sub(self.reserved());
        if missing > 0 && !self.grow(missing.max(STEP)) && !self.grow(missing) {
            self.blocked = Some(Blocked { weight, retry: Instant::now() + RETRY });
            return false;
        }
        self.charged += weight;
        self.unsettled.insert(tag, Charged { weight, frame: 0 });
        true
    }

    /// Records that deliveries are sent in one frame. They remain charged at least until the result is dropped.
    pub(super) fn send(&mut self, tags: impl Iterator<Item = u64>) -> UnreadFrame {
        self.last_frame += 1;
        for tag in tags {
            if let Some(delivery) = self.unsettled.get_mut(&tag) {
                delivery.frame = self.last_frame;
            }
        }
        UnreadFrame { number: self.last_frame, taken: Arc::clone(&self.taken_frame) }
    }

    /// Records that a delivery is settled.
    pub(super) fn settle(&mut self, tag: u64) {
        self.unread.extend(self.unsettled.remove(&tag));
        self.release();
    }

    /// Records that this delivery and all before it are settled.
    pub(super) fn settle_through(&mut self, tag: u64) {
        let rest = self.unsettled.split_off(&tag.saturating_add(1));
        self.unread.extend(std::mem::replace(&mut self.unsettled, rest).into_values());
        self.release();
    }

    /// Returns the memory of all deliveries that are settled and taken.
    pub(super) fn release(&mut self) {
        let taken = self.taken_frame.load(Ordering::Relaxed);
        let charged = &mut self.charged;
        self.unread.retain(|delivery| {
            let is_unread = delivery.frame > taken;
            if !is_unread {
                *charged -= delivery.weight;
            }
            is_unread
        });
        let charged = self.charged;
        match &mut self.permit {
            // A stream without deliveries uses no memory.
            permit if charged == 0 => *permit = None,
            Some(permit) if permit.bytes() > charged + 4 * STEP => permit.shrink_to(charged + STEP),
            _ => {}
        }
    }

    /// How much more may be charged now.
    pub(super) fn spare(&self) -> usize {
        self.memory.share() + self.reserved().saturating_sub(self.charged)
    }

    /// Whether the memory budget could not take the last delivery, and still cannot.
    pub(super) fn is_blocked(&mut self) -> bool {
        self.release();
        if self.blocked.as_ref().is_some_and(|blocked| self.spare() >= blocked.weight) {
            self.blocked = None;
        }
        self.blocked.is_some()
    }

    /// When to check again whether there is memory.
    pub(super) fn retry(&mut self) -> Option<Instant> {
        let blocked = self.blocked.as_mut()?;
        let now = Instant::now();
        if blocked.retry <= now {
            blocked.retry = now + RETRY;
        }
        Some(blocked.retry)
    }

    fn reserved(&self) -> usize {
        self.permit.as_ref().map_or(0, MemoryPermit::bytes)
    }

    fn grow(&mut self, bytes: usize) -> bool {
        match &mut self.permit {
            Some(permit) => permit.try_grow(bytes).is_ok(),
            None => {
                self.permit = self.memory.try_reserve_share(bytes).ok();
                self.permit.is_some()
            }
        }
    }
}

/// The memory that a delivery of this size needs.
pub(super) fn weight(bytes: usize, properties: &BasicProperties) -> usize {
    bytes + MESSAGE_OVERHEAD + HEADER_OVERHEAD * properties.headers().as_ref().map_or(0, headers)
}

fn headers(table: &FieldTable) -> usize {
    table.inner().values().map(values).sum()
}

fn values(value: &AMQPValue) -> usize {
    1 + match value {
        AMQPValue::FieldArray(array) => array.as_slice().iter().map(values).sum(),
        AMQPValue::FieldTable(table) => headers(table),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn charge(limit: usize) -> (MemoryBudget, DeliveryCharge) {
        let memory = MemoryBudget::new(limit);
        (memory.clone(), DeliveryCharge::new(memory))
    }

    #[tokio::test]
    async fn a_delivery_is_charged_until_it_is_settled_and_its_frame_is_taken() {
        for settled_first in [true, false] {
            let (memory, mut charge) = charge(1 << 20);
            assert!(charge.charge(1, 100_000) && charge.charge(2, 200_000));
            let frame = charge.send([1, 2].into_iter());
            if settled_first {
                charge.settle_through(2);
                assert!(memory.used() >= 300_000, "the frame has not been taken");
                drop(frame);
                charge.release();
            } else {
                drop(frame);
                charge.settle(1);
                assert!((200_000..300_000).contains(&memory.used()), "{} for the second", memory.used());
                charge.settle(2);
            }
            assert_eq!(memory.used(), 0);
        }
    }

    #[tokio::test]
    async fn a_delivery_without_memory_is_not_charged_until_others_return_theirs() {
        let (memory, mut charge) = charge(1 << 20);
        let others = memory.try_reserve(1_000_000).expect("free");
        assert!(charge.charge(1, 40_000), "less than a step is left, and it fits");
        assert!(!charge.charge(2, 40_000));
        assert!(charge.is_blocked() && charge.retry().is_some_and(|at| at > Instant::now()));
        drop(others);
        assert!(!charge.is_blocked() && charge.retry().is_none());
        assert!(charge.charge(2, 40_000));
        drop(charge);
        assert_eq!(memory.used(), 0);
    }

    #[tokio::test]
    async fn many_small_deliveries_leave_little_unused_memory_reserved() {
        let (memory, mut charge) = charge(64 << 20);
        for tag in 1..=10_000 {
            assert!(charge.charge(tag, 2_000));
        }
        assert!(memory.used() <= 10_000 * 2_000 + STEP);
        charge.settle_through(9_999);
        assert!((2_000..=2_000 + 4 * STEP).contains(&memory.used()), "{}", memory.used());
        charge.settle(10_000);
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn headers_weigh_more_than_their_encoded_size() {
        let mut table = FieldTable::default();
        table.insert("one".into(), AMQPValue::Boolean(true));
        table.insert("list".into(), AMQPValue::FieldArray(vec![AMQPValue::Boolean(true); 10].into()));
        let properties = BasicProperties::default().with_headers(table);
        assert_eq!(weight(500, &properties), 500 + MESSAGE_OVERHEAD + 12 * HEADER_OVERHEAD);
    }
}
