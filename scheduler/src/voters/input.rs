//! What the planner of voters is told.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use swarmer_model::{NodeId, RegionState};

use crate::input::NodeRef;

/// How long a voter may be dead before another node gets its vote, unless the policy says
/// otherwise.
///
/// A machine that reboots is back within a minute. Until then the majority goes on without it,
/// while a replacement costs a copy of the whole state; a second death in that minute is what the
/// fourth and fifth voter are for.
pub const DEFAULT_VOTER_GRACE_MS: u64 = 60_000;
/// The most voters: each more slows down every write and adds nothing that anybody needs.
pub const MAX_VOTERS: usize = 7;

/// One admitted node, as far as votes go.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoterNode {
    /// Who it is.
    pub id: NodeId,
    /// What people call it; only for the text of reasons.
    pub name: String,
    /// Its committed region.
    pub region: String,
    /// Its committed zone; zones of two regions are never the same zone.
    pub zone: String,
    /// It is being emptied: it gets no vote. One that it has it keeps.
    #[serde(default)]
    pub draining: bool,
    /// What was said of its region: of one that is drained votes go where others can have them.
    #[serde(default)]
    pub region_state: RegionState,
    /// It is to leave the cluster: its vote goes.
    #[serde(default)]
    pub leaving: bool,
    /// It should not vote: it gets no vote, and gives away one that it has where another can have it.
    #[serde(default)]
    pub abstains: bool,
    /// When it was seen to die, in milliseconds on the clock of `now`; `None`: it is alive.
    #[serde(default)]
    pub dead_since_ms: Option<u64>,
    /// Since when it has been seen to live without a break, in milliseconds on the clock of `now`;
    /// `None`: nobody looked. Only one that has done so for the grace time gets a vote for no other sake
    /// than that votes are spread.
    #[serde(default)]
    pub alive_since_ms: Option<u64>,
    /// A voter that lacks so much of the log that it should not lead now.
    #[serde(default)]
    pub behind: bool,
    /// Why it cannot hold a vote though it lives, for example because it lost its log.
    #[serde(default)]
    pub barred: Option<String>,
}

impl VoterNode {
    /// It answers, and what it answers counts.
    pub(super) fn lives(&self) -> bool {
        self.dead_since_ms.is_none() && self.barred.is_none()
    }

    /// It gets no vote, and need not lead.
    pub(super) fn is_emptied(&self) -> bool {
        self.draining || self.region_state == RegionState::Drained
    }

    /// It lives, and can have a vote that it has not.
    pub(super) fn is_fit(&self) -> bool {
        self.may_lead() && !self.abstains
    }

    /// It lives, and can lead while it has a vote.
    pub(super) fn may_lead(&self) -> bool {
        self.lives() && !self.is_emptied() && !self.leaving
    }

    pub(super) fn named(&self) -> NodeRef {
        NodeRef { id: self.id, name: self.name.clone() }
    }
}

/// The membership of the log, as its leader knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// The voters; two sets while a change is under way, the later one last.
    pub configs: Vec<BTreeSet<NodeId>>,
    /// The learners, and whether each has caught up.
    pub learners: BTreeMap<NodeId, bool>,
    /// The last change of it is committed.
    pub settled: bool,
    /// Who leads.
    pub leader: NodeId,
}

/// Cluster-wide rules of votes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoterPolicy {
    /// How many voters there should be: 1, 3, 5 or 7; see [`odd_size`].
    pub wanted: usize,
    /// How long a voter may be dead before it is replaced, in milliseconds.
    pub grace_ms: u64,
}

/// Everything that a decision about voters depends on, but the time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoterInput {
    /// Every admitted node; of two with one id the last counts.
    pub nodes: Vec<VoterNode>,
    /// The membership of the log.
    pub membership: Membership,
    /// The rules.
    pub policy: VoterPolicy,
    /// The region that somebody chose to lead.
    #[serde(default)]
    pub lead_region: Option<String>,
}

impl VoterInput {
    pub(super) fn node(&self, id: NodeId) -> Option<&VoterNode> {
        self.nodes.iter().rev().find(|node| node.id == id)
    }

    pub(super) fn lives(&self, id: NodeId) -> bool {
        self.node(id).is_some_and(VoterNode::lives)
    }

    pub(super) fn named(&self, id: NodeId) -> NodeRef {
        self.node(id).map_or(NodeRef { id, name: String::new() }, VoterNode::named)
    }

    /// Whether a majority of these lives.
    pub(super) fn majority_lives(&self, voters: &BTreeSet<NodeId>) -> bool {
        let living = voters.iter().filter(|id| self.lives(**id)).count();
        living > voters.len() / 2
    }
}

/// The number of voters for a wish: the next odd one, at most seven. An even number of voters bears
/// no more deaths than the odd one below it.
pub fn odd_size(wish: usize) -> usize {
    (wish.max(1) | 1).min(MAX_VOTERS)
}
