//! How many refusals are recorded: a flood of them must not push changes out of the bounded log.

use std::{collections::HashMap, time::Duration};

use super::event::Who;

/// Records of one caller with one code that come at once.
const BURST: u32 = 64;
/// After that, one record in this time: less than 3 MB a day. The others are counted in its
/// `suppressed`.
const REFILL: Duration = Duration::from_secs(10);
/// The most callers and codes that are told apart: tokens that the cluster knows, and the nobodies
/// together. What is beyond that shares one bucket for each code.
const MAX_BUCKETS: usize = 256;

/// One bucket for each caller and code: one who floods the log hides nobody else. Time is since any
/// fixed moment.
#[derive(Debug, Default)]
pub(super) struct Limit {
    buckets: HashMap<(Option<String>, &'static str), Bucket>,
}

#[derive(Debug)]
struct Bucket {
    tokens: u32,
    refilled: Duration,
    suppressed: u64,
}

impl Limit {
    /// Whether a refusal is recorded now, and how many were not since the last record.
    pub(super) fn admit(&mut self, who: &Who, code: &'static str, now: Duration) -> Option<u64> {
        let caller = match who {
            Who::Token(id) => Some(id.clone()),
            Who::Joiner(_) | Who::Open | Who::Node | Who::Nobody => None,
        };
        let known = self.buckets.contains_key(&(caller.clone(), code)) || self.has_room(now);
        let bucket = self.buckets.entry((caller.filter(|_| known), code)).or_insert(Bucket {
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

    /// Whether there is room for one more caller, once those are forgotten of whom nothing is to
    /// be told.
    fn has_room(&mut self, now: Duration) -> bool {
        if self.buckets.len() >= MAX_BUCKETS {
            self.buckets.retain(|_, bucket| {
                bucket.suppressed > 0 || now.saturating_sub(bucket.refilled) < REFILL * BURST
            });
        }
        self.buckets.len() < MAX_BUCKETS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_and_hides_no_other_code() {
        let mut limit = Limit::default();
        let now = Duration::from_secs(1);
        let who = &Who::Nobody;
        let recorded = (0..1_000).filter_map(|_| limit.admit(who, "A", now)).count();
        assert_eq!(recorded, BURST as usize);
        assert_eq!(limit.admit(who, "B", now), Some(0));
        assert_eq!(limit.admit(who, "A", now + REFILL / 2), None);
        assert_eq!(limit.admit(who, "A", now + REFILL), Some(1_001 - u64::from(BURST)));
        assert_eq!(limit.admit(who, "A", now + REFILL), None);
        assert_eq!(limit.admit(who, "A", now + REFILL * 100), Some(1));
    }

    #[test]
    fn one_caller_hides_no_other_and_callers_are_bounded() {
        let mut limit = Limit::default();
        let now = Duration::from_secs(1);
        let token = |i: usize| Who::Token(format!("t{i}"));
        let recorded = (0..1_000).filter_map(|_| limit.admit(&token(0), "A", now)).count();
        assert_eq!(recorded, BURST as usize);
        assert_eq!(limit.admit(&token(1), "A", now), Some(0));
        for i in 2..2 * MAX_BUCKETS {
            limit.admit(&token(i), "A", now);
        }
        assert!(limit.buckets.len() <= MAX_BUCKETS + 1, "{}", limit.buckets.len());
        assert_eq!(limit.admit(&token(1), "A", now), Some(0), "who is known stays so");
        // Later those are forgotten who are silent; not the flood, whose count is to be told.
        let later = now + REFILL * (BURST + 1);
        let new = token(3 * MAX_BUCKETS);
        let recorded = (0..1_000).filter_map(|_| limit.admit(&new, "A", later)).count();
        assert_eq!(recorded, BURST as usize, "it has a bucket of its own");
        assert!(limit.buckets.len() < 5, "{}", limit.buckets.len());
        assert_eq!(limit.admit(&token(0), "A", later), Some(1_000 - u64::from(BURST)));
    }
}
