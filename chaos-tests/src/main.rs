//! Chaos tests of the `swarmer` binary: `chaos-tests list | run | replay | report`.

use std::{
    fs::File,
    io::{BufReader, BufWriter},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use chaos_tests::{
    check,
    cluster::{Binary, Cluster, missing_tools},
    history::{self, FORMAT, Header},
    report,
    run::{self, Ending, Plan, Run, SCENARIOS},
};
use clap::{Parser, Subcommand};

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
        #[arg(long, default_value_t = 1)]
        runs: u64,
        /// How long faults strike: 60s, 5m
        #[arg(long, default_value = "60s", value_parser = duration)]
        duration: Duration,
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
    /// Judge a kept history again, and write its page anew
    Report {
        /// The folder of a run, or its history
        run: PathBuf,
    },
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
            for seed in *seed..seed.saturating_add(*runs) {
                let plan = Plan::of(scenario, seed, *duration)?;
                let ending = carry_out(&plan, &options.out, *keep)?;
                if worst == Ending::Passed || ending == Ending::Invalid {
                    worst = ending;
                }
            }
            Ok(worst)
        }
        Command::Replay { seed, scenario } => {
            let plan = kept(&options.out, *seed, scenario.as_deref())?;
            carry_out(&plan, &options.out, true)
        }
        Command::Report { run } => judge(run),
    }
}

fn carry_out(plan: &Plan, out: &Path, keep: bool) -> Result<Ending> {
    let missing = missing_tools();
    if !missing.is_empty() {
        bail!("this machine lacks\n  {}", missing.join("\n  "));
    }
    println!("{} seed {} for {:?}:\n{}", plan.scenario, plan.seed, plan.lasts, plan.schedule);
    let binary = Binary::find()?;
    let runtime = tokio::runtime::Runtime::new()?;
    let folder = out.join(format!("{}-{}", plan.scenario, plan.seed));
    let save = |cluster: &Cluster, run: &Run| save(&folder, cluster, run, keep);
    let run = runtime.block_on(run::run(&binary, plan, save))?;
    println!("{run}\nreport: {}", folder.join("report.html").display());
    Ok(run.ending())
}

/// The page about it always; history and logs if it is to be kept, or did not pass; the nodes' Raft
/// logs if it is invalid.
fn save(folder: &Path, cluster: &Cluster, run: &Run, keep: bool) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    let json = |name: &str, value: &dyn Fn(&mut BufWriter<File>) -> serde_json::Result<()>| {
        value(&mut BufWriter::new(File::create(folder.join(name))?))
            .with_context(|| name.to_owned())
    };
    json("plan.json", &|file| serde_json::to_writer_pretty(file, &run.plan))?;
    json("run.json", &|file| serde_json::to_writer_pretty(file, run))?;
    std::fs::write(folder.join("report.html"), report::page(run))?;
    if keep || run.ending() != Ending::Passed {
        let Plan { scenario, seed, .. } = &run.plan;
        let header = Header { format: FORMAT, scenario: scenario.clone(), seed: *seed };
        let mut file = BufWriter::new(File::create(folder.join("history.jsonl"))?);
        history::write(&mut file, &header, &run.history)?;
        cluster.keep_logs(folder)?;
    }
    if run.ending() == Ending::Invalid {
        cluster.keep_raft(folder)?;
    }
    Ok(())
}

fn kept(out: &Path, seed: u64, scenario: Option<&str>) -> Result<Plan> {
    let mut found: Vec<Plan> = Vec::new();
    for scenario in SCENARIOS.iter().filter(|known| scenario.is_none_or(|name| name == known.name))
    {
        let path = out.join(format!("{}-{seed}", scenario.name)).join("plan.json");
        if let Ok(text) = std::fs::read_to_string(&path) {
            found.push(serde_json::from_str(&text).with_context(|| path.display().to_string())?);
        }
    }
    match found.len() {
        0 => bail!("no plan of seed {seed} is kept in {}; run makes one", out.display()),
        1 => Ok(found.remove(0)),
        _ => bail!("seed {seed} is kept of several scenarios: say --scenario"),
    }
}

/// Judges a history again; in the folder of a run, its page is written anew.
fn judge(path: &Path) -> Result<Ending> {
    let file = if path.is_dir() { path.join("history.jsonl") } else { path.to_owned() };
    let open = File::open(&file).with_context(|| file.display().to_string())?;
    let (header, history) = history::read(BufReader::new(open))?;
    println!("{} seed {}: {} operations", header.scenario, header.seed, history.len());
    let verdicts = check::all(&history);
    let text = std::fs::read_to_string(file.with_file_name("run.json"));
    let Ok(text) = text else {
        verdicts.iter().for_each(|verdict| println!("{verdict}"));
        let bad = verdicts.iter().any(check::Verdict::is_invalid);
        // What else belongs to a run is not known here.
        return Ok(if bad { Ending::Invalid } else { Ending::Void });
    };
    let mut run: Run = serde_json::from_str(&text).context("run.json")?;
    run.history = history;
    for verdict in verdicts {
        run.verdicts.retain(|old| old.invariant != verdict.invariant);
        run.verdicts.push(verdict);
    }
    let page = file.with_file_name("report.html");
    std::fs::write(&page, report::page(&run))?;
    println!("{run}\nreport: {}", page.display());
    Ok(run.ending())
}
