//! The membership of the log.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use swarmer_model::NodeId;

/// Who has the log, as one node knows it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Members {
    /// The voters; two sets while a change is under way, the later one last.
    pub configs: Vec<BTreeSet<NodeId>>,
    /// The learners.
    pub learners: BTreeSet<NodeId>,
    /// The last change is committed.
    pub settled: bool,
    /// Voters and learners by the last membership that this node knows to be committed.
    pub committed: BTreeSet<NodeId>,
    /// The voters among them.
    pub committed_voters: BTreeSet<NodeId>,
    /// On a leader: all others.
    pub peers: BTreeMap<NodeId, Peer>,
}

/// What a leader knows of another voter or learner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Peer {
    /// How many entries of the log it lacks; none if it has no log that fits yet.
    pub lag: Option<u64>,
    /// How long ago it last acknowledged this leader; none if it never did.
    pub heard: Option<Duration>,
}
