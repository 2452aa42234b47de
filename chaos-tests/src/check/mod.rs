//! One checker per invariant: a history goes in, a verdict comes out. They read nothing else.

pub mod admission;
pub mod append;
pub mod back;
pub mod choice;
pub mod dedup;
pub mod deploy;
pub mod distance;
pub mod flaps;
pub mod jobs;
pub mod lease;
mod map;
pub mod membership;
pub mod near;
pub mod placement;
pub mod region_loss;
pub mod register;
pub mod restart;
#[cfg(test)]
mod sample;
pub mod set;
mod silence;
pub mod stranger;
pub mod traffic;
pub mod voters;
pub mod watch;
pub mod wgl;

use std::{borrow::Cow, fmt};

use serde::{Deserialize, Serialize};

use crate::history::{Operation, Outcome};

pub use admission::CUT_OFF_MS;

/// How many violations one verdict tells; more of the same help nobody.
pub const MAX_EXPLANATIONS: usize = 10;

/// What a checker says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The invariant, in a few words.
    pub invariant: Cow<'static, str>,
    /// How many operations it looked at.
    pub checked: usize,
    /// The judgement.
    pub judgement: Judgement,
}

/// Whether an invariant held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Judgement {
    /// It held in this history.
    Valid,
    /// It did not; at most [`MAX_EXPLANATIONS`] of the violations, the first ones.
    Invalid(Vec<String>),
    /// The checker cannot say, and why.
    Unknown(String),
}

impl Verdict {
    /// Valid if there are no violations; the first of them are told.
    pub fn of(invariant: &'static str, checked: usize, mut violations: Vec<String>) -> Self {
        let judgement = if violations.is_empty() {
            Judgement::Valid
        } else {
            let more = violations.len().saturating_sub(MAX_EXPLANATIONS);
            violations.truncate(MAX_EXPLANATIONS);
            if more > 0 {
                violations.push(format!("and {more} more"));
            }
            Judgement::Invalid(violations)
        };
        Self { invariant: invariant.into(), checked, judgement }
    }

    /// It cannot be said.
    pub fn unknown(invariant: &'static str, checked: usize, why: String) -> Self {
        Self { invariant: invariant.into(), checked, judgement: Judgement::Unknown(why) }
    }

    /// Whether it held for sure.
    pub fn is_valid(&self) -> bool {
        self.judgement == Judgement::Valid
    }

    /// Whether it surely did not hold.
    pub fn is_invalid(&self) -> bool {
        matches!(self.judgement, Judgement::Invalid(_))
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.judgement {
            Judgement::Valid => {
                write!(f, "valid    {} ({} operations)", self.invariant, self.checked)
            }
            Judgement::Unknown(why) => write!(f, "unknown  {}: {why}", self.invariant),
            Judgement::Invalid(violations) => {
                write!(f, "INVALID  {}", self.invariant)?;
                violations.iter().try_for_each(|violation| {
                    write!(f, "\n    {}", violation.replace('\n', "\n    "))
                })
            }
        }
    }
}

/// What the harness had no rule for; any of it makes a run void.
pub fn harness_errors(history: &[Operation]) -> Vec<String> {
    let broken = history.iter().filter(|op| matches!(op.outcome, Outcome::Harness { .. }));
    broken.take(MAX_EXPLANATIONS).map(Operation::to_string).collect()
}

/// Every checker for which the history has something to check.
pub fn all(history: &[Operation]) -> Vec<Verdict> {
    let checkers: [fn(&[Operation]) -> Verdict; 25] = [
        register::check,
        set::check,
        watch::check,
        dedup::check,
        append::check,
        deploy::check,
        traffic::check,
        jobs::check,
        admission::check,
        stranger::check,
        membership::check,
        placement::check,
        placement::rest,
        choice::check,
        restart::check,
        voters::check,
        region_loss::writes,
        region_loss::answers,
        near::check,
        distance::check,
        flaps::leaders,
        flaps::writes,
        flaps::answers,
        back::check,
        lease::check,
    ];
    checkers.iter().map(|check| check(history)).filter(|verdict| verdict.checked > 0).collect()
}
