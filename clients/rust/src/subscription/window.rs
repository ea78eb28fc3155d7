//! The state of a subscription, without I/O: unsettled deliveries, settlements to write, and a stream queue's position.
//!
//! A settlement of one epoch is never written in another, so a late settlement cannot apply to a new message with the
//! same id.

use std::collections::{BTreeMap, VecDeque};

use crate::pb::{self, subscribe_request::Frame};

/// The API's limit for one frame.
const IDS_IN_FRAME: usize = 10_000;

/// A settlement of deliveries of one epoch.
#[derive(Debug)]
pub(super) struct Settlement {
    epoch: u64,
    frame: Frame,
}

impl Settlement {
    /// Acknowledges one delivery.
    pub(super) fn ack(epoch: u64, id: u64) -> Self {
        Self { epoch, frame: Frame::Ack(pb::Ack { delivery_ids: vec![id], through: 0 }) }
    }

    /// Acknowledges all deliveries up to and including this one.
    pub(super) fn ack_through(epoch: u64, id: u64) -> Self {
        // Its id is not listed separately: the gateway would report it as already settled.
        Self { epoch, frame: Frame::Ack(pb::Ack { delivery_ids: Vec::new(), through: id }) }
    }

    pub(super) fn nack(epoch: u64, nack: pb::Nack) -> Self {
        Self { epoch, frame: Frame::Nack(nack) }
    }

    pub(super) fn extend(epoch: u64, extend: pb::ExtendLease) -> Self {
        Self { epoch, frame: Frame::ExtendLease(extend) }
    }
}

/// The deliveries of the current epoch.
#[derive(Debug)]
pub(super) struct Window {
    epoch: u64,
    tracked: bool,
    /// By id, with the offset in a stream queue.
    unsettled: BTreeMap<u64, Option<u64>>,
    last_offset: Option<u64>,
    unwritten: VecDeque<Frame>,
}

impl Window {
    /// Deliveries are not tracked when the gateway acknowledges them itself.
    pub(super) fn new(tracked: bool) -> Self {
        Self { epoch: 0, tracked, unsettled: BTreeMap::new(), last_offset: None, unwritten: VecDeque::new() }
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(super) fn delivered(&mut self, deliveries: &[pb::Delivery]) {
        for delivery in deliveries {
            self.last_offset = delivery.stream_offset.or(self.last_offset);
            if self.tracked {
                self.unsettled.insert(delivery.delivery_id, delivery.stream_offset);
            }
        }
    }

    /// Records a settlement and queues its frame. An acknowledgement is merged into a preceding one.
    pub(super) fn settle(&mut self, settlement: Settlement) {
        if settlement.epoch != self.epoch {
            return;
        }
        match &settlement.frame {
            Frame::Ack(ack) => self.forget(&ack.delivery_ids, ack.through),
            Frame::Nack(nack) => self.forget(&nack.delivery_ids, 0),
            _ => {}
        }
        // Only adjacent frames are merged: `through` must not overtake a Nack before it.
        if let (Some(Frame::Ack(last)), Frame::Ack(ack)) = (self.unwritten.back_mut(), &settlement.frame)
            && last.delivery_ids.len() + ack.delivery_ids.len() <= IDS_IN_FRAME
        {
            last.through = last.through.max(ack.through);
            last.delivery_ids.extend(&ack.delivery_ids);
            if last.through > 0 {
                let through = last.through;
                last.delivery_ids.retain(|id| *id > through);
            }
            return;
        }
        self.unwritten.push_back(settlement.frame);
    }

    /// The gateway reports these deliveries as expired or unknown.
    pub(super) fn expired(&mut self, ids: &[u64]) {
        self.forget(ids, 0);
    }

    pub(super) fn next_frame(&mut self) -> Option<Frame> {
        self.unwritten.pop_front()
    }

    pub(super) fn has_unwritten(&self) -> bool {
        !self.unwritten.is_empty()
    }

    /// Whether every delivery is settled and written.
    pub(super) fn is_settled(&self) -> bool {
        self.unsettled.is_empty() && self.unwritten.is_empty()
    }

    /// Starts the next epoch: all ids so far become invalid.
    pub(super) fn next_epoch(&mut self) {
        // A stream queue is read again from its first unsettled message on.
        if let Some(first) = self.unsettled.values().flatten().min() {
            self.last_offset = first.checked_sub(1);
        }
        self.epoch += 1;
        self.unsettled.clear();
        self.unwritten.clear();
    }

    /// The offset at which a stream queue resumes; `None` for other queues and before the first message.
    pub(super) fn resume_from(&self) -> Option<u64> {
        self.last_offset.map(|offset| offset + 1)
    }

    fn forget(&mut self, ids: &[u64], through: u64) {
        for id in ids {
            self.unsettled.remove(id);
        }
        if through > 0 {
            self.unsettled = self.unsettled.split_off(&(through + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery(id: u64, offset: Option<u64>) -> pb::Delivery {
        pb::Delivery { delivery_id: id, stream_offset: offset, ..Default::default() }
    }

    fn window(ids: std::ops::RangeInclusive<u64>) -> Window {
        let mut window = Window::new(true);
        window.delivered(&ids.map(|id| delivery(id, None)).collect::<Vec<_>>());
        window
    }

    fn nack(id: u64) -> pb::Nack {
        pb::Nack { delivery_ids: vec![id], ..Default::default() }
    }

    #[test]
    fn acknowledgements_are_merged_but_never_overtake_a_nack() {
        let mut window = window(1..=9);
        window.settle(Settlement::ack(0, 1));
        window.settle(Settlement::ack(0, 2));
        window.settle(Settlement::nack(0, nack(5)));
        window.settle(Settlement::ack_through(0, 9));
        let frames: Vec<Frame> = std::iter::from_fn(|| window.next_frame()).collect();
        assert_eq!(
            frames,
            [
                Frame::Ack(pb::Ack { delivery_ids: vec![1, 2], through: 0 }),
                Frame::Nack(nack(5)),
                Frame::Ack(pb::Ack { delivery_ids: vec![], through: 9 }),
            ]
        );
        assert!(window.is_settled());
    }

    #[test]
    fn ids_covered_by_through_are_not_listed_separately() {
        let mut window = window(1..=9);
        for settlement in [Settlement::ack(0, 2), Settlement::ack(0, 7), Settlement::ack_through(0, 5)] {
            window.settle(settlement);
        }
        window.settle(Settlement::ack(0, 6));
        assert_eq!(window.next_frame(), Some(Frame::Ack(pb::Ack { delivery_ids: vec![7, 6], through: 5 })));
    }

    #[test]
    fn a_settlement_of_another_epoch_is_not_written() {
        let mut window = window(1..=1);
        window.next_epoch();
        window.delivered(&[delivery(1, None)]);
        window.settle(Settlement::ack(0, 1));
        assert!(window.next_frame().is_none());
        assert!(!window.is_settled());
        window.settle(Settlement::ack(1, 1));
        assert!(window.has_unwritten());
    }

    #[test]
    fn a_stream_queue_resumes_at_the_first_unsettled_message() {
        let mut window = Window::new(true);
        assert_eq!(window.resume_from(), None);
        window.delivered(&[delivery(1, Some(10)), delivery(2, Some(11)), delivery(3, Some(12))]);
        window.settle(Settlement::ack(0, 1));
        window.next_epoch();
        assert_eq!(window.resume_from(), Some(11));
        window.delivered(&[delivery(1, Some(11)), delivery(2, Some(12))]);
        window.settle(Settlement::ack_through(1, 2));
        window.next_epoch();
        assert_eq!(window.resume_from(), Some(13));
    }
}
