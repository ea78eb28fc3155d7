//! Figures: the median of several rounds with their spread.
//!
//! Ratios are computed within a round, where both sides had the same conditions, before the median is taken.

use serde::Serialize;

use super::job::Latencies;

/// A figure: the middle of several, and how far they lie apart.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Figure {
    /// The middle one.
    pub median: f64,
    /// The least.
    pub least: f64,
    /// The most.
    pub most: f64,
    /// How many rounds.
    pub rounds: usize,
}

impl Figure {
    /// None without values.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let rounds = values.len();
        let median = f64::midpoint(values[(rounds - 1) / 2], values[rounds / 2]);
        Some(Self { median, least, most, rounds })
    }

    /// A figure of what is there in each round; none when it is missing in any.
    pub(super) fn of_all(values: impl IntoIterator<Item = Option<f64>>) -> Option<Self> {
        Self::of(values.into_iter().collect::<Option<Vec<f64>>>()?)
    }
}

/// What becomes of many latencies, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Percentiles {
    /// How many were measured.
    pub count: u64,
    /// Half were faster.
    pub p50: f64,
    /// One in ten was slower.
    pub p90: f64,
    /// One in a hundred was slower.
    pub p99: f64,
    /// One in a thousand was slower.
    pub p999: f64,
    /// The slowest.
    pub most: f64,
}

impl Percentiles {
    /// None when nothing was measured.
    pub(super) fn of(latencies: &Latencies) -> Option<Self> {
        let count: u64 = latencies.0.iter().map(|(_, times)| times).sum();
        let (most, _) = latencies.0.last()?;
        Some(Self {
            count,
            p50: at(latencies, count, 0.5),
            p90: at(latencies, count, 0.9),
            p99: at(latencies, count, 0.99),
            p999: at(latencies, count, 0.999),
            most: millis(*most),
        })
    }
}

/// Values are sorted, as a histogram gives them.
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

/// Counts as a number to calculate with.
pub(super) fn number(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figure_of_rounds_is_their_middle() {
        assert_eq!(Figure::of([3.0, 1.0, 2.0]), Some(Figure { median: 2.0, least: 1.0, most: 3.0, rounds: 3 }));
        assert_eq!(Figure::of([1.0, 2.0]).map(|figure| figure.median), Some(1.5));
        assert_eq!(Figure::of([]), None);
        assert_eq!(Figure::of_all([Some(1.0), None]), None);
    }

    #[test]
    fn percentiles_are_those_of_the_values() {
        let latencies = Latencies((1..=100).map(|value| (value * 1000, 10)).collect());
        let percentiles = Percentiles::of(&latencies).expect("some");
        assert_eq!((percentiles.count, percentiles.p50, percentiles.p99), (1000, 50.0, 99.0));
        assert_eq!((percentiles.p999, percentiles.most), (100.0, 100.0));
        assert_eq!(Percentiles::of(&Latencies::default()), None);
    }
}
