//! Looks for one bug: run after run until a verdict is invalid; then the same run without the bug.

use std::{
    fmt,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use swarmer_model::planted::VARIABLE;

use super::Trap;
use crate::{
    check::Verdict,
    cluster::{Binary, Cluster},
    run::{self, Ending, Plan, Run},
};

/// The most seeds that a bug may take to be found.
pub const MAX_SEEDS: u64 = 100;
/// The most seeds without the bug, of which one must go through enough to prove something.
const CONTROLS: u64 = 3;

/// What came of it.
#[derive(Debug, Clone)]
pub struct Hunt {
    /// What was looked for, and by what.
    pub trap: Trap,
    /// Runs with the bug, the one that found it included.
    pub seeds: u64,
    /// How many of these were void otherwise.
    pub void: u64,
    /// The invariants that were found broken; none: it was not found.
    pub found: Vec<String>,
    /// How long the runs with the bug took.
    pub took: Duration,
    /// What the same scenario said without the bug, from the seed that found it on; none: nothing
    /// was found, so nothing was compared.
    pub without: Option<Ending>,
}

impl Hunt {
    /// Found, and not without the bug.
    pub fn succeeded(&self) -> bool {
        !self.found.is_empty() && self.without == Some(Ending::Passed)
    }

    /// The heads of [`Hunt`]'s columns.
    pub const HEAD: &str = "| bug | scenario | seeds | found by | found after | without the bug |\n\
        |---|---|---:|---|---:|---|";
}

/// Runs the trap's scenario with the seeds from 1 on, at most `seeds` of them. `keep` is called with
/// every run, and whether it had the bug.
///
/// # Errors
/// A run could not be made.
pub async fn hunt(
    binary: &Binary,
    trap: Trap,
    seeds: u64,
    keep: impl Fn(&Cluster, &Run, bool) -> Result<()>,
) -> Result<Hunt> {
    let with = binary.with(VARIABLE, trap.bug.name());
    let began = Instant::now();
    let mut hunt =
        Hunt { trap, seeds: 0, void: 0, found: Vec::new(), took: Duration::ZERO, without: None };
    for seed in 1..=seeds {
        let run = one(&with, trap, seed, |cluster, run| keep(cluster, run, true)).await?;
        hunt.seeds = seed;
        let invalid = run.verdicts.iter().filter(|verdict| verdict.is_invalid());
        hunt.found = invalid.map(|verdict: &Verdict| verdict.invariant.to_string()).collect();
        if !hunt.found.is_empty() {
            break;
        }
        hunt.void += u64::from(run.ending() == Ending::Void);
    }
    hunt.took = began.elapsed();
    if hunt.found.is_empty() {
        return Ok(hunt);
    }
    for seed in hunt.seeds..hunt.seeds + CONTROLS {
        let run = one(binary, trap, seed, |cluster, run| keep(cluster, run, false)).await?;
        hunt.without = Some(run.ending());
        if run.ending() != Ending::Void {
            break;
        }
    }
    Ok(hunt)
}

async fn one(
    binary: &Binary,
    trap: Trap,
    seed: u64,
    keep: impl FnOnce(&Cluster, &Run) -> Result<()>,
) -> Result<Run> {
    let plan = Plan::of(trap.scenario, seed, trap.lasts)?;
    let run = run::run(binary, &plan, keep).await;
    run.with_context(|| format!("{} with seed {seed} for {}", trap.scenario, trap.bug))
}

impl fmt::Display for Hunt {
    /// One row of the table.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Trap { bug, scenario, lasts } = self.trap;
        write!(f, "| `{bug}` | `{scenario}`, {} s | {} | ", lasts.as_secs(), self.seeds)?;
        if self.found.is_empty() {
            f.write_str("NOT FOUND")?;
        } else {
            f.write_str(&self.found.join("; "))?;
        }
        let without = match self.without {
            None => "",
            Some(Ending::Passed) => "all valid",
            Some(Ending::Invalid) => "INVALID",
            Some(Ending::Void) => "VOID",
        };
        write!(f, " | {} s | {without} |", self.took.as_secs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planted::TRAPS;

    #[test]
    fn only_what_was_found_with_the_bug_and_not_without_it_counts() {
        let hunt = |found: &[&str], without| Hunt {
            trap: TRAPS[0],
            seeds: 3,
            void: 0,
            found: found.iter().map(|invariant| (*invariant).to_owned()).collect(),
            took: Duration::from_secs(70),
            without,
        };
        assert!(hunt(&["linearizable"], Some(Ending::Passed)).succeeded());
        assert!(!hunt(&["linearizable"], Some(Ending::Invalid)).succeeded());
        assert!(!hunt(&["linearizable"], Some(Ending::Void)).succeeded());
        assert!(!hunt(&[], None).succeeded());
        assert!(hunt(&[], None).to_string().contains("NOT FOUND"));
        let columns = |row: &str| row.matches('|').count();
        let row = hunt(&["linearizable"], Some(Ending::Passed)).to_string();
        assert!(Hunt::HEAD.lines().all(|line| columns(line) == columns(&row)), "{row}");
    }
}
