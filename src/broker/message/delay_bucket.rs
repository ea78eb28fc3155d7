//! Delay buckets. A requested delay is rounded up to one of sixty buckets, because the broker needs a queue for each.
//! All messages of a queue have the same delay, so no message waits behind one with a longer delay.

use std::{fmt, time::Duration};

/// The shortest delay that is not zero.
pub const MIN_DELAY: Duration = Duration::from_millis(100);
/// The longest delay.
pub const MAX_DELAY: Duration = Duration::from_secs(24 * 3600);

/// The lowest priority that quorum queues of RabbitMQ 4.0 to 4.2 treat as high.
const HIGH_PRIORITY: u8 = 5;

/// A delay, and whether it is for messages of high priority. Those have a queue of their own: quorum queues of RabbitMQ
/// 4.0 to 4.2 expire messages at the head only, and would let those of low priority wait behind those of high priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::broker) struct DelayBucket {
    millis: u64,
    high_priority: bool,
}

impl DelayBucket {
    /// The bucket for a delay and a priority.
    pub(in crate::broker) fn of(delay: Duration, priority: Option<u8>) -> Self {
        Self { millis: round_up(delay), high_priority: priority.is_some_and(|priority| priority >= HIGH_PRIORITY) }
    }

    pub(in crate::broker) fn millis(self) -> u64 {
        self.millis
    }
}

/// The form in the header and in the queue's name.
impl fmt::Display for DelayBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.millis, if self.high_priority { ".high" } else { "" })
    }
}

/// The delays that have a queue, in milliseconds: each at most a third longer than the one before.
const BUCKETS: [u64; 61] = [
    100, 125, 150, 200, 250, 300, 400, 500, 600, 800, // up to 1 s
    1_000, 1_250, 1_500, 2_000, 2_500, 3_000, 4_000, 5_000, 6_000, 8_000, // up to 10 s
    10_000, 12_500, 15_000, 20_000, 25_000, 30_000, 40_000, 50_000, // up to 1 min
    60_000, 75_000, 90_000, 120_000, 150_000, 180_000, 240_000, 300_000, 360_000, 480_000, // up to 10 min
    600_000, 720_000, 900_000, 1_200_000, 1_500_000, 1_800_000, 2_400_000, 3_000_000, // up to 1 h
    3_600_000, 4_500_000, 5_400_000, 7_200_000, 9_000_000, 10_800_000, 14_400_000, 18_000_000, 21_600_000,
    28_800_000, // up to 10 h
    36_000_000, 43_200_000, 54_000_000, 64_800_000, 86_400_000,
];

/// The shortest bucket that is not shorter than the delay, or the longest one.
fn round_up(delay: Duration) -> u64 {
    let millis = delay.as_nanos().div_ceil(1_000_000);
    let index = BUCKETS.partition_point(|bucket| u128::from(*bucket) < millis);
    BUCKETS[index.min(BUCKETS.len() - 1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_never_shorter_than_the_delay_and_at_most_a_third_longer() {
        let mut millis = 100;
        while millis <= MAX_DELAY.as_millis() as u64 {
            let bucket = round_up(Duration::from_millis(millis));
            assert!(bucket >= millis && bucket * 3 <= millis * 4, "{millis} → {bucket}");
            millis += 1 + millis / 1_000;
        }
        assert_eq!(round_up(Duration::ZERO), 100);
        assert_eq!(round_up(MAX_DELAY), 86_400_000);
        assert_eq!(round_up(Duration::from_secs(5)), 5_000);
        assert_eq!(round_up(Duration::from_nanos(1_000_000_001)), 1_250);
    }

    #[test]
    fn messages_of_high_priority_have_buckets_of_their_own() {
        let name = |priority| DelayBucket::of(Duration::from_secs(5), priority).to_string();
        assert_eq!([None, Some(4), Some(5), Some(255)].map(name), ["5000", "5000", "5000.high", "5000.high"]);
    }
}
