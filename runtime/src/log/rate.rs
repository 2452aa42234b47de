//! How much one function may log: a token bucket, in lines and in bytes.

use std::time::{Duration, Instant};

/// Lines a second that a function may log for long.
pub(crate) const LINES_PER_SECOND: u64 = 1000;
/// Bytes a second that a function may log for long.
pub(crate) const BYTES_PER_SECOND: u64 = 1 << 20;
/// Seconds of the rate that may come at once.
const BURST_SECONDS: u64 = 2;

/// Whether a line may pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It may; `missed` lines before it did not.
    Pass {
        /// Lines dropped since the last one that passed.
        missed: u64,
    },
    /// It is dropped.
    Drop,
}

/// The state of one function's bucket. Pure: time is handed in.
#[derive(Debug)]
pub(crate) struct RateBound {
    /// Milli-lines and bytes left.
    lines_milli: u64,
    bytes: u64,
    last: Instant,
    missed: u64,
}

impl RateBound {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            lines_milli: LINES_PER_SECOND * BURST_SECONDS * 1000,
            bytes: BYTES_PER_SECOND * BURST_SECONDS,
            last: now,
            missed: 0,
        }
    }

    /// Takes a line of this many bytes.
    pub(crate) fn take(&mut self, bytes: usize, now: Instant) -> Verdict {
        let passed = now.saturating_duration_since(self.last);
        // A whole millisecond at least, so that no fraction is lost by rounding.
        if passed >= Duration::from_millis(1) {
            let ms = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX);
            self.lines_milli = self
                .lines_milli
                .saturating_add(ms.saturating_mul(LINES_PER_SECOND))
                .min(LINES_PER_SECOND * BURST_SECONDS * 1000);
            self.bytes = self
                .bytes
                .saturating_add(ms.saturating_mul(BYTES_PER_SECOND) / 1000)
                .min(BYTES_PER_SECOND * BURST_SECONDS);
            self.last = now;
        }
        let bytes = bytes as u64;
        if self.lines_milli < 1000 || self.bytes < bytes {
            self.missed += 1;
            return Verdict::Drop;
        }
        self.lines_milli -= 1000;
        self.bytes -= bytes;
        Verdict::Pass { missed: std::mem::take(&mut self.missed) }
    }

    /// The lines dropped and not yet told of.
    pub(crate) fn take_missed(&mut self) -> u64 {
        std::mem::take(&mut self.missed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_to_the_rate_and_counted() {
        let start = Instant::now();
        let mut bound = RateBound::new(start);
        let passed = (0..10_000).filter(|_| bound.take(10, start) != Verdict::Drop).count() as u64;
        assert_eq!(passed, LINES_PER_SECOND * BURST_SECONDS);
        let later = start + Duration::from_millis(10);
        assert_eq!(bound.take(10, later), Verdict::Pass { missed: 8000 });
        let again = (0..100).filter(|_| bound.take(10, later) != Verdict::Drop).count();
        assert_eq!(again, 9, "ten lines in ten milliseconds");
        assert_eq!(bound.take_missed(), 91);
        assert_eq!(bound.take_missed(), 0);
    }

    #[test]
    fn bytes_are_bounded_too_and_time_may_stand_or_go_back() {
        let start = Instant::now() + Duration::from_secs(10);
        let mut bound = RateBound::new(start);
        let passed = (0..1000).filter(|_| bound.take(8192, start) != Verdict::Drop).count();
        assert_eq!(passed, 256, "2 MiB of 8 KiB each");
        assert_eq!(bound.take(1, start - Duration::from_secs(5)), Verdict::Drop);
        let later = start + Duration::from_secs(1);
        assert_eq!(bound.take(8192, later), Verdict::Pass { missed: 745 });
    }
}
