//! Placement: no placement breaks a constraint of the function that it is for, by the state that
//! it was planned by; and after healing the planner comes to an end.

use std::collections::{BTreeMap, BTreeSet};

use swarmer_model::NodeId;
use swarmer_scheduler::{FunctionNeed, NodeFacts};

use crate::{
    history::Entries,
    node::Node,
    oracle::Oracle,
    planner::{FUNCTION, NODE, PLACEMENT, Placed, settled},
};

pub(crate) fn check(oracle: &Oracle) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut before: BTreeMap<String, BTreeSet<NodeId>> = BTreeMap::new();
    // Placements with the revision that each was planned by, in the order of that.
    let mut plans: Vec<(u64, u64, String, Vec<NodeId>)> = Vec::new();
    for (revision, events) in oracle.history.range(0, u64::MAX - 1) {
        for event in events {
            let Some(function) = event.key.strip_prefix(PLACEMENT) else { continue };
            let placed =
                event.value.as_ref().and_then(|v| serde_json::from_slice::<Placed>(v).ok());
            let Some(placed) = placed else { continue };
            let old = before.insert(function.to_owned(), placed.nodes.clone()).unwrap_or_default();
            let new = placed.nodes.difference(&old).copied().collect();
            plans.push((placed.at, revision, function.to_owned(), new));
        }
    }
    plans.sort();
    let mut replay = oracle.history.replay();
    for (at, revision, function, new) in plans {
        let Some((state, _)) = replay.at(at) else { break };
        for node in new {
            if let Err(why) = lawful(state, &function, node) {
                wrong.push(format!(
                    "revision {revision} places {function} on node {}, {why}",
                    node.0
                ));
            }
        }
    }
    wrong
}

/// The constraints once more, in other words than the planner's.
fn lawful(state: &Entries, function: &str, node: NodeId) -> Result<(), String> {
    fn read<T: for<'a> serde::Deserialize<'a>>(state: &Entries, key: String) -> Option<T> {
        serde_json::from_slice(&state.get(&key)?.1).ok()
    }
    let need: Option<FunctionNeed> = read(state, format!("{FUNCTION}{function}"));
    let facts: Option<NodeFacts> = read(state, format!("{NODE}{}", node.0));
    let need = need.ok_or("and there is no such function")?;
    let facts = facts.ok_or("which is no member")?;
    if facts.draining {
        return Err("which is draining".to_owned());
    }
    if !need.regions.is_empty() && need.regions.iter().all(|region| *region != facts.region) {
        return Err(format!("which is in {}, not in {:?}", facts.region, need.regions));
    }
    Ok(())
}

/// Whether the leader's planner has come to its end.
pub(crate) fn fixpoint(leader: Option<&Node>) -> Result<(), String> {
    leader.map_or(Err("nobody leads".to_owned()), settled)
}
