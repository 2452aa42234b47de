//! A whole cluster in one process: Raft with its log, membership and the planner, on a simulated
//! network, simulated disks and a simulated clock. Everything follows from the seed.

mod bug;
mod client;
mod disk;
mod fleet;
mod gossip;
mod history;
mod invariant;
mod nemesis;
mod net;
mod node;
mod oracle;
mod planner;
mod random;
mod report;
mod run;
mod trace;
mod watcher;
mod world;

use std::{
    process::ExitCode,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use clap::{Parser, Subcommand, ValueEnum as _};

use self::{bug::Bug, fleet::Job};

/// Simulates clusters under faults, by seeds, and judges what their clients were told.
#[derive(Debug, Parser)]
#[command(name = "simulator")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Runs many seeds, each in a process of its own.
    Run {
        /// How many.
        #[arg(long, default_value_t = 200)]
        seeds: u64,
        /// The first one; by default a new one, which is printed.
        #[arg(long)]
        first: Option<u64>,
        #[command(flatten)]
        options: Options,
        /// How many at a time.
        #[arg(long, default_value_t = 2)]
        jobs: usize,
    },
    /// Runs one seed again.
    Replay {
        /// Which one.
        seed: u64,
        #[command(flatten)]
        options: Options,
        /// Prints what happens.
        #[arg(long)]
        trace: bool,
        /// Prints the verdict for programs.
        #[arg(long)]
        json: bool,
    },
    /// Plants each known bug and tells how many seeds it took to find it.
    Planted {
        /// How many seeds each may take.
        #[arg(long, default_value_t = 20)]
        seeds: u64,
        /// Simulated seconds of each run.
        #[arg(long, default_value_t = 30)]
        seconds: u64,
        /// How many at a time.
        #[arg(long, default_value_t = 2)]
        jobs: usize,
        /// Only these.
        #[arg(long)]
        bug: Vec<Bug>,
    },
}

#[derive(Debug, clap::Args)]
struct Options {
    /// Simulated seconds: faults for two thirds of them, then calm.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Plants a bug in the simulator, which must then be found.
    #[arg(long)]
    bug: Option<Bug>,
}

fn main() -> anyhow::Result<ExitCode> {
    match Arguments::parse().verb {
        Verb::Replay { seed, options, trace, json } => {
            let Options { seconds, bug } = options;
            let verdict = run::simulate(run::settings(seed, seconds, bug), trace)?;
            if json {
                report::line(&serde_json::to_string(&verdict)?);
            } else {
                report::verdict(&verdict, &again(Job { seconds, bug }, seed));
            }
            Ok(code(verdict.violations.is_empty()))
        }
        Verb::Run { seeds, first, options, jobs } => {
            let first = first.unwrap_or_else(fresh);
            let job = Job { seconds: options.seconds, bug: options.bug };
            report::line(&format!("seeds {first} to {}", first + seeds.saturating_sub(1)));
            Ok(code(many(job, first, seeds, jobs)))
        }
        Verb::Planted { seeds, seconds, jobs, bug } => {
            let bugs = if bug.is_empty() { Bug::value_variants().to_vec() } else { bug };
            let found = bugs.into_iter().map(|bug| planted(bug, seeds, seconds, jobs));
            Ok(code(found.fold(true, |all, found| all & found)))
        }
    }
}

/// 0: nothing is wrong; 1: something is.
fn code(good: bool) -> ExitCode {
    ExitCode::from(u8::from(!good))
}

/// How to run a seed again.
fn again(job: Job, seed: u64) -> String {
    format!("cargo run -p simulator -- {} --trace", job.words(seed).join(" "))
}

/// A seed that was not used before.
fn fresh() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |time| time.as_secs() * 1000)
}

fn many(job: Job, first: u64, seeds: u64, jobs: usize) -> bool {
    let began = Instant::now();
    let seeds: Vec<u64> = (first..first + seeds).collect();
    let verdicts = fleet::run_all(job, &seeds, jobs, |verdict| {
        report::verdict(verdict, &again(job, verdict.seed));
        true
    });
    let took = began.elapsed().as_secs_f64();
    let invalid = verdicts.iter().filter(|verdict| !verdict.violations.is_empty()).count();
    let void = verdicts.iter().filter(|verdict| verdict.void.is_some()).count();
    report::coverage(&verdicts);
    report::line(&format!(
        "{} seeds of {} simulated seconds in {took:.0} s ({:.0} a minute): {invalid} invalid, \
         {void} void",
        verdicts.len(),
        job.seconds,
        verdicts.len() as f64 * 60.0 / took,
    ));
    invalid == 0 && void < verdicts.len()
}

/// Whether a planted bug is found by an invariant that must find it.
fn planted(bug: Bug, seeds: u64, seconds: u64, jobs: usize) -> bool {
    let job = Job { seconds, bug: Some(bug) };
    let by = |verdict: &fleet::Verdict| {
        let found = verdict.violations.iter().map(|violation| violation.invariant.clone());
        found.filter(|name| bug.found_by().contains(&name.as_str())).collect::<Vec<_>>()
    };
    let seeds: Vec<u64> = (1..=seeds).collect();
    let verdicts = fleet::run_all(job, &seeds, jobs, |verdict| by(verdict).is_empty());
    let finder = verdicts.iter().filter(|verdict| !by(verdict).is_empty()).min_by_key(|v| v.seed);
    match finder {
        Some(verdict) => {
            let mut names = by(verdict);
            names.dedup();
            report::line(&format!(
                "{bug:?}: found by seed {} of {} by {}",
                verdict.seed,
                seeds.len(),
                names.join(", ")
            ));
            true
        }
        None => {
            report::line(&format!("{bug:?}: NOT FOUND in {} seeds", seeds.len()));
            false
        }
    }
}
