//! What a subscriber has and has not settled: ids, windows and leases, as plain bookkeeping. Deliveries enter and get ids;
//! acknowledgements leave as the fewest AMQP frames that say the same. Invariant: an id is given once on a stream, and is
//! held until it is settled, expired or void, whichever comes first.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    ops::RangeInclusive,
};

use tokio::time::Instant;

/// Unsettled deliveries of one stream.
#[derive(Default)]
pub(super) struct Outstanding {
    next_id: u64,
    held: BTreeMap<u64, Held>,
    bytes: usize,
    /// When leases may run out; an entry a batch or an extension. The truth is in `held`.
    leases: BinaryHeap<Reverse<(Instant, u64, u64)>>,
}

struct Held {
    tag: u64,
    bytes: usize,
    /// None: no lease.
    expires: Option<Instant>,
}

/// What to say to the broker for some settled deliveries.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tags {
    /// All up to and with this one.
    pub(super) through: Option<u64>,
    /// And these.
    pub(super) single: Vec<u64>,
}

impl Outstanding {
    /// Messages held.
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    /// Their body bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes a batch of (tag, bytes) in, and says which ids it has.
    pub(super) fn add(
        &mut self,
        batch: impl Iterator<Item = (u64, usize)>,
        expires: Option<Instant>,
    ) -> RangeInclusive<u64> {
        let first = self.next_id + 1;
        for (tag, bytes) in batch {
            self.next_id += 1;
            self.bytes += bytes;
            self.held.insert(self.next_id, Held { tag, bytes, expires });
        }
        if let Some(expires) = expires {
            self.leases.push(Reverse((expires, first, self.next_id)));
        }
        first..=self.next_id
    }

    /// Everything is void: the broker has it back.
    pub(super) fn clear(&mut self) {
        self.held.clear();
        self.leases.clear();
        self.bytes = 0;
    }

    /// Takes acknowledged deliveries out. `through` of 0 names none. Unknown ids are added to `unknown`.
    pub(super) fn acknowledge(&mut self, ids: &[u64], through: u64, unknown: &mut Vec<u64>) -> Tags {
        let mut tags = Tags::default();
        if through > 0 {
            if through > self.next_id {
                unknown.push(through);
            } else {
                let rest = self.held.split_off(&(through + 1));
                let done = std::mem::replace(&mut self.held, rest);
                self.bytes -= done.values().map(|held| held.bytes).sum::<usize>();
                tags.through = done.values().map(|held| held.tag).max();
            }
        }
        let mut single: Vec<_> = ids.iter().filter_map(|id| self.remove(*id, unknown)).collect();
        // All held ones at the front of the channel, done without a gap, are said with one frame.
        single.sort_unstable();
        let oldest_left = self.held.values().next().map_or(u64::MAX, |held| held.tag);
        let covered = single.partition_point(|tag| *tag < oldest_left);
        if covered > 0 {
            tags.through = tags.through.max(Some(single[covered - 1]));
        }
        single.drain(..covered);
        tags.single = single;
        tags
    }

    /// Takes one delivery out; its tag.
    pub(super) fn remove(&mut self, id: u64, unknown: &mut Vec<u64>) -> Option<u64> {
        match self.held.remove(&id) {
            Some(held) => {
                self.bytes -= held.bytes;
                Some(held.tag)
            }
            None => {
                unknown.push(id);
                None
            }
        }
    }

    /// Gives a delivery a new lease.
    pub(super) fn extend(&mut self, id: u64, expires: Instant, unknown: &mut Vec<u64>) {
        match self.held.get_mut(&id) {
            Some(held) => {
                held.expires = Some(expires);
                self.leases.push(Reverse((expires, id, id)));
            }
            None => unknown.push(id),
        }
    }

    /// When to look for leases that ran out; perhaps earlier than any does.
    pub(super) fn next_lease(&mut self) -> Option<Instant> {
        // Entries of settled deliveries would wake the stream for nothing.
        while let Some(Reverse((at, first, last))) = self.leases.peek() {
            if self.held.range(first..=last).next().is_some() {
                return Some(*at);
            }
            self.leases.pop();
        }
        None
    }

    /// Takes out the deliveries whose lease has run out: (id, tag).
    pub(super) fn expire(&mut self, now: Instant) -> Vec<(u64, u64)> {
        let mut over = Vec::new();
        while let Some(Reverse((at, first, last))) = self.leases.peek().copied() {
            if at > now {
                break;
            }
            self.leases.pop();
            // Extended ones have an entry of their own.
            let ids = self.held.range(first..=last).filter(|(_, held)| held.expires.is_some_and(|at| at <= now));
            let ids: Vec<_> = ids.map(|(id, held)| (*id, held.tag)).collect();
            for (id, _) in &ids {
                self.remove(*id, &mut Vec::new());
            }
            over.extend(ids);
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn with(tags: RangeInclusive<u64>) -> Outstanding {
        let mut outstanding = Outstanding::default();
        outstanding.add(tags.map(|tag| (tag, 10)), None);
        outstanding
    }

    #[test]
    fn a_gapless_front_is_one_frame_whatever_its_order() {
        let mut outstanding = with(1..=5);
        let mut unknown = Vec::new();
        let tags = outstanding.acknowledge(&[3, 1, 2], 0, &mut unknown);
        assert_eq!(tags, Tags { through: Some(3), single: vec![] });
        let tags = outstanding.acknowledge(&[5], 0, &mut unknown);
        assert_eq!(tags, Tags { through: None, single: vec![5] });
        let tags = outstanding.acknowledge(&[], 5, &mut unknown);
        assert_eq!(tags, Tags { through: Some(4), single: vec![] });
        assert_eq!((outstanding.len(), outstanding.bytes(), unknown.len()), (0, 0, 0));
    }

    #[test]
    fn unknown_and_repeated_ids_are_named_and_harmless() {
        let mut outstanding = with(1..=2);
        let mut unknown = Vec::new();
        let tags = outstanding.acknowledge(&[1, 1, 77], 99, &mut unknown);
        assert_eq!(tags, Tags { through: Some(1), single: vec![] });
        assert_eq!(unknown, [99, 1, 77]);
        assert_eq!(outstanding.len(), 1);
    }

    #[test]
    fn ids_go_on_after_a_loss_so_that_old_ones_mean_nothing() {
        let mut outstanding = with(1..=2);
        outstanding.clear();
        assert_eq!(outstanding.add([(1, 1)].into_iter(), None), 3..=3);
        let mut unknown = Vec::new();
        assert_eq!(outstanding.acknowledge(&[1], 0, &mut unknown), Tags::default());
        assert_eq!(unknown, [1]);
        // `through` reaches over void ids too, and still covers only what is held.
        assert_eq!(outstanding.acknowledge(&[], 2, &mut unknown), Tags::default());
    }

    #[test]
    fn leases_run_out_once_and_extended_ones_later() {
        let now = Instant::now();
        let later = now + Duration::from_secs(10);
        let mut outstanding = Outstanding::default();
        outstanding.add([(1, 1), (2, 1), (3, 1)].into_iter(), Some(now));
        outstanding.extend(2, later, &mut Vec::new());
        outstanding.acknowledge(&[1], 0, &mut Vec::new());
        assert_eq!(outstanding.expire(now), [(3, 3)]);
        assert_eq!(outstanding.expire(now), []);
        assert_eq!(outstanding.next_lease(), Some(later));
        assert_eq!(outstanding.expire(later), [(2, 2)]);
        assert_eq!(outstanding.next_lease(), None);
    }
}
