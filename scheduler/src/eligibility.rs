//! Which node may hold which function.

use std::collections::{BTreeMap, BTreeSet};

use swarmer_model::{NodeId, RegionState, nearest};

use crate::{
    input::{Desired, FunctionNeed, NodeFacts, Observed},
    output::{Decision, Verdict},
    planner::{State, affinities},
    reason::Reason,
    record::Record,
};

/// The constraint of the function that the node breaks, if any. Looks at committed facts only
/// (region, zone, labels), so that it also tells who is eligible as a candidate.
pub fn misfit(need: &FunctionNeed, node: &NodeFacts) -> Option<Reason> {
    if !need.regions.is_empty() && !need.regions.contains(&node.region) {
        return Some(Reason::Region { is: node.region.clone(), allowed: need.regions.clone() });
    }
    if !need.zones.is_empty() && !need.zones.contains(&node.zone) {
        return Some(Reason::Zone { is: node.zone.clone(), allowed: need.zones.clone() });
    }
    need.labels.iter().find_map(|(key, needs)| {
        let has = node.labels.get(key);
        (has != Some(needs)).then(|| Reason::Label {
            key: key.clone(),
            needs: needs.clone(),
            has: has.cloned(),
        })
    })
}

/// Why the node is being emptied; `None`: it is not.
pub(crate) fn emptied(node: &NodeFacts) -> Option<Reason> {
    if node.region_state == RegionState::Drained {
        return Some(Reason::RegionDrained { region: node.region.clone() });
    }
    node.draining.then_some(Reason::Draining)
}

/// Why the node is no candidate of the function; `None`: it is one. Who is dead for a moment stays
/// one of `before`, or the candidates would move with every flap.
pub fn candidate_misfit(
    desired: &Desired,
    observed: &Observed,
    now_ms: u64,
    (need, node): (&FunctionNeed, &NodeFacts),
    before: &[NodeId],
) -> Option<Reason> {
    if let Some(reason) = misfit(need, node) {
        return Some(reason);
    }
    let patience = desired.policy.dead_grace_ms;
    let gone = |since: u64| now_ms.saturating_sub(since) >= patience || !before.contains(&node.id);
    if node.dead_since_ms.is_some_and(gone) {
        return Some(Reason::Dead);
    }
    if let Some(reason) = emptied(node) {
        return Some(reason);
    }
    let failing = observed.failing.get(&need.key);
    let why = trouble_of(failing, node)?;
    let lawful = observed.nodes.iter().filter(|other| misfit(need, other).is_none());
    enough_sound(lawful, failing, need).then(|| Reason::Failing { why: why.to_owned() })
}

/// What speaks against the node: known trouble with it, or with the function that is `failing` so.
pub(crate) fn trouble_of<'a>(
    failing: Option<&'a BTreeMap<NodeId, String>>,
    node: &'a NodeFacts,
) -> Option<&'a str> {
    let here = failing.and_then(|nodes| nodes.get(&node.id));
    node.trouble.as_ref().or(here).map(String::as_str)
}

/// Whether a function can be kept away from nodes in trouble: enough of the `lawful` ones, which
/// may hold it, have none. Where they are too few, one that may recover is better than none. Looks
/// at the input only, not at what a plan does: it is the same in every round.
pub(crate) fn enough_sound<'a>(
    lawful: impl Iterator<Item = &'a NodeFacts>,
    failing: Option<&BTreeMap<NodeId, String>>,
    need: &FunctionNeed,
) -> bool {
    let sound = |node: &&NodeFacts| {
        node.dead_since_ms.is_none() && !node.is_emptied() && trouble_of(failing, node).is_none()
    };
    let wanted = need.replicas.max(1) as usize;
    lawful.filter(sound).take(wanted).count() == wanted
}

/// What the user may have meant by a constraint that not one node meets.
pub(crate) fn hint<'a>(
    need: &FunctionNeed,
    nodes: impl Iterator<Item = &'a NodeFacts> + Clone,
) -> Option<String> {
    let regions = nodes.clone().map(|node| node.region.as_str());
    if let Some(hint) = unknown("region", &need.regions, regions) {
        return Some(hint);
    }
    let zones = nodes.clone().map(|node| node.zone.as_str());
    if let Some(hint) = unknown("zone", &need.zones, zones) {
        return Some(hint);
    }
    need.labels.iter().find_map(|(key, needs)| {
        let met = nodes.clone().any(|node| node.labels.get(key) == Some(needs));
        if met {
            return None;
        }
        let values: BTreeSet<&str> =
            nodes.clone().filter_map(|node| node.labels.get(key)).map(String::as_str).collect();
        let meant = if values.is_empty() {
            let keys: BTreeSet<&str> =
                nodes.clone().flat_map(|node| node.labels.keys()).map(String::as_str).collect();
            nearest(key, keys).map(str::to_owned)
        } else {
            let value = nearest(needs, values.iter().copied()).or(values.first().copied());
            value.map(|value| format!("{key}={value}"))
        };
        let meant = meant.map_or(String::new(), |meant| format!("; nearest: {meant}"));
        Some(format!("no node has label {key}={needs}{meant}"))
    })
}

fn unknown<'a>(
    what: &str,
    allowed: &[String],
    known: impl Iterator<Item = &'a str>,
) -> Option<String> {
    let known: BTreeSet<&str> = known.collect();
    if allowed.is_empty() || allowed.iter().any(|name| known.contains(name.as_str())) {
        return None;
    }
    let meant = allowed
        .iter()
        .find_map(|name| nearest(name, known.iter().copied()))
        .map_or(String::new(), |meant| format!("; nearest: {meant}"));
    Some(format!("no node is in {what} [{}]{meant}", allowed.join(", ")))
}

/// The regions of a function's constraint in which no node is, each with the one that was probably
/// meant: no fault, as nodes may come, but most often a slip.
pub fn unknown_regions<'a>(
    regions: &[String],
    known: impl IntoIterator<Item = &'a str>,
) -> Vec<String> {
    let known: BTreeSet<&str> = known.into_iter().collect();
    let missing = regions.iter().filter(|name| !known.contains(name.as_str()));
    missing
        .filter_map(|name| unknown("region", std::slice::from_ref(name), known.iter().copied()))
        .collect()
}

/// For every node, what the plan of a record does about one function and why.
pub(crate) fn explain(record: &Record, function: &str) -> Vec<Decision> {
    let Record { desired, observed, now_ms, plan } = record;
    let mut after = observed.clone();
    plan.apply(&mut after);
    let state = State::new(desired, &after, *now_ms);
    let Some(at) = state.named(function) else { return Vec::new() };
    let mut decisions = plan.of(function);
    for node in state.nodes() {
        let id = state.node(node).id;
        if decisions.iter().any(|decision| decision.node.id == id) {
            continue;
        }
        let (verdict, reason) = if state.holds(at, node) {
            (Verdict::Kept, Reason::Fits { affinity: affinities(&state, at, node) })
        } else {
            let refused = state.refuse(at, node).map(|refusal| refusal.reason(&state, at, node));
            let not_needed = || Reason::NotNeeded { affinity: affinities(&state, at, node) };
            (Verdict::Refused, refused.unwrap_or_else(not_needed))
        };
        decisions.push(Decision {
            function: function.to_owned(),
            node: state.node_ref(node),
            verdict,
            reason,
        });
    }
    decisions.sort_by_key(|decision| decision.node.id);
    decisions
}
