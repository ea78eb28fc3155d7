//! How long a message waits before its next attempt. A queue's policy and the number of failures enter; a delay leaves,
//! rounded up to one of about two hundred steps, since the broker keeps a queue for each (a queue with one delay only has
//! no message that waits behind a longer one). Pure.

use std::time::Duration;

use crate::error::Failure;

const MAX_ATTEMPTS: &str = "x-wg-max-delivery-attempts";
const MIN_BACKOFF: &str = "x-wg-min-backoff-ms";
const MAX_BACKOFF: &str = "x-wg-max-backoff-ms";
/// AMQP's numbers with a fraction come back from the broker's HTTP API in more than one form: thousandths do not.
const MULTIPLIER: &str = "x-wg-backoff-multiplier-thousandths";
const JITTER: &str = "x-wg-backoff-jitter-thousandths";

/// The shortest delay that is not none.
pub const MIN_DELAY: Duration = Duration::from_millis(100);
/// The longest delay.
pub const MAX_DELAY: Duration = Duration::from_secs(24 * 3600);

/// A queue's policy for messages that were not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    max_attempts: u32,
    min_backoff_ms: u64,
    max_backoff_ms: u64,
    multiplier_thousandths: u32,
    jitter_thousandths: u32,
}

impl Default for RetryPolicy {
    /// 20 attempts; 1 s doubling to 5 min, 10 % more or less.
    fn default() -> Self {
        Self {
            max_attempts: 20,
            min_backoff_ms: 1_000,
            max_backoff_ms: 300_000,
            multiplier_thousandths: 2_000,
            jitter_thousandths: 100,
        }
    }
}

impl RetryPolicy {
    /// The same policy with this many attempts.
    ///
    /// # Errors
    /// When it is not 1 to 1,000.
    pub fn with_max_attempts(self, attempts: u32) -> Result<Self, Failure> {
        match attempts {
            1..=1_000 => Ok(Self { max_attempts: attempts, ..self }),
            _ => Err(Failure::invalid("queue.max_delivery_attempts", "must be from 1 to 1,000")),
        }
    }

    /// The same policy with this back-off; what is none stays, and the maximum is at least the minimum.
    ///
    /// # Errors
    /// Names the field that is out of range.
    pub fn with_backoff(
        self,
        min: Option<Duration>,
        max: Option<Duration>,
        multiplier: Option<f64>,
        jitter: Option<f64>,
    ) -> Result<Self, Failure> {
        let millis = |field: &'static str, given: Option<Duration>, default: u64| match given {
            None => Ok(default),
            Some(given) if (MIN_DELAY..=MAX_DELAY).contains(&given) => {
                Ok(u64::try_from(given.as_millis()).unwrap_or(u64::MAX))
            }
            Some(_) => Err(Failure::invalid(field, "must be from 100 ms to 24 h")),
        };
        let min_backoff_ms = millis("queue.retry_policy.min_backoff", min, self.min_backoff_ms)?;
        let default_max = self.max_backoff_ms.max(min_backoff_ms);
        let max_backoff_ms = millis("queue.retry_policy.max_backoff", max, default_max)?;
        if max_backoff_ms < min_backoff_ms {
            return Err(Failure::invalid("queue.retry_policy.max_backoff", "must not be less than min_backoff"));
        }
        let multiplier = multiplier.unwrap_or(f64::from(self.multiplier_thousandths) / 1_000.0);
        if !(1.0..=100.0).contains(&multiplier) {
            return Err(Failure::invalid("queue.retry_policy.multiplier", "must be from 1 to 100"));
        }
        let jitter = jitter.unwrap_or(f64::from(self.jitter_thousandths) / 1_000.0);
        if !(0.0..=0.5).contains(&jitter) {
            return Err(Failure::invalid("queue.retry_policy.jitter", "must be from 0 to 0.5"));
        }
        // Both are small and positive here.
        let thousandths = |value: f64| (value * 1_000.0).round() as u32;
        Ok(Self {
            min_backoff_ms,
            max_backoff_ms,
            multiplier_thousandths: thousandths(multiplier),
            jitter_thousandths: thousandths(jitter),
            ..self
        })
    }

    /// As the queue's arguments have it; what they do not have is the default.
    pub fn from_arguments(argument: impl Fn(&str) -> Option<i64>) -> Self {
        let default = Self::default();
        let small = |name, default| argument(name).and_then(|value| u32::try_from(value).ok()).unwrap_or(default);
        let large = |name, default| argument(name).and_then(|value| u64::try_from(value).ok()).unwrap_or(default);
        Self {
            max_attempts: small(MAX_ATTEMPTS, default.max_attempts),
            min_backoff_ms: large(MIN_BACKOFF, default.min_backoff_ms),
            max_backoff_ms: large(MAX_BACKOFF, default.max_backoff_ms),
            multiplier_thousandths: small(MULTIPLIER, default.multiplier_thousandths),
            jitter_thousandths: small(JITTER, default.jitter_thousandths),
        }
    }

    /// The queue arguments that say it. RabbitMQ keeps them and makes nothing of them.
    pub(in crate::broker) fn arguments(&self) -> [(&'static str, i64); 5] {
        let wide = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        [
            (MAX_ATTEMPTS, self.max_attempts.into()),
            (MIN_BACKOFF, wide(self.min_backoff_ms)),
            (MAX_BACKOFF, wide(self.max_backoff_ms)),
            (MULTIPLIER, self.multiplier_thousandths.into()),
            (JITTER, self.jitter_thousandths.into()),
        ]
    }

    /// What differs from another policy first: the argument in the words of the API, and both values.
    pub fn difference(&self, other: &Self) -> Option<(&'static str, String, String)> {
        const WORDS: [&str; 5] = [
            "max_delivery_attempts",
            "retry_policy.min_backoff",
            "retry_policy.max_backoff",
            "retry_policy.multiplier",
            "retry_policy.jitter",
        ];
        let shown = |which: usize, value: i64| match which {
            0 => value.to_string(),
            // Exact in a double, and back: both are small.
            3 | 4 => (value as f64 / 1_000.0).to_string(),
            _ => format!("{value} ms"),
        };
        let pairs = self.arguments().into_iter().zip(other.arguments()).enumerate();
        let mut different = pairs.filter(|(_, (mine, theirs))| mine.1 != theirs.1);
        let (which, (mine, theirs)) = different.next()?;
        Some((WORDS[which], shown(which, mine.1), shown(which, theirs.1)))
    }

    /// After so many failed attempts a message is given up.
    pub fn max_attempts(&self) -> u32 {
        self.max_attempts
    }

    /// The delay after the first failure.
    pub fn min_backoff(&self) -> Duration {
        Duration::from_millis(self.min_backoff_ms)
    }

    /// The longest delay, before jitter.
    pub fn max_backoff(&self) -> Duration {
        Duration::from_millis(self.max_backoff_ms)
    }

    /// What each delay is multiplied with for the next.
    pub fn multiplier(&self) -> f64 {
        f64::from(self.multiplier_thousandths) / 1_000.0
    }

    /// How far delays are spread: 0.1 is 10 % more or less.
    pub fn jitter(&self) -> f64 {
        f64::from(self.jitter_thousandths) / 1_000.0
    }

    /// The delay after the `failures`-th failed attempt (1 for the first). `random` is from -1 to 1, and spreads over three
    /// values only: each may be a queue of its own.
    pub fn backoff(&self, failures: u32, random: f64) -> Duration {
        let growth = self.multiplier().powi(i32::try_from(failures.saturating_sub(1)).unwrap_or(i32::MAX));
        let plain = (self.min_backoff_ms as f64 * growth).min(self.max_backoff_ms as f64);
        let spread = (random * 1.5).round().clamp(-1.0, 1.0) * self.jitter();
        let millis = (plain * (1.0 + spread)).clamp(MIN_DELAY.as_millis() as f64, MAX_DELAY.as_millis() as f64);
        Duration::from_millis(millis as u64)
    }
}

/// The step that a delay is rounded up to, in milliseconds: two significant digits, at most a tenth more than was asked for,
/// never less, from 100 ms to 24 h.
pub(in crate::broker) fn step(delay: Duration) -> u64 {
    let longest = MAX_DELAY.as_millis() as u64;
    let millis = delay.as_nanos().div_ceil(1_000_000).clamp(MIN_DELAY.as_millis(), u128::from(longest)) as u64;
    let mut unit = 10;
    while millis > 100 * unit {
        unit *= 10;
    }
    let digits = match millis.div_ceil(unit) {
        digits @ ..=20 => digits,
        digits @ 21..=50 => digits.next_multiple_of(2),
        digits => digits.next_multiple_of(5),
    };
    (digits * unit).min(longest)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_step_is_never_less_and_at_most_a_tenth_more_and_there_are_about_two_hundred() {
        let mut steps = BTreeSet::new();
        let mut millis = 100;
        while millis <= MAX_DELAY.as_millis() as u64 {
            let step = step(Duration::from_millis(millis));
            assert!(step >= millis && step * 10 <= millis * 11, "{millis} → {step}");
            steps.insert(step);
            millis += 1 + millis / 1_000;
        }
        assert!(steps.len() < 220, "{}", steps.len());
        assert_eq!(step(Duration::ZERO), 100);
        assert_eq!(step(MAX_DELAY), 86_400_000);
        assert_eq!(step(Duration::from_secs(5)), 5_000);
        assert_eq!(step(Duration::from_nanos(1_000_000_001)), 1_100);
        assert_eq!(step(Duration::from_millis(1_001)), 1_100);
    }

    #[test]
    fn back_off_grows_to_its_maximum_and_spreads_over_three_values() {
        let policy = RetryPolicy::default();
        let seconds = |failures| policy.backoff(failures, 0.0).as_secs_f64();
        assert_eq!((seconds(1), seconds(2), seconds(5), seconds(9), seconds(u32::MAX)), (1.0, 2.0, 16.0, 256.0, 300.0));
        let spread: BTreeSet<_> = (-10..=10).map(|tenths| policy.backoff(1, f64::from(tenths) / 10.0)).collect();
        assert_eq!(spread.into_iter().collect::<Vec<_>>(), [900, 1_000, 1_100].map(Duration::from_millis));
    }

    #[test]
    fn a_policy_survives_the_queues_arguments_and_a_difference_is_named() {
        let millis = |millis| Some(Duration::from_millis(millis));
        let policy = RetryPolicy::default().with_backoff(millis(200), millis(900), Some(1.5), Some(0.0));
        let policy = policy.and_then(|policy| policy.with_max_attempts(3)).expect("within the limits");
        let arguments = policy.arguments();
        let read = RetryPolicy::from_arguments(|name| arguments.iter().find(|(key, _)| *key == name).map(|(_, v)| *v));
        assert_eq!(read, policy);
        assert_eq!(RetryPolicy::from_arguments(|_| None), RetryPolicy::default());
        assert_eq!(policy.difference(&read), None);
        let other = policy.with_backoff(None, None, Some(2.0), None).expect("within the limits");
        assert_eq!(policy.difference(&other), Some(("retry_policy.multiplier", "1.5".into(), "2".into())));
    }

    #[test]
    fn what_is_out_of_range_is_named() {
        let default = RetryPolicy::default();
        let second = Some(Duration::from_secs(1));
        let cases = [
            (default.with_backoff(Some(Duration::from_millis(99)), None, None, None), "min_backoff"),
            (default.with_backoff(None, Some(Duration::from_secs(86_401)), None, None), "max_backoff"),
            (default.with_backoff(Some(Duration::from_secs(2)), second, None, None), "max_backoff"),
            (default.with_backoff(None, None, Some(0.9), None), "multiplier"),
            (default.with_backoff(None, None, Some(f64::NAN), None), "multiplier"),
            (default.with_backoff(None, None, None, Some(0.6)), "jitter"),
            (default.with_max_attempts(1_001), "max_delivery_attempts"),
        ];
        for (result, field) in cases {
            let failure = result.expect_err(field);
            assert!(failure.field.as_deref().is_some_and(|named| named.ends_with(field)), "{failure:?}");
        }
    }
}
