//! Which node a call goes to.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::RwLock;
use rand::{Rng, RngExt as _};
use swarmer_model::{Code, Coded, NodeId};

use super::{Outlier, codes};

/// A node where the function is ready, as the catalog says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The node.
    pub node: NodeId,
    /// Its region; empty if unknown.
    pub region: String,
    /// Its zone; empty if unknown.
    pub zone: String,
    /// The round trip to its region from here; none if unknown.
    pub way: Option<Duration>,
    /// Calls in flight there when it last said so, over all callers.
    pub load: u32,
    /// Whether it said that it has room for more.
    pub has_room: bool,
}

/// How near the chosen node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Locality {
    /// This node.
    Here,
    /// The same zone of the same region.
    Zone,
    /// The same region.
    Region,
    /// Another region: the nearest, as far as the ways are known.
    Any,
}

/// Regions whose round trip is longer than the shortest by no more than this and a quarter of it
/// count as equally near: a choice among them is worth more than the difference.
const AS_NEAR: Duration = Duration::from_millis(5);

/// Why a node was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The function is ready here, and there is room.
    Local,
    /// The only ready node that was left at this distance.
    OnlyReady(Locality),
    /// The less loaded of two ready nodes drawn at random.
    LeastLoaded {
        /// How near it is.
        locality: Locality,
        /// The node that it was compared with.
        over: NodeId,
    },
    /// All ready nodes had failed lately; the least bad of them.
    AllEjected(Locality),
    /// Ready nowhere: the candidate of this position (from 0) is the first that lives and starts
    /// it.
    Candidate(usize),
}

/// What a choice goes by.
#[derive(Debug, Clone, Copy)]
pub struct Choice<'a> {
    /// This node, its region and zone.
    pub own: NodeId,
    /// This node's region.
    pub region: &'a str,
    /// This node's zone.
    pub zone: &'a str,
    /// Where the function is ready, those that live.
    pub ready: &'a [Endpoint],
    /// The function's candidates in their order, those that live.
    pub candidates: &'a [NodeId],
    /// Nodes that this call was already sent to in vain.
    pub exclude: &'a [NodeId],
}

/// The chosen node.
#[derive(Debug)]
pub struct Picked {
    /// The node.
    pub node: NodeId,
    /// Why it.
    pub why: Why,
    /// Counts the call as in flight until it is dropped.
    pub in_flight: InFlight,
}

/// No node is left to take the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "no node can take the call: {ready} ready, {candidates} candidates alive, {excluded} of them tried"
)]
pub struct NoEndpoint {
    /// Ready nodes that live.
    pub ready: usize,
    /// Candidates that live.
    pub candidates: usize,
    /// Nodes that were tried already.
    pub excluded: usize,
}

impl Coded for NoEndpoint {
    fn code(&self) -> Code {
        codes::NO_ENDPOINT
    }
}

/// One call in flight to a node, from this node.
#[derive(Debug)]
pub struct InFlight {
    count: Arc<AtomicU32>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Chooses nodes and counts the calls that this node has in flight to each.
#[derive(Debug, Default)]
pub struct Balancer {
    // Bounded by the members that calls went to; `retain` drops those that left.
    counts: RwLock<HashMap<NodeId, Arc<AtomicU32>>>,
}

impl Balancer {
    /// Nothing in flight.
    pub fn new() -> Self {
        Self::default()
    }

    /// Calls in flight from here to a node.
    pub fn in_flight(&self, node: NodeId) -> u32 {
        self.counts.read().get(&node).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// Counts a call to a node that was chosen otherwise.
    pub fn start(&self, node: NodeId) -> InFlight {
        let known = self.counts.read().get(&node).cloned();
        let count =
            known.unwrap_or_else(|| Arc::clone(self.counts.write().entry(node).or_default()));
        count.fetch_add(1, Ordering::Relaxed);
        InFlight { count }
    }

    /// Forgets nodes that are no members any more.
    pub fn retain(&self, is_member: impl Fn(NodeId) -> bool) {
        self.counts.write().retain(|node, _| is_member(*node));
    }

    /// Chooses the node for one attempt of a call:
    ///
    /// 1. this node, if the function is ready here and has room;
    /// 2. of the ready nodes that did not fail lately, the nearest: same zone, same region, the
    ///    region with the shortest round trip; those with room before those without; of two drawn
    ///    at random the less loaded one;
    /// 3. if all ready ones failed lately, the same choice among them: a maybe is better than a
    ///    no;
    /// 4. if none is ready, the first candidate, one that did not fail lately before others.
    ///
    /// # Errors
    /// [`NoEndpoint`] if every node is excluded or none is known.
    pub fn choose(
        &self,
        choice: &Choice<'_>,
        outlier: &Outlier,
        rng: &mut impl Rng,
        now: Instant,
    ) -> Result<Picked, NoEndpoint> {
        let (node, why) = self.decide(choice, outlier, rng, now).ok_or(NoEndpoint {
            ready: choice.ready.len(),
            candidates: choice.candidates.len(),
            excluded: choice.exclude.len(),
        })?;
        Ok(Picked { node, why, in_flight: self.start(node) })
    }

    fn decide(
        &self,
        choice: &Choice<'_>,
        outlier: &Outlier,
        rng: &mut impl Rng,
        now: Instant,
    ) -> Option<(NodeId, Why)> {
        let usable = |endpoint: &&Endpoint| !choice.exclude.contains(&endpoint.node);
        let own = choice.ready.iter().filter(usable).find(|endpoint| endpoint.node == choice.own);
        if own.is_some_and(|endpoint| endpoint.has_room) {
            return Some((choice.own, Why::Local));
        }
        let healthy = |endpoint: &Endpoint| !outlier.is_ejected(endpoint.node, now);
        // The best class there is: not failed lately, with room, near. One pass finds it, a
        // second draws from it: no list is made.
        let class = |endpoint: &Endpoint| {
            (!healthy(endpoint), !endpoint.has_room, locality(choice, endpoint))
        };
        if let Some(best) = choice.ready.iter().filter(usable).map(class).min() {
            let alike = || choice.ready.iter().filter(usable).filter(|e| class(e) == best);
            let reach = alike()
                .filter(|endpoint| locality(choice, endpoint) == Locality::Any)
                .filter_map(|endpoint| endpoint.way)
                .min()
                .map(|nearest| nearest + nearest / 4 + AS_NEAR);
            let near = |endpoint: &&Endpoint| {
                reach.is_none_or(|reach| endpoint.way.is_some_and(|way| way <= reach))
            };
            let members = || alike().filter(near);
            let count = members().count();
            let first = rng.random_range(0..count);
            let one = members().nth(first)?;
            let (ejected, _, locality) = best;
            if count == 1 {
                let why =
                    if ejected { Why::AllEjected(locality) } else { Why::OnlyReady(locality) };
                return Some((one.node, why));
            }
            let second = (first + rng.random_range(1..count)) % count;
            let two = members().nth(second)?;
            let (less, over) =
                if self.load(two) < self.load(one) { (two, one) } else { (one, two) };
            let why = if ejected {
                Why::AllEjected(locality)
            } else {
                Why::LeastLoaded { locality, over: over.node }
            };
            return Some((less.node, why));
        }
        let candidates = || {
            choice.candidates.iter().enumerate().filter(|(_, node)| !choice.exclude.contains(node))
        };
        candidates()
            .find(|(_, node)| !outlier.is_ejected(**node, now))
            .or_else(|| candidates().next())
            .map(|(position, node)| (*node, Why::Candidate(position)))
    }

    /// What the node said it has, plus what went there from here since: a little too much, which
    /// spreads bursts that the catalog cannot know of yet.
    fn load(&self, endpoint: &Endpoint) -> u64 {
        u64::from(endpoint.load) + u64::from(self.in_flight(endpoint.node))
    }
}

fn locality(choice: &Choice<'_>, endpoint: &Endpoint) -> Locality {
    if endpoint.node == choice.own {
        Locality::Here
    } else if endpoint.region != choice.region {
        Locality::Any
    } else if endpoint.zone != choice.zone {
        Locality::Region
    } else {
        Locality::Zone
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{SeedableRng as _, rngs::StdRng};

    use super::*;
    use crate::routing::OutlierConfig;

    const OWN: NodeId = NodeId(1);

    fn endpoint(node: u64, region: &str, zone: &str, load: u32) -> Endpoint {
        Endpoint {
            node: NodeId(node),
            region: region.into(),
            zone: zone.into(),
            way: None,
            load,
            has_room: true,
        }
    }

    fn far(node: u64, region: &str, ms: u64) -> Endpoint {
        let way = Some(Duration::from_millis(ms));
        Endpoint { way, ..endpoint(node, region, "z", 0) }
    }

    #[test]
    fn of_other_regions_the_nearest_takes_the_call() {
        let now = Instant::now();
        let none = Outlier::new(OutlierConfig::default());
        let drawn = |ready: &[Endpoint]| {
            let mut nodes: Vec<u64> = (0..200)
                .map(|seed| {
                    let mut rng = StdRng::seed_from_u64(seed);
                    let choice = choice(ready, &[], &[]);
                    Balancer::new().choose(&choice, &none, &mut rng, now).unwrap().node.0
                })
                .collect();
            nodes.sort_unstable();
            nodes.dedup();
            nodes
        };
        let mut all = vec![
            far(2, "east", 250),
            far(3, "west", 80),
            far(4, "west", 80),
            far(5, "south", 98),
            endpoint(6, "unknown", "z", 0),
        ];
        assert_eq!(drawn(&all), [3, 4, 5], "as near as makes no difference");
        all[3].way = Some(Duration::from_millis(120));
        assert_eq!(drawn(&all), [3, 4]);
        // One without room gives way, however near it is.
        all[1].has_room = false;
        all[2].has_room = false;
        assert_eq!(drawn(&all), [5]);
        all.drain(1..4);
        assert_eq!(drawn(&all), [2], "a way that is known before one that is not");
        assert_eq!(drawn(&all[1..]), [6]);
        // In the own region no way is looked at.
        let near = [endpoint(7, "r", "z", 0), far(8, "r", 1), far(9, "west", 0)];
        assert_eq!(drawn(&near), [7, 8]);
    }

    fn choice<'a>(
        ready: &'a [Endpoint],
        candidates: &'a [NodeId],
        exclude: &'a [NodeId],
    ) -> Choice<'a> {
        Choice { own: OWN, region: "r", zone: "z", ready, candidates, exclude }
    }

    fn pick(choice: &Choice<'_>, outlier: &Outlier, now: Instant) -> Option<(NodeId, Why)> {
        let mut rng = StdRng::seed_from_u64(7);
        let picked = Balancer::new().choose(choice, outlier, &mut rng, now).ok()?;
        Some((picked.node, picked.why))
    }

    #[test]
    fn near_before_far_and_here_before_all() {
        let now = Instant::now();
        let none = Outlier::new(OutlierConfig::default());
        let mut all = vec![
            endpoint(4, "other", "z", 0),
            endpoint(3, "r", "y", 0),
            endpoint(2, "r", "z", 90),
            endpoint(1, "r", "z", 100),
        ];
        let mut order = Vec::new();
        while let Some((node, why)) = pick(&choice(&all, &[NodeId(9)], &[]), &none, now) {
            order.push((node.0, why));
            if all.is_empty() {
                break;
            }
            all.retain(|endpoint| endpoint.node != node);
        }
        assert_eq!(
            order,
            [
                (1, Why::Local),
                (2, Why::OnlyReady(Locality::Zone)),
                (3, Why::OnlyReady(Locality::Region)),
                (4, Why::OnlyReady(Locality::Any)),
                (9, Why::Candidate(0)),
            ]
        );
    }

    #[test]
    fn a_full_node_gives_way_and_a_failed_one_too() {
        let now = Instant::now();
        let mut outlier = Outlier::new(OutlierConfig::default());
        let mut here = endpoint(1, "r", "z", 0);
        here.has_room = false;
        let ready = [here, endpoint(2, "far", "z", 0)];
        assert_eq!(
            pick(&choice(&ready, &[], &[]), &outlier, now),
            Some((NodeId(2), Why::OnlyReady(Locality::Any)))
        );
        outlier.failed(NodeId(2), now);
        outlier.failed(NodeId(2), now);
        assert_eq!(
            pick(&choice(&ready, &[], &[]), &outlier, now),
            Some((OWN, Why::OnlyReady(Locality::Here)))
        );
        assert_eq!(
            pick(&choice(&ready, &[], &[OWN]), &outlier, now),
            Some((NodeId(2), Why::AllEjected(Locality::Any)))
        );
        assert_eq!(
            pick(&choice(&[], &[NodeId(2), NodeId(3)], &[]), &outlier, now),
            Some((NodeId(3), Why::Candidate(1)))
        );
        assert_eq!(pick(&choice(&ready, &[], &[OWN, NodeId(2)]), &outlier, now), None);
    }

    #[test]
    fn calls_spread_over_equals_and_counts_return_to_zero() {
        let now = Instant::now();
        let outlier = Outlier::new(OutlierConfig::default());
        let ready: Vec<Endpoint> = (2..7).map(|node| endpoint(node, "r", "z", 0)).collect();
        let balancer = Balancer::new();
        let mut rng = StdRng::seed_from_u64(1);
        let picked: Vec<Picked> = (0..500)
            .map(|_| balancer.choose(&choice(&ready, &[], &[]), &outlier, &mut rng, now).unwrap())
            .collect();
        for endpoint in &ready {
            let count = balancer.in_flight(endpoint.node);
            assert!((95..=105).contains(&count), "{:?}: {count}", endpoint.node);
        }
        drop(picked);
        assert!(ready.iter().all(|endpoint| balancer.in_flight(endpoint.node) == 0));
    }

    proptest! {
        #[test]
        fn what_is_chosen_is_allowed_and_something_is_chosen_if_anything_can_be(
            ready in prop::collection::vec((1u64..8, 0usize..3, 0usize..3, any::<bool>()), 0..8),
            candidates in prop::collection::vec(1u64..8, 0..6),
            exclude in prop::collection::vec(1u64..8, 0..6),
            failed in prop::collection::vec(1u64..8, 0..6),
            seed in any::<u64>(),
        ) {
            let now = Instant::now();
            let places = ["r", "z", "q"];
            let ready: Vec<Endpoint> = ready
                .into_iter()
                .map(|(node, region, zone, has_room)| Endpoint {
                    has_room,
                    ..endpoint(node, places[region], places[zone], 0)
                })
                .collect();
            let candidates: Vec<NodeId> = candidates.into_iter().map(NodeId).collect();
            let exclude: Vec<NodeId> = exclude.into_iter().map(NodeId).collect();
            let mut outlier = Outlier::new(OutlierConfig { failures: 1, ..OutlierConfig::default() });
            failed.into_iter().for_each(|node| outlier.failed(NodeId(node), now));
            let mut rng = StdRng::seed_from_u64(seed);
            let balancer = Balancer::new();
            let picked = balancer.choose(&choice(&ready, &candidates, &exclude), &outlier, &mut rng, now);
            let free = |node: &NodeId| !exclude.contains(node);
            let any_ready = ready.iter().any(|endpoint| free(&endpoint.node));
            match picked {
                Err(_) => prop_assert!(!any_ready && !candidates.iter().any(free)),
                Ok(picked) => {
                    prop_assert!(free(&picked.node));
                    match picked.why {
                        Why::Candidate(position) => {
                            prop_assert!(!any_ready);
                            prop_assert_eq!(candidates[position], picked.node);
                        }
                        Why::Local => prop_assert_eq!(picked.node, OWN),
                        _ => prop_assert!(ready.iter().any(|e| e.node == picked.node)),
                    }
                    let healthy = ready.iter().any(|e| free(&e.node) && !outlier.is_ejected(e.node, now));
                    if healthy && picked.why != Why::Local {
                        prop_assert!(!outlier.is_ejected(picked.node, now));
                    }
                }
            }
        }
    }
}
