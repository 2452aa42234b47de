//! `isolation`: AppendEntries of a cluster that is idle, and of one that copies artifacts while
//! guests loop on every core.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde_json::Value;
use swarmer_runtime::fixtures::{Behaviour, behaviour_p2};

use crate::{
    cluster::Cluster,
    component::{Kind, padded},
    connection::{Connection, ask, get},
};

/// One artifact is so large: the default limit of a node.
const ARTIFACT_BYTES: usize = 64 << 20;
/// Each artifact is copied from the node that took it to both others.
const COPIES: usize = 2;
/// What one round trip may take at the 99th percentile.
const STEP_SECONDS: f64 = 0.05;
/// How long a looping guest may run before it is asked again.
const LOOP_TIMEOUT: &str = "20s";
/// The pause after an answer that came at once: the function is not there yet, or is refused.
const PAUSE: Duration = Duration::from_millis(100);

/// Raft beside bulk and busy guests.
#[derive(Debug, Args)]
pub(crate) struct Isolation {
    /// How many bytes are copied between nodes, in MiB
    #[arg(long, default_value_t = 1024)]
    copy: usize,
    /// How many guests loop at once [default: one for each core]
    #[arg(long)]
    guests: Option<usize>,
    /// How long the idle cluster is watched, in seconds
    #[arg(long, default_value_t = 20)]
    idle: u64,
}

impl Isolation {
    pub(crate) async fn run(&self, swarmer: &Path) -> Result<()> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let guests = self.guests.unwrap_or(cores);
        let folder = tempfile::tempdir()?;
        eprintln!("isolation: founding a cluster of three");
        let mut cluster = Cluster::found(swarmer, 3, folder.path()).await?;
        let mut files = Vec::new();
        for number in 1..=(self.copy << 20).div_ceil(COPIES * ARTIFACT_BYTES) {
            let file = folder.path().join(format!("bulk-{number}.wasm"));
            let number = u64::try_from(number)?;
            std::fs::write(&file, padded(Kind::P2.hello(), ARTIFACT_BYTES, number)?)?;
            files.push(file);
        }
        let busy = folder.path().join("busy.wasm");
        std::fs::write(&busy, behaviour_p2(Behaviour::Loop))?;
        let more = ["--name", "busy", "--timeout", LOOP_TIMEOUT, "--replicas", "3"];
        cluster.deploy(0, &busy, &more).await?;

        tokio::time::sleep(Duration::from_secs(5)).await;
        eprintln!("isolation: {} s idle", self.idle);
        let (term, before) = (term(&cluster).await?, Appends::read(&cluster).await?);
        tokio::time::sleep(Duration::from_secs(self.idle)).await;
        let idle = Appends::read(&cluster).await?.since(&before);

        let started = Arc::new(AtomicU64::new(0));
        let mut loops = tokio::task::JoinSet::new();
        for guest in 0..guests {
            let address = cluster.nodes[guest % cluster.nodes.len()].http;
            loops.spawn(keep_busy(address, started.clone()));
        }
        // The first answers come when the guests are stopped: by then they have looped for long.
        tokio::time::sleep(Duration::from_secs(1)).await;
        eprintln!("isolation: {guests} guests loop; copying {} artifacts", files.len());
        let (start, before) = (Instant::now(), Appends::read(&cluster).await?);
        for (number, file) in files.iter().enumerate() {
            let name = format!("bulk-{number}");
            // Taken by a node each in turn, so that all of them send and receive.
            let node = number % cluster.nodes.len();
            cluster.deploy(node, file, &["--name", &name, "--no-wait"]).await?;
            eprintln!("isolation: {name} after {:.1} s", start.elapsed().as_secs_f64());
        }
        let took = start.elapsed();
        let loaded = Appends::read(&cluster).await?.since(&before);
        loops.shutdown().await;
        cluster.check()?;
        let elections = self::term(&cluster).await?.saturating_sub(term);

        let copied = (files.len() * COPIES * ARTIFACT_BYTES) >> 20;
        println!("### AppendEntries beside bulk and busy guests\n");
        println!("| cluster | s | AppendEntries | unanswered | p50 ms | p99 ms | over 50 ms |");
        println!("|---|---:|---:|---:|---:|---:|---:|");
        idle.row("idle", Duration::from_secs(self.idle));
        let busy = format!("{copied} MiB copied between nodes, {guests} guests loop");
        loaded.row(&busy, took);
        println!(
            "\n{cores} cores for three nodes, the guests and the compilers. Guests were started \
             {} times. New terms meanwhile: {elections}. A quantile is interpolated within its \
             bucket of `/metrics`; what was never answered counts as slower than all.\n",
            started.load(Ordering::Relaxed),
        );
        ensure!(loaded.count() > 0.0, "the leader sent nothing while artifacts were copied");
        Ok(())
    }
}

/// Asks for a guest that never ends by itself, again and again.
async fn keep_busy(address: SocketAddr, started: Arc<AtomicU64>) {
    let request = get(address, "/busy");
    loop {
        let asked = Instant::now();
        if let Ok(mut connection) = Connection::open(address).await {
            started.fetch_add(1, Ordering::Relaxed);
            // Whatever comes, comes after the guest was stopped.
            let _ = connection.exchange(&request).await;
        }
        if asked.elapsed() < PAUSE {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn term(cluster: &Cluster) -> Result<u64> {
    let mut term = 0;
    for node in &cluster.nodes {
        let (_, _, status) = ask(node.api, "/v1/status", "").await?;
        let status: Value = serde_json::from_slice(&status)?;
        term = term.max(status["term"].as_u64().context("a status without a term")?);
    }
    Ok(term)
}

/// The histograms of all nodes together: whoever leads has counted.
#[derive(Debug, Clone, Default)]
struct Appends {
    /// Upper bound in seconds, and how many were within it.
    buckets: Vec<(f64, f64)>,
    unanswered: f64,
}

impl Appends {
    async fn read(cluster: &Cluster) -> Result<Self> {
        let mut all = Self::default();
        for node in &cluster.nodes {
            let (_, _, text) = ask(node.api, "/metrics", "").await?;
            all.add(&String::from_utf8(text)?)?;
        }
        Ok(all)
    }

    fn add(&mut self, text: &str) -> Result<()> {
        for line in text.lines() {
            let value = || line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok());
            if line.starts_with("swarmer_raft_append_seconds_bucket{") {
                let bound = line.split_once("le=\"").and_then(|(_, rest)| rest.split('"').next());
                let bound = bound.and_then(|bound| bound.replace('+', "").parse::<f64>().ok());
                let (bound, count) = bound.zip(value()).context("an unreadable bucket")?;
                match self.buckets.iter_mut().find(|bucket| bucket.0 == bound) {
                    Some(bucket) => bucket.1 += count,
                    None => self.buckets.push((bound, count)),
                }
            } else if line.starts_with("swarmer_raft_append_unanswered_total{") {
                self.unanswered += value().context("an unreadable counter")?;
            }
        }
        Ok(())
    }

    fn since(mut self, before: &Self) -> Self {
        for (bound, count) in &mut self.buckets {
            let old = before.buckets.iter().find(|bucket| bucket.0 == *bound);
            *count -= old.map_or(0.0, |bucket| bucket.1);
        }
        self.unanswered -= before.unanswered;
        self
    }

    fn count(&self) -> f64 {
        self.buckets.last().map_or(0.0, |bucket| bucket.1)
    }

    /// The duration in seconds that this share of all does not exceed; infinite above the last
    /// bound.
    fn quantile(&self, share: f64) -> f64 {
        let rank = (self.count() + self.unanswered) * share;
        let mut below = (0.0, 0.0);
        for (bound, count) in &self.buckets {
            if *count >= rank && *count > below.1 {
                let part = (rank - below.1) / (count - below.1);
                return below.0 + (bound - below.0) * part;
            }
            below = (*bound, *count);
        }
        f64::INFINITY
    }

    fn row(&self, what: &str, took: Duration) {
        let within = self.buckets.iter().find(|bucket| bucket.0 >= STEP_SECONDS);
        let over = self.count() + self.unanswered - within.map_or(0.0, |bucket| bucket.1);
        println!(
            "| {what} | {:.0} | {:.0} | {:.0} | {:.2} | {:.2} | {over:.0} |",
            took.as_secs_f64(),
            self.count(),
            self.unanswered,
            self.quantile(0.5) * 1e3,
            self.quantile(0.99) * 1e3,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_what_came_between_and_count_what_never_came() {
        let text = |counts: [u32; 3], lost: u32| {
            let mut text = String::new();
            for (bound, count) in ["0.01", "0.05", "+Inf"].iter().zip(counts) {
                let name = "swarmer_raft_append_seconds_bucket";
                text += &format!("{name}{{peer=\"b\",le=\"{bound}\"}} {count}\n");
            }
            text + &format!("swarmer_raft_append_unanswered_total{{peer=\"b\"}} {lost}\n")
        };
        let mut before = Appends::default();
        before.add(&text([100, 100, 100], 1)).unwrap();
        let mut after = Appends::default();
        after.add(&text([150, 200, 200], 1)).unwrap();
        let between = after.clone().since(&before);
        assert_eq!((between.count(), between.unanswered), (100.0, 0.0));
        assert!((between.quantile(0.25) - 0.005).abs() < 1e-9);
        assert!((between.quantile(0.75) - 0.03).abs() < 1e-9);
        after.add(&text([0, 0, 0], 100)).unwrap();
        assert!(after.since(&before).quantile(0.75).is_infinite());
    }
}
