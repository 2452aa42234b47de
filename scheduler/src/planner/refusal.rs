//! Why a node gets no copy: without a text as long as nobody asks for it.

use super::{
    preempt::kept_by_budget,
    state::{NeedAt, NodeAt, State},
};
use crate::{
    eligibility::{emptied, misfit},
    reason::Reason,
    room::Lack,
};

/// How many functions that keep their place a reason names.
const MAX_TOLD: usize = 4;

/// Why a node gets no further copy of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal<'a> {
    Misfit,
    AlreadyHere,
    Dead,
    Draining,
    Failing(&'a str),
    Full(Lack),
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
            Self::Full(lack) => {
                let (capacity, used) = (facts.capacity, state.used(node));
                let kept = kept_by_budget(state, at, node);
                if !kept.is_empty() {
                    let key = |other: &NeedAt| state.need(*other).key.clone();
                    return Reason::Budget { keep: kept.iter().take(MAX_TOLD).map(key).collect() };
                }
                match lack {
                    Lack::Functions => Reason::FunctionsFull { max: capacity.functions },
                    Lack::Memory => Reason::MemoryFull {
                        free_bytes: capacity.memory_bytes.saturating_sub(used.memory()),
                        needs_bytes: need.memory_bytes,
                    },
                    Lack::Concurrency => Reason::ConcurrencyFull {
                        free: capacity
                            .concurrency
                            .unwrap_or(u64::MAX)
                            .saturating_sub(used.concurrency()),
                        needs: need.concurrency,
                    },
                }
            }
        }
    }
}
