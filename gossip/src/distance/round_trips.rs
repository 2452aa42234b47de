//! The last round trips to each member.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use swarmer_model::NodeId;

use crate::{MAX_ROUND_TRIPS, ROUND_TRIP_FRESH};

/// How many the median is of: one late answer alone moves nothing.
const FILTER: usize = 3;
/// Round trips of longer ago say nothing of now: the way may be another one.
const OUTDATED: Duration = Duration::from_secs(3600);

#[derive(Clone)]
struct Samples {
    last: VecDeque<Duration>,
    at: Duration,
}

impl Samples {
    /// The median; of two the shorter one, because what disturbs makes longer.
    fn median(&self) -> Duration {
        let mut sorted: Vec<Duration> = self.last.iter().copied().collect();
        sorted.sort_unstable();
        sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or_default()
    }
}

/// Of at most [`MAX_ROUND_TRIPS`] members; who was measured longest ago makes room.
#[derive(Default, Clone)]
pub(super) struct RoundTrips(BTreeMap<NodeId, Samples>);

impl RoundTrips {
    /// Takes a round trip and says what is made of it and those before.
    pub(super) fn take(&mut self, now: Duration, node: NodeId, rtt: Duration) -> Duration {
        let held = &mut self.0;
        if held.len() >= MAX_ROUND_TRIPS && !held.contains_key(&node) {
            let oldest = held.iter().min_by_key(|(_, samples)| samples.at).map(|(node, _)| *node);
            oldest.and_then(|oldest| held.remove(&oldest));
        }
        let samples =
            held.entry(node).or_insert_with(|| Samples { last: VecDeque::new(), at: now });
        if now.saturating_sub(samples.at) > OUTDATED {
            samples.last.clear();
        }
        if samples.last.len() == FILTER {
            samples.last.pop_front();
        }
        samples.last.push_back(rtt);
        samples.at = now;
        samples.median()
    }

    /// The same, as if all had been measured now.
    #[cfg(feature = "formed")]
    pub(super) fn as_of(&self, now: Duration) -> Self {
        let mut trips = self.clone();
        trips.0.values_mut().for_each(|samples| samples.at = now);
        trips
    }

    /// When the node was measured last.
    pub(super) fn at(&self, node: NodeId) -> Option<Duration> {
        self.0.get(&node).map(|samples| samples.at)
    }

    /// Who was measured lately: the round trip and when it was.
    pub(super) fn fresh(
        &self,
        now: Duration,
    ) -> impl Iterator<Item = (NodeId, (Duration, Duration))> + '_ {
        self.0
            .iter()
            .filter(move |(_, samples)| now.saturating_sub(samples.at) <= ROUND_TRIP_FRESH)
            .map(|(node, samples)| (*node, (samples.median(), samples.at)))
    }

    pub(super) fn forget(&mut self, node: NodeId) {
        self.0.remove(&node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn one_late_answer_changes_nothing_and_a_new_way_does() {
        let (mut trips, node) = (RoundTrips::default(), NodeId(1));
        let mut take = |rtt| trips.take(ms(rtt), node, ms(rtt));
        assert_eq!((take(20), take(900), take(22)), (ms(20), ms(20), ms(22)));
        assert_eq!((take(80), take(80)), (ms(80), ms(80)));
        let later = ms(80) + OUTDATED + ms(1);
        assert_eq!(trips.take(later, node, ms(500)), ms(500));
        let fresh = |now| trips.fresh(now).next().is_some();
        assert!(fresh(later + ROUND_TRIP_FRESH) && !fresh(later + ROUND_TRIP_FRESH + ms(1)));
    }

    #[test]
    fn who_was_measured_longest_ago_makes_room() {
        let mut trips = RoundTrips::default();
        for n in 0..MAX_ROUND_TRIPS as u64 {
            trips.take(ms(n), NodeId(n), ms(5));
        }
        trips.take(ms(5_000), NodeId(0), ms(5));
        trips.take(ms(5_001), NodeId(u64::MAX), ms(5));
        assert_eq!(trips.0.len(), MAX_ROUND_TRIPS);
        assert!(trips.at(NodeId(0)).is_some() && trips.at(NodeId(1)).is_none());
    }
}
