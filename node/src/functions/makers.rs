//! Which node of the cluster compiles a component: a pure function of the desired state.

use swarmer_model::{Digest, NodeId};

use crate::desired::Desired;

/// The nodes that need the image of this component, in the order in which they are to make it:
/// those that a function of it is placed on, then its candidates; functions by name. The first one
/// that lives compiles, the others take the image from it. Every node that sees the same state has
/// the same order, so that nobody waits for a node that waits for it.
pub(crate) fn makers(desired: &Desired, digest: &Digest) -> Vec<NodeId> {
    let mut entries: Vec<_> = desired
        .functions
        .values()
        .filter(|entry| {
            let versions = &entry.function.status.versions;
            versions.iter().any(|version| version.template.component == *digest)
        })
        .collect();
    entries.sort_by(|a, b| a.id.cmp(&b.id));
    let mut makers: Vec<NodeId> = Vec::new();
    for entry in entries {
        for node in entry.placement.nodes.iter().chain(&entry.placement.candidates) {
            if !makers.contains(node) {
                makers.push(*node);
            }
        }
    }
    makers
}

/// Those of the makers whom `own` leaves the compiling to, first choice first: those that live and
/// come before it. A node that is no maker comes after all of them.
pub(crate) fn before(
    makers: &[NodeId],
    own: NodeId,
    lives: impl Fn(NodeId) -> bool,
) -> Vec<NodeId> {
    makers.iter().copied().take_while(|node| *node != own).filter(|node| lives(*node)).collect()
}

#[cfg(test)]
mod tests {
    use swarmer_model::{Function, Metadata, Placement};

    use super::*;

    #[test]
    fn every_node_leaves_it_to_the_first_that_lives() {
        let component = Digest::of(b"component");
        let entry = |name: &str, nodes: &[u64], candidates: &[u64]| {
            let mut function = Function::new(Metadata::named(name), component);
            function.succeed(None, &[], 0);
            let ids = |ids: &[u64]| ids.iter().copied().map(NodeId).collect();
            let placement = Placement {
                nodes: ids(nodes),
                candidates: ids(candidates),
                ..Placement::default()
            };
            (serde_json::to_vec(&function).unwrap(), serde_json::to_vec(&placement).unwrap())
        };
        let ((b, b_at), (a, a_at)) = (entry("b", &[9], &[3]), entry("a", &[3, 1], &[1, 2, 3]));
        let desired = Desired::default().apply(
            1,
            [
                ("functions/default/b", 1, Some(&b[..])),
                ("functions/default/a", 1, Some(&a[..])),
                ("placements/default/b", 1, Some(&b_at[..])),
                ("placements/default/a", 1, Some(&a_at[..])),
            ],
        );
        assert!(makers(&desired, &Digest::of(b"other")).is_empty());
        let order = makers(&desired, &component);
        assert_eq!(order, [3, 1, 2, 9].map(NodeId));
        for (own, dead, expected) in [
            (3, None, &[][..]),
            (1, None, &[3]),
            (9, None, &[3, 1, 2]),
            (7, None, &[3, 1, 2, 9]),
            // The first is dead: the second makes it, the third leaves it to the second.
            (1, Some(3), &[]),
            (2, Some(3), &[1]),
        ] {
            let said = before(&order, NodeId(own), |node| Some(node.0) != dead);
            let said: Vec<u64> = said.into_iter().map(|node| node.0).collect();
            assert_eq!(said, expected, "{own} with {dead:?} dead");
        }
    }
}
