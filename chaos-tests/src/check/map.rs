//! Where nodes stand, and when a region of them was away, by what the harness noted.

use std::collections::BTreeMap;

use crate::history::{Action, Operation};

/// The map of a history; empty if nobody said where nodes stand.
pub(super) struct Map<'a> {
    regions: BTreeMap<&'a str, &'a str>,
    /// Removals that were answered, or may have happened.
    removals: Vec<&'a Operation>,
    /// Times without a region.
    pub(super) losses: Vec<Loss<'a>>,
}

/// A region that was away.
pub(super) struct Loss<'a> {
    /// Since when.
    pub(super) from_ns: u64,
    /// Until when.
    pub(super) to_ns: u64,
    /// Its nodes.
    pub(super) nodes: &'a [String],
}

impl<'a> Map<'a> {
    pub(super) fn of(history: &'a [Operation]) -> Self {
        let mut map = Self { regions: BTreeMap::new(), removals: Vec::new(), losses: Vec::new() };
        for operation in history {
            match &operation.action {
                Action::Stands { region } => {
                    map.regions.insert(&operation.node, region);
                }
                Action::Expel if operation.may_have_happened() => map.removals.push(operation),
                Action::Lost { nodes } => map.losses.push(Loss {
                    from_ns: operation.invoked_ns,
                    to_ns: operation.completed_ns,
                    nodes,
                }),
                _ => {}
            }
        }
        map
    }

    /// The region of a node.
    pub(super) fn region(&self, node: &str) -> Option<&'a str> {
        self.regions.get(node).copied()
    }

    /// Those that stand somewhere, without those whose removal had begun by then.
    pub(super) fn members(&self, at_ns: u64) -> Vec<&'a str> {
        let removed = |node: &str| {
            self.removals.iter().any(|removal| removal.node == node && removal.invoked_ns <= at_ns)
        };
        self.regions.keys().copied().filter(|node| !removed(node)).collect()
    }

    /// Whether a region had been away for longer than this by then, back or not.
    pub(super) fn was_anybody_away(&self, longer_ns: u64, at_ns: u64) -> bool {
        self.losses
            .iter()
            .any(|loss| loss.to_ns.min(at_ns).saturating_sub(loss.from_ns) > longer_ns)
    }
}
