//! The deliveries that a subscriber has not settled: ids, windows and leases, as plain bookkeeping.
//!
//! Invariant: an id is given once on a stream, and is valid until the delivery is settled, its lease expires or the link is
//! lost, whichever comes first. A delivery that failed has no id any more, and counts in the windows until the message has
//! reached its next place. There are at most twice as many lease entries as deliveries.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    ops::RangeInclusive,
};

use tokio::time::Instant;

/// Fewer lease entries than this are not worth looking through.
const LEASES_UNCOMPACTED: usize = 64;

/// Unsettled deliveries of one stream. `K` is what is retained of each, to be published again.
pub(super) struct Outstanding<K> {
    next_id: u64,
    held: BTreeMap<u64, Held<K>>,
    /// The bytes of failed deliveries on their way to their next place, by tag.
    leaving: BTreeMap<u64, usize>,
    bytes: usize,
    /// When leases may run out, and for which ids; perhaps too early. The truth is in `held`.
    leases: BinaryHeap<Reverse<(Instant, u64, u64)>>,
    /// Deliveries from this tag on may be unsettled without being here.
    undelivered: Option<u64>,
}

struct Held<K> {
    tag: u64,
    bytes: usize,
    /// None: no lease, or not sent yet.
    expires: Option<Instant>,
    kept: Option<K>,
}

/// A failed delivery: its tag, and what was retained of it.
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
            held: BTreeMap::new(),
            leaving: BTreeMap::new(),
            bytes: 0,
            leases: BinaryHeap::new(),
            undelivered: None,
        }
    }
}

impl<K> Outstanding<K> {
    /// Messages held.
    pub(super) fn len(&self) -> usize {
        self.held.len() + self.leaving.len()
    }

    /// Their bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The id given last.
    pub(super) fn last_id(&self) -> u64 {
        self.next_id
    }

    /// The tags of all of them.
    pub(super) fn tags(&self) -> Vec<u64> {
        self.held.values().map(|held| held.tag).chain(self.leaving.keys().copied()).collect()
    }

    /// Sets the oldest tag that no acknowledgement of "all before" may cover.
    pub(super) fn set_undelivered(&mut self, tag: Option<u64>) {
        self.undelivered = tag;
    }

    /// Adds a batch of (tag, bytes, what is retained); returns its ids. Tags grow with ids.
    pub(super) fn add(&mut self, batch: impl Iterator<Item = (u64, usize, Option<K>)>) -> RangeInclusive<u64> {
        let first = self.next_id + 1;
        for (tag, bytes, kept) in batch {
            self.next_id += 1;
            self.bytes += bytes;
            self.held.insert(self.next_id, Held { tag, bytes, expires: None, kept });
        }
        first..=self.next_id
    }

    /// Begins the leases of a batch that was sent.
    pub(super) fn lease(&mut self, ids: RangeInclusive<u64>, expires: Instant) {
        self.leases.push(Reverse((expires, *ids.start(), *ids.end())));
        self.held.range_mut(ids).for_each(|(_, held)| held.expires = Some(expires));
        self.compact();
    }

    /// Removes everything: the broker has requeued it.
    pub(super) fn clear(&mut self) {
        self.held.clear();
        self.leaving.clear();
        self.leases.clear();
        self.bytes = 0;
    }

    /// Removes acknowledged deliveries. A `through` of 0 names none. Unknown ids are added to `unknown`.
    pub(super) fn acknowledge(&mut self, ids: &[u64], through: u64, unknown: &mut Vec<u64>) -> Tags {
        let mut done = BTreeMap::new();
        if through > self.next_id {
            unknown.push(through);
        } else if through > 0 {
            let rest = self.held.split_off(&(through + 1));
            done = std::mem::replace(&mut self.held, rest);
            self.bytes -= done.values().map(|held| held.bytes).sum::<usize>();
        }
        let single: Vec<_> = ids.iter().filter_map(|id| self.remove(*id, unknown)).collect();
        match done.last_key_value() {
            // The usual case: nothing older than the last one is left, which acknowledges all.
            Some((_, last)) if single.is_empty() && last.tag < self.oldest_left() => {
                Tags { through: Some(last.tag), single }
            }
            _ => self.merged(done.into_values().map(|held| held.tag).chain(single).collect()),
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
        let held = self.held.values().next().map(|held| held.tag);
        let leaving = self.leaving.keys().next().copied();
        held.into_iter().chain(leaving).chain(self.undelivered).min().unwrap_or(u64::MAX)
    }

    /// Removes one delivery; returns its tag.
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

    /// Marks a delivery as failed: its id is invalid from now on, and it counts in the windows until [`Self::left`].
    pub(super) fn fail(&mut self, id: u64, unknown: &mut Vec<u64>) -> Option<Failed<K>> {
        match self.held.remove(&id) {
            Some(held) => {
                self.leaving.insert(held.tag, held.bytes);
                Some((held.tag, held.kept))
            }
            None => {
                unknown.push(id);
                None
            }
        }
    }

    /// Marks all deliveries that were sent as failed.
    pub(super) fn fail_handed(&mut self) -> Vec<(u64, Failed<K>)> {
        let handed = self.held.iter().filter(|(_, held)| held.expires.is_some() && held.kept.is_some());
        let handed: Vec<_> = handed.map(|(id, _)| *id).collect();
        handed.into_iter().filter_map(|id| Some((id, self.fail(id, &mut Vec::new())?))).collect()
    }

    /// Removes failed deliveries whose copies are stored.
    pub(super) fn left(&mut self, tags: Vec<u64>) -> Tags {
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

    /// Gives a delivery a new lease.
    pub(super) fn extend(&mut self, id: u64, expires: Instant, unknown: &mut Vec<u64>) {
        match self.held.get_mut(&id) {
            Some(held) => {
                let before = held.expires.replace(expires);
                // The existing entry fires earlier, and is replaced then.
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
        if self.leases.len() <= 2 * self.held.len() + LEASES_UNCOMPACTED {
            return;
        }
        let leased = self.held.iter().filter_map(|(id, held)| Some((held.expires?, *id)));
        self.leases = runs(leased).collect();
    }

    /// When to check for expired leases; possibly earlier than one expires.
    pub(super) fn next_lease(&mut self) -> Option<Instant> {
        // Entries of settled deliveries would wake the stream in vain.
        while let Some(Reverse((at, first, last))) = self.leases.peek() {
            if self.held.range(first..=last).next().is_some() {
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
            let leased = self.held.range(first..=last).filter_map(|(id, held)| Some((held.expires?, *id)));
            let (ended, extended): (Vec<_>, Vec<_>) = leased.partition(|(expires, _)| *expires <= now);
            self.leases.extend(runs(extended.into_iter()));
            over.extend(ended.into_iter().filter_map(|(_, id)| Some((id, self.fail(id, &mut Vec::new())?))));
        }
        over
    }
}

/// An entry for each run of ids with the same end.
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
        assert_eq!(outstanding.add([(1, 1, None)].into_iter()), 3..=3);
        let mut unknown = Vec::new();
        assert_eq!(outstanding.acknowledge(&[1], 0, &mut unknown), Tags::default());
        assert_eq!(unknown, [1]);
        // `through` reaches over void ids too, and still covers only what is held.
        assert_eq!(outstanding.acknowledge(&[], 2, &mut unknown), Tags::default());
    }

    #[test]
    fn leases_begin_when_handed_over_and_run_out_once_and_extended_ones_later() {
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
        assert_eq!(outstanding.len(), 3, "both are on their way, and the fourth was never handed over");
    }

    #[test]
    fn extensions_without_end_leave_an_entry_for_each_delivery() {
        let now = Instant::now();
        let mut outstanding = with(1..=10);
        outstanding.lease(1..=10, now + Duration::from_secs(10));
        // The same id, later and later, and then earlier and earlier.
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
    fn nothing_that_the_subscriber_has_not_got_is_acknowledged_with_what_it_has() {
        let mut outstanding = with(1..=5);
        outstanding.set_undelivered(Some(3));
        let tags = outstanding.acknowledge(&[], 5, &mut Vec::new());
        assert_eq!(tags, Tags { through: Some(2), single: vec![3, 4, 5] });
    }

    #[test]
    fn what_failed_is_in_the_windows_and_covered_by_no_acknowledgement_until_it_has_left() {
        let mut outstanding = with(1..=5);
        let mut unknown = Vec::new();
        assert_eq!(outstanding.fail(2, &mut unknown), Some((2, Some(200))));
        assert_eq!((outstanding.len(), outstanding.bytes()), (5, 50));
        // Neither by `through` nor by a gapless front.
        let tags = outstanding.acknowledge(&[], 4, &mut unknown);
        assert_eq!(tags, Tags { through: Some(1), single: vec![3, 4] });
        assert_eq!(outstanding.acknowledge(&[2], 0, &mut unknown), Tags::default());
        assert_eq!(unknown, [2]);
        assert_eq!(outstanding.left(vec![2, 77]), Tags { through: Some(2), single: vec![] });
        assert_eq!((outstanding.len(), outstanding.bytes()), (1, 10));
    }

    #[test]
    fn a_client_that_went_away_failed_only_what_it_could_have_seen() {
        let mut outstanding = with(1..=3);
        outstanding.lease(1..=2, Instant::now());
        assert_eq!(outstanding.fail_handed(), [(1, (1, Some(100))), (2, (2, Some(200)))]);
        assert_eq!(outstanding.fail_handed(), []);
    }
}
