//! Runs as folders: carried out, kept, found again, judged again.

use std::{
    fs::File,
    io::{BufReader, BufWriter},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use chaos_tests::{
    check,
    cluster::{Binary, Cluster, Need, missing_tools},
    history::{self, FORMAT, Header},
    report,
    run::{self, Ending, Plan, Run, SCENARIOS},
};

/// Carries a plan out and keeps what came of it.
///
/// # Errors
/// The machine lacks something, or the run could not be made.
pub(crate) fn carry_out(plan: &Plan, out: &Path, keep: bool) -> Result<Run> {
    let missing = lacking(plan);
    if !missing.is_empty() {
        bail!("this machine lacks\n  {}", missing.join("\n  "));
    }
    plan.left_out.iter().for_each(|why| println!("left out: {why}"));
    println!("{} seed {} for {:?}:\n{}", plan.scenario, plan.seed, plan.lasts, plan.schedule);
    let binary = Binary::find()?;
    let runtime = tokio::runtime::Runtime::new()?;
    let folder = folder(out, plan);
    let save = |cluster: &Cluster, run: &Run| save(&folder, cluster, run, keep);
    let run = runtime.block_on(run::run(&binary, plan, save))?;
    println!("{run}\nreport: {}", folder.join("report.html").display());
    Ok(run)
}

/// What the machine lacks for a plan; empty if nothing.
pub(crate) fn lacking(plan: &Plan) -> Vec<String> {
    let mut missing = missing_tools();
    missing.extend(plan.needs().into_iter().flat_map(Need::lacking));
    missing
}

fn folder(out: &Path, plan: &Plan) -> PathBuf {
    out.join(format!("{}-{}", plan.scenario, plan.seed))
}

/// The page about it always; history and logs if it is to be kept, or did not pass; the nodes' Raft
/// logs if it is invalid.
pub(crate) fn save(folder: &Path, cluster: &Cluster, run: &Run, keep: bool) -> Result<()> {
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

/// The plan of a run that is kept.
///
/// # Errors
/// There is none, or there are several.
pub(crate) fn kept(out: &Path, seed: u64, scenario: Option<&str>) -> Result<Plan> {
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
///
/// # Errors
/// It cannot be read.
pub(crate) fn judge(path: &Path) -> Result<Ending> {
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
