//! How many refusals are recorded: a flood of them must not push changes out of the bounded log.

use std::{collections::HashMap, time::Duration};

/// Records of one code that come at once.
const BURST: u32 = 16;
/// After that, one record of a code in this time: less than 3 MB a day. The others are counted in
/// its `suppressed`.
const REFILL: Duration = Duration::from_secs(10);

/// One bucket for each code: bounded by the number of codes. Time is since any fixed moment.
#[derive(Debug, Default)]
pub(super) struct Limit {
    buckets: HashMap<&'static str, Bucket>,
}

#[derive(Debug)]
struct Bucket {
    tokens: u32,
    refilled: Duration,
    suppressed: u64,
}

impl Limit {
    /// Whether a refusal is recorded now, and how many were not since the last record.
    pub(super) fn admit(&mut self, code: &'static str, now: Duration) -> Option<u64> {
        let bucket = self.buckets.entry(code).or_insert(Bucket {
            tokens: BURST,
            refilled: now,
            suppressed: 0,
        });
        let steps = now.saturating_sub(bucket.refilled).as_millis() / REFILL.as_millis();
        if let Some(steps) = u32::try_from(steps).ok().filter(|steps| *steps > 0) {
            bucket.tokens = bucket.tokens.saturating_add(steps).min(BURST);
            bucket.refilled += REFILL * steps;
        }
        if bucket.tokens == 0 {
            bucket.suppressed += 1;
            return None;
        }
        bucket.tokens -= 1;
        Some(std::mem::take(&mut bucket.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_and_hides_no_other_code() {
        let mut limit = Limit::default();
        let now = Duration::from_secs(1);
        let recorded = (0..1_000).filter_map(|_| limit.admit("A", now)).count();
        assert_eq!(recorded, BURST as usize);
        assert_eq!(limit.admit("B", now), Some(0));
        assert_eq!(limit.admit("A", now + REFILL / 2), None);
        assert_eq!(limit.admit("A", now + REFILL), Some(1_001 - u64::from(BURST)));
        assert_eq!(limit.admit("A", now + REFILL), None);
        assert_eq!(limit.admit("A", now + REFILL * 100), Some(1));
    }
}
