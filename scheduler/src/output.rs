//! What the planner answers.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{Deserialize, Serialize};
use swarmer_model::NodeId;

use crate::{
    conflict::Conflict,
    input::{CopyState, FunctionKey, NodeRef, Observed},
    reason::Reason,
};

/// The planner's answer. All commands of a plan are applied together, as one change: an addition
/// may use the room that a removal makes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// What to change, by function, additions before removals. Empty: all is as it can be.
    pub commands: Vec<Command>,
    /// Why: one for each command, for each copy kept in spite of a trouble, and for each node
    /// refused to a function that is short of copies (bounded, see [`Conflict::Short`]).
    pub decisions: Vec<Decision>,
    /// What cannot be had, and why.
    pub conflicts: Vec<Conflict>,
    /// The nodes of each function after the commands.
    pub placements: BTreeMap<FunctionKey, BTreeSet<NodeId>>,
    /// When the same input gives another plan by time alone (a grace time ends), on the clock of
    /// `now`, in milliseconds.
    pub replan_at_ms: Option<u64>,
}

/// One change of a placement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    /// Put a copy there.
    Add {
        /// Of which function.
        function: FunctionKey,
        /// The function's revision that this was planned for.
        revision: u64,
        /// Where.
        node: NodeRef,
        /// Why there.
        reason: Reason,
    },
    /// Take the copy away.
    Remove {
        /// Of which function.
        function: FunctionKey,
        /// The function's revision that this was planned for; `None`: the function is gone.
        revision: Option<u64>,
        /// Where.
        node: NodeRef,
        /// Why.
        reason: Reason,
    },
}

impl Command {
    /// The function that it changes.
    pub fn function(&self) -> &str {
        match self {
            Self::Add { function, .. } | Self::Remove { function, .. } => function,
        }
    }

    /// The node that it changes.
    pub fn node(&self) -> NodeId {
        match self {
            Self::Add { node, .. } | Self::Remove { node, .. } => node.id,
        }
    }

    /// Why.
    pub fn reason(&self) -> &Reason {
        match self {
            Self::Add { reason, .. } | Self::Remove { reason, .. } => reason,
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Add { function, node, reason, .. } => {
                write!(f, "add {function} on {node}: {reason}")
            }
            Self::Remove { function, node, reason, .. } => {
                write!(f, "remove {function} from {node}: {reason}")
            }
        }
    }
}

/// What was decided about a function and a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// A copy was added.
    Placed,
    /// A copy was taken away.
    Removed,
    /// A copy stays.
    Kept,
    /// The node gets no copy.
    Refused,
}

/// One decision with its reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Of which function.
    pub function: FunctionKey,
    /// On which node.
    pub node: NodeRef,
    /// What.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Verdict::Placed => "placed",
            Verdict::Removed => "removed",
            Verdict::Kept => "kept",
            Verdict::Refused => "refused",
        };
        write!(f, "{verdict} {} node {}: {}", self.function, self.node, self.reason)
    }
}

impl Plan {
    /// Nothing to change.
    pub fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    /// What was decided about one function.
    pub fn of(&self, function: &str) -> Vec<Decision> {
        let all = self.decisions.iter();
        all.filter(|decision| decision.function == function).cloned().collect()
    }

    /// Carries the plan out on `observed`: what the caller's commit does to the placements. A new
    /// copy is not ready.
    pub fn apply(&self, observed: &mut Observed) {
        for command in &self.commands {
            let copies = observed.placements.entry(command.function().to_owned()).or_default();
            let node = command.node();
            copies.retain(|copy| copy.node != node);
            if matches!(command, Command::Add { .. }) {
                copies.push(CopyState { node, ready: false });
            }
        }
        observed.placements.retain(|_, copies| !copies.is_empty());
    }
}
