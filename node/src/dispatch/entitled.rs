//! Whether nodes speak for, and serve, only what is theirs: judged by this node's own copy of the
//! desired state, on the receiving and on the calling side.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use swarmer_mesh::{
    call::{CallError, Served},
    identity::{Workload, may_speak},
    transport::Peer,
};
use swarmer_model::{Coded as _, NodeId, Revision};

use crate::{desired::FunctionEntry, dispatch::Dispatcher};

/// A function of this node that calls.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    /// Who it is.
    pub(crate) workload: Workload,
    /// The revision by which this node may speak for it: whoever judges that must have seen it.
    pub(crate) changed: Revision,
}

/// How often nodes claimed what was not theirs.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    sources: AtomicU64,
    servers: AtomicU64,
}

impl Refusals {
    /// Calls refused because the sender may not speak for the calling function.
    pub(crate) fn sources(&self) -> u64 {
        self.sources.load(Ordering::Relaxed)
    }

    /// Answers refused because the one who served may not serve the function.
    pub(crate) fn servers(&self) -> u64 {
        self.servers.load(Ordering::Relaxed)
    }
}

/// Whether an answer is from the node that was asked, or from another that may serve the function
/// too, and of the version that was asked for; a node that only explains why nothing served it
/// names no version.
fn rightful(
    asked: NodeId,
    version: u32,
    served: &Served,
    may_serve: impl Fn(NodeId) -> bool,
) -> bool {
    (served.node == asked || may_serve(served.node)) && served.version.is_none_or(|v| v == version)
}

impl Dispatcher {
    /// Whether `peer` may speak for the workload that it names as the caller.
    pub(super) fn speaks_for(&self, peer: &Peer, source: &Workload) -> bool {
        let deps = self.deps();
        let desired = deps.desired.current();
        let standing = desired.standing(&source.namespace, &source.name);
        let Err(why) = may_speak(deps.cluster, peer.node, source, standing, Instant::now()) else {
            return true;
        };
        self.refusals().sources.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(target: "swarmer::dispatch", event = "not-entitled",
            code = CallError::NotEntitled.code().name, peer = %peer.node,
            peer_name = self.node_name(peer.node), source = %source, %why,
            "a node speaks for a function that is not its own");
        false
    }

    /// Whether the answer of `asked` is from a node and version that may give it. The node that
    /// was asked was found entitled when it was chosen.
    pub(super) fn served_well(
        &self,
        asked: NodeId,
        entry: &FunctionEntry,
        version: u32,
        served: &Served,
    ) -> Result<(), CallError> {
        if rightful(asked, version, served, |_| false) {
            return Ok(());
        }
        let desired = self.deps().desired.current();
        let standing = desired.standing(&entry.namespace, &entry.name);
        let now = Instant::now();
        if rightful(asked, version, served, |node| standing.is_some_and(|s| s.may_serve(node, now)))
        {
            return Ok(());
        }
        self.refusals().servers.fetch_add(1, Ordering::Relaxed);
        let reason = format!(
            "node {} ({}), asked for {} version {version}, says that node {} ({}) served {}",
            self.node_name(asked),
            asked,
            entry.id,
            self.node_name(served.node),
            served.node,
            served.version.map_or_else(|| "it".to_owned(), |version| format!("version {version}")),
        );
        let error = CallError::WrongServer { reason };
        tracing::warn!(target: "swarmer::dispatch", event = "not-entitled",
            code = error.code().name, peer = %asked, peer_name = self.node_name(asked),
            function = %entry.id, why = %error, "an answer is from one who may not give it");
        Err(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_taken_from_those_that_may_serve_the_function() {
        let may_serve = |node: NodeId| node.0 <= 2;
        for (node, version, expected) in [
            (1, Some(3), true),
            (1, None, true),
            (2, Some(3), true),
            (2, Some(4), false),
            (1, Some(4), false),
            (7, Some(3), false),
            (7, None, false),
        ] {
            let served = Served { node: NodeId(node), version, revision: 1 };
            let said = rightful(NodeId(1), 3, &served, may_serve);
            assert_eq!(said, expected, "node {node}, version {version:?}");
        }
    }
}
