//! A decision with all that it was made from.

use serde::{Deserialize, Serialize};
use swarmer_model::{Code, Coded};

use crate::{
    codes,
    eligibility::explain,
    input::{Desired, Observed},
    output::{Decision, Plan},
    planner::plan,
};

/// A decision with all that it was made from: what is written down to explain it later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// What users wanted.
    pub desired: Desired,
    /// What was there.
    pub observed: Observed,
    /// When, in milliseconds.
    pub now_ms: u64,
    /// What was decided.
    pub plan: Plan,
}

/// A record does not come out again: it was made by another version, or changed since.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{difference}; it was made by another version or changed")]
pub struct ReplayError {
    /// The first thing that differs.
    pub difference: String,
    /// What this version decides.
    pub replayed: Box<Plan>,
}

impl Coded for ReplayError {
    fn code(&self) -> Code {
        codes::REPLAY
    }
}

impl Record {
    /// Plans, and keeps what it was planned from.
    pub fn new(desired: Desired, observed: Observed, now_ms: u64) -> Self {
        let plan = plan(&desired, &observed, now_ms);
        Self { desired, observed, now_ms, plan }
    }

    /// For every node, what was decided about one function and why; empty if there was no such
    /// function.
    pub fn explain(&self, function: &str) -> Vec<Decision> {
        explain(self, function)
    }

    /// How much it holds: functions, nodes and copies together.
    pub fn size(&self) -> usize {
        let copies: usize = self.observed.placements.values().map(Vec::len).sum();
        self.desired.functions.len() + self.observed.nodes.len() + copies
    }

    /// Decides again from the recorded input.
    ///
    /// # Errors
    /// [`ReplayError`] if the result differs from the recorded one in anything.
    pub fn replay(&self) -> Result<Plan, ReplayError> {
        let replayed = plan(&self.desired, &self.observed, self.now_ms);
        if replayed == self.plan {
            Ok(replayed)
        } else {
            let difference = difference(&self.plan, &replayed);
            Err(ReplayError { difference, replayed: Box::new(replayed) })
        }
    }
}

/// The first thing that differs between a recorded plan and what comes out now.
fn difference(recorded: &Plan, replayed: &Plan) -> String {
    fn first<T: PartialEq>(
        what: &str,
        recorded: &[T],
        replayed: &[T],
        text: impl Fn(&T) -> String,
    ) -> Option<String> {
        let at = (0..recorded.len().max(replayed.len()))
            .find(|i| recorded.get(*i) != replayed.get(*i))?;
        let told = |items: &[T]| items.get(at).map_or_else(|| "none".to_owned(), &text);
        let (then, now) = (told(recorded), told(replayed));
        Some(format!("the record has the {what} \"{then}\" where \"{now}\" comes out"))
    }
    first("command", &recorded.commands, &replayed.commands, ToString::to_string)
        .or_else(|| {
            first("conflict", &recorded.conflicts, &replayed.conflicts, ToString::to_string)
        })
        .or_else(|| {
            first("decision", &recorded.decisions, &replayed.decisions, ToString::to_string)
        })
        .unwrap_or_else(|| {
            "the record has other placements or another time to look again".to_owned()
        })
}
