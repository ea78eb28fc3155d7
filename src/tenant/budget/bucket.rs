//! A token bucket for messages or bytes. An amount taken for a message that another limit refused can be returned.
//!
//! `governor` counts cells, at most 2³² per burst, each lasting a whole number of nanoseconds. A cell represents as
//! many units as keep both exact to one percent.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter, clock::Clock as _, clock::DefaultClock};

/// The maximum rate of cells: a period of 100 ns is exact to one percent.
const MAX_CELLS_A_SECOND: u64 = 10_000_000;

#[derive(Debug)]
pub(super) struct Bucket {
    /// Rate and burst of the plan.
    spec: (u64, u64),
    limiter: DefaultDirectRateLimiter,
    clock: DefaultClock,
    /// Units per cell.
    unit: u64,
    burst: NonZeroU32,
    period: Duration,
    /// Returned cells, which `governor` cannot take back. They are used first.
    returned: AtomicU32,
}

impl Bucket {
    /// The bucket for a rate and burst; the previous one if they are the same. `None` for a rate of 0, which is
    /// unlimited.
    pub(super) fn next(before: Option<&Arc<Self>>, spec: (u64, u64)) -> Option<Arc<Self>> {
        if let Some(before) = before.filter(|before| before.spec == spec) {
            return Some(Arc::clone(before));
        }
        let (rate, burst) = spec;
        let unit = rate.div_ceil(MAX_CELLS_A_SECOND).max(burst / u64::from(u32::MAX) + 1);
        let burst = NonZeroU32::new(u32::try_from(burst / unit).unwrap_or(u32::MAX)).unwrap_or(NonZeroU32::MIN);
        // A rate of 0 has no period.
        let period = (unit.saturating_mul(1_000_000_000) + rate / 2).checked_div(rate)?;
        let period = Duration::from_nanos(period.max(1));
        let quota = Quota::with_period(period)?.allow_burst(burst);
        let clock = DefaultClock::default();
        let limiter = RateLimiter::direct_with_clock(quota, clock.clone());
        Some(Arc::new(Self { spec, limiter, clock, unit, burst, period, returned: AtomicU32::new(0) }))
    }

    /// Takes the whole amount or nothing.
    pub(super) fn take_all(&self, amount: u64) -> bool {
        match self.cells(amount) {
            None => true,
            Some(cells) => self.take_returned(cells) || matches!(self.limiter.check_n(cells), Ok(Ok(()))),
        }
    }

    /// Takes an amount, or returns the time until it is available. More than a burst counts as one burst, because it
    /// would never be available otherwise.
    pub(super) fn take(&self, amount: u64) -> Result<(), Duration> {
        let Some(cells) = self.cells(amount).map(|cells| cells.min(self.burst)) else { return Ok(()) };
        if self.take_returned(cells) {
            return Ok(());
        }
        match self.limiter.check_n(cells) {
            Ok(Err(not_until)) => Err(not_until.wait_time_from(self.clock.now())),
            // The error means more than a burst, which is impossible here.
            Ok(Ok(())) | Err(_) => Ok(()),
        }
    }

    /// Returns an amount that [`Self::take`] took.
    pub(super) fn return_amount(&self, amount: u64) {
        let Some(cells) = self.cells(amount).map(|cells| cells.min(self.burst).get()) else { return };
        let more = |returned: u32| Some(returned.saturating_add(cells).min(self.burst.get()));
        let _ = self.returned.fetch_update(Relaxed, Relaxed, more);
    }

    fn cells(&self, amount: u64) -> Option<NonZeroU32> {
        NonZeroU32::new(u32::try_from(amount.div_ceil(self.unit)).unwrap_or(u32::MAX))
    }

    fn take_returned(&self, cells: NonZeroU32) -> bool {
        self.returned.load(Relaxed) > 0
            && self.returned.fetch_update(Relaxed, Relaxed, |returned| returned.checked_sub(cells.get())).is_ok()
    }

    /// The time in which this amount becomes available.
    pub(super) fn time(&self, amount: u64) -> Duration {
        self.period.saturating_mul(u32::try_from(amount.div_ceil(self.unit)).unwrap_or(u32::MAX))
    }

    /// The time in which an empty bucket fills up.
    pub(super) fn fill_time(&self) -> Duration {
        self.period.saturating_mul(self.burst.get())
    }
}
