//! The state of a subscription, without I/O: unsettled deliveries, settlements to write, and a stream queue's position.
//!
//! A settlement of one epoch is never written in another, so a late settlement cannot apply to a new message with the
//! same id.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

use crate::pb::{self, subscribe_request::Frame};

/// The API's limit for one frame.
const IDS_IN_FRAME: usize = 10_000;
/// The number of acknowledgements that are written at once; fewer wait for [`GATHER_PAUSE`].
const GATHERED: usize = 64;
/// How long acknowledgements are collected before they are written.
const GATHER_PAUSE: Duration = Duration::from_millis(5);

/// A settlement of deliveries of one epoch.
#[derive(Debug)]
pub(super) struct Settlement {
    epoch: u64,
    kind: Kind,
    /// Without effect if the delivery is settled already.
    only_once: bool,
}

#[derive(Debug)]
enum Kind {
    Ack(u64),
    AckThrough(u64),
    Nack(pb::Nack),
    Extend(pb::ExtendLease),
}

impl Settlement {
    /// Acknowledges one delivery.
    pub(super) fn ack(epoch: u64, id: u64) -> Self {
        Self { epoch, kind: Kind::Ack(id), only_once: false }
    }

    /// Acknowledges all deliveries up to and including this one.
    pub(super) fn ack_through(epoch: u64, id: u64) -> Self {
        Self { epoch, kind: Kind::AckThrough(id), only_once: false }
    }

    pub(super) fn nack(epoch: u64, nack: pb::Nack) -> Self {
        Self { epoch, kind: Kind::Nack(nack), only_once: false }
    }

    pub(super) fn extend(epoch: u64, extend: pb::ExtendLease) -> Self {
        Self { epoch, kind: Kind::Extend(extend), only_once: false }
    }

    /// The same, unless an earlier settlement has settled the delivery.
    pub(super) fn only_once(self) -> Self {
        Self { only_once: true, ..self }
    }

    fn id(&self) -> Option<u64> {
        match &self.kind {
            Kind::Ack(id) => Some(*id),
            Kind::Nack(nack) => nack.delivery_ids.first().copied(),
            _ => None,
        }
    }
}

/// An unsettled delivery.
#[derive(Debug)]
struct Unsettled {
    offset: Option<u64>,
    received: Instant,
}

/// The deliveries of the current epoch.
#[derive(Debug)]
pub(super) struct Window {
    epoch: u64,
    tracked: bool,
    unsettled: BTreeMap<u64, Unsettled>,
    last_offset: Option<u64>,
    /// Written before acknowledgements.
    nacks: VecDeque<pb::Nack>,
    acknowledged: BTreeSet<u64>,
    /// Written after acknowledgements.
    extensions: VecDeque<pb::ExtendLease>,
    /// When the oldest acknowledgement is written at the latest.
    gather_until: Option<Instant>,
}

impl Window {
    /// Deliveries are not tracked when the gateway acknowledges them itself.
    pub(super) fn new(tracked: bool) -> Self {
        Self {
            epoch: 0,
            tracked,
            unsettled: BTreeMap::new(),
            last_offset: None,
            nacks: VecDeque::new(),
            acknowledged: BTreeSet::new(),
            extensions: VecDeque::new(),
            gather_until: None,
        }
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(super) fn delivered(&mut self, deliveries: &[pb::Delivery], received: Instant) {
        for delivery in deliveries {
            self.last_offset = delivery.stream_offset.or(self.last_offset);
            if self.tracked {
                let unsettled = Unsettled { offset: delivery.stream_offset, received };
                self.unsettled.insert(delivery.delivery_id, unsettled);
            }
        }
    }

    /// Records a settlement and queues its frame.
    pub(super) fn settle(&mut self, settlement: Settlement) {
        let is_settled = || settlement.id().is_some_and(|id| !self.unsettled.contains_key(&id));
        if settlement.epoch != self.epoch || (settlement.only_once && is_settled()) {
            return;
        }
        match settlement.kind {
            Kind::Ack(id) => {
                self.unsettled.remove(&id);
                self.acknowledge([id]);
            }
            Kind::AckThrough(through) => {
                let after = self.unsettled.split_off(&(through.saturating_add(1)));
                let before = std::mem::replace(&mut self.unsettled, after);
                self.acknowledge(before.into_keys());
            }
            Kind::Nack(nack) => {
                self.forget(&nack.delivery_ids);
                self.nacks.push_back(nack);
            }
            Kind::Extend(extend) => self.extensions.push_back(extend),
        }
    }

    /// The gateway reports these deliveries as expired or unknown.
    pub(super) fn expired(&mut self, ids: &[u64]) {
        self.forget(ids);
    }

    /// Extends the leases that would expire before the next call, unless that exceeds the longest lease.
    pub(super) fn extend_leases(&mut self, now: Instant, lease: Duration, max_lease: Duration) {
        let is_due = |unsettled: &Unsettled| {
            let age = now - unsettled.received;
            age > lease / 4 && age + lease <= max_lease
        };
        let due: Vec<u64> = self.unsettled.iter().filter(|(_, one)| is_due(one)).map(|(id, _)| *id).collect();
        for ids in due.chunks(IDS_IN_FRAME) {
            self.extensions.push_back(pb::ExtendLease { delivery_ids: ids.to_vec(), ack_deadline: None });
        }
    }

    /// The next frame. All deliveries before the first unsettled one are acknowledged by one number.
    pub(super) fn next_frame(&mut self) -> Option<Frame> {
        let nack = self.nacks.pop_front().map(Frame::Nack);
        let ack = || self.next_ack().map(Frame::Ack);
        nack.or_else(ack).or_else(|| self.extensions.pop_front().map(Frame::ExtendLease))
    }

    fn next_ack(&mut self) -> Option<pb::Ack> {
        let mut ack = pb::Ack::default();
        let first_unsettled = self.unsettled.keys().next().copied();
        if self.acknowledged.len() > 1 {
            let before = self.acknowledged.range(..first_unsettled.unwrap_or(u64::MAX));
            ack.through = before.last().copied().unwrap_or_default();
            self.acknowledged = self.acknowledged.split_off(&(ack.through + 1));
        }
        while ack.delivery_ids.len() < IDS_IN_FRAME
            && let Some(id) = self.acknowledged.pop_first()
        {
            ack.delivery_ids.push(id);
        }
        if self.acknowledged.is_empty() {
            self.gather_until = None;
        }
        (ack.through > 0 || !ack.delivery_ids.is_empty()).then_some(ack)
    }

    pub(super) fn has_unwritten(&self) -> bool {
        !self.nacks.is_empty() || !self.acknowledged.is_empty() || !self.extensions.is_empty()
    }

    /// When the next frame should be written; `None` when nothing waits to be written.
    pub(super) fn write_at(&self, now: Instant) -> Option<Instant> {
        match self.gather_until {
            _ if !self.nacks.is_empty() || self.acknowledged.len() >= GATHERED => Some(now),
            None if !self.extensions.is_empty() => Some(now),
            // Nothing else can be settled together with them.
            Some(_) if self.unsettled.is_empty() => Some(now),
            gather_until => gather_until,
        }
    }

    /// Whether every delivery that the application has started (up to this id) is settled, and that is written.
    pub(super) fn is_settled(&self, started: u64) -> bool {
        self.unsettled.range(..=started).next().is_none() && !self.has_unwritten()
    }

    /// Whether any delivery is unsettled.
    pub(super) fn is_tracking(&self) -> bool {
        !self.unsettled.is_empty()
    }

    /// Starts the next epoch: all ids so far become invalid.
    pub(super) fn next_epoch(&mut self) {
        // A stream queue is read again from its first unsettled message on.
        if let Some(first) = self.unsettled.values().filter_map(|one| one.offset).min() {
            self.last_offset = first.checked_sub(1);
        }
        self.epoch += 1;
        self.unsettled.clear();
        self.nacks.clear();
        self.acknowledged.clear();
        self.extensions.clear();
        self.gather_until = None;
    }

    /// The offset at which a stream queue resumes; `None` for other queues and before the first message.
    pub(super) fn resume_from(&self) -> Option<u64> {
        self.last_offset.map(|offset| offset + 1)
    }

    fn acknowledge(&mut self, ids: impl IntoIterator<Item = u64>) {
        self.acknowledged.extend(ids);
        if !self.acknowledged.is_empty() {
            self.gather_until.get_or_insert_with(|| Instant::now() + GATHER_PAUSE);
        }
    }

    fn forget(&mut self, ids: &[u64]) {
        for id in ids {
            self.unsettled.remove(id);
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
        window.delivered(&ids.map(|id| delivery(id, None)).collect::<Vec<_>>(), Instant::now());
        window
    }

    fn nack(id: u64) -> pb::Nack {
        pb::Nack { delivery_ids: vec![id], ..Default::default() }
    }

    fn frames(window: &mut Window) -> Vec<Frame> {
        std::iter::from_fn(|| window.next_frame()).collect()
    }

    fn ack(delivery_ids: &[u64], through: u64) -> Frame {
        Frame::Ack(pb::Ack { delivery_ids: delivery_ids.to_vec(), through })
    }

    #[test]
    fn acknowledgements_before_the_first_unsettled_delivery_are_one_number_and_nacks_are_written_first() {
        let mut window = window(1..=9);
        for id in [1, 2, 7] {
            window.settle(Settlement::ack(0, id));
        }
        window.settle(Settlement::nack(0, nack(3)));
        assert!(!window.is_settled(9));
        assert_eq!(frames(&mut window), [Frame::Nack(nack(3)), ack(&[7], 2)]);
        window.settle(Settlement::ack_through(0, 9));
        assert_eq!(frames(&mut window), [ack(&[], 9)]);
        assert!(window.is_settled(9));
    }

    #[test]
    fn a_single_acknowledgement_is_an_id() {
        let mut window = window(1..=9);
        window.settle(Settlement::ack(0, 1));
        assert_eq!(frames(&mut window), [ack(&[1], 0)]);
    }

    #[test]
    fn the_first_settlement_of_a_delivery_counts() {
        let mut window = window(1..=2);
        window.settle(Settlement::nack(0, nack(1)).only_once());
        window.settle(Settlement::ack(0, 1).only_once());
        assert_eq!(frames(&mut window), [Frame::Nack(nack(1))]);
    }

    #[test]
    fn deliveries_that_were_not_started_need_no_settlement() {
        let mut window = window(1..=9);
        assert!(window.is_settled(0));
        assert!(!window.is_settled(1));
        window.settle(Settlement::ack(0, 1));
        window.next_frame();
        assert!(window.is_settled(1));
    }

    #[test]
    fn leases_are_extended_up_to_the_longest_lease() {
        let (lease, max) = (Duration::from_secs(30), Duration::from_secs(60));
        let mut window = Window::new(true);
        let began = Instant::now();
        window.delivered(&[delivery(1, None), delivery(2, None)], began);
        window.extend_leases(began, lease, max);
        assert!(!window.has_unwritten(), "the leases are new");
        window.settle(Settlement::ack(0, 1));
        window.extend_leases(began + Duration::from_secs(10), lease, max);
        let extend = pb::ExtendLease { delivery_ids: vec![2], ack_deadline: None };
        assert_eq!(frames(&mut window), [ack(&[1], 0), Frame::ExtendLease(extend)]);
        window.extend_leases(began + Duration::from_secs(35), lease, max);
        assert!(!window.has_unwritten(), "another lease would end after the cap");
    }

    #[test]
    fn acknowledgements_wait_for_others_for_some_milliseconds() {
        let mut window = window(1..=100);
        let now = Instant::now();
        assert_eq!(window.write_at(now), None);
        window.settle(Settlement::ack(0, 1));
        assert!(window.write_at(now).is_some_and(|time| time >= now + GATHER_PAUSE));
        (2..=64).for_each(|id| window.settle(Settlement::ack(0, id)));
        assert_eq!(window.write_at(now), Some(now));
    }

    #[test]
    fn a_settlement_of_another_epoch_is_not_written() {
        let mut window = window(1..=1);
        window.next_epoch();
        window.delivered(&[delivery(1, None)], Instant::now());
        window.settle(Settlement::ack(0, 1));
        assert!(window.next_frame().is_none());
        assert!(!window.is_settled(1));
        window.settle(Settlement::ack(1, 1));
        assert!(window.has_unwritten());
    }

    #[test]
    fn a_stream_queue_resumes_at_the_first_unsettled_message() {
        let mut window = Window::new(true);
        assert_eq!(window.resume_from(), None);
        window.delivered(&[delivery(1, Some(10)), delivery(2, Some(11)), delivery(3, Some(12))], Instant::now());
        window.settle(Settlement::ack(0, 1));
        window.next_epoch();
        assert_eq!(window.resume_from(), Some(11));
        window.delivered(&[delivery(1, Some(11)), delivery(2, Some(12))], Instant::now());
        window.settle(Settlement::ack_through(1, 2));
        window.next_epoch();
        assert_eq!(window.resume_from(), Some(13));
    }
}
