//! Figures: the median of several rounds with their spread.
//!
//! Ratios are computed within a round, where both sides had the same conditions, before the median is taken.

use serde::Serialize;

use super::job::Latencies;

/// The median of several values, with their range.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Figure {
    /// The median.
    pub median: f64,
    /// The smallest value.
    pub min: f64,
    /// The largest value.
    pub max: f64,
    /// The number of values.
    pub rounds: usize,
}

impl Figure {
    /// `None` without values.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let rounds = values.len();
        let median = f64::midpoint(values[(rounds - 1) / 2], values[rounds / 2]);
        Some(Self { median, min, max, rounds })
    }

    /// The figure of all values; `None` when any of them is missing.
    pub(super) fn of_all(values: impl IntoIterator<Item = Option<f64>>) -> Option<Self> {
        Self::of(values.into_iter().collect::<Option<Vec<f64>>>()?)
    }
}

/// Percentiles of latencies, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Percentiles {
    /// The number of latencies.
    pub count: u64,
    /// The median.
    pub p50: f64,
    /// 90 % were faster.
    pub p90: f64,
    /// 99 % were faster.
    pub p99: f64,
    /// 99.9 % were faster.
    pub p999: f64,
    /// The slowest.
    pub max: f64,
}

impl Percentiles {
    /// `None` when nothing was measured.
    pub(super) fn of(latencies: &Latencies) -> Option<Self> {
        let count: u64 = latencies.0.iter().map(|(_, times)| times).sum();
        let (max, _) = latencies.0.last()?;
        Some(Self {
            count,
            p50: at(latencies, count, 0.5),
            p90: at(latencies, count, 0.9),
            p99: at(latencies, count, 0.99),
            p999: at(latencies, count, 0.999),
            max: millis(*max),
        })
    }
}

/// The values are sorted, as a histogram returns them.
fn at(latencies: &Latencies, count: u64, share: f64) -> f64 {
    let mut seen = 0;
    for (value, times) in &latencies.0 {
        seen += times;
        if number(seen) >= share * number(count) {
            return millis(*value);
        }
    }
    f64::NAN
}

fn millis(micros: u64) -> f64 {
    number(micros) / 1000.0
}

/// Converts a count for calculations.
pub(super) fn number(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_the_median_of_its_rounds() {
        assert_eq!(Figure::of([3.0, 1.0, 2.0]), Some(Figure { median: 2.0, min: 1.0, max: 3.0, rounds: 3 }));
        assert_eq!(Figure::of([1.0, 2.0]).map(|figure| figure.median), Some(1.5));
        assert_eq!(Figure::of([]), None);
        assert_eq!(Figure::of_all([Some(1.0), None]), None);
    }

    #[test]
    fn percentiles_are_computed_from_the_recorded_values() {
        let latencies = Latencies((1..=100).map(|value| (value * 1000, 10)).collect());
        let percentiles = Percentiles::of(&latencies).expect("some");
        assert_eq!((percentiles.count, percentiles.p50, percentiles.p99), (1000, 50.0, 99.0));
        assert_eq!((percentiles.p999, percentiles.max), (100.0, 100.0));
        assert_eq!(Percentiles::of(&Latencies::default()), None);
    }
}
