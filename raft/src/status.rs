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

/// Who leads, who votes and what this node is in that, told on every change.
///
/// Not how far log and state are: they move thousands of times a second, and nobody who waits for
/// another leader should wake for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leadership {
    /// This node.
    pub node: NodeId,
    /// Its part.
    pub role: Role,
    /// The leader, as far as this node knows.
    pub leader: Option<NodeId>,
    /// The current term (0 before the first election).
    pub term: u64,
    /// All voters (of both sets while a change is under way).
    pub voters: BTreeSet<NodeId>,
    /// All learners.
    pub learners: BTreeSet<NodeId>,
    /// See [`Status::quorum_ok`].
    pub quorum_ok: bool,
}

/// A snapshot of what a node knows, made when it is asked for.
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
    /// The status of a node without a log with its state at `position`.
    pub(crate) fn of(leadership: Leadership, position: (Revision, ChainHash), lag: u64) -> Self {
        let Leadership { node, role, leader, term, voters, learners, quorum_ok } = leadership;
        let (revision, chain_hash) = position;
        Self {
            node,
            role,
            leader,
            term,
            revision,
            last_log_index: None,
            applied_index: None,
            voters,
            learners,
            chain_hash,
            quorum_ok,
            lag,
        }
    }
}

impl Leadership {
    /// What a node knows before it has heard anything.
    pub(crate) fn initial(node: NodeId, role: Role) -> Self {
        Self {
            node,
            role,
            leader: None,
            term: 0,
            voters: BTreeSet::new(),
            learners: BTreeSet::new(),
            quorum_ok: false,
        }
    }

    /// Puts `now` in its place; whether it differs.
    pub fn replace(&mut self, now: Self) -> bool {
        let changed = *self != now;
        *self = now;
        changed
    }
}
