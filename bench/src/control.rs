//! `control`: the control state beside etcd, in one run.
//!
//! Both are three nodes on loopback, on the same disk, asked over HTTP/1.1 with kept-alive
//! connections by the same generator, spread over all three nodes. Of Swarmer, what a user would
//! use: leases of its API, each of which carries 256 bytes; a put is a renewal that replaces them,
//! a get is a read with `?consistency=linearizable`. Of etcd, its JSON gateway: `/v3/kv/put` and
//! `/v3/kv/range`, which is linearizable by default.

mod etcd;
mod failover;
mod fanout;
mod load;
mod subject;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use clap::Args;

use crate::machine::{mebibytes, micros, millis};
use load::{Measured, Work};
use subject::Subject;

/// Clients at once.
const CLIENTS: [usize; 3] = [1, 64, 256];
/// Bytes of a value.
const VALUE_BYTES: usize = 256;
/// Clients of the load that lasts for minutes.
const LASTING_CLIENTS: usize = 64;
/// Until a cluster of which every node was killed answers again.
const RESTART: Duration = Duration::from_secs(120);

/// The control state beside etcd.
#[derive(Debug, Args)]
pub(crate) struct Control {
    /// How long each row is measured, in seconds
    #[arg(long, default_value_t = 8)]
    duration: u64,
    /// Watchers of the fan-out
    #[arg(long, default_value_t = 1000)]
    watchers: usize,
    /// How often the leader is killed
    #[arg(long, default_value_t = 20)]
    trials: usize,
    /// Puts before the restart, in thousands
    #[arg(long, default_value_t = 200)]
    history: u64,
    /// Instead of them: puts of 64 clients, to both at once, for so many minutes
    #[arg(long)]
    minutes: Option<u64>,
    /// The etcd to measure beside
    #[arg(long, default_value = "etcd")]
    etcd: PathBuf,
    /// Only Swarmer
    #[arg(long)]
    alone: bool,
}

/// What was found out about one subject.
#[derive(Default)]
struct Found {
    puts: Vec<Measured>,
    gets: Vec<Measured>,
    fanout: Vec<Duration>,
    gaps: Vec<Duration>,
    elections: u64,
    restart: Duration,
    history: Measured,
    rss_bytes: Vec<u64>,
    written: f64,
    on_disk: u64,
}

impl Control {
    pub(crate) async fn run(&self, swarmer: &Path) -> Result<()> {
        let folder = tempfile::tempdir()?;
        eprintln!("control: three nodes of each");
        let mut subjects = vec![Subject::swarmer(swarmer, folder.path()).await?];
        if !self.alone {
            println!("- etcd: {}\n", etcd::version(&self.etcd).await?);
            subjects.push(Subject::etcd(&self.etcd, folder.path()).await?);
        }
        let mut found: Vec<Found> = subjects.iter().map(|_| Found::default()).collect();
        // One after the other in each step, so that what else the machine does meets both.
        for (subject, found) in subjects.iter_mut().zip(&mut found) {
            subject.prepare(*CLIENTS.last().unwrap_or(&1)).await?;
            found.elections = subject.term().await?;
        }
        for clients in CLIENTS {
            for work in [Work::Put, Work::Get] {
                for (subject, found) in subjects.iter_mut().zip(&mut found) {
                    eprintln!("control: {} {work:?} with {clients} clients", subject.name());
                    let measured = self.load(subject, work, clients).await?;
                    match work {
                        Work::Put => found.puts.push(measured),
                        Work::Get => found.gets.push(measured),
                    }
                }
            }
        }
        for (subject, found) in subjects.iter_mut().zip(&mut found) {
            eprintln!("control: {} with {} watchers", subject.name(), self.watchers);
            found.fanout = fanout::run(subject, self.watchers).await?;
        }
        self.history(&mut subjects, &mut found).await?;
        for (subject, found) in subjects.iter_mut().zip(&mut found) {
            eprintln!("control: {} without its leader, {} times", subject.name(), self.trials);
            found.gaps = failover::run(subject, self.trials).await?;
        }
        self.print(&subjects, &found);
        Ok(())
    }

    async fn load(&self, subject: &mut Subject, work: Work, clients: usize) -> Result<Measured> {
        let measured =
            load::run(subject, work, clients, Duration::from_secs(self.duration)).await?;
        subject.check()?;
        Ok(measured)
    }

    /// Writes to both at once, kills all nodes of each, and waits until all serve again.
    async fn history(&self, subjects: &mut [Subject], found: &mut [Found]) -> Result<()> {
        eprintln!("control: a history");
        let before: Vec<u64> = subjects.iter().map(Subject::disk_bytes).collect();
        let written = futures::future::try_join_all(subjects.iter().map(|subject| async {
            match self.minutes {
                Some(minutes) => {
                    let time = Duration::from_secs(minutes * 60);
                    load::run(subject, Work::Put, LASTING_CLIENTS, time).await
                }
                None => {
                    let clients = *CLIENTS.last().unwrap_or(&1);
                    load::puts(subject, clients, self.history * 1000).await
                }
            }
        }))
        .await?;
        for (i, (subject, found)) in subjects.iter_mut().zip(found).enumerate() {
            subject.check()?;
            found.elections = subject.term().await? - found.elections;
            let values = written[i].latency.count() * (VALUE_BYTES * subject.nodes()) as u64;
            found.written = (subject.disk_bytes() - before[i]) as f64 / values.max(1) as f64;
            found.history = written[i].clone();
            found.rss_bytes = subject.rss_bytes();
            found.on_disk = subject.folder_bytes() / subject.nodes() as u64;
            eprintln!("control: all nodes of {} killed", subject.name());
            subject.kill_all();
            let start = Instant::now();
            subject.start_all()?;
            let ready = tokio::time::timeout(RESTART, subject.until_serving());
            ready.await.with_context(|| format!("not back after {RESTART:?}"))??;
            found.restart = start.elapsed();
        }
        Ok(())
    }

    fn print(&self, subjects: &[Subject], found: &[Found]) {
        let names: Vec<&str> = subjects.iter().map(Subject::name).collect();
        println!("### Control state, three nodes of each, {VALUE_BYTES}-byte values\n");
        println!("| what | {} | ratio |", names.join(" | "));
        println!("|---|{}---:|", "---:|".repeat(names.len()));
        let row = |what: &str, cells: Vec<String>, values: Vec<f64>| {
            let ratio = match values[..] {
                [swarmer, etcd] if etcd > 0.0 => format!("{:.2}", swarmer / etcd),
                _ => "–".to_owned(),
            };
            println!("| {what} | {} | {ratio} |", cells.join(" | "));
        };
        type Rows = fn(&Found) -> &[Measured];
        let kinds: [(&str, Rows); 2] = [("put", |f| &f.puts), ("linearizable get", |f| &f.gets)];
        for (kind, rows) in kinds {
            for (i, clients) in CLIENTS.iter().enumerate() {
                let all: Vec<&Measured> = found.iter().map(|found| &rows(found)[i]).collect();
                let rate: Vec<f64> = all.iter().map(|m| m.per_second()).collect();
                let cells = rate.iter().map(|rate| format!("{rate:.0}")).collect();
                row(&format!("{kind}, {clients} clients: per second"), cells, rate);
                for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
                    let at: Vec<Duration> = all.iter().map(|m| m.latency.quantile(share)).collect();
                    let cells = at.iter().map(|at| micros(*at)).collect();
                    let values = at.iter().map(Duration::as_secs_f64).collect();
                    row(&format!("{kind}, {clients} clients: {name} µs"), cells, values);
                }
                if all.iter().any(|m| m.errors > 0) {
                    let errors = all.iter().map(|m| m.errors.to_string()).collect();
                    row(&format!("{kind}, {clients} clients: errors"), errors, vec![]);
                }
            }
        }
        let of = |what: &str, cell: &dyn Fn(&Found) -> (String, f64)| {
            let (cells, values) = found.iter().map(cell).unzip();
            row(what, cells, values);
        };
        let time = |at: Duration| (millis(at), at.as_secs_f64());
        let (watchers, trials) = (self.watchers, self.trials);
        of(&format!("an event at all of {watchers} watchers: median ms"), &|f| {
            time(middle(&f.fanout))
        });
        of(&format!("an event at all of {watchers} watchers: longest ms"), &|f| {
            time(f.fanout.iter().max().copied().unwrap_or_default())
        });
        of(&format!("no put after kill -9 of the leader, {trials} times: median ms"), &|f| {
            time(middle(&f.gaps))
        });
        of("no put after kill -9 of the leader: longest ms", &|f| {
            time(f.gaps.iter().max().copied().unwrap_or_default())
        });
        of("elections while all nodes lived", &|f| (f.elections.to_string(), 0.0));
        of("further puts to both at once, thousands", &|f| {
            let count = f.history.latency.count() as f64 / 1000.0;
            (format!("{count:.0}"), count)
        });
        of("of these failed", &|f| (f.history.errors.to_string(), 0.0));
        of("their p99 µs", &|f| {
            let p99 = f.history.latency.quantile(0.99);
            (micros(p99), p99.as_secs_f64())
        });
        of("all killed then: ms until all serve", &|f| time(f.restart));
        of("memory of a node after them, MiB, the largest", &|f| {
            let most = f.rss_bytes.iter().max().copied().unwrap_or_default();
            (mebibytes(most), most as f64)
        });
        of("data directory of a node then, MiB", &|f| (mebibytes(f.on_disk), f.on_disk as f64));
        of("bytes to disk for a byte of value, on each node", &|f| {
            (format!("{:.2}", f.written), f.written)
        });
        for (subject, found) in subjects.iter().zip(found) {
            for (kind, rows) in [("puts", &found.puts), ("gets", &found.gets)] {
                let cpu: Vec<String> =
                    rows.iter().map(|m| format!("{:.0}", m.cpu_micros())).collect();
                println!(
                    "\nCPU of all three nodes of {} for each of the {kind}, µs: {}.",
                    subject.name(),
                    cpu.join(", ")
                );
            }
            let first = found.puts.iter().chain(&found.gets).find_map(|m| m.first_error.clone());
            if let Some(error) = first {
                println!("\nThe first error of {}: {error}.", subject.name());
            }
        }
        println!(
            "\nA put of Swarmer renews a lease of the API that carries {VALUE_BYTES} bytes; of etcd \
             it is `/v3/kv/put` of its JSON gateway. Clients are spread over all nodes of each. \
             Each has a key of its own.\n"
        );
    }
}

/// The median.
fn middle(all: &[Duration]) -> Duration {
    let mut all = all.to_vec();
    all.sort_unstable();
    all.get(all.len() / 2).copied().unwrap_or_default()
}
