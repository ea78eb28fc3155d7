//! A queue's retry policy: the number of attempts and the delays between them. It is stored in the queue's arguments.

use std::time::Duration;

use crate::{
    broker::message::delay_bucket::{MAX_DELAY, MIN_DELAY},
    error::Failure,
};

const MAX_ATTEMPTS: &str = "x-wg-max-delivery-attempts";
const MIN_BACKOFF: &str = "x-wg-min-backoff-ms";
const MAX_BACKOFF: &str = "x-wg-max-backoff-ms";
/// In thousandths, because the broker's HTTP API returns numbers with a fraction in more than one form.
const MULTIPLIER: &str = "x-wg-backoff-multiplier-thousandths";
const JITTER: &str = "x-wg-backoff-jitter-thousandths";

/// How often and when a queue's messages are tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    max_attempts: u32,
    min_backoff_ms: u64,
    max_backoff_ms: u64,
    multiplier_thousandths: u32,
    jitter_thousandths: u32,
}

impl Default for RetryPolicy {
    /// 20 attempts; 1 s doubling up to 5 min, with a jitter of 10 %.
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

    /// The same policy with this back-off. Values that are `None` are unchanged, and the maximum becomes at least the
    /// minimum.
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

    /// Reads the policy from a queue's arguments; missing ones have their defaults.
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

    /// The queue arguments that store the policy. RabbitMQ stores them without using them.
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

    /// The first difference from another policy: the argument as the API names it, and both values.
    pub fn difference(&self, other: &Self) -> Option<(&'static str, String, String)> {
        const NAMES: [&str; 5] = [
            "max_delivery_attempts",
            "retry_policy.min_backoff",
            "retry_policy.max_backoff",
            "retry_policy.multiplier",
            "retry_policy.jitter",
        ];
        let shown = |which: usize, value: i64| match which {
            0 => value.to_string(),
            // Both are small, so they are exact in a double.
            3 | 4 => (value as f64 / 1_000.0).to_string(),
            _ => format!("{value} ms"),
        };
        let pairs = self.arguments().into_iter().zip(other.arguments()).enumerate();
        let mut different = pairs.filter(|(_, (mine, theirs))| mine.1 != theirs.1);
        let (which, (mine, theirs)) = different.next()?;
        Some((NAMES[which], shown(which, mine.1), shown(which, theirs.1)))
    }

    /// After this many failed attempts a message becomes a dead letter.
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

    /// The factor from each delay to the next.
    pub fn multiplier(&self) -> f64 {
        f64::from(self.multiplier_thousandths) / 1_000.0
    }

    /// The spread of delays: 0.1 is up to 10 % more or less.
    pub fn jitter(&self) -> f64 {
        f64::from(self.jitter_thousandths) / 1_000.0
    }

    /// The delay after this number of failed attempts. `random` is from -1 to 1, and spreads over three values only,
    /// since the broker may keep a queue for each.
    pub fn backoff(&self, failures: u32, random: f64) -> Duration {
        let growth = self.multiplier().powi(i32::try_from(failures.saturating_sub(1)).unwrap_or(i32::MAX));
        let plain = (self.min_backoff_ms as f64 * growth).min(self.max_backoff_ms as f64);
        let spread = (random * 1.5).round().clamp(-1.0, 1.0) * self.jitter();
        let millis = (plain * (1.0 + spread)).clamp(MIN_DELAY.as_millis() as f64, MAX_DELAY.as_millis() as f64);
        Duration::from_millis(millis as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn back_off_grows_to_its_maximum_and_spreads_over_three_values() {
        let policy = RetryPolicy::default();
        let seconds = |failures| policy.backoff(failures, 0.0).as_secs_f64();
        assert_eq!((seconds(1), seconds(2), seconds(5), seconds(9), seconds(u32::MAX)), (1.0, 2.0, 16.0, 256.0, 300.0));
        let spread: BTreeSet<_> = (-10..=10).map(|tenths| policy.backoff(1, f64::from(tenths) / 10.0)).collect();
        assert_eq!(spread.into_iter().collect::<Vec<_>>(), [900, 1_000, 1_100].map(Duration::from_millis));
    }

    #[test]
    fn a_policy_is_stored_in_queue_arguments_and_differences_are_named() {
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
    fn a_field_that_is_out_of_range_is_named() {
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
