//! What this node has to hold: a pure function of the desired state.

use std::{collections::BTreeMap, sync::Arc};

use swarmer_model::NodeId;

use crate::desired::Desired;

/// How far a version has to be made ready here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Need {
    /// Candidate: artifact and compiled image on the disk.
    Prepared,
    /// Placed here: loaded, and told to the others as ready.
    Loaded,
}

/// Every version that this node has to hold, by function and number.
pub(crate) fn wanted(desired: &Desired, node: NodeId) -> BTreeMap<(Arc<str>, u32), Need> {
    let mut all = BTreeMap::new();
    for entry in desired.functions.values() {
        let need = if entry.placement.nodes.contains(&node) {
            Need::Loaded
        } else if entry.placement.candidates.contains(&node) {
            Need::Prepared
        } else {
            continue;
        };
        let serving = entry.weights.iter().map(|(version, _)| *version);
        for version in serving.chain(entry.coming()) {
            all.insert((Arc::clone(&entry.id), version), need);
        }
        // The version to go back to stays prepared, so that an undo serves at once.
        let serving = entry.weights.iter().map(|(version, _)| *version).max().unwrap_or(0);
        let versions = entry.function.status.versions.iter().rev();
        if let Some(before) = versions.map(|v| v.number).find(|number| *number < serving) {
            all.entry((Arc::clone(&entry.id), before)).or_insert(Need::Prepared);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use swarmer_model::{Digest, Function, Metadata, Placement};

    #[test]
    fn placed_versions_are_loaded_candidates_and_the_version_before_prepared() {
        let mut v1 = Function::new(Metadata::named("f"), Digest::of(b"1"));
        v1.succeed(None, &[], 0);
        let mut v2 = Function::new(Metadata::named("f"), Digest::of(b"2"));
        v2.succeed(Some(&v1), &[], 0);
        let function = serde_json::to_vec(&v2).unwrap();
        let placement = Placement {
            nodes: vec![NodeId(1)],
            candidates: vec![NodeId(2), NodeId(1)],
            ..Placement::default()
        };
        let placement = serde_json::to_vec(&placement).unwrap();
        let desired = Desired::default().apply(
            1,
            [
                ("functions/default/f", 1, Some(function.as_slice())),
                ("placements/default/f", 1, Some(placement.as_slice())),
            ],
        );
        let id: Arc<str> = "default/f".into();
        let on = |node| wanted(&desired, NodeId(node)).into_iter().collect::<Vec<_>>();
        assert_eq!(on(1), [((id.clone(), 1), Need::Prepared), ((id.clone(), 2), Need::Loaded)]);
        assert_eq!(on(2), [((id.clone(), 1), Need::Prepared), ((id.clone(), 2), Need::Prepared)]);
        assert_eq!(on(3), []);
    }
}
