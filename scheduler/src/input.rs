//! What the planner is told: functions, nodes, and what stands where.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};
use swarmer_model::{Labels, NodeId, RegionState};

use crate::room::Demand;

/// The name of a function across the cluster: `namespace/name`.
pub type FunctionKey = String;

/// How long a node may be dead before its work is moved, unless the policy says otherwise.
///
/// A restart or an upgrade takes a few seconds and keeps the node's artifacts; calls go round a
/// dead node at once by health, so waiting costs spare copies, not answers.
pub const DEFAULT_DEAD_GRACE_MS: u64 = 30_000;

/// What users want.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desired {
    /// Every function; of two with one key the last counts.
    pub functions: Vec<FunctionNeed>,
    /// Cluster-wide rules.
    #[serde(default)]
    pub policy: Policy,
}

/// Cluster-wide rules of placement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// How long a node may be dead before its work is moved, in milliseconds.
    pub dead_grace_ms: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Self { dead_grace_ms: DEFAULT_DEAD_GRACE_MS }
    }
}

/// What one function needs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionNeed {
    /// Its name.
    pub key: FunctionKey,
    /// The revision of the function that this need was read from; commands carry it, so that the
    /// caller can refuse to commit a plan for a function that has changed since.
    pub revision: u64,
    /// On how many nodes it stands; 0 is none (it starts on a candidate when called).
    pub replicas: u32,
    /// What one copy may use of a node's memory, in bytes.
    pub memory_bytes: u64,
    /// How many requests one copy may have at once: that much of a node's.
    #[serde(default)]
    pub concurrency: u32,
    /// Scarce capacity goes to the higher number first, and is taken from lower ones where there
    /// is no more.
    #[serde(default)]
    pub priority: i32,
    /// How many copies that serve it keeps, whoever of higher priority wants their room.
    #[serde(default)]
    pub min_available: u32,
    /// Regions that may hold it, best first; empty: all.
    #[serde(default)]
    pub regions: Vec<String>,
    /// Zones that may hold it; empty: all.
    #[serde(default)]
    pub zones: Vec<String>,
    /// Labels that a node must have, with exactly these values.
    #[serde(default)]
    pub labels: Labels,
    /// Over what its copies are spread. There is never more than one copy on a node.
    #[serde(default)]
    pub spread: Spread,
    /// Functions that it goes near to, among nodes that are equally good but for their load.
    #[serde(default)]
    pub near: Vec<FunctionKey>,
    /// Functions that it keeps away from, and they from it, likewise.
    #[serde(default)]
    pub apart: Vec<FunctionKey>,
}

impl FunctionNeed {
    /// What one copy takes of its node.
    pub fn demand(&self) -> Demand {
        Demand { memory_bytes: self.memory_bytes, concurrency: self.concurrency }
    }

    pub(crate) fn has_affinity(&self) -> bool {
        !self.near.is_empty() || !self.apart.is_empty()
    }
}

/// Over what the copies of a function are spread.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Spread {
    /// Over regions first, in these over zones, then over nodes.
    #[default]
    Zone,
    /// Over nodes only: the least loaded, wherever it is.
    Node,
}

/// What is there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// Every admitted node; of two with one id the last counts.
    pub nodes: Vec<NodeFacts>,
    /// The committed placements with what is known of each copy.
    pub placements: BTreeMap<FunctionKey, Vec<CopyState>>,
    /// Where a function was tried and did not come up by the node's fault, each with why.
    #[serde(default)]
    pub failing: BTreeMap<FunctionKey, BTreeMap<NodeId, String>>,
}

/// One admitted node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFacts {
    /// Who it is.
    pub id: NodeId,
    /// What people call it; only for the text of reasons.
    pub name: String,
    /// Its committed region.
    pub region: String,
    /// Its committed zone; zones of two regions are never the same zone.
    pub zone: String,
    /// Its committed labels.
    #[serde(default)]
    pub labels: Labels,
    /// It is to be emptied by itself, whatever is said of its region.
    #[serde(default)]
    pub draining: bool,
    /// What was said of its region as a whole.
    #[serde(default)]
    pub region_state: RegionState,
    /// When it was seen to die, in milliseconds on the clock of `now`; `None`: it is alive.
    #[serde(default)]
    pub dead_since_ms: Option<u64>,
    /// What is wrong with it as a whole: its disk, for example. Other nodes are better.
    #[serde(default)]
    pub trouble: Option<String>,
    /// What it can hold.
    pub capacity: Capacity,
}

impl NodeFacts {
    /// It is to be emptied: alone, or with its whole region.
    pub fn is_emptied(&self) -> bool {
        self.draining || self.region_state == RegionState::Drained
    }
}

/// What a node can hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacity {
    /// How many functions.
    pub functions: u32,
    /// The sum of their memory, in bytes.
    pub memory_bytes: u64,
    /// The sum of the requests that they may have at once; `None`: any number.
    #[serde(default)]
    pub concurrency: Option<u64>,
}

/// One copy of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyState {
    /// Where it stands.
    pub node: NodeId,
    /// It answers calls, by the catalog. A drained or misplaced copy stays until this holds for
    /// the one that takes its place.
    pub ready: bool,
}

/// A node as reasons name it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NodeRef {
    /// Who it is.
    pub id: NodeId,
    /// What people call it; empty when the node is no member any more.
    pub name: String,
}

impl fmt::Display for NodeRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.is_empty() { self.id.fmt(f) } else { f.write_str(&self.name) }
    }
}

impl From<&NodeFacts> for NodeRef {
    fn from(node: &NodeFacts) -> Self {
        Self { id: node.id, name: node.name.clone() }
    }
}
