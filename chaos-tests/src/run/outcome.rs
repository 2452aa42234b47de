//! What came of a run.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{coverage::Coverage, observer::Leader, runner::Plan};
use crate::{check::Verdict, history::Operation, nemesis::Done};

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// Every verdict is valid, and it went through enough.
    Passed,
    /// At least one verdict is invalid.
    Invalid,
    /// It proves nothing.
    Void,
}

/// A run with all that was seen.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Run {
    /// What was run.
    pub plan: Plan,
    /// The faults as they happened.
    pub faults: Vec<Done>,
    /// Who led since when.
    pub leaders: Vec<Leader>,
    /// What it went through.
    pub coverage: Coverage,
    /// One for each invariant.
    pub verdicts: Vec<Verdict>,
    /// Why it proves nothing; empty if it does.
    pub void: Vec<String>,
    /// What a reader should know.
    pub notes: Vec<String>,
    /// The history; in a file of its own.
    #[serde(skip)]
    pub history: Vec<Operation>,
}

impl Run {
    /// Invalid wins over void.
    pub fn ending(&self) -> Ending {
        if self.verdicts.iter().any(Verdict::is_invalid) {
            Ending::Invalid
        } else if !self.void.is_empty() || !self.verdicts.iter().all(Verdict::is_valid) {
            Ending::Void
        } else {
            Ending::Passed
        }
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "coverage: {}", self.coverage)?;
        for verdict in &self.verdicts {
            writeln!(f, "{verdict}")?;
        }
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        for why in &self.void {
            writeln!(f, "void: {why}")?;
        }
        let Plan { scenario, seed, .. } = &self.plan;
        let ending = match self.ending() {
            Ending::Passed => "passed",
            Ending::Invalid => "INVALID",
            Ending::Void => "VOID",
        };
        write!(f, "{scenario} seed {seed}: {ending}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Judgement;

    #[test]
    fn invalid_wins_over_void_and_a_checker_that_gave_up_is_void() {
        let verdict = |judgement| Verdict { invariant: "i".into(), checked: 1, judgement };
        let run = |judgements: Vec<Judgement>, void: &[&str]| Run {
            plan: Plan::of("calm", 1, std::time::Duration::from_secs(1)).unwrap(),
            faults: Vec::new(),
            leaders: Vec::new(),
            coverage: Coverage::default(),
            verdicts: judgements.into_iter().map(verdict).collect(),
            void: void.iter().map(|why| (*why).to_owned()).collect(),
            notes: Vec::new(),
            history: Vec::new(),
        };
        let invalid = || Judgement::Invalid(vec!["lost".into()]);
        assert_eq!(run(vec![Judgement::Valid], &[]).ending(), Ending::Passed);
        assert_eq!(run(vec![Judgement::Valid, invalid()], &["few"]).ending(), Ending::Invalid);
        assert_eq!(run(vec![Judgement::Valid], &["few"]).ending(), Ending::Void);
        let gave_up = Judgement::Unknown("budget".into());
        assert_eq!(run(vec![gave_up], &[]).ending(), Ending::Void);
    }
}
