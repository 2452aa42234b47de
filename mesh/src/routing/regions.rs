//! What a route says of the regions that its requests go to, where the nearest is not to be taken.

use std::collections::BTreeMap;

use rand::{Rng, RngExt as _};
use swarmer_model::{Distribute, Failover};

/// What a route says, for each region that requests enter in. Made once for a route and looked
/// into by each request: none copies or allocates anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegionRules {
    failover: Vec<Failover>,
    distribute: Vec<Distribute>,
}

impl RegionRules {
    /// The rules of a route; none if it has none, as most do.
    pub fn new(failover: &[Failover], distribute: &[Distribute]) -> Option<Self> {
        let rules = Self { failover: failover.to_vec(), distribute: distribute.to_vec() };
        (!failover.is_empty() || !distribute.is_empty()).then_some(rules)
    }

    /// What holds for requests that enter in this region.
    pub fn of(&self, region: &str) -> Preference<'_> {
        let failover = self.failover.iter().find(|entry| entry.from == region);
        let distribute = self.distribute.iter().find(|entry| entry.from == region);
        Preference {
            failover: failover.map_or(&[], |entry| &entry.to),
            shares: distribute.map(|entry| &entry.to),
        }
    }
}

/// What a route says for one region that requests enter in; by default nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Preference<'a> {
    failover: &'a [String],
    shares: Option<&'a BTreeMap<String, u32>>,
}

impl<'a> Preference<'a> {
    /// Whether requests are spread over regions, so that this one has no right of way.
    pub fn is_spread(&self) -> bool {
        self.shares.is_some()
    }

    /// The place of another region among those that take over; none if it is not named.
    pub fn place(&self, region: &str) -> Option<usize> {
        self.failover.iter().position(|named| named == region)
    }

    /// The place of a region among all, for who starts what is ready nowhere: the own one, those
    /// that take over, and the others alike.
    pub fn order(&self, own: &str, region: &str) -> usize {
        if region == own { 0 } else { 1 + self.place(region).unwrap_or(self.failover.len()) }
    }

    /// Draws the region of one request by the shares of those that have somebody for it. None if
    /// there are no shares, or none of their regions has anybody.
    pub(super) fn draw(
        &self,
        has_somebody: impl Fn(&str) -> bool,
        rng: &mut impl Rng,
    ) -> Option<&'a str> {
        let shares = self.shares?;
        let there = || shares.iter().filter(|(region, _)| has_somebody(region));
        let all: u64 = there().map(|(_, share)| u64::from(*share)).sum();
        if all == 0 {
            return None;
        }
        let mut left = rng.random_range(0..all);
        let drawn = there().find(|(_, share)| match left.checked_sub(u64::from(**share)) {
            Some(less) => {
                left = less;
                false
            }
            None => true,
        });
        drawn.map(|(region, _)| region.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_region_goes_before_those_named_and_these_before_the_rest() {
        let to = ["west", "east"].map(str::to_owned).to_vec();
        let rules = RegionRules::new(&[Failover { from: "r".into(), to }], &[]).unwrap();
        let order = |from: &str, own: &str| {
            let prefer = rules.of(from);
            ["r", "east", "west", "north", "south"].map(|region| prefer.order(own, region))
        };
        assert_eq!(order("r", "r"), [0, 2, 1, 3, 3]);
        assert_eq!(order("north", "north"), [1, 1, 1, 0, 1], "nothing is said of it");
    }
}
