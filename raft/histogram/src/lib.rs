//! The histogram in which openraft counts its batches, small.
//!
//! The package of this name on the registry builds lookup tables for sixteen resolutions when the
//! first histogram is made, of which openraft uses the coarsest but two: 26 MiB that stay in the
//! memory of every node, measured as nearly half of a node at rest. This one has what openraft calls
//! of it, and a counter for each power of two. Take it out when the registry's makes its tables by
//! need (`LOG_SCALES` there) or openraft counts no more unless its feature `runtime-stats` is on.

use std::{fmt, marker::PhantomData};

const BUCKETS: usize = u64::BITS as usize + 1;

/// How many samples lay between each power of two and the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    /// The first is for 0, the next for 1, then for 2 and 3, and so on.
    counts: [u64; BUCKETS],
    metadata: PhantomData<T>,
}

impl<T> Histogram<T> {
    /// Without samples.
    pub fn new() -> Self {
        Self { counts: [0; BUCKETS], metadata: PhantomData }
    }

    /// Counts a sample.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Counts so many samples of one value.
    pub fn record_n(&mut self, value: u64, samples: u64) {
        let bucket = (u64::BITS - value.leading_zeros()) as usize;
        self.counts[bucket] = self.counts[bucket].saturating_add(samples);
    }

    /// Where the samples lie: each percentile is the power of two at or below it.
    pub fn percentile_stats(&self) -> PercentileStats {
        let samples = self.counts.iter().fold(0, |sum: u64, count| sum.saturating_add(*count));
        let at = |permille: u64| {
            let rank = u128::from(samples) * u128::from(permille) / 1000;
            let mut seen = 0;
            let bucket = self.counts.iter().position(|count| {
                seen += u128::from(*count);
                seen > rank
            });
            bucket.and_then(|bucket| bucket.checked_sub(1)).map_or(0, |exponent| 1 << exponent)
        };
        PercentileStats {
            samples,
            p0_1: at(1),
            p1: at(10),
            p5: at(50),
            p10: at(100),
            p50: at(500),
            p90: at(900),
            p99: at(990),
            p99_9: at(999),
        }
    }
}

impl<T> Default for Histogram<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// Some percentiles of a histogram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the percentile of its name")]
pub struct PercentileStats {
    /// How many there were.
    pub samples: u64,
    pub p0_1: u64,
    pub p1: u64,
    pub p5: u64,
    pub p10: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { samples, p50, p90, p99, .. } = self;
        write!(f, "{samples} samples, p50 {p50}, p90 {p90}, p99 {p99}")
    }
}

/// Several histograms, to be shown one below the other.
#[derive(Debug, Clone, Default)]
pub struct AsciiChart {
    rows: Vec<(String, PercentileStats)>,
}

impl AsciiChart {
    /// Without any.
    pub fn new() -> Self {
        Self::default()
    }

    /// With one more.
    #[must_use]
    pub fn add(mut self, name: &str, histogram: Histogram) -> Self {
        self.rows.push((name.to_owned(), histogram.percentile_stats()));
        self
    }
}

impl fmt::Display for AsciiChart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.rows.iter().try_for_each(|(name, stats)| writeln!(f, "{name}: {stats}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_the_power_of_two_at_or_below_it() {
        let mut histogram = Histogram::<()>::new();
        assert_eq!(histogram.percentile_stats().p50, 0);
        (0..=1000).for_each(|value| histogram.record(value));
        histogram.record_n(u64::MAX, 2);
        let stats = histogram.percentile_stats();
        assert_eq!((stats.samples, stats.p0_1, stats.p10), (1003, 1, 64));
        assert_eq!((stats.p50, stats.p90, stats.p99_9), (256, 512, 1 << 63));
        assert_eq!(AsciiChart::new().add("a", histogram).to_string().lines().count(), 1);
    }
}
