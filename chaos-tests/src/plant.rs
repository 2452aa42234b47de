//! `planted`: looks for every known bug, and tells how long that took.

use std::path::Path;

use anyhow::{Result, bail};
use chaos_tests::{
    cluster::{Binary, Cluster},
    planted::{Hunt, TRAPS, Trap, hunt},
    run::{Ending, Plan, Run},
};

use crate::keep::{lacking, save};

/// Looks for the bugs, tells of each run in a line, and of each bug in a row of a table.
///
/// # Errors
/// There is no such bug, the machine lacks something, or a run could not be made.
pub(crate) fn plant(bugs: &[String], seeds: u64, out: &Path) -> Result<Ending> {
    let named = bugs.iter().map(|name| Trap::named(name).map_err(anyhow::Error::msg));
    let mut traps: Vec<&Trap> = named.collect::<Result<Vec<_>>>()?.concat();
    if traps.is_empty() {
        traps = TRAPS.iter().collect();
    }
    for trap in &traps {
        let missing = lacking(&Plan::of(trap.scenario, 1, trap.lasts)?);
        if !missing.is_empty() {
            bail!("for {} this machine lacks\n  {}", trap.bug, missing.join("\n  "));
        }
    }
    let binary = Binary::planted()?;
    let runtime = tokio::runtime::Runtime::new()?;
    let mut hunts: Vec<Hunt> = Vec::new();
    for trap in traps {
        let keep = |cluster: &Cluster, run: &Run, with| {
            let (bug, seed) = (if with { trap.bug.name() } else { "no-bug" }, run.plan.seed);
            let folder = out.join(format!("planted-{}-{}-{bug}-{seed}", trap.bug, trap.scenario));
            println!("{bug}: {} seed {seed}: {:?}; {}", trap.scenario, run.ending(), run.coverage);
            run.void.iter().for_each(|why| println!("  {why}"));
            save(&folder, cluster, run, false)
        };
        hunts.push(runtime.block_on(hunt(&binary, *trap, seeds, keep))?);
    }
    println!("\n{}", Hunt::HEAD);
    hunts.iter().for_each(|hunt| println!("{hunt}"));
    let all = hunts.iter().all(Hunt::succeeded);
    Ok(if all { Ending::Passed } else { Ending::Invalid })
}
