//! What the leader decided lately about placements, with all that it was decided from.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use swarmer_scheduler::{Conflict, Decision, Record};

/// The most decisions that are kept.
const MAX_KEPT: usize = 64;
/// How much all that are kept may hold together ([`Record::size`]); the newest is kept whatever it
/// holds.
const MAX_SIZE: usize = 200_000;

/// A decision and when it was made.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Made {
    /// In milliseconds since 1970, by the clock of the node that decided.
    pub(crate) at_ms: u64,
    pub(crate) record: Record,
}

/// Why a function stands where it stands.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Explanation {
    /// On how many nodes it is to stand.
    pub(crate) wanted: u32,
    /// One for each admitted node, of the planner's last look.
    pub(crate) nodes: Vec<Decision>,
    pub(crate) conflicts: Vec<Conflict>,
    /// When that look was.
    pub(crate) looked_at_ms: u64,
    /// The last decision that moved something of it, if it is still kept.
    pub(crate) moved: Option<Moved>,
}

/// What a decision moved.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Moved {
    pub(crate) at_ms: u64,
    /// What it did, with the reasons.
    pub(crate) decisions: Vec<Decision>,
}

/// The planner's last look and its last decisions, on the leader. Not committed: a new leader begins
/// anew, and what it finds it can explain.
#[derive(Debug, Default)]
pub(crate) struct Decisions(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    last: Option<Arc<Made>>,
    /// Those that changed something, oldest first.
    made: VecDeque<Arc<Made>>,
}

impl Decisions {
    /// Keeps a look of the planner.
    pub(crate) fn note(&self, at_ms: u64, record: Record) -> Arc<Made> {
        let moves = !record.plan.is_empty();
        let made = Arc::new(Made { at_ms, record });
        let mut kept = self.0.lock();
        // The same plan is made again until it is committed.
        let known = |before: &Arc<Made>| before.record.plan.commands == made.record.plan.commands;
        if moves && !kept.made.back().is_some_and(known) {
            kept.made.push_back(Arc::clone(&made));
            let mut size: usize = kept.made.iter().map(|made| made.record.size()).sum();
            while kept.made.len() > 1 && (kept.made.len() > MAX_KEPT || size > MAX_SIZE) {
                size -= kept.made.pop_front().map_or(0, |oldest| oldest.record.size());
            }
        }
        kept.last = Some(Arc::clone(&made));
        made
    }

    /// Forgets everything: another node leads.
    pub(crate) fn clear(&self) {
        *self.0.lock() = Kept::default();
    }

    /// Why a function stands where it stands; `None` if the planner knows of no such function.
    pub(crate) fn explain(&self, function: &str) -> Option<Explanation> {
        let last = self.0.lock().last.clone()?;
        let need = last.record.desired.functions.iter().find(|need| need.key == function)?;
        let conflicts = last.record.plan.conflicts.iter();
        let moved = self
            .moved(function)
            .map(|made| Moved { at_ms: made.at_ms, decisions: made.record.plan.of(function) });
        Some(Explanation {
            wanted: need.replicas,
            nodes: last.record.explain(function),
            conflicts: conflicts.filter(|c| c.is_about(function)).cloned().collect(),
            looked_at_ms: last.at_ms,
            moved,
        })
    }

    /// The last decision that moved something of the function, or else the last look at it: what it can
    /// be replayed from.
    pub(crate) fn record(&self, function: &str) -> Option<Arc<Made>> {
        let last = self.0.lock().last.clone()?;
        let knows = last.record.desired.functions.iter().any(|need| need.key == function);
        knows.then(|| self.moved(function).unwrap_or(last))
    }

    fn moved(&self, function: &str) -> Option<Arc<Made>> {
        let kept = self.0.lock();
        let about = |made: &&Arc<Made>| {
            made.record.plan.commands.iter().any(|command| command.function() == function)
        };
        kept.made.iter().rev().find(about).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use swarmer_model::NodeId;
    use swarmer_scheduler::{
        Capacity, CopyState, Desired, FunctionNeed, NodeFacts, Observed, Policy, Verdict,
    };

    fn desired(names: &[&str]) -> Desired {
        let need = |name: &&str| FunctionNeed {
            key: (*name).to_owned(),
            revision: 1,
            replicas: 1,
            ..FunctionNeed::default()
        };
        Desired { functions: names.iter().map(need).collect(), policy: Policy::default() }
    }

    /// Two nodes; the functions that are there already stand on the first.
    fn observed(placed: &[&str]) -> Observed {
        let node = |id| NodeFacts {
            id: NodeId(id),
            name: format!("n{id}"),
            capacity: Capacity { functions: 10, memory_bytes: u64::MAX, ..Capacity::default() },
            ..NodeFacts::default()
        };
        let copy =
            |name: &&str| ((*name).to_owned(), vec![CopyState { node: NodeId(1), ready: true }]);
        let placements = placed.iter().map(copy).collect();
        Observed { nodes: vec![node(1), node(2)], placements, failing: BTreeMap::new() }
    }

    #[test]
    fn the_last_look_explains_and_the_last_move_is_kept() {
        let decisions = Decisions::default();
        assert!(decisions.explain("d/f").is_none(), "nothing was looked at");
        let first = Record::new(desired(&["d/f"]), observed(&[]), 0);
        // Until it is committed, the same is decided at each look.
        decisions.note(10, first.clone());
        decisions.note(11, first.clone());
        decisions.note(20, Record::new(desired(&["d/f"]), observed(&["d/f"]), 0));
        let told = decisions.explain("d/f").unwrap();
        let verdicts: Vec<Verdict> = told.nodes.iter().map(|made| made.verdict).collect();
        assert_eq!(verdicts, [Verdict::Kept, Verdict::Refused]);
        assert_eq!((told.wanted, told.looked_at_ms), (1, 20));
        let moved = told.moved.unwrap();
        assert_eq!(moved.at_ms, 10);
        assert_eq!(moved.decisions[0].verdict, Verdict::Placed);
        assert_eq!(decisions.record("d/f").unwrap().record, first);
        assert_eq!(decisions.0.lock().made.len(), 1);
        assert!(decisions.explain("d/g").is_none());
        assert!(decisions.record("d/g").is_none());
        decisions.clear();
        assert!(decisions.explain("d/f").is_none());
    }

    #[test]
    fn what_is_kept_is_bounded_and_a_function_that_did_not_move_has_the_last_look() {
        let decisions = Decisions::default();
        let names: Vec<String> = (0..MAX_KEPT + 5).map(|i| format!("d/{i}")).collect();
        for (at, name) in names.iter().enumerate() {
            let record = Record::new(desired(&[name]), observed(&[]), 0);
            decisions.note(at as u64, record);
        }
        assert_eq!(decisions.0.lock().made.len(), MAX_KEPT);
        let wanted = desired(&[names[0].as_str(), names[1].as_str()]);
        let placed = observed(&[names[0].as_str(), names[1].as_str()]);
        decisions.note(1000, Record::new(wanted, placed, 0));
        let told = decisions.explain(&names[0]).unwrap();
        assert!(told.moved.is_none(), "long forgotten");
        assert_eq!(decisions.record(&names[0]).unwrap().at_ms, 1000);
    }
}
