//! What this node knows of the ways to the others, at one moment.

use std::{collections::BTreeMap, time::Duration};

use swarmer_model::NodeId;

use super::Coordinate;
use crate::ROUND_TRIP_FRESH;

/// The round trips of the last minutes, and where this node stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Distances {
    /// `None` while it measured too little to know.
    pub(crate) own: Option<Coordinate>,
    /// The round trip, and when it was measured, as time since this node's start.
    pub(crate) measured: BTreeMap<NodeId, (Duration, Duration)>,
}

impl Distances {
    /// The round trips that were measured within [`ROUND_TRIP_FRESH`].
    pub(crate) fn fresh(&self, now: Duration) -> impl Iterator<Item = Duration> + '_ {
        let fresh = move |at: &Duration| now.saturating_sub(*at) <= ROUND_TRIP_FRESH;
        self.measured.values().filter(move |(_, at)| fresh(at)).map(|(way, _)| *way)
    }

    /// The round trip to the node: measured within [`ROUND_TRIP_FRESH`], else estimated from where
    /// it says that it stands, else not known. `now` is the time since this node's start.
    pub fn to(&self, now: Duration, node: NodeId, told: Option<&Coordinate>) -> Option<Duration> {
        let fresh = |at: &Duration| now.saturating_sub(*at) <= ROUND_TRIP_FRESH;
        match self.measured.get(&node).filter(|(_, at)| fresh(at)) {
            Some((rtt, _)) => Some(*rtt),
            None => Some(self.own?.distance(told?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DIMENSIONS;

    #[test]
    fn what_was_measured_counts_for_five_minutes_and_then_what_is_estimated() {
        let at = |x| {
            let mut position = [0; DIMENSIONS];
            position[0] = x;
            Coordinate { position, height: 0, adjustment: 0, error: 100 }
        };
        let (node, far) = (NodeId(1), at(70_000));
        let (rtt, when) = (Duration::from_millis(80), Duration::from_secs(10));
        let mut known = Distances { own: Some(at(0)), measured: [(node, (rtt, when))].into() };
        let then = when + Duration::from_secs(300);
        let past = then + Duration::from_millis(1);
        assert_eq!(known.to(then, node, Some(&far)), Some(rtt));
        assert_eq!(known.to(then, node, None), Some(rtt));
        assert_eq!(known.to(past, node, Some(&far)), Some(Duration::from_millis(70)));
        assert_eq!(known.to(past, node, None), None);
        known.own = None;
        assert_eq!(known.to(past, node, Some(&far)), None);
    }
}
