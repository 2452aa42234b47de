//! Durations in buckets that grow with what they hold.

use std::time::Duration;

/// Buckets for each doubling: a quantile is off by less than 1 %.
const STEPS: usize = 128;
const STEP_BITS: u32 = STEPS.trailing_zeros();
/// Doublings above the first, exact range; the last bucket begins beyond nine hours.
const DOUBLINGS: usize = 38;

/// A log-linear histogram of nanoseconds: 39 kB, however many durations are recorded.
#[derive(Clone)]
pub(crate) struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    max: Duration,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: vec![0; STEPS * (DOUBLINGS + 1)], count: 0, max: Duration::ZERO }
    }
}

impl Histogram {
    pub(crate) fn record(&mut self, duration: Duration) {
        self.buckets[bucket(duration)] += 1;
        self.count += 1;
        self.max = self.max.max(duration);
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (own, other) in self.buckets.iter_mut().zip(&other.buckets) {
            *own += other;
        }
        self.count += other.count;
        self.max = self.max.max(other.max);
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn max(&self) -> Duration {
        self.max
    }

    /// The duration that this share (0 to 1) of all does not exceed; zero if there are none.
    pub(crate) fn quantile(&self, share: f64) -> Duration {
        let rank = ((self.count as f64 * share).ceil() as u64).clamp(1, self.count.max(1));
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return middle(index).min(self.max);
            }
        }
        Duration::ZERO
    }
}

fn bucket(duration: Duration) -> usize {
    let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    // The first range holds two doublings' worth of single nanoseconds less one half: below
    // `STEPS` each value has a bucket of its own.
    let Some(doubling) = nanos.checked_ilog2().and_then(|log| log.checked_sub(STEP_BITS)) else {
        return nanos as usize;
    };
    let doubling = doubling as usize;
    if doubling >= DOUBLINGS {
        return STEPS * (DOUBLINGS + 1) - 1;
    }
    STEPS * (doubling + 1) + (nanos >> doubling) as usize - STEPS
}

/// The middle of a bucket.
fn middle(index: usize) -> Duration {
    if index < STEPS {
        return Duration::from_nanos(index as u64);
    }
    let doubling = index / STEPS - 1;
    let low = ((STEPS + index % STEPS) as u64) << doubling;
    Duration::from_nanos(low + (1 << doubling) / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_to_one_per_cent() {
        let mut histogram = Histogram::default();
        for micros in 1..=100_000 {
            histogram.record(Duration::from_micros(micros));
        }
        for (share, wanted) in [(0.001, 0.1), (0.5, 50.0), (0.99, 99.0), (1.0, 100.0)] {
            let found = histogram.quantile(share).as_secs_f64() * 1e3;
            assert!((found / wanted - 1.0).abs() < 0.01, "{share}: {found} instead of {wanted} ms");
        }
        assert_eq!(histogram.count(), 100_000);
    }

    #[test]
    fn the_extremes_have_a_bucket() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), Duration::ZERO);
        histogram.record(Duration::ZERO);
        histogram.record(Duration::MAX);
        assert_eq!(histogram.quantile(0.5), Duration::ZERO);
        assert!(histogram.quantile(1.0) > Duration::from_secs(9 * 3600));
    }

    #[test]
    fn merged_is_as_if_recorded_together() {
        let (mut a, mut b) = (Histogram::default(), Histogram::default());
        a.record(Duration::from_micros(10));
        b.record(Duration::from_micros(30));
        a.merge(&b);
        assert_eq!(a.count(), 2);
        assert_eq!(a.max(), Duration::from_micros(30));
        assert!(a.quantile(0.5) < Duration::from_micros(11));
    }
}
