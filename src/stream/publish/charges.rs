//! The memory that the messages of a publish stream are charged to.
//!
//! Invariant: as long as one message of a frame has no outcome, the whole frame is charged, because its messages share
//! the memory of the frame.

use std::collections::BTreeMap;

use crate::{
    memory::{Full, HEADER_OVERHEAD, MESSAGE_OVERHEAD, MemoryBudget, MemoryPermit},
    pb::{Publication, Value, value::Kind},
};

/// The frames of one stream that have messages without an outcome.
pub(super) struct FrameCharges {
    memory: MemoryBudget,
    /// By the number of the first message of each.
    open: BTreeMap<u64, OpenFrame>,
    /// The weight of the last frame: the next one is expected to be as large.
    last_weight: usize,
}

struct OpenFrame {
    unanswered: usize,
    _permit: MemoryPermit,
}

impl FrameCharges {
    pub(super) fn new(memory: MemoryBudget) -> Self {
        Self { memory, open: BTreeMap::new(), last_weight: 0 }
    }

    /// Whether to read no further frame: there may be no memory for it, and this stream is going to return memory.
    pub(super) fn is_short(&self) -> bool {
        !self.open.is_empty() && self.memory.share() < 2 * self.last_weight
    }

    /// Reserves memory for a frame.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn reserve(&mut self, weight: usize) -> Result<MemoryPermit, Full> {
        self.last_weight = weight;
        self.memory.try_reserve_share(weight)
    }

    /// Keeps a frame charged until this number of its messages have an outcome; `first` is the number of its first
    /// message.
    pub(super) fn keep(&mut self, first: u64, unanswered: usize, permit: MemoryPermit) {
        if unanswered > 0 {
            self.open.insert(first, OpenFrame { unanswered, _permit: permit });
        }
    }

    /// Records that the messages of these numbers have an outcome.
    pub(super) fn settled(&mut self, orders: impl Iterator<Item = u64>) {
        for order in orders {
            let Some((first, frame)) = self.open.range_mut(..=order).next_back() else { continue };
            frame.unanswered = frame.unanswered.saturating_sub(1);
            let (first, is_answered) = (*first, frame.unanswered == 0);
            if is_answered {
                self.open.remove(&first);
            }
        }
    }
}

/// The memory that publications of these encoded sizes need once they are decoded.
pub(super) fn weight(publications: &[Publication], sizes: &[usize]) -> usize {
    let headers = |publication: &Publication| {
        publication.message.as_ref().map_or(0, |message| message.headers.values().map(values).sum::<usize>())
    };
    let names = |publication: &Publication| publication.exchange.len() + publication.routing_key.len();
    let extra: usize = publications.iter().map(|it| MESSAGE_OVERHEAD + names(it) + HEADER_OVERHEAD * headers(it)).sum();
    extra + sizes.iter().sum::<usize>()
}

fn values(value: &Value) -> usize {
    1 + match &value.kind {
        Some(Kind::ListValue(list)) => list.values.iter().map(values).sum(),
        Some(Kind::TableValue(table)) => table.entries.values().map(values).sum(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::{Message, ValueList};

    #[test]
    fn a_frame_is_charged_until_its_last_message_has_an_outcome() {
        let memory = MemoryBudget::new(1_000);
        let mut charges = FrameCharges::new(memory.clone());
        for (first, unanswered) in [(0, 3), (3, 0), (5, 2)] {
            let permit = charges.reserve(100).expect("free");
            charges.keep(first, unanswered, permit);
        }
        assert_eq!(memory.used(), 200, "a frame without accepted messages is not kept");
        charges.settled([0, 2, 5].into_iter());
        assert_eq!(memory.used(), 200);
        charges.settled([1].into_iter());
        assert_eq!(memory.used(), 100);
        charges.settled([6, 77].into_iter());
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn a_stream_reads_on_when_it_has_nothing_to_return() {
        let memory = MemoryBudget::new(1_000);
        let mut charges = FrameCharges::new(memory.clone());
        let others = memory.try_reserve(700).expect("free");
        let permit = charges.reserve(200).expect("free");
        charges.keep(0, 1, permit);
        assert!(charges.is_short(), "100 bytes are free");
        charges.settled([0].into_iter());
        assert!(!charges.is_short());
        assert_eq!(charges.reserve(400).expect_err("only 300 are free"), Full);
        drop(others);
    }

    #[test]
    fn every_header_weighs_more_than_its_bytes() {
        let list = Value { kind: Some(Kind::ListValue(ValueList { values: vec![Value::default(); 9] })) };
        let headers = [("list".to_owned(), list)].into_iter().collect();
        let publication = Publication {
            exchange: "orders".into(),
            message: Some(Message { headers, ..Message::default() }),
            ..Publication::default()
        };
        assert_eq!(weight(&[publication], &[50]), 50 + 6 + MESSAGE_OVERHEAD + 10 * HEADER_OVERHEAD);
    }
}
