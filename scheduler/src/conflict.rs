//! What cannot be had.

use serde::{Deserialize, Serialize};
use swarmer_model::{Code, Coded};

use crate::{
    codes,
    input::{FunctionKey, NodeRef},
    reason::Reason,
};

/// Something that the input asks for and that no plan can give.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Conflict {
    /// Too few nodes fit. Copies in trouble (on drained nodes, for example) stay where they are
    /// as far as they may, and are not counted.
    #[error("{function}: {placed} of {wanted} copies placed; {}", short(.refused, .more, .hint.as_deref()))]
    Short {
        /// Which function.
        function: FunctionKey,
        /// How many copies it wants.
        wanted: u32,
        /// How many stand well.
        placed: u32,
        /// Why not the other nodes: the first [`Conflict::MAX_REFUSALS`].
        refused: Vec<(NodeRef, Reason)>,
        /// How many further nodes were refused.
        more: u32,
        /// What the user may have meant.
        hint: Option<String>,
    },
    /// A node holds more than it can.
    #[error(
        "node {node}: holds {functions} of {max_functions} functions, {memory_bytes} of {max_memory_bytes} bytes{}, and what is too much has nowhere to go",
        requests(*concurrency, *max_concurrency)
    )]
    Overfull {
        /// Which node.
        node: NodeRef,
        /// How many functions it holds.
        functions: u32,
        /// How many it can hold.
        max_functions: u32,
        /// The sum of their memory, in bytes.
        memory_bytes: u64,
        /// What it can hold, in bytes.
        max_memory_bytes: u64,
        /// The sum of the requests that they may have at once.
        #[serde(default)]
        concurrency: u64,
        /// How many it can have; `None`: any number.
        #[serde(default)]
        max_concurrency: Option<u64>,
    },
    /// No final plan was found in so many rounds; the plan has no commands.
    #[error("no final plan in {rounds} rounds; nothing is changed")]
    Unsettled {
        /// The bound that was reached.
        rounds: u32,
    },
}

impl Conflict {
    /// How many refused nodes a conflict lists: enough to see the pattern, and a plan for a
    /// thousand nodes stays readable.
    pub const MAX_REFUSALS: usize = 16;

    /// Whether it leaves the function, as it is wanted now, without any copy.
    pub fn leaves_none(&self, key: &str) -> bool {
        match self {
            Self::Short { function, placed, .. } => function == key && *placed == 0,
            Self::Overfull { .. } => false,
            Self::Unsettled { .. } => true,
        }
    }

    /// Whether it is about this function.
    pub fn is_about(&self, key: &str) -> bool {
        matches!(self, Self::Short { function, .. } if function == key)
    }
}

impl Coded for Conflict {
    fn code(&self) -> Code {
        match self {
            Self::Short { .. } => codes::SHORT,
            Self::Overfull { .. } => codes::OVERFULL,
            Self::Unsettled { .. } => codes::UNSETTLED,
        }
    }
}

/// How the text of a shortage ends where every node has a copy.
pub const NO_FURTHER_NODES: &str = "there are no further nodes";

fn requests(held: u64, max: Option<u64>) -> String {
    max.map_or(String::new(), |max| format!(" and {held} of {max} requests at once"))
}

fn short(refused: &[(NodeRef, Reason)], more: &u32, hint: Option<&str>) -> String {
    let mut text = match refused {
        [] => NO_FURTHER_NODES.to_owned(),
        some => some
            .iter()
            .map(|(node, reason)| format!("node {node}: {reason}"))
            .collect::<Vec<_>>()
            .join("; "),
    };
    if *more > 0 {
        text.push_str(&format!("; and {more} more"));
    }
    if let Some(hint) = hint {
        text.push_str("; ");
        text.push_str(hint);
    }
    text
}
