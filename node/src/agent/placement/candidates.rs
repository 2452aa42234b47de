//! The candidates of every function, worked out again only where something that bears on them
//! changed: for each function that is a look at every node.

use std::collections::{BTreeMap, HashMap};

use swarmer_model::{NodeId, Revision};
use swarmer_scheduler::{
    CandidateNode, FunctionKey, FunctionNeed, NodeFacts, Reason, Record, candidate_misfit,
    candidates,
};

/// Who starts a function where it runs nowhere, of all functions.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    nodes: Vec<NodeFacts>,
    failing: BTreeMap<FunctionKey, BTreeMap<NodeId, String>>,
    /// Which of the nodes have been dead for longer than the grace time.
    gone: Vec<bool>,
    known: HashMap<FunctionKey, Known>,
}

#[derive(Debug)]
struct Known {
    /// Of the function: its constraints are of this revision.
    revision: Revision,
    /// The candidates that it had: one of them that is dead for a moment stays one.
    before: Vec<NodeId>,
    candidates: Vec<NodeId>,
}

impl Candidates {
    /// Forgets what is no longer true; to be called once for each look.
    pub(super) fn look(&mut self, record: &Record) {
        let Record { desired, observed, now_ms, .. } = record;
        let patience = desired.policy.dead_grace_ms;
        let gone = |node: &NodeFacts| {
            node.dead_since_ms.is_some_and(|since| now_ms.saturating_sub(since) >= patience)
        };
        let gone: Vec<bool> = observed.nodes.iter().map(gone).collect();
        if self.nodes != observed.nodes || self.failing != observed.failing || self.gone != gone {
            self.nodes.clone_from(&observed.nodes);
            self.failing.clone_from(&observed.failing);
            self.gone = gone;
            self.known.clear();
        }
        // Of functions that are no more; rarely, as it looks at all.
        if self.known.len() > 2 * desired.functions.len() {
            self.known.clear();
        }
    }

    /// Those of one function, which had `before`.
    pub(super) fn of(
        &mut self,
        record: &Record,
        need: &FunctionNeed,
        before: &[NodeId],
    ) -> Vec<NodeId> {
        let known = self.known.get(&need.key);
        if let Some(known) = known.filter(|k| k.revision == need.revision && k.before == before) {
            return known.candidates.clone();
        }
        let Record { desired, observed, now_ms, .. } = record;
        let misfit =
            |node: &NodeFacts| candidate_misfit(desired, observed, *now_ms, (need, node), before);
        let among = |fits: &dyn Fn(&&NodeFacts) -> bool| -> Vec<CandidateNode<'_>> {
            let eligible = observed.nodes.iter().filter(fits);
            eligible.map(|node| CandidateNode { id: node.id, region: &node.region }).collect()
        };
        let mut eligible = among(&|node| misfit(node).is_none());
        if eligible.is_empty() {
            // One that is being emptied is better than an error.
            eligible = among(&|node| {
                matches!(misfit(node), Some(Reason::Draining | Reason::RegionDrained { .. }))
            });
        }
        let candidates = candidates(&need.key, &need.regions, &eligible);
        let (revision, before) = (need.revision, before.to_vec());
        let known = Known { revision, before, candidates: candidates.clone() };
        self.known.insert(need.key.clone(), known);
        candidates
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use swarmer_scheduler::{Desired, Observed, Policy};

    fn record(now_ms: u64, dead: Option<u64>, regions: &[&str], revision: Revision) -> Record {
        let node = |id: u64, region: &str| NodeFacts {
            id: NodeId(id),
            region: region.to_owned(),
            dead_since_ms: dead.filter(|_| id == 1),
            ..NodeFacts::default()
        };
        let need = FunctionNeed {
            key: "default/f".to_owned(),
            revision,
            regions: regions.iter().map(|region| (*region).to_owned()).collect(),
            ..FunctionNeed::default()
        };
        let desired = Desired { functions: vec![need], policy: Policy { dead_grace_ms: 100 } };
        let nodes = vec![node(1, "eu"), node(2, "us")];
        Record::new(desired, Observed { nodes, ..Observed::default() }, now_ms)
    }

    #[test]
    fn they_are_outside_of_a_drained_region_as_long_as_any_is() {
        let mut book = Candidates::default();
        let mut of = |drained: &[&str]| {
            let mut record = record(0, None, &[], 1);
            for node in &mut record.observed.nodes {
                if drained.contains(&&*node.region) {
                    node.region_state = swarmer_model::RegionState::Drained;
                }
            }
            book.look(&record);
            let now = book.of(&record, &record.desired.functions[0], &[]);
            now.into_iter().map(|node| node.0).collect::<Vec<u64>>()
        };
        assert_eq!(of(&[]), [1, 2]);
        assert_eq!(of(&["eu"]), [2]);
        assert_eq!(of(&["eu", "us"]), [1, 2], "a function that runs nowhere is no error");
    }

    #[test]
    fn they_follow_nodes_functions_and_the_time_that_passes() {
        let mut book = Candidates::default();
        let mut of = |record: &Record, before: &[u64]| {
            let before: Vec<NodeId> = before.iter().copied().map(NodeId).collect();
            book.look(record);
            let now = book.of(record, &record.desired.functions[0], &before);
            // A second look at the same finds the same.
            book.look(record);
            assert_eq!(book.of(record, &record.desired.functions[0], &before), now);
            now.into_iter().map(|node| node.0).collect::<Vec<u64>>()
        };
        assert_eq!(of(&record(0, None, &[], 1), &[]), [1, 2]);
        assert_eq!(of(&record(0, None, &["us"], 2), &[1, 2]), [2], "the function changed");
        assert_eq!(of(&record(0, None, &[], 3), &[2]), [1, 2]);
        assert_eq!(of(&record(50, Some(0), &[], 3), &[1, 2]), [1, 2], "it may come back");
        assert_eq!(of(&record(50, Some(0), &[], 3), &[2]), [2], "it was none before");
        assert_eq!(of(&record(50, Some(0), &[], 3), &[1, 2]), [1, 2]);
        assert_eq!(of(&record(100, Some(0), &[], 3), &[1, 2]), [2], "its time is over");
    }
}
