//! What nodes say of functions that do not come up on them: the planner then prefers others.
//!
//! Health is observed, so none of it is committed: the leader asks the nodes where a copy is not
//! ready, and a new leader asks anew.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use swarmer_model::{Code, NodeId};
use swarmer_scheduler::Observed;

use crate::codes;

/// How often one node is asked.
const ASK_EVERY_MS: u64 = 1_000;
/// The most nodes that are asked at once.
pub(crate) const MAX_ASKED: usize = 16;
/// How long trouble counts: then the node is tried again, should it be the best one.
const MEMORY_MS: u64 = 300_000;
/// The most failures that one node tells.
pub(crate) const MAX_FAILURES: usize = 64;
/// The longest text of one, in bytes.
const MAX_WHY_BYTES: usize = 160;
/// So many tries make a failure that may pass by itself one that counts.
const TRIES: u32 = 2;

/// One function that a node could not make ready by its own fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// `namespace/name`.
    pub(crate) function: String,
    /// The code's name.
    pub(crate) code: String,
    pub(crate) detail: String,
    pub(crate) tries: u32,
}

/// Whether another node may do what this one could not: its disk, its way to the others. What a
/// component lacks it lacks everywhere; what cannot be compiled at all is refused when it comes.
pub(crate) fn is_of_node(code: Code) -> bool {
    [
        codes::STORAGE,
        codes::ARTIFACT_COPY,
        codes::ARTIFACT_DIGEST,
        swarmer_mesh::codes::UNREACHABLE,
        swarmer_mesh::codes::DEADLINE,
        swarmer_runtime::codes::COMPILE,
        swarmer_runtime::codes::COMPILE_LIMIT,
    ]
    .contains(&code)
}

#[derive(Debug)]
struct Known {
    code: String,
    why: String,
    until_ms: u64,
}

/// All that is known of the nodes' trouble. Times are milliseconds on the leader's own clock.
#[derive(Debug, Default)]
pub(crate) struct Troubles {
    /// By node and function: bounded by the members and by [`MAX_FAILURES`].
    known: BTreeMap<NodeId, BTreeMap<String, Known>>,
    asked: BTreeMap<NodeId, u64>,
}

impl Troubles {
    /// Which of these nodes, where something is not ready, are to be asked now.
    pub(crate) fn due(
        &mut self,
        unready: impl IntoIterator<Item = NodeId>,
        now_ms: u64,
    ) -> Vec<NodeId> {
        self.asked.retain(|_, at| *at + ASK_EVERY_MS > now_ms);
        let mut due = Vec::new();
        for node in unready {
            if self.asked.len() < MAX_ASKED && !self.asked.contains_key(&node) {
                self.asked.insert(node, now_ms);
                due.push(node);
            }
        }
        due
    }

    /// Takes what a node told.
    pub(crate) fn told(&mut self, node: NodeId, failures: Vec<Failure>, now_ms: u64) {
        let counts =
            |failure: &Failure| failure.tries >= TRIES || failure.code == codes::STORAGE.name;
        for failure in failures.into_iter().take(MAX_FAILURES).filter(counts) {
            let of_node = self.known.entry(node).or_default();
            let until_ms = now_ms + MEMORY_MS;
            // The same trouble keeps its text: what is made of it does not change at every try.
            if let Some(known) = of_node.get_mut(&failure.function)
                && known.code == failure.code
            {
                known.until_ms = until_ms;
                continue;
            }
            if of_node.len() < MAX_FAILURES {
                let mut why = format!("{}: {}", failure.code, failure.detail);
                why.truncate(why.floor_char_boundary(MAX_WHY_BYTES));
                let known = Known { code: failure.code, why, until_ms };
                of_node.insert(failure.function, known);
            }
        }
    }

    /// Adds what counts now to what the planner is told.
    pub(crate) fn tell(&mut self, observed: &mut Observed, now_ms: u64) {
        let members = &mut observed.nodes;
        self.known.retain(|node, functions| {
            functions.retain(|_, known| known.until_ms > now_ms);
            !functions.is_empty() && members.iter().any(|member| member.id == *node)
        });
        for (node, functions) in &self.known {
            // A disk is no better for another function.
            let disk = functions.values().find(|known| known.code == codes::STORAGE.name);
            if let Some(facts) = members.iter_mut().find(|member| member.id == *node) {
                facts.trouble = disk.map(|known| known.why.clone());
            }
            for (function, known) in functions {
                let nodes = observed.failing.entry(function.clone()).or_default();
                nodes.insert(*node, known.why.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use swarmer_scheduler::NodeFacts;

    fn failure(function: &str, code: Code, tries: u32) -> Failure {
        let (function, code) = (function.to_owned(), code.name.to_owned());
        Failure { function, code, detail: format!("try {tries}"), tries }
    }

    fn observed(troubles: &mut Troubles, now_ms: u64) -> Observed {
        let node = |id| NodeFacts { id: NodeId(id), ..NodeFacts::default() };
        let mut observed = Observed { nodes: vec![node(1), node(2)], ..Observed::default() };
        troubles.tell(&mut observed, now_ms);
        observed
    }

    #[test]
    fn a_full_disk_counts_at_once_and_what_may_pass_after_two_tries() {
        let mut troubles = Troubles::default();
        troubles.told(NodeId(1), vec![failure("d/f", codes::ARTIFACT_COPY, 1)], 0);
        assert_eq!(observed(&mut troubles, 0).failing.len(), 0);
        troubles.told(NodeId(1), vec![failure("d/f", codes::ARTIFACT_COPY, 2)], 0);
        troubles.told(NodeId(2), vec![failure("d/g", codes::STORAGE, 1)], 0);
        troubles.told(NodeId(2), vec![failure("d/g", codes::STORAGE, 2)], 10);
        troubles.told(NodeId(3), vec![failure("d/g", codes::STORAGE, 1)], 0);
        let seen = observed(&mut troubles, 10);
        assert_eq!(seen.nodes[0].trouble, None, "that one function only");
        assert_eq!(seen.nodes[1].trouble.as_deref(), Some("SW-NODE-STORAGE: try 1"));
        assert!(seen.failing["d/f"].contains_key(&NodeId(1)));
        assert_eq!(seen.failing["d/g"].len(), 1, "no member, no word");
        assert_eq!(observed(&mut troubles, MEMORY_MS).failing.len(), 1, "told again at 10");
        assert_eq!(observed(&mut troubles, MEMORY_MS + 10).failing.len(), 0);
    }

    #[test]
    fn a_node_is_asked_once_a_second_and_few_at_once() {
        let mut troubles = Troubles::default();
        let nodes = || (0..40).map(NodeId);
        assert_eq!(troubles.due(nodes(), 0).len(), MAX_ASKED);
        assert_eq!(troubles.due(nodes(), ASK_EVERY_MS - 1).len(), 0);
        assert_eq!(troubles.due(nodes(), ASK_EVERY_MS).len(), MAX_ASKED);
    }
}
