//! Failover of a region, measured: a function stands in one region, that region is killed or cut off,
//! and clients at the ingresses of the others ask on. How long until the first answer from elsewhere,
//! where the function is on the disk and runs nowhere; and what they see when the region is back.
//!
//! | file | what it is |
//! |---|---|
//! | `caller.rs` | the clients: a request every 20 ms, whatever became of those before |
//! | `judge.rs` | what one client saw → what came of it; no clock, no cluster |
//! | `trial.rs` | one trial, from deploy to the way back |
//! | `report.rs` | the table and what was promised |

mod caller;
mod judge;
mod report;
mod trial;

use std::{path::Path, sync::Arc};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::{
    cluster::{Binary, Cluster, Gear, Need},
    run::THREE_REGIONS,
    seed::Seeded,
};

pub use judge::{Answer, Marks, Sample, Seen};
pub use report::Report;
pub use trial::Outcome;

/// The most clusters at the same time: each is five nodes.
pub const MAX_LANES: usize = 6;

/// What strikes a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Strike {
    /// kill -9 of all its nodes.
    Kill,
    /// Nothing passes between its nodes and the others; they themselves go on.
    Cut,
}

/// One trial of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// Its number; unique in the plan.
    pub number: usize,
    /// The region that is struck, as an index.
    pub region: usize,
    /// By what.
    pub strike: Strike,
    /// Whether the whole way back is watched, which takes a minute.
    pub back: bool,
}

/// What is measured.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// So often a region is killed, each in turn.
    pub kills: usize,
    /// So often one is cut off, each in turn.
    pub cuts: usize,
    /// In so many trials, the first ones, the whole way back is watched.
    pub backs: usize,
    /// The seed of the order and of what the wires do.
    pub seed: u64,
    /// So many clusters at the same time share the trials.
    pub lanes: usize,
}

impl Plan {
    /// The trials in their order.
    pub fn trials(&self) -> Vec<Trial> {
        let regions = THREE_REGIONS.names.len();
        let kills = (0..self.kills).map(|n| (n % regions, Strike::Kill));
        let cuts = (0..self.cuts).map(|n| (n % regions, Strike::Cut));
        let mut all: Vec<_> = kills.chain(cuts).collect();
        Seeded::new(self.seed, "failover").shuffle(&mut all);
        let numbered = all.into_iter().enumerate();
        let trial = |(number, (region, strike))| Trial {
            number,
            region,
            strike,
            back: number < self.backs,
        };
        numbered.map(trial).collect()
    }
}

/// Carries all trials out. The nodes' logs are kept in `folder`; what is known is told as it comes.
///
/// # Errors
/// A cluster does not stand, or no trial could be made: there is nothing to measure.
pub async fn run(binary: &Binary, plan: &Plan, folder: &Path) -> Result<Report> {
    let lanes = plan.lanes.clamp(1, MAX_LANES);
    let trials = plan.trials();
    let mut running = JoinSet::new();
    for lane in 0..lanes {
        let mine: Vec<Trial> = trials.iter().copied().skip(lane).step_by(lanes).collect();
        let (binary, seed, folder) = (binary.clone(), plan.seed, folder.to_owned());
        running.spawn(async move { one_lane(&binary, lane, seed, mine, &folder).await });
    }
    let mut report = Report { seed: plan.seed, lanes, outcomes: Vec::new(), not_made: Vec::new() };
    while let Some(ended) = running.join_next().await {
        let (outcomes, not_made) = ended.context("a lane ended")??;
        report.outcomes.extend(outcomes);
        report.not_made.extend(not_made);
    }
    report.outcomes.sort_by_key(|outcome| outcome.trial.number);
    if report.outcomes.is_empty() {
        bail!("no trial was made: {:?}", report.not_made);
    }
    Ok(report)
}

async fn one_lane(
    binary: &Binary,
    lane: usize,
    seed: u64,
    trials: Vec<Trial>,
    folder: &Path,
) -> Result<(Vec<Outcome>, Vec<String>)> {
    if trials.is_empty() {
        return Ok((Vec::new(), Vec::new()));
    }
    let regions = THREE_REGIONS;
    let gear =
        Gear { needs: [Need::Switch].into(), seed, regions: Some(regions), ..Gear::default() };
    let cluster = Arc::new(Cluster::found(binary, regions.of.len(), &gear).await?);
    let (mut outcomes, mut not_made) = (Vec::new(), Vec::new());
    for trial in trials {
        match trial::carry_out(&cluster, &regions, trial, seed).await {
            Ok(outcome) => {
                println!("{outcome}");
                outcomes.push(outcome);
            }
            Err(error) => {
                let why = format!("trial {}: {error:#}", trial.number);
                println!("{why}");
                not_made.push(why);
                // It may have ended while the region was away.
                cluster.heal().await?;
            }
        }
    }
    let logs = folder.join(format!("cluster-{}", lane + 1));
    std::fs::create_dir_all(&logs)?;
    cluster.keep_logs(&logs)?;
    Ok((outcomes, not_made))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_region_has_its_turn_and_a_seed_gives_one_order() {
        let plan = Plan { kills: 30, cuts: 6, backs: 7, seed: 4, lanes: 1 };
        let trials = plan.trials();
        assert_eq!(trials.len(), 36);
        assert_eq!(trials, plan.trials());
        assert_eq!(trials.iter().filter(|trial| trial.back).count(), 7);
        assert_ne!(trials, Plan { seed: 5, ..plan }.trials());
        for region in 0..3 {
            let of =
                |strike| trials.iter().filter(|t| (t.region, t.strike) == (region, strike)).count();
            assert_eq!((of(Strike::Kill), of(Strike::Cut)), (10, 2));
        }
    }
}
