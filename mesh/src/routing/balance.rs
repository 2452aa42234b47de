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
use swarmer_model::{
    Code, Coded, EndpointHealth, NodeId,
    planted::{self, Bug},
};

use super::{Outlier, Preference, codes};

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
    /// How it does, by other accounts than this node's own.
    pub health: EndpointHealth,
}

/// One in so many choices takes an endpoint on trial for a good one.
const TRIAL_ONE_IN: u32 = 20;

/// How near the chosen node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Locality {
    /// This node.
    Here,
    /// The same zone of the same region.
    Zone,
    /// The same region.
    Region,
    /// Another region, which the route names.
    Named,
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
    /// All ready nodes had failed lately, or say that they fail; the least bad of them.
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
    /// What the call's route says of regions, for this node's region.
    pub prefer: Preference<'a>,
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
    /// 1. if the route spreads its calls over regions, one of these drawn by their shares, and in
    ///    it as follows. It is drawn of those that have a node to be chosen: one that did not fail
    ///    lately and has room, unless no node anywhere is so. If none of them has, the choice goes
    ///    on as if the route said nothing of shares;
    /// 2. this node, if the function is ready here, does not fail and has room;
    /// 3. of the ready nodes that did not fail lately and do well, the nearest: same zone, same region, the
    ///    first of the regions that the route names to take over, the region with the shortest
    ///    round trip; those with room before those without; of two drawn at random the less loaded
    ///    one;
    /// 4. if all ready ones failed lately, the same choice among them: a maybe is better than a
    ///    no;
    /// 5. if none is ready, the first candidate, one that did not fail lately before others.
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
        let on_trial = choice.ready.iter().any(|endpoint| endpoint.health == EndpointHealth::Trial);
        let tries = on_trial && rng.random_ratio(1, TRIAL_ONE_IN);
        let healthy = |endpoint: &Endpoint| {
            let good = match endpoint.health {
                EndpointHealth::Good => true,
                EndpointHealth::Trial => tries,
                EndpointHealth::Failing => false,
            };
            good && !outlier.is_ejected(endpoint.node, now)
        };
        let state = |endpoint: &Endpoint| (!healthy(endpoint), !endpoint.has_room);
        let drawn = match choice.prefer.is_spread() {
            true => draw(choice, state, rng),
            false => None,
        };
        let usable = |endpoint: &&Endpoint| {
            !choice.exclude.contains(&endpoint.node)
                && drawn.is_none_or(|region| endpoint.region == region)
        };
        let own = choice.ready.iter().filter(usable).find(|endpoint| endpoint.node == choice.own);
        if own.is_some_and(|endpoint| endpoint.has_room && healthy(endpoint)) {
            return Some((choice.own, Why::Local));
        }
        // The best class there is: not failed lately, with room, near. One pass finds it, a
        // second draws from it: no list is made.
        let place = |endpoint: &Endpoint| match locality(choice, endpoint) {
            Locality::Any if drawn.is_some() => (Locality::Named, 0),
            Locality::Any => match choice.prefer.place(&endpoint.region) {
                Some(place) => (Locality::Named, place),
                None => (Locality::Any, 0),
            },
            near => (near, 0),
        };
        let class = |endpoint: &Endpoint| (state(endpoint), place(endpoint));
        if let Some(best) = choice.ready.iter().filter(usable).map(class).min() {
            let alike = || choice.ready.iter().filter(usable).filter(|e| class(e) == best);
            let reach = alike()
                .filter(|endpoint| place(endpoint).0 == Locality::Any)
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
            let ((ejected, _), (locality, _)) = best;
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

/// The region that a call goes to by the shares of its route: of those with a node in the best
/// state that there is, so that a share goes where it can be served.
fn draw<'a>(
    choice: &Choice<'a>,
    state: impl Fn(&Endpoint) -> (bool, bool),
    rng: &mut impl Rng,
) -> Option<&'a str> {
    let usable = || choice.ready.iter().filter(|e| !choice.exclude.contains(&e.node));
    let best = usable().map(&state).min()?;
    let has_somebody = |region: &str| usable().any(|e| e.region == region && state(e) == best);
    choice.prefer.draw(has_somebody, rng)
}

fn locality(choice: &Choice<'_>, endpoint: &Endpoint) -> Locality {
    if endpoint.node == choice.own {
        Locality::Here
    } else if endpoint.region != choice.region && !planted::is_on(Bug::RouteFar) {
        Locality::Any
    } else if endpoint.zone != choice.zone {
        Locality::Region
    } else {
        Locality::Zone
    }
}

#[cfg(test)]
mod tests;
