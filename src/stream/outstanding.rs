//! The deliveries that a subscriber has not settled: ids, windows and leases, as plain bookkeeping.
//!
//! Invariant: an id is used once on a stream, and is valid until the delivery is settled, its lease expires or the
//! broker connection is lost, whichever comes first. A failed delivery has no id any more, and counts in the windows
//! until its message has been moved. There are at most twice as many lease entries as deliveries.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    ops::RangeInclusive,
};

use tokio::time::Instant;

/// The number of lease entries below which compaction is not worthwhile.
const LEASES_UNCOMPACTED: usize = 64;

/// Unsettled deliveries of one stream. `K` is the retained part of each that is needed to publish it again.
pub(super) struct Outstanding<K> {
    next_id: u64,
    unsettled: BTreeMap<u64, Unsettled<K>>,
    /// The sizes of failed deliveries that are being moved, by tag.
    leaving: BTreeMap<u64, usize>,
    bytes: usize,
    /// When leases may expire, and for which ids; possibly too early. The actual expiry is in `unsettled`.
    leases: BinaryHeap<Reverse<(Instant, u64, u64)>>,
    /// Deliveries from this tag on may be unsettled without being recorded here.
    undelivered: Option<u64>,
}

struct Unsettled<K> {
    tag: u64,
    bytes: usize,
    /// `None` if it has no lease or was not sent yet.
    expires: Option<Instant>,
    kept: Option<K>,
}

/// A failed delivery: its tag and its retained part.
pub(super) type Failed<K> = (u64, Option<K>);

/// The acknowledgements for some settled deliveries.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tags {
    /// All up to and including this one.
    pub(super) through: Option<u64>,
    /// These as well.
    pub(super) single: Vec<u64>,
}

impl<K> Default for Outstanding<K> {
    fn default() -> Self {
        Self {
            next_id: 0,
            unsettled: BTreeMap::new(),
            leaving: BTreeMap::new(),
            bytes: 0,
            leases: BinaryHeap::new(),
            undelivered: None,
        }
    }
}

impl<K> Outstanding<K> {
    /// The number of unsettled messages.
    pub(super) fn len(&self) -> usize {
        self.unsettled.len() + self.leaving.len()
    }

    /// Their bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The last id in use.
    pub(super) fn last_id(&self) -> u64 {
        self.next_id
    }

    /// The tags of all of them.
    pub(super) fn tags(&self) -> Vec<u64> {
        self.unsettled.values().map(|delivery| delivery.tag).chain(self.leaving.keys().copied()).collect()
    }

    /// Sets the oldest tag that no cumulative acknowledgement may cover.
    pub(super) fn set_undelivered(&mut self, tag: Option<u64>) {
        self.undelivered = tag;
    }

    /// Adds a batch of (tag, bytes, retained part); returns its ids. Tags increase with ids.
    pub(super) fn add(&mut self, batch: impl Iterator<Item = (u64, usize, Option<K>)>) -> RangeInclusive<u64> {
        let first = self.next_id + 1;
        for (tag, bytes, kept) in batch {
            self.next_id += 1;
            self.bytes += bytes;
            self.unsettled.insert(self.next_id, Unsettled { tag, bytes, expires: None, kept });
        }
        first..=self.next_id
    }

    /// Starts the leases of a batch that was sent.
    pub(super) fn lease(&mut self, ids: RangeInclusive<u64>, expires: Instant) {
        self.leases.push(Reverse((expires, *ids.start(), *ids.end())));
        self.unsettled.range_mut(ids).for_each(|(_, delivery)| delivery.expires = Some(expires));
        self.compact();
    }

    /// Removes everything, because the broker has requeued it.
    pub(super) fn clear(&mut self) {
        self.unsettled.clear();
        self.leaving.clear();
        self.leases.clear();
        self.bytes = 0;
    }

    /// Removes acknowledged deliveries. A `through` of 0 has no effect. Unknown ids are added to `unknown`.
    pub(super) fn acknowledge(&mut self, ids: &[u64], through: u64, unknown: &mut Vec<u64>) -> Tags {
        let mut done = BTreeMap::new();
        if through > self.next_id {
            unknown.push(through);
        } else if through > 0 {
            let rest = self.unsettled.split_off(&(through + 1));
            done = std::mem::replace(&mut self.unsettled, rest);
            self.bytes -= done.values().map(|delivery| delivery.bytes).sum::<usize>();
        }
        let single: Vec<_> = ids.iter().filter_map(|id| self.remove(*id, unknown)).collect();
        match done.last_key_value() {
            // The usual case: no older delivery is left, so that one cumulative acknowledgement covers all.
            Some((_, last)) if single.is_empty() && last.tag < self.oldest_left() => {
                Tags { through: Some(last.tag), single }
            }
            _ => self.merged(done.into_values().map(|delivery| delivery.tag).chain(single).collect()),
        }
    }

    /// Tags before the oldest unsettled one are acknowledged with one frame.
    fn merged(&self, mut single: Vec<u64>) -> Tags {
        single.sort_unstable();
        let oldest_left = self.oldest_left();
        let covered = single.partition_point(|tag| *tag < oldest_left);
        let through = covered.checked_sub(1).map(|last| single[last]);
        single.drain(..covered);
        Tags { through, single }
    }

    fn oldest_left(&self) -> u64 {
        let unsettled = self.unsettled.values().next().map(|delivery| delivery.tag);
        let leaving = self.leaving.keys().next().copied();
        unsettled.into_iter().chain(leaving).chain(self.undelivered).min().unwrap_or(u64::MAX)
    }

    /// Removes one delivery; returns its tag.
    pub(super) fn remove(&mut self, id: u64, unknown: &mut Vec<u64>) -> Option<u64> {
        match self.unsettled.remove(&id) {
            Some(delivery) => {
                self.bytes -= delivery.bytes;
                Some(delivery.tag)
            }
            None => {
                unknown.push(id);
                None
            }
        }
    }

    /// Marks a delivery as failed: its id becomes invalid, and it counts in the windows until [`Self::remove_stored`].
    pub(super) fn fail(&mut self, id: u64, unknown: &mut Vec<u64>) -> Option<Failed<K>> {
        match self.unsettled.remove(&id) {
            Some(delivery) => {
                self.leaving.insert(delivery.tag, delivery.bytes);
                Some((delivery.tag, delivery.kept))
            }
            None => {
                unknown.push(id);
                None
            }
        }
    }

    /// Marks all deliveries that were sent as failed.
    pub(super) fn fail_sent(&mut self) -> Vec<(u64, Failed<K>)> {
        let sent = self.unsettled.iter().filter(|(_, delivery)| delivery.expires.is_some() && delivery.kept.is_some());
        let sent: Vec<_> = sent.map(|(id, _)| *id).collect();
        sent.into_iter().filter_map(|id| Some((id, self.fail(id, &mut Vec::new())?))).collect()
    }

    /// Removes failed deliveries whose copies are stored.
    pub(super) fn remove_stored(&mut self, tags: Vec<u64>) -> Tags {
        let known = |tag: &u64| match self.leaving.remove(tag) {
            Some(bytes) => {
                self.bytes -= bytes;
                true
            }
            None => false,
        };
        let tags = tags.into_iter().filter(known).collect();
        self.merged(tags)
    }

    /// Extends the lease of a delivery.
    pub(super) fn extend(&mut self, id: u64, expires: Instant, unknown: &mut Vec<u64>) {
        match self.unsettled.get_mut(&id) {
            Some(delivery) => {
                let before = delivery.expires.replace(expires);
                // The existing entry fires earlier and is then replaced.
                if before.is_none_or(|before| expires < before) {
                    self.leases.push(Reverse((expires, id, id)));
                    self.compact();
                }
            }
            None => unknown.push(id),
        }
    }

    /// Removes redundant entries once they outnumber the others.
    fn compact(&mut self) {
        if self.leases.len() <= 2 * self.unsettled.len() + LEASES_UNCOMPACTED {
            return;
        }
        let leased = self.unsettled.iter().filter_map(|(id, delivery)| Some((delivery.expires?, *id)));
        self.leases = runs(leased).collect();
    }

    /// When to check for expired leases; possibly earlier than one expires.
    pub(super) fn next_lease(&mut self) -> Option<Instant> {
        // Entries of settled deliveries would wake the stream unnecessarily.
        while let Some(Reverse((at, first, last))) = self.leases.peek() {
            if self.unsettled.range(first..=last).next().is_some() {
                return Some(*at);
            }
            self.leases.pop();
        }
        None
    }

    /// Marks deliveries whose lease has expired as failed; returns them by id.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<(u64, Failed<K>)> {
        let mut over = Vec::new();
        while let Some(Reverse((at, first, last))) = self.leases.peek().copied() {
            if at > now {
                break;
            }
            self.leases.pop();
            let leased = self.unsettled.range(first..=last).filter_map(|(id, delivery)| Some((delivery.expires?, *id)));
            let (ended, extended): (Vec<_>, Vec<_>) = leased.partition(|(expires, _)| *expires <= now);
            self.leases.extend(runs(extended.into_iter()));
            over.extend(ended.into_iter().filter_map(|(_, id)| Some((id, self.fail(id, &mut Vec::new())?))));
        }
        over
    }
}

/// Merges ids with the same expiry into one entry per run.
fn runs(leased: impl Iterator<Item = (Instant, u64)>) -> impl Iterator<Item = Reverse<(Instant, u64, u64)>> {
    let mut leased = leased.peekable();
    std::iter::from_fn(move || {
        let (expires, first) = leased.next()?;
        let mut last = first;
        while let Some((_, next)) = leased.next_if(|(other, _)| *other == expires) {
            last = next;
        }
        Some(Reverse((expires, first, last)))
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn with(tags: RangeInclusive<u64>) -> Outstanding<u64> {
        let mut outstanding = Outstanding::default();
        outstanding.add(tags.map(|tag| (tag, 10, Some(tag * 100))));
        outstanding
    }

    #[test]
    fn settled_deliveries_without_gaps_are_acknowledged_with_one_frame() {
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
    fn unknown_and_repeated_ids_are_reported_and_have_no_effect() {
        let mut outstanding = with(1..=2);
        let mut unknown = Vec::new();
        let tags = outstanding.acknowledge(&[1, 1, 77], 99, &mut unknown);
        assert_eq!(tags, Tags { through: Some(1), single: vec![] });
        assert_eq!(unknown, [99, 1, 77]);
        assert_eq!(outstanding.len(), 1);
    }

    #[test]
    fn ids_continue_after_a_lost_link_so_that_earlier_ones_are_invalid() {
        let mut outstanding = with(1..=2);
        outstanding.clear();
        assert_eq!(outstanding.add([(1, 1, None)].into_iter()), 3..=3);
        let mut unknown = Vec::new();
        assert_eq!(outstanding.acknowledge(&[1], 0, &mut unknown), Tags::default());
        assert_eq!(unknown, [1]);
        // `through` includes invalid ids, and still covers only unsettled deliveries.
        assert_eq!(outstanding.acknowledge(&[], 2, &mut unknown), Tags::default());
    }

    #[test]
    fn leases_start_when_a_delivery_is_sent_and_expire_once_or_later_if_extended() {
        let now = Instant::now();
        let later = now + Duration::from_secs(10);
        let mut outstanding = with(1..=4);
        outstanding.lease(1..=3, now);
        outstanding.extend(2, later, &mut Vec::new());
        outstanding.acknowledge(&[1], 0, &mut Vec::new());
        assert_eq!(outstanding.expire(now), [(3, (3, Some(300)))]);
        assert_eq!(outstanding.expire(now), []);
        assert_eq!(outstanding.next_lease(), Some(later));
        assert_eq!(outstanding.expire(later), [(2, (2, Some(200)))]);
        assert_eq!(outstanding.next_lease(), None);
        assert_eq!(outstanding.len(), 3, "both are being moved, and the fourth was never sent");
    }

    #[test]
    fn repeated_extensions_leave_one_entry_per_delivery() {
        let now = Instant::now();
        let mut outstanding = with(1..=10);
        outstanding.lease(1..=10, now + Duration::from_secs(10));
        // The same id, with later and later and then earlier and earlier expiries.
        for turn in 0..100_000_u64 {
            let nanos = if turn < 50_000 { turn } else { 100_000 - turn };
            outstanding.extend(turn % 10 + 1, now + Duration::from_nanos(nanos), &mut Vec::new());
        }
        assert!(outstanding.leases.len() <= 2 * 10 + LEASES_UNCOMPACTED, "{}", outstanding.leases.len());
        let last = now + Duration::from_micros(1);
        assert_eq!(outstanding.expire(last).len(), 10);
        assert_eq!(outstanding.next_lease(), None);
    }

    #[test]
    fn a_cumulative_acknowledgement_does_not_cover_deliveries_that_were_not_sent() {
        let mut outstanding = with(1..=5);
        outstanding.set_undelivered(Some(3));
        let tags = outstanding.acknowledge(&[], 5, &mut Vec::new());
        assert_eq!(tags, Tags { through: Some(2), single: vec![3, 4, 5] });
    }

    #[test]
    fn a_failed_delivery_counts_in_the_windows_and_is_not_acknowledged_until_it_is_moved() {
        let mut outstanding = with(1..=5);
        let mut unknown = Vec::new();
        assert_eq!(outstanding.fail(2, &mut unknown), Some((2, Some(200))));
        assert_eq!((outstanding.len(), outstanding.bytes()), (5, 50));
        // Neither by `through` nor with the settled deliveries before it.
        let tags = outstanding.acknowledge(&[], 4, &mut unknown);
        assert_eq!(tags, Tags { through: Some(1), single: vec![3, 4] });
        assert_eq!(outstanding.acknowledge(&[2], 0, &mut unknown), Tags::default());
        assert_eq!(unknown, [2]);
        assert_eq!(outstanding.remove_stored(vec![2, 77]), Tags { through: Some(2), single: vec![] });
        assert_eq!((outstanding.len(), outstanding.bytes()), (1, 10));
    }

    #[test]
    fn a_disconnected_client_fails_only_deliveries_that_were_sent() {
        let mut outstanding = with(1..=3);
        outstanding.lease(1..=2, Instant::now());
        assert_eq!(outstanding.fail_sent(), [(1, (1, Some(100))), (2, (2, Some(200)))]);
        assert_eq!(outstanding.fail_sent(), []);
    }
}
