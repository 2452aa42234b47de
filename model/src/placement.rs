//! Placements: which nodes serve a function, committed by the scheduler.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::NodeId;

/// The nodes that serve a function, and those that start it when none of them can.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Placement {
    /// Nodes that keep the function ready.
    pub nodes: Vec<NodeId>,
    /// Nodes that hold the artifact and its compiled image, in the order in which they step in.
    pub candidates: Candidates,
    /// Why it is so: one reason per node and per refusal.
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
