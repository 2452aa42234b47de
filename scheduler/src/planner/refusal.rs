//! Why a node gets no copy: without a text as long as nobody asks for it.

use super::state::{NeedAt, NodeAt, State};
use crate::{
    eligibility::{emptied, misfit},
    reason::Reason,
};

/// Why a node gets no further copy of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal<'a> {
    Misfit,
    AlreadyHere,
    Dead,
    Draining,
    Failing(&'a str),
    FunctionsFull,
    MemoryFull,
}

impl Refusal<'_> {
    /// With all that belongs to it.
    pub(crate) fn reason(self, state: &State<'_>, at: NeedAt, node: NodeAt) -> Reason {
        let (need, facts) = (state.need(at), state.node(node));
        match self {
            Self::Misfit => {
                misfit(need, facts).unwrap_or(Reason::NotNeeded { affinity: Vec::new() })
            }
            Self::AlreadyHere => Reason::AlreadyHere,
            Self::Dead => Reason::Dead,
            Self::Draining => emptied(facts).unwrap_or(Reason::Draining),
            Self::Failing(why) => Reason::Failing { why: why.to_owned() },
            Self::FunctionsFull => Reason::FunctionsFull { max: facts.capacity.functions },
            Self::MemoryFull => Reason::MemoryFull {
                free_bytes: facts.capacity.memory_bytes.saturating_sub(state.used(node).clamped()),
                needs_bytes: need.memory_bytes,
            },
        }
    }
}
