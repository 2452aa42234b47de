//! Who stands for election first where voters are far apart.
//!
//! Time-outs that are drawn by lot keep voters out of each other's way as long as the lots lie
//! farther apart than an election takes. Across an ocean they need not: asking and voting take one
//! and a half round trips, and all lots lie within two and a half. So the first in line, of those whom it reaches, stands before any lot comes up. Where it
//! cannot win (it lacks entries, or is cut off from a majority) nothing happened but questions, and
//! the lots decide as ever.

use std::{collections::BTreeMap, time::Duration};

use swarmer_model::NodeId;
use tokio::time::Instant;

use crate::raft::Timing;

/// Nearer than that the lots suffice, and patience with a leader on a busy machine is worth more.
/// From there on the engine's clock goes slower.
const FAR: Duration = Duration::from_millis(40);

/// Decides when this node stands for election on account of being the first.
#[derive(Debug)]
pub(crate) struct Succession {
    timing: Timing,
    /// Since when the leader was silent, the last time that it stood.
    stood: Option<Instant>,
}

impl Succession {
    pub(crate) fn new(timing: Timing) -> Self {
        Self { timing, stood: None }
    }

    /// For how long to wait yet, at most, before this node stands; zero if it does now; none if it
    /// is not its turn. `leader` is the leader of this term, if there is one, and `ways` are the
    /// round trips to the other voters that it is connected to.
    pub(crate) fn wait(
        &mut self,
        now: Instant,
        multiplier: u32,
        node: NodeId,
        leader: Option<NodeId>,
        (last, heard): (NodeId, Instant),
        ways: &BTreeMap<NodeId, Duration>,
    ) -> Option<Duration> {
        let far = ways.values().any(|way| *way >= FAR);
        let first = ways.keys().find(|other| **other != last).is_some_and(|other| node < *other);
        // Without a leader somebody stands already, perhaps by the leader's own wish; and whom this
        // node heard before it led itself says nothing of the one that leads now.
        if !far || !first || leader != Some(last) || self.stood == Some(heard) {
            return None;
        }
        // Half an interval after the lease, so that the others, who heard from the leader a little
        // later, are free to vote as well; a whole interval before the first lot.
        let patience = (self.timing.election_max + self.timing.heartbeat / 2) * multiplier;
        let wait = patience.saturating_sub(now.saturating_duration_since(heard));
        if wait.is_zero() {
            self.stood = Some(heard);
        }
        Some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn ways<const N: usize>(ways: [(u64, u64); N]) -> BTreeMap<NodeId, Duration> {
        ways.into_iter().map(|(node, way)| (NodeId(node), ms(way))).collect()
    }

    #[test]
    fn the_first_that_is_left_stands_once_in_a_silence() {
        let heard = Instant::now();
        let mut second = Succession::new(Timing::LAN);
        // Node 1 led; 2 is the first of 2, 3 and 4.
        let others = ways([(3, 300), (4, 80)]);
        let mut at = |passed, heard| {
            let leader = Some(NodeId(1));
            second.wait(heard + ms(passed), 8, NodeId(2), leader, (NodeId(1), heard), &others)
        };
        assert_eq!(at(0, heard), Some(ms(2400)));
        assert_eq!(at(2300, heard), Some(ms(100)));
        assert_eq!(at(2400, heard), Some(Duration::ZERO));
        assert_eq!(at(2500, heard), None, "once");
        assert_eq!(at(2400, heard + ms(5000)), Some(Duration::ZERO), "and in the next again");
    }

    #[test]
    fn whoever_is_not_first_or_has_nobody_far_away_leaves_it_to_the_lots() {
        let heard = Instant::now();
        let wait = |node, leader, ways: &BTreeMap<NodeId, Duration>| {
            let (leader, late) = (NodeId(leader), heard + ms(9000));
            let last = (leader, heard);
            Succession::new(Timing::LAN).wait(late, 8, NodeId(node), Some(leader), last, ways)
        };
        assert_eq!(wait(3, 1, &ways([(2, 300), (4, 80)])), None, "2 goes before");
        assert_eq!(wait(3, 1, &ways([(4, 80)])), Some(Duration::ZERO), "2 is gone");
        assert_eq!(wait(3, 1, &ways([(1, 80), (4, 80)])), Some(Duration::ZERO), "1 was the leader");
        assert_eq!(wait(2, 1, &ways([(3, 39), (4, 1)])), None, "near");
        assert_eq!(wait(2, 1, &ways([])), None, "nobody would vote");
        assert_eq!(wait(2, 1, &ways([(1, 300)])), None, "nobody but the leader would");
    }

    #[test]
    fn a_hand_over_and_an_election_that_is_under_way_are_not_disturbed() {
        // Node 2 led for long and last heard of node 1 before; now it lets node 3 lead.
        let heard = Instant::now();
        let others = ways([(1, 300), (3, 300)]);
        for leader in [None, Some(NodeId(3)), Some(NodeId(2))] {
            let last = (NodeId(1), heard);
            let mut second = Succession::new(Timing::LAN);
            let wait = second.wait(heard + ms(60_000), 8, NodeId(2), leader, last, &others);
            assert_eq!(wait, None, "{leader:?}");
        }
    }
}
