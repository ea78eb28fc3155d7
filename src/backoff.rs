//! Exponential back-off with jitter, for all retries in the gateway.

use std::time::Duration;

/// The pauses between the attempts of one operation: each is up to twice as long as the one before it, up to a maximum.
/// The second half of each pause is random, so that operations that failed at the same time are not all retried at the
/// same time.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    /// A back-off that begins with `first` and pauses for at most `max`.
    pub const fn new(first: Duration, max: Duration) -> Self {
        Self { first, max, failures: 0 }
    }

    /// The pause before the next attempt, after another failure.
    pub fn pause(&mut self) -> Duration {
        let full = self.first.saturating_mul(1 << self.failures.min(16)).min(self.max);
        self.failures = self.failures.saturating_add(1);
        full.mul_f64(rand::random_range(0.5..=1.0))
    }

    /// Resets the pause after a success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_maximum_and_begin_again_after_a_success() {
        let (first, max) = (Duration::from_millis(100), Duration::from_secs(5));
        let mut backoff = Backoff::new(first, max);
        assert!((first / 2..=first).contains(&backoff.pause()));
        assert!((first..=first * 2).contains(&backoff.pause()));
        for _ in 0..100 {
            assert!(backoff.pause() <= max);
        }
        assert!(backoff.pause() >= max / 2);
        backoff.reset();
        assert!(backoff.pause() <= first);
    }
}
