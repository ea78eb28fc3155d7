//! Estimates the age of the oldest message of each queue from two numbers that RabbitMQ counts: the messages in the
//! queue, and those that consumers have acknowledged since the broker started.
//!
//! Messages leave a queue at its head. Therefore the sum of both numbers is the number of messages that have ever
//! entered it, and the oldest message entered when this sum exceeded the number of messages that have left. RabbitMQ
//! itself reports the time of the first message of classic queues only.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Maximum number of stored points of a queue. When there are more, every second one is dropped, so that the whole time
/// for which a queue was watched remains covered, with less precision.
const MAX_MOMENTS: usize = 64;
/// RabbitMQ may have measured the two numbers up to this many seconds apart.
const SKEW: f64 = 6.0;
/// Queues that were not measured for this long are forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(300);

/// The histories of queues, by vhost and name.
#[derive(Debug, Default)]
pub(super) struct Ages(Mutex<Histories>);

#[derive(Debug, Default)]
struct Histories {
    queues: HashMap<(String, String), History>,
    /// When all queues of a vhost were last measured, and when those of all vhosts were.
    polls: HashMap<String, Instant>,
    whole: Option<Instant>,
    cleaned: Option<Instant>,
}

#[derive(Debug)]
struct History {
    /// Times, and how many messages had entered by then; both increase.
    moments: VecDeque<(Instant, u64)>,
    /// Messages that left without an acknowledgement: purged, expired, or counted before a restart of the broker.
    lost: u64,
}

/// RabbitMQ's numbers for a queue at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measured {
    /// Messages in the queue, ready or not settled.
    pub(super) messages: u64,
    /// Messages that consumers have acknowledged.
    pub(super) acknowledged: u64,
    /// Messages delivered per second.
    pub(super) deliver_rate: f64,
}

impl Ages {
    /// Records a measurement and estimates the age of the oldest message; `None` when it is older than the history.
    pub(super) fn estimate(&self, vhost: &str, queue: &str, measured: Measured, now: Instant) -> Option<Duration> {
        let mut histories = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        histories.forget(now);
        // The messages of a queue that did not exist at the last poll entered after it.
        let poll = histories.polls.get(vhost).copied().max(histories.whole);
        let key = (vhost.to_owned(), queue.to_owned());
        histories.queues.entry(key).or_insert_with(|| History::new(measured, poll, now)).estimate(measured, now)
    }

    /// Records that all queues of a vhost, or of all vhosts, were measured at this time or a little later.
    pub(super) fn polled(&self, vhost: Option<&str>, began: Instant) {
        let mut histories = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match vhost {
            Some(vhost) => drop(histories.polls.insert(vhost.to_owned(), began)),
            None => histories.whole = Some(began),
        }
    }
}

impl Histories {
    fn forget(&mut self, now: Instant) {
        let cleaned = *self.cleaned.get_or_insert(now);
        if now.saturating_duration_since(cleaned) < FORGET_AFTER {
            return;
        }
        self.cleaned = Some(now);
        let is_recent = |at: Instant| now.saturating_duration_since(at) < FORGET_AFTER;
        self.polls.retain(|_, at| is_recent(*at));
        self.queues.retain(|_, history| history.moments.back().is_some_and(|(at, _)| is_recent(*at)));
    }
}

impl History {
    /// `poll` is a time at which the queue did not exist.
    fn new(measured: Measured, poll: Option<Instant>, now: Instant) -> Self {
        let first = match poll {
            Some(poll) => (poll, 0),
            None => (now, measured.acknowledged.saturating_add(measured.messages)),
        };
        Self { moments: VecDeque::from([first]), lost: 0 }
    }

    fn estimate(&mut self, measured: Measured, now: Instant) -> Option<Duration> {
        let counted = measured.acknowledged.saturating_add(measured.messages).saturating_add(self.lost);
        let last = self.moments.back().map_or(0, |(_, arrived)| *arrived);
        let arrived = if counted >= last {
            counted
        } else {
            let missing = last - counted;
            // A small difference only means that one of the numbers is newer than the other.
            if missing as f64 > measured.deliver_rate * SKEW {
                self.lost += missing;
            }
            last
        };
        if self.moments.back().is_some_and(|(at, _)| *at < now) {
            self.moments.push_back((now, arrived));
        }
        if measured.messages == 0 {
            self.moments = VecDeque::from([(now, arrived)]);
            return Some(Duration::ZERO);
        }
        let left = arrived.saturating_sub(measured.messages);
        let oldest = self.oldest(left).map(|came| now.saturating_duration_since(came));
        self.drop_points(left);
        oldest
    }

    /// When the message after the first `left` ones entered.
    fn oldest(&self, left: u64) -> Option<Instant> {
        let after = self.moments.iter().position(|(_, arrived)| *arrived > left)?;
        // It entered before the first stored point.
        let before = after.checked_sub(1)?;
        let ((from, low), (until, high)) = (self.moments[before], self.moments[after]);
        let share = (left - low) as f64 / (high - low) as f64;
        Some(from + (until - from).mul_f64(share.clamp(0.0, 1.0)))
    }

    /// Drops points that are not needed any more, and every second one when there are too many.
    fn drop_points(&mut self, left: u64) {
        while self.moments.get(1).is_some_and(|(_, arrived)| *arrived <= left) {
            self.moments.pop_front();
        }
        if self.moments.len() > MAX_MOMENTS {
            let last = self.moments.len() - 1;
            let mut place = 0;
            self.moments.retain(|_| {
                place += 1;
                place == 1 || place % 2 == 1 || place == last + 1
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Measurements at intervals of a second: messages, and acknowledged messages.
    fn ages(measured: &[(u64, u64)]) -> Vec<Option<u64>> {
        let (ages, start) = (Ages::default(), Instant::now());
        let one = |(second, (messages, acknowledged)): (u64, &(u64, u64))| {
            let measured = Measured { messages: *messages, acknowledged: *acknowledged, deliver_rate: 0.0 };
            let now = start + Duration::from_secs(second);
            ages.estimate("v", "q", measured, now).map(|age| age.as_secs())
        };
        (0..).zip(measured).map(one).collect()
    }

    #[test]
    fn the_oldest_message_ages_until_it_is_acknowledged() {
        // From the second measurement on, one message enters per second; from the fifth on, one is also acknowledged.
        let seen = ages(&[(0, 0), (1, 0), (2, 0), (3, 0), (3, 1), (3, 2), (0, 5)]);
        assert_eq!(seen, [Some(0), Some(1), Some(2), Some(3), Some(3), Some(3), Some(0)]);
    }

    #[test]
    fn messages_from_before_the_first_measurement_have_no_known_age() {
        let seen = ages(&[(5, 0), (6, 0), (2, 4), (1, 5)]);
        assert_eq!(seen, [None, None, None, Some(3)]);
    }

    #[test]
    fn the_messages_of_a_queue_that_is_new_came_in_after_the_last_poll() {
        let (ages, start) = (Ages::default(), Instant::now());
        ages.polled(Some("v"), start);
        let measured = Measured { messages: 5, acknowledged: 0, deliver_rate: 0.0 };
        let later = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(ages.estimate("v", "new", measured, later(10)), Some(Duration::from_secs(10)));
        assert_eq!(ages.estimate("other", "old", measured, later(10)), None, "its vhost was not polled");
        ages.polled(None, later(20));
        assert_eq!(ages.estimate("other", "newer", measured, later(25)), Some(Duration::from_secs(5)));
    }

    #[test]
    fn purged_messages_do_not_make_later_ones_older() {
        let seen = ages(&[(0, 0), (9, 0), (0, 0), (0, 0), (2, 0), (2, 0)]);
        assert_eq!(seen[2..], [Some(0), Some(0), Some(1), Some(2)]);
    }

    #[test]
    fn messages_that_expire_at_the_head_make_room_for_younger_ones() {
        // Ten enter at the first second, then messages only expire, then ten more enter.
        let seen = ages(&[(0, 0), (10, 0), (10, 0), (5, 0), (15, 0), (10, 0)]);
        assert_eq!(seen[3], Some(2));
        assert_eq!(seen[5], Some(2), "those of the fifth measurement, which came in after the fourth");
    }

    #[test]
    fn a_history_is_bounded_and_remembers_its_beginning() {
        let (ages, start) = (Ages::default(), Instant::now());
        let mut last = None;
        for second in 0..1_000 {
            let measured = Measured { messages: second, acknowledged: 0, deliver_rate: 0.0 };
            last = ages.estimate("v", "q", measured, start + Duration::from_secs(second));
        }
        assert_eq!(last.map(|age| age.as_secs()), Some(999));
        let histories = ages.0.lock().expect("a lock");
        assert!(histories.queues.values().all(|history| history.moments.len() <= MAX_MOMENTS + 1));
    }
}
