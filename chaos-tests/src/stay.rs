//! A cluster that stays, for people and scripts: started, struck and healed by words on standard input.

use std::{
    io::{BufRead as _, Write as _},
    path::Path,
};

use anyhow::{Context as _, Result, bail};
use chaos_tests::{
    cluster::{Binary, Cluster, Gear, Need, Port, Regions, echo, missing_tools},
    run::{Ending, THREE_REGIONS},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

/// Nodes of a cluster in one place.
const NODES: usize = 3;
/// Lines that wait to be obeyed.
const LINES: usize = 16;

const WORDS: &str = "kill, start, cut or mend, and a region or a node";

/// Starts it, says how to reach it, and obeys until Ctrl-C, SIGTERM or the end of standard input.
///
/// # Errors
/// The machine lacks something, or it does not stand.
pub(crate) fn stay(afar: bool) -> Result<Ending> {
    let mut missing = missing_tools();
    missing.extend(if afar { Need::Switch.lacking() } else { Vec::new() });
    if !missing.is_empty() {
        bail!("this machine lacks\n  {}", missing.join("\n  "));
    }
    let binary = Binary::find()?;
    let folder = tempfile::tempdir()?;
    tokio::runtime::Runtime::new()?.block_on(run(&binary, afar, folder.path()))?;
    Ok(Ending::Passed)
}

async fn run(binary: &Binary, afar: bool, folder: &Path) -> Result<()> {
    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut said = listen()?;
    let regions = afar.then_some(THREE_REGIONS);
    let count = regions.map_or(NODES, |regions| regions.of.len());
    let needs = if afar { [Need::Switch].into() } else { [].into() };
    let gear = Gear { needs, regions, ..Gear::default() };
    let cluster = tokio::select! {
        cluster = Cluster::found(binary, count, &gear) => cluster?,
        _ = interrupt.recv() => return Ok(()),
        _ = terminate.recv() => return Ok(()),
    };
    let component = folder.join("echo.wasm");
    std::fs::write(&component, echo()?)?;
    introduce(&cluster, regions.as_ref(), &component);
    let mut cuts = Vec::new();
    loop {
        let line = tokio::select! {
            line = said.recv() => line,
            _ = interrupt.recv() => None,
            _ = terminate.recv() => None,
        };
        let Some(line) = line else { return Ok(()) };
        match obey(&cluster, regions.as_ref(), &mut cuts, &line).await {
            Ok(()) => tell(&format!("done {line}")),
            Err(error) => tell(&format!("not done {line}: {error:#}")),
        }
    }
}

/// The lines of standard input. Its thread waits for the next one as long as the process lives.
fn listen() -> Result<mpsc::Receiver<String>> {
    let (tell, told) = mpsc::channel(LINES);
    let read = move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if tell.blocking_send(line).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("chaos-words".into()).spawn(read)?;
    Ok(told)
}

/// One line for each node: name, region, and the process whose network namespace it is in.
fn introduce(cluster: &Cluster, regions: Option<&Regions>, component: &Path) {
    for node in 0..cluster.count() {
        let region = regions.and_then(|regions| regions.name(node)).unwrap_or("local");
        tell(&format!("node {} {region} {}", cluster.name(node), cluster.holder(node)));
    }
    tell(&format!("component {}", component.display()));
    tell(&format!(
        "ready: nsenter -t PROCESS -n curl http://127.0.0.1:{}/… asks the ingress of a node, and \
         nsenter -t PROCESS -n swarmer members its API. Say {WORDS}; Ctrl-C ends it",
        Port::Http.number()
    ));
}

/// At once, also into a pipe. Who does not read it any more does not matter.
fn tell(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// What was cut off, and the cut.
type Cuts = Vec<(String, u64)>;

async fn obey(
    cluster: &Cluster,
    regions: Option<&Regions>,
    cuts: &mut Cuts,
    line: &str,
) -> Result<()> {
    let (word, whom) = line.trim().split_once(' ').with_context(|| format!("say {WORDS}"))?;
    let nodes = nodes(cluster, regions, whom)?;
    match word {
        "kill" => {
            for node in &nodes {
                cluster.kill(*node);
            }
        }
        "start" => {
            for node in &nodes {
                cluster.start(*node).await?;
            }
        }
        "cut" => {
            let others = (0..cluster.count()).filter(|node| !nodes.contains(node));
            let ways = others.flat_map(|other| nodes.iter().map(move |node| (*node, other)));
            let both = ways.flat_map(|(a, b)| [(a, b), (b, a)]).collect();
            cuts.push((whom.to_owned(), cluster.cut(both, 0)?));
        }
        "mend" => {
            let at = cuts.iter().position(|(cut, _)| cut == whom);
            let (_, id) = cuts.remove(at.with_context(|| format!("{whom} is not cut off"))?);
            cluster.mend(id)?;
        }
        _ => bail!("say {WORDS}"),
    }
    Ok(())
}

/// The nodes of a region, or the node of that name.
fn nodes(cluster: &Cluster, regions: Option<&Regions>, whom: &str) -> Result<Vec<usize>> {
    let stands = |node: usize| regions.and_then(|regions| regions.name(node)) == Some(whom);
    let meant = |node: &usize| stands(*node) || &**cluster.name(*node) == whom;
    let nodes: Vec<usize> = (0..cluster.count()).filter(meant).collect();
    if nodes.is_empty() {
        bail!("{whom:?} is neither a region nor a node");
    }
    Ok(nodes)
}
