//! Whether the leader should stand in another region, from which the writes come.
//!
//! A write goes from the node that was asked to the leader, and from there to a majority: where writer
//! and leader stand in two regions it crosses an ocean once more than it need.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

/// How long writes are counted before anything is said of them.
const WINDOW_MS: u64 = 30_000;
/// So many windows in a row the same region must have most of them: the leadership follows the sun, not
/// a burst.
const WINDOWS: u32 = 2;
/// So few writes in a second wait for an ocean and nobody notices.
const LEAST_PER_SECOND: u64 = 2;

/// Where the leader should stand, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FarWriters {
    /// The region that writes most.
    pub region: String,
    /// How many writes of the last window came from there.
    pub writes: u64,
    /// Of how many.
    pub of: u64,
    /// How long the window was, in seconds.
    pub seconds: u64,
}

impl fmt::Display for FarWriters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { region, writes, of, seconds } = self;
        write!(f, "{writes} of the {of} writes of the last {seconds} s come")?;
        write!(f, " through nodes of region {region}")
    }
}

/// What a leader remembers of who writes; a new leader starts with nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Writers {
    /// When the window began, and the counts then.
    window: Option<(u64, BTreeMap<String, u64>)>,
    /// The region that had most of the writes in the last windows, and in how many.
    most: Option<(String, u32)>,
}

impl Writers {
    /// Looks at how many writes came from each region so far; says where the leader, who stands in
    /// `own`, should stand instead, once two thirds of them have come from there for long enough.
    pub fn look(
        &mut self,
        own: &str,
        counts: BTreeMap<String, u64>,
        now_ms: u64,
    ) -> Option<FarWriters> {
        let Some((began, before)) = &self.window else {
            self.window = Some((now_ms, counts));
            return None;
        };
        if now_ms.saturating_sub(*began) < WINDOW_MS {
            return None;
        }
        let earlier = |region: &str| before.get(region).copied().unwrap_or_default();
        let came: BTreeMap<&str, u64> = counts
            .iter()
            .map(|(region, count)| (region.as_str(), count.saturating_sub(earlier(region))))
            .collect();
        let of: u64 = came.values().sum();
        let seconds = now_ms.saturating_sub(*began) / 1000;
        let least = LEAST_PER_SECOND * seconds;
        let most = came.into_iter().max_by_key(|(_, writes)| *writes);
        let most = most.filter(|(region, writes)| {
            *region != own && of >= least && writes.saturating_mul(3) >= of.saturating_mul(2)
        });
        let far = most.map(|(region, writes)| {
            let region = region.to_owned();
            FarWriters { region, writes, of, seconds }
        });
        self.window = Some((now_ms, counts));
        let windows = match (&self.most, &far) {
            (Some((held, windows)), Some(far)) if *held == far.region => windows + 1,
            _ => 1,
        };
        self.most = far.as_ref().map(|far| (far.region.clone(), windows));
        far.filter(|_| windows >= WINDOWS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each window brings so many writes from the leader's region and from the other one.
    fn told(windows: &[(u64, u64)]) -> Vec<Option<String>> {
        let mut writers = Writers::default();
        let (mut here, mut there) = (7, 9);
        let mut look = |here, there, now_ms| {
            let counts = BTreeMap::from([("us".to_owned(), here), ("eu".to_owned(), there)]);
            writers.look("us", counts, now_ms).map(|far| far.to_string())
        };
        assert_eq!(look(here, there, 500), None);
        let mut told = Vec::new();
        for (index, (more_here, more_there)) in (1_u64..).zip(windows) {
            (here, there) = (here + more_here, there + more_there);
            assert_eq!(look(here, there, 499 + index * WINDOW_MS), None, "not before its end");
            told.push(look(here, there, 500 + index * WINDOW_MS));
        }
        told
    }

    #[test]
    fn a_region_that_writes_most_for_a_minute_is_told() {
        let text = "80 of the 120 writes of the last 30 s come through nodes of region eu";
        assert_eq!(told(&[(0, 90), (40, 80)]), [None, Some(text.to_owned())]);
        // A burst, few writes, a share of less, its own region: none of these.
        for stays in [
            [(0, 500), (60, 0), (0, 500)],
            [(0, 59), (0, 59), (0, 59)],
            [(41, 80), (41, 80), (41, 80)],
            [(900, 10), (900, 10), (900, 10)],
        ] {
            assert_eq!(told(&stays), [None, None, None], "{stays:?}");
        }
    }
}
