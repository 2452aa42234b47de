//! Chaos tests of the `swarmer` binary: `chaos-tests list | run | replay | planted | report | power | soak | failover
//! | cluster`.

mod keep;
mod measure;
mod plant;
mod series;
mod stay;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Result;
use chaos_tests::{
    failover::{MAX_LANES, Plan as Failover},
    planted::MAX_SEEDS,
    run::{Ending, Plan, SCENARIOS, Scenario},
};
use clap::{Parser, Subcommand};

use keep::{carry_out, judge, kept};
use measure::measure;
use plant::plant;
use series::{Series, Until};
use stay::stay;

#[derive(Parser)]
#[command(about = "Real processes, real faults, checked histories")]
struct Options {
    #[command(subcommand)]
    command: Command,
    /// Where runs are kept
    #[arg(long, global = true, default_value = "target/chaos")]
    out: PathBuf,
}

#[derive(Subcommand)]
enum Command {
    /// The scenarios and what they are for
    List,
    /// Run a scenario
    Run {
        /// Its name
        scenario: String,
        /// The seed of faults and clients
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// How many seeds, from that one on
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
        runs: u64,
        /// How long faults strike: 60s, 5m; as the scenario has it if it is not given, mostly a minute
        #[arg(long, value_parser = duration)]
        duration: Option<Duration>,
        /// Keep history and logs even if it passes
        #[arg(long)]
        keep: bool,
    },
    /// Run a kept plan again: the same faults at the same times
    Replay {
        /// The seed
        seed: u64,
        /// The scenario, if runs of several are kept
        #[arg(long)]
        scenario: Option<String>,
    },
    /// Switch known bugs on, one after another, and see that a scenario finds each of them
    Planted {
        /// Only these bugs; none: all
        bugs: Vec<String>,
        /// The most seeds that a bug may take to be found
        #[arg(long, default_value_t = MAX_SEEDS)]
        seeds: u64,
    },
    /// Judge a kept history again, and write its page anew
    Report {
        /// The folder of a run, or its history
        run: PathBuf,
    },
    /// Cut the power so many times: run after run of the scenarios of power cuts, with new seeds,
    /// and a table of them
    Power {
        /// How often power must have been cut, in runs that prove something
        #[arg(long, default_value_t = 1_000)]
        cuts: u64,
        /// The seed of the first run; a new one if it is not given
        #[arg(long)]
        seed: Option<u64>,
        /// How long faults strike in each run
        #[arg(long, default_value = "60s", value_parser = duration)]
        duration: Duration,
    },
    /// Go through all scenarios again and again, with new seeds, and write a table of them
    Soak {
        /// How long; the run that goes on then is the last one
        #[arg(long, default_value_t = 45)]
        minutes: u64,
        /// The seed of the first round; a new one if it is not given
        #[arg(long)]
        seed: Option<u64>,
        /// How long faults strike in each run
        #[arg(long, default_value = "30s", value_parser = duration)]
        duration: Duration,
    },
    /// Kill regions, and measure how long their functions are not answered from elsewhere
    Failover {
        /// How often a region is killed; each in turn
        #[arg(long, default_value_t = 30)]
        trials: usize,
        /// How often a region is cut off from the others besides; each in turn
        #[arg(long, default_value_t = 6)]
        cuts: usize,
        /// In so many trials the whole way back is watched, a minute each; all if it is not given
        #[arg(long)]
        backs: Option<usize>,
        /// The seed of their order and of the wires; a new one if it is not given
        #[arg(long)]
        seed: Option<u64>,
        /// So many clusters of five nodes at the same time share the trials
        #[arg(long, default_value_t = 1, value_parser = lanes)]
        clusters: usize,
    },
    /// Start a cluster, say how to reach it, and obey what is said on standard input until Ctrl-C
    Cluster {
        /// Five nodes in three regions with 80 to 250 ms between them, not three nodes in one place
        #[arg(long)]
        regions: bool,
    },
}

fn lanes(text: &str) -> Result<usize, String> {
    let number: usize = text.parse().map_err(|_| format!("{text:?} is no number"))?;
    if (1..=MAX_LANES).contains(&number) { Ok(number) } else { Err(format!("1 to {MAX_LANES}")) }
}

fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = match (text.strip_suffix('s'), text.strip_suffix('m')) {
        (Some(number), _) => (number, 1),
        (_, Some(number)) => (number, 60),
        _ => (text, 1),
    };
    let number: u64 = number.parse().map_err(|_| format!("{text:?}: such as 60s or 5m"))?;
    Ok(Duration::from_secs(number.saturating_mul(unit)))
}

fn main() -> ExitCode {
    match start(&Options::parse()) {
        Ok(Ending::Passed) => ExitCode::SUCCESS,
        Ok(Ending::Invalid) => ExitCode::from(1),
        Ok(Ending::Void) => ExitCode::from(3),
        Err(error) => {
            eprintln!("chaos-tests: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn start(options: &Options) -> Result<Ending> {
    match &options.command {
        Command::List => {
            for scenario in SCENARIOS {
                println!("{:20} {} nodes  {}", scenario.name, scenario.nodes, scenario.about);
            }
            Ok(Ending::Passed)
        }
        Command::Run { scenario, seed, runs, duration, keep } => {
            let mut worst = Ending::Passed;
            let own = Scenario::named(scenario).map(|known| Duration::from_secs(known.lasts_s));
            let duration = duration.or(own).unwrap_or_default();
            for seed in *seed..seed.saturating_add(*runs) {
                let plan = Plan::of(scenario, seed, duration)?;
                let ending = carry_out(&plan, &options.out, *keep)?.ending();
                if worst == Ending::Passed || ending == Ending::Invalid {
                    worst = ending;
                }
            }
            Ok(worst)
        }
        Command::Replay { seed, scenario } => {
            let plan = kept(&options.out, *seed, scenario.as_deref())?;
            Ok(carry_out(&plan, &options.out, true)?.ending())
        }
        Command::Planted { bugs, seeds } => plant(bugs, *seeds, &options.out),
        Command::Report { run } => judge(run),
        Command::Power { cuts, seed, duration } => {
            Series::power(&options.out, *seed, *duration).run(Until::Cuts(*cuts))
        }
        Command::Soak { minutes, seed, duration } => {
            let lasts = Duration::from_secs(minutes.saturating_mul(60));
            Series::soak(&options.out, *seed, *duration).run(Until::Elapsed(lasts))
        }
        Command::Failover { trials, cuts, backs, seed, clusters } => {
            let seed = seed.unwrap_or_else(series::new_seed);
            let backs = backs.unwrap_or(usize::MAX);
            let plan = Failover { kills: *trials, cuts: *cuts, backs, seed, lanes: *clusters };
            measure(&plan, &options.out)
        }
        Command::Cluster { regions } => stay(*regions),
    }
}
