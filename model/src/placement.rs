//! Placements: which nodes serve a function, committed by the scheduler.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    function::TrafficTarget,
    ids::{NodeId, Revision},
};

/// The nodes that serve a function, and those that start it when none of them can.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Placement {
    /// The revision of the function that this was planned for; 0: not planned yet.
    pub revision: Revision,
    /// Nodes that keep the function ready.
    pub nodes: Vec<NodeId>,
    /// Nodes that hold the artifact and its compiled image, in the order in which they step in.
    pub candidates: Candidates,
    /// The shares by which requests are sent: those that the function has at `revision`, from when
    /// each version of them is ready on a node; until then those that were served before.
    pub traffic: Vec<TrafficTarget>,
    /// Why no node may serve the function as it is at `revision`. What stands on `nodes` then goes
    /// on with what was served before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conflict: Option<String>,
    /// Why it is so: one reason per node and per shortage.
    pub reasons: Vec<PlacementReason>,
}

/// Candidates in order of preference.
pub type Candidates = Vec<NodeId>;

/// One reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlacementReason {
    /// The node that the reason is about; none if it is about the function.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// The reason, for people.
    pub text: String,
}
