//! The transactions of a plan that is too large for one, in an order in which none of them puts more on
//! a node than it can hold: a plan gives room that it takes from another function.

use std::collections::{BTreeMap, BTreeSet};

use swarmer_model::{
    NodeId,
    planted::{self, Bug},
};
use swarmer_scheduler::{Capacity, Demand, Record, Used};

use super::look::Change;

/// The most placements that one transaction writes.
const MAX_BATCH: usize = 32;

/// What follows from a plan, in transactions. Those that put a copy where others have to leave first
/// come behind these. Where that is a circle too large for one transaction, it is left out, and planned
/// anew when the rest is committed.
pub(super) fn in_turn(mut changes: Vec<Change>, record: &Record) -> Vec<Vec<Change>> {
    if changes.len() <= MAX_BATCH {
        return if changes.is_empty() { Vec::new() } else { vec![changes] };
    }
    let mut room = Room::of(record);
    let mut ordered = Vec::with_capacity(changes.len());
    loop {
        let before = ordered.len();
        let mut waiting = Vec::new();
        for change in changes {
            if room.take(&change) {
                ordered.push(change);
            } else {
                waiting.push(change);
            }
        }
        changes = waiting;
        if ordered.len() == before || changes.is_empty() {
            break;
        }
    }
    let mut batches: Vec<Vec<Change>> = ordered.chunks(MAX_BATCH).map(<[Change]>::to_vec).collect();
    if !changes.is_empty() && changes.len() <= MAX_BATCH {
        batches.push(changes);
    } else if batches.is_empty() {
        tracing::warn!(target: "swarmer::placement", changes = changes.len(),
            "more placements than one transaction takes wait for each other's room; they are made \
            once something else gives room");
    }
    batches
}

/// What is left of each node.
struct Room<'a> {
    /// What a copy of each function takes.
    demands: BTreeMap<&'a str, Demand>,
    /// What is taken, and what there is.
    nodes: BTreeMap<NodeId, (Used, Capacity)>,
}

impl<'a> Room<'a> {
    fn of(record: &'a Record) -> Self {
        let needs = record.desired.functions.iter();
        let demands = needs.map(|need| (need.key.as_str(), need.demand())).collect();
        let nodes = record.observed.nodes.iter();
        let nodes = nodes.map(|node| (node.id, (Used::default(), node.capacity))).collect();
        let mut room = Self { demands, nodes };
        for (function, copies) in &record.observed.placements {
            let demand = room.demand(function);
            for copy in copies {
                if let Some((used, _)) = room.nodes.get_mut(&copy.node) {
                    used.put(demand);
                }
            }
        }
        room
    }

    fn demand(&self, function: &str) -> Demand {
        self.demands.get(function).copied().unwrap_or_default()
    }

    /// Makes the change if what it adds fits; whether it does.
    fn take(&mut self, (entry, next): &Change) -> bool {
        let demand = self.demand(&entry.id);
        let before: BTreeSet<NodeId> = entry.placement.nodes.iter().copied().collect();
        let after: BTreeSet<NodeId> = next.nodes.iter().copied().collect();
        let fits = |node: &NodeId| {
            let room = self.nodes.get(node);
            room.is_some_and(|(used, capacity)| used.lacks(demand, *capacity).is_none())
        };
        if !planted::is_on(Bug::PlaceOutOfTurn) && !after.difference(&before).all(fits) {
            return false;
        }
        for node in after.difference(&before) {
            if let Some((used, _)) = self.nodes.get_mut(node) {
                used.put(demand);
            }
        }
        for node in before.difference(&after) {
            if let Some((used, _)) = self.nodes.get_mut(node) {
                used.take(demand);
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::desired::Desired;
    use swarmer_model::{Digest, Function, Metadata, Placement};
    use swarmer_scheduler::{CopyState, Desired as Wishes, FunctionNeed, NodeFacts, Observed};

    /// Moves of functions of 10 bytes among nodes with room for one of them, and changes of as many
    /// others, which stand nowhere, as fill a transaction.
    fn large(moves: &[(&str, &[u64], &[u64])]) -> (Vec<Change>, Record) {
        let others: Vec<String> = (0..MAX_BATCH).map(|i| format!("other{i}")).collect();
        let others = others.iter().map(|name| (name.as_str(), &[][..], &[][..]));
        let all: Vec<(&str, &[u64], &[u64])> = others.chain(moves.iter().copied()).collect();
        let ids = |nodes: &[u64]| nodes.iter().copied().map(NodeId).collect::<Vec<NodeId>>();
        let (mut changes, mut needs, mut observed) = (Vec::new(), Vec::new(), Observed::default());
        for (name, before, after) in all {
            let function = Function::new(Metadata::named(name), Digest::of(b"1"));
            let placement = Placement { nodes: ids(before), ..Placement::default() };
            let key = format!("default/{name}");
            let state = Desired::default().apply(
                2,
                [
                    (
                        &*format!("functions/{key}"),
                        1,
                        serde_json::to_vec(&function).ok().as_deref(),
                    ),
                    (
                        &*format!("placements/{key}"),
                        2,
                        serde_json::to_vec(&placement).ok().as_deref(),
                    ),
                ],
            );
            let entry = state.function("default", name).unwrap();
            changes
                .push((Arc::clone(entry), Placement { nodes: ids(after), ..Placement::default() }));
            let copies = ids(before).into_iter().map(|node| CopyState { node, ready: true });
            observed.placements.insert(key.clone(), copies.collect());
            needs.push(FunctionNeed { key, memory_bytes: 10, ..FunctionNeed::default() });
        }
        observed.nodes = (1..=4)
            .map(|id| NodeFacts {
                id: NodeId(id),
                capacity: Capacity { functions: 9, memory_bytes: 10, ..Capacity::default() },
                ..NodeFacts::default()
            })
            .collect();
        let desired = Wishes { functions: needs, ..Wishes::default() };
        (changes, Record::new(desired, observed, 0))
    }

    /// The moves by transaction.
    fn turns(moves: &[(&str, &[u64], &[u64])]) -> Vec<Vec<String>> {
        let (changes, record) = large(moves);
        let name = |(entry, _): &Change| entry.name.to_string();
        let batches = in_turn(changes, &record);
        assert!(batches.iter().all(|batch| batch.len() <= MAX_BATCH));
        let names = batches.iter().map(|batch| batch.iter().map(name).collect::<Vec<_>>());
        names.map(|names| names.into_iter().filter(|n| !n.starts_with("other")).collect()).collect()
    }

    #[test]
    fn who_takes_room_comes_behind_who_gives_it() {
        let (taker, giver) = (("a", &[][..], &[1][..]), ("b", &[1][..], &[][..]));
        assert_eq!(turns(&[taker, giver]).concat(), ["b", "a"]);
        assert_eq!(turns(&[giver, taker]).concat(), ["b", "a"]);
        // Who gives it takes another's.
        let (first, second) = (("b", &[1][..], &[2][..]), ("c", &[2][..], &[3][..]));
        assert_eq!(turns(&[taker, first, second]).concat(), ["c", "b", "a"]);
    }

    #[test]
    fn a_circle_is_one_transaction() {
        let circle = [("a", &[1][..], &[2][..]), ("b", &[2][..], &[1][..])];
        assert_eq!(turns(&circle).last().unwrap(), &["a", "b"]);
        let none = in_turn(Vec::new(), &large(&[]).1);
        assert!(none.is_empty());
    }

    #[test]
    fn what_fits_into_one_transaction_is_one() {
        let (changes, record) = large(&[]);
        assert_eq!(in_turn(changes, &record).len(), 1);
    }
}
