//! The way out when a majority of the voters is gone for good: a stopped node goes on alone.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use serde_json::json;
use swarmer_model::{Key, Kind, Node, NodeId};
use swarmer_raft::{Recovered, Txn, View, disk::RealDisk};

use crate::{
    agent::{
        data_dir::{DataDir, KeptPart},
        identity::Grant,
        keys::{Authorities, Ring, Rotated as _},
        voting::{leaving_key, log_key},
    },
    codes,
    problem::{Outcome, Problem},
};

/// The directory of a stopped voter, locked.
pub(crate) struct Recovery {
    dir: DataDir,
    grant: Grant,
}

impl Recovery {
    /// Takes the directory, if a cluster can go on from it.
    pub(crate) fn open(path: &Path) -> Outcome<Self> {
        let dir = DataDir::open_as_it_is(path)?;
        let refuse = |why: &str| {
            let why = format!("{}: {why}", dir.path().display());
            Err(Problem::new(codes::NOT_RECOVERABLE, why))
        };
        let Some(grant) = Grant::load(dir.path())? else {
            return refuse("the node belongs to no cluster");
        };
        let meta = dir.meta();
        let first = grant.is_voter(meta.node).then_some(KeptPart::Voter);
        if meta.part.or(first) != Some(KeptPart::Voter) {
            return refuse("the node was no voter when it ended; its log may be old");
        }
        if grant.ca_key_pem.is_none() {
            return refuse("the node does not hold the authority's key; take another voter");
        }
        Ok(Self { dir, grant })
    }

    pub(crate) fn cluster(&self) -> String {
        self.grant.cluster.to_string()
    }

    pub(crate) fn name(&self) -> String {
        self.dir.meta().name
    }

    /// Makes the node the only voter, and shuts the other voters out.
    pub(crate) fn run(self) -> Outcome<Recovered> {
        let node = self.dir.meta().node;
        let config = swarmer_raft::Config::new(node, self.dir.path().join("raft"));
        let change = |view: &View, voters: &BTreeSet<NodeId>| shut_out(view, voters, node);
        swarmer_raft::recover(&config, Arc::new(RealDisk), change)
            .map_err(|error| Problem::of(&error, "recovering"))
    }
}

/// What is committed with it: the others are no members any more, so that whoever follows this
/// node believes none of them.
fn shut_out(view: &View, voters: &BTreeSet<NodeId>, node: NodeId) -> Txn {
    let lost: BTreeSet<NodeId> = voters.iter().copied().filter(|voter| *voter != node).collect();
    let note = json!({ "node": node, "revision": view.revision(), "lost": lost });
    let mut txn = Txn::new()
        .put(Key::cluster("recovered"), note.to_string())
        // They know the keys of gossip, and of the authority.
        .put(Ring::wanted(), "")
        .put(Authorities::wanted(), "");
    for (key, entry) in view.list(Kind::Node.prefix()).1 {
        let Ok(found) = serde_json::from_slice::<Node>(&entry.value) else { continue };
        if lost.contains(&found.spec.id) {
            txn = txn
                .delete(key)
                .delete(Key::cluster(&format!("names/{}", found.metadata.name)))
                .delete(leaving_key(found.spec.id))
                .delete(log_key(found.spec.id));
        }
    }
    txn
}
