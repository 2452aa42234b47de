//! What a node knows about its part in the cluster.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use swarmer_model::{NodeId, Revision};

use crate::keyspace::ChainHash;

/// The part a node plays in the replication of the desired state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Orders the changes.
    Leader,
    /// A voter that knows or seeks a leader.
    Voter,
    /// A voter that stands for election.
    Candidate,
    /// Gets the log but has no vote (yet).
    Learner,
    /// Neither: follows by the feed.
    Follower,
    /// Stopped.
    Stopped,
}

/// A snapshot of what a node knows; cheap to clone, sent on every change of substance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// This node.
    pub node: NodeId,
    /// Its part.
    pub role: Role,
    /// The leader, as far as this node knows.
    pub leader: Option<NodeId>,
    /// The current term (0 before the first election).
    pub term: u64,
    /// The revision of the local state.
    pub revision: Revision,
    /// The last index in the local log.
    pub last_log_index: Option<u64>,
    /// The last index applied to the local state.
    pub applied_index: Option<u64>,
    /// All voters (of both sets while a change is under way).
    pub voters: BTreeSet<NodeId>,
    /// All learners.
    pub learners: BTreeSet<NodeId>,
    /// The hash chain at `revision`: equal revisions have equal hashes on all nodes.
    pub chain_hash: ChainHash,
    /// Leader: a quorum acknowledged recently. Others: the leader (or, for a follower, a voter
    /// that has a leader) was heard from recently.
    pub quorum_ok: bool,
    /// How many log entries (followers: revisions) the local state is known to be behind.
    pub lag: u64,
}

impl Status {
    /// What a node knows before it has heard anything.
    pub(crate) fn initial(node: NodeId, role: Role) -> Self {
        Self {
            node,
            role,
            leader: None,
            term: 0,
            revision: 0,
            last_log_index: None,
            applied_index: None,
            voters: BTreeSet::new(),
            learners: BTreeSet::new(),
            chain_hash: ChainHash::default(),
            quorum_ok: false,
            lag: 0,
        }
    }
}
