//! Which nodes should vote.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use swarmer_model::{
    NodeId, RegionState,
    planted::{self, Bug},
};

use super::{
    command::VoterReason,
    input::{VoterInput, VoterNode, odd_size},
};

/// Where the voters should get to, and what is wrong with those that should go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Choice {
    /// Who should vote.
    pub(super) goal: BTreeSet<NodeId>,
    /// Whose vote should go, in the order in which it does.
    pub(super) out: Vec<(NodeId, VoterReason)>,
    /// Who should get a vote, in the order in which they do.
    pub(super) into: Vec<NodeId>,
}

/// What is wrong with a voter, if it is to go at all.
enum Fault {
    /// It must go, replaced or not.
    Must(VoterReason),
    /// It goes if another takes its vote.
    IfReplaced(VoterReason),
}

fn fault(input: &VoterInput, id: NodeId, all_live: bool, now_ms: u64) -> Option<Fault> {
    let node = input.named(id);
    let grace_ms = input.policy.grace_ms;
    match input.node(id) {
        None => Some(Fault::Must(VoterReason::Leaving { node })),
        Some(facts) if facts.leaving => Some(Fault::Must(VoterReason::Leaving { node })),
        Some(facts) => match (&facts.barred, facts.dead_since_ms) {
            (Some(why), _) => {
                Some(Fault::IfReplaced(VoterReason::Barred { node, why: why.clone() }))
            }
            (None, Some(since)) if now_ms.saturating_sub(since) >= grace_ms => {
                Some(Fault::IfReplaced(VoterReason::Dead { node, grace_ms }))
            }
            (None, _) if facts.region_state == RegionState::Drained => {
                let region = facts.region.clone();
                Some(Fault::IfReplaced(VoterReason::RegionDrained { node, region }))
            }
            // That can wait: who dies for good must be replaced first.
            (None, None) if facts.abstains && all_live => {
                Some(Fault::IfReplaced(VoterReason::Abstains { node }))
            }
            (None, _) => None,
        },
    }
}

fn is_drained(reason: &VoterReason) -> bool {
    matches!(reason, VoterReason::RegionDrained { .. })
}

/// Whether the voter is as good as any where nobody else can vote.
fn is_whole(reason: &VoterReason) -> bool {
    is_drained(reason) || matches!(reason, VoterReason::Abstains { .. })
}

/// How many of these stand in a node's region, and in its zone.
fn crowd(input: &VoterInput, id: NodeId, among: &BTreeSet<NodeId>) -> (usize, usize) {
    let Some(node) = input.node(id) else { return (0, 0) };
    if planted::is_on(Bug::VotersInOneRegion) {
        return (0, 0);
    }
    let others = || among.iter().filter(|other| **other != id).filter_map(|id| input.node(*id));
    let region = others().filter(|other| other.region == node.region).count();
    let of_zone =
        others().filter(|other| (&other.region, &other.zone) == (&node.region, &node.zone));
    (region, of_zone.count())
}

/// Who should vote, from who votes now.
pub(super) fn choose(input: &VoterInput, voters: &BTreeSet<NodeId>, now_ms: u64) -> Choice {
    let wanted = odd_size(input.policy.wanted);
    let mut goal = BTreeSet::new();
    let all_live = voters.iter().all(|id| input.lives(*id));
    let (mut must, mut may) = (Vec::new(), Vec::new());
    for id in voters {
        match fault(input, *id, all_live, now_ms) {
            None => {
                goal.insert(*id);
            }
            Some(Fault::Must(reason)) => must.push((*id, reason)),
            Some(Fault::IfReplaced(reason)) => may.push((*id, reason)),
        }
    }
    let have = goal.len();
    let mut out = must;
    // The most crowded place first; among equals the dead, then the youngest, the leader never.
    while goal.len() > wanted {
        let Some(worst) = worst(input, &goal) else { break };
        goal.remove(&worst);
        out.push((worst, VoterReason::Many { have, wanted }));
    }
    let mut into = Vec::new();
    while goal.len() < wanted {
        let Some(best) = best(input, voters, &goal) else { break };
        goal.insert(best);
        into.push(best);
    }
    // What cannot be replaced stays: those that only should not vote first, and of the dead
    // the last to die, which is the likeliest to come back.
    may.sort_by_key(|(id, reason)| {
        let dead = || input.node(*id).and_then(|node| node.dead_since_ms);
        if is_whole(reason) { (0, Reverse(None)) } else { (1, Reverse(dead())) }
    });
    let mut borne = Vec::new();
    for (id, reason) in may {
        if goal.len() < wanted {
            goal.insert(id);
            borne.push((id, reason));
        } else {
            out.push((id, reason));
        }
    }
    // An even number bears no more deaths than the odd one below it.
    if goal.len().is_multiple_of(2) {
        // But of two voters neither goes for a number's sake: one alone is one log.
        let spared = goal.len() == 2 && voters.len() > 1;
        let goes = |(_, reason): &mut (NodeId, VoterReason)| !(spared && is_drained(reason));
        if let Some((id, reason)) = borne.pop_if(goes) {
            goal.remove(&id);
            out.push((id, reason));
        } else if let Some(last) = into.pop() {
            goal.remove(&last);
        } else if !out.is_empty()
            && let Some(worst) = worst(input, &goal)
        {
            let have = goal.len();
            goal.remove(&worst);
            out.push((worst, VoterReason::Many { have, wanted: have - 1 }));
        }
    }
    if out.is_empty() && into.is_empty() {
        while let Some((from, to, reason)) = better(input, &goal, now_ms) {
            goal.remove(&from);
            goal.insert(to);
            out.push((from, reason));
            into.push(to);
        }
    }
    Choice { goal, out, into }
}

/// A vote that stands, who could have it instead, and why that is better.
type Move = (NodeId, NodeId, VoterReason);

/// A vote that would stand better elsewhere. Only while all voters live: one that moves for no fault of
/// its own can wait.
fn better(input: &VoterInput, goal: &BTreeSet<NodeId>, now_ms: u64) -> Option<Move> {
    if !goal.iter().all(|id| input.lives(*id)) {
        return None;
    }
    homecoming(input, goal)
        .or_else(|| called(input, goal))
        .or_else(|| spreading(FailureDomain::Region, input, goal, now_ms))
        .or_else(|| spreading(FailureDomain::Zone, input, goal, now_ms))
}

/// A voter of a crowded region, and who could have its vote in a region that was drained and takes
/// work again. Each leaves its region with at least as many votes as the other one has then, so that
/// none goes back.
fn homecoming(input: &VoterInput, goal: &BTreeSet<NodeId>) -> Option<Move> {
    let from = worst(input, goal)?;
    let (others, _) = crowd(input, from, goal);
    let votes = |region: &str| {
        let voters = goal.iter().filter_map(|id| input.node(*id));
        voters.filter(|voter| voter.region == region).count()
    };
    let back = |node: &&VoterNode| {
        node.region_state == RegionState::Resumed
            && node.is_fit()
            && !goal.contains(&node.id)
            && votes(&node.region) < others
    };
    let to = input.nodes.iter().filter(back).min_by_key(|node| preference(input, node.id, goal))?;
    Some((from, to.id, VoterReason::Returning { region: to.region.clone() }))
}

/// A vote for the region that was chosen to lead, where it has none.
fn called(input: &VoterInput, goal: &BTreeSet<NodeId>) -> Option<Move> {
    let region = input.lead_region.as_ref()?;
    let there = |id: &NodeId| input.node(*id).is_some_and(|node| node.region == *region);
    if goal.iter().any(there) {
        return None;
    }
    let from = worst(input, goal)?;
    let could = input.nodes.iter().filter(|node| node.region == *region && node.is_fit());
    let to = could.min_by_key(|node| preference(input, node.id, goal))?;
    Some((from, to.id, VoterReason::Chosen { region: region.clone() }))
}

/// What can be lost as a whole.
#[derive(Clone, Copy)]
enum FailureDomain {
    Region,
    Zone,
}

impl FailureDomain {
    fn of(self, node: &VoterNode) -> (&str, &str) {
        match self {
            Self::Region => (&node.region, ""),
            Self::Zone => (&node.region, &node.zone),
        }
    }

    fn crowded(self, node: &VoterNode) -> VoterReason {
        let zone = match self {
            Self::Region => None,
            Self::Zone => Some(node.zone.clone()),
        };
        VoterReason::Crowded { region: node.region.clone(), zone }
    }
}

/// A voter of the region that has a majority, and who could have its vote elsewhere, where the nodes
/// allow that no region has one; or the same of the zones of a region.
fn spreading(
    by: FailureDomain,
    input: &VoterInput,
    goal: &BTreeSet<NodeId>,
    now_ms: u64,
) -> Option<Move> {
    if planted::is_on(Bug::VotersInOneRegion) {
        return None;
    }
    // With more in one place its loss leaves no majority of them.
    let most = goal.len().saturating_sub(1) / 2;
    let steady = |node: &VoterNode| {
        node.alive_since_ms
            .is_some_and(|since| now_ms.saturating_sub(since) >= input.policy.grace_ms)
    };
    let mut votes: BTreeMap<_, usize> = BTreeMap::new();
    for voter in goal.iter().filter_map(|id| input.node(*id)) {
        *votes.entry(by.of(voter)).or_default() += 1;
    }
    let (crowded, _) = votes.iter().find(|(_, votes)| **votes > most)?;
    // For the sake of a zone no write crosses an ocean.
    let within = |region: &str| match by {
        FailureDomain::Region => true,
        FailureDomain::Zone => region == crowded.0,
    };
    let spares = || {
        let spare = |node: &&VoterNode| {
            node.is_fit() && steady(node) && within(&node.region) && !goal.contains(&node.id)
        };
        input.nodes.iter().filter(spare)
    };
    let mut room = votes.clone();
    room.retain(|(region, _), _| within(region));
    let needed: usize = room.values().sum();
    for spare in spares() {
        *room.entry(by.of(spare)).or_default() += 1;
    }
    if room.values().map(|room| (*room).min(most)).sum::<usize>() < needed {
        return None;
    }
    let there: BTreeSet<NodeId> = goal
        .iter()
        .copied()
        .filter(|id| input.node(*id).is_some_and(|node| by.of(node) == *crowded))
        .collect();
    let from = worst(input, &there)?;
    let has_room = |node: &&VoterNode| votes.get(&by.of(node)).is_none_or(|votes| *votes < most);
    let to = spares().filter(has_room).min_by_key(|node| preference(input, node.id, goal))?;
    Some((from, to.id, by.crowded(input.node(from)?)))
}

/// The voter whose vote is worth least; never the leader's.
fn worst(input: &VoterInput, among: &BTreeSet<NodeId>) -> Option<NodeId> {
    let others = among.iter().copied().filter(|id| *id != input.membership.leader);
    others.max_by_key(|id| (!input.lives(*id), crowd(input, *id, among), *id))
}

/// Who should get a vote before others, the least first: one that has the log already, then where fewest
/// voters stand.
fn preference(
    input: &VoterInput,
    id: NodeId,
    goal: &BTreeSet<NodeId>,
) -> (bool, (usize, usize), NodeId) {
    (!input.membership.learners.contains_key(&id), crowd(input, id, goal), id)
}

/// The node that should get a vote next.
fn best(input: &VoterInput, voters: &BTreeSet<NodeId>, goal: &BTreeSet<NodeId>) -> Option<NodeId> {
    let fit = input
        .nodes
        .iter()
        .filter(|node| node.is_fit() && !voters.contains(&node.id) && !goal.contains(&node.id));
    fit.map(|node| node.id).min_by_key(|id| preference(input, *id, goal))
}
