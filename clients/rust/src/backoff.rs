//! Exponential back-off from 0.1 s to 5 s with jitter, so that many clients of a gateway do not reconnect at the same
//! time.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const MAX: Duration = Duration::from_secs(5);

/// The delays of consecutive failures.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The delay before the next attempt: between half of the current step and all of it.
    pub(super) fn next(&mut self) -> Duration {
        let step = FIRST.saturating_mul(1 << self.failures.min(16)).min(MAX);
        self.failures = self.failures.saturating_add(1);
        step.mul_f64(rand::random_range(0.5..=1.0))
    }

    /// Starts again after a success.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_a_limit_and_start_again_after_a_success() {
        let mut backoff = Backoff::default();
        assert!((FIRST / 2..=FIRST).contains(&backoff.next()));
        for _ in 0..100 {
            assert!(backoff.next() <= MAX);
        }
        assert!(backoff.next() >= MAX / 2);
        backoff.reset();
        assert!(backoff.next() <= FIRST);
    }
}
