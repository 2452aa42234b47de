//! `members`: membership of many real nodes beside serf's, in one run.
//!
//! Each cluster runs alone in a network of its own, on whose loopback nothing else is, so that
//! what the interface counts is what its nodes send. Both are watched in the same way: by what
//! every node writes into its log. Only a changed fact of Swarmer is in no log; for that some
//! nodes are asked.

mod change;
mod rest;
mod serf;
mod subject;
mod table;
mod watch;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use clap::Args;
use rand::{SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};

use self::{
    rest::AtRest,
    subject::{Kind, SEEDS, Subject, half},
    watch::Word,
};
use crate::{histogram::Histogram, room};

/// Until all know all after the start, for each node.
const START: Duration = Duration::from_secs(6);
/// Until a death is known to all.
const DEATH: Duration = Duration::from_secs(180);
/// Until all know all again after the halves were joined.
const HEALING: Duration = Duration::from_secs(300);
/// Rest before something is done to a node.
const PAUSE: Duration = Duration::from_secs(3);

/// Membership of many nodes beside serf
#[derive(Debug, Args)]
pub(crate) struct Members {
    /// Nodes of each; three of them found the cluster and are the seeds
    #[arg(long, default_value_t = 50)]
    nodes: usize,
    /// Seconds before they count as at rest
    #[arg(long, default_value_t = 60)]
    settle: u64,
    /// Seconds at rest in which bytes and CPU are counted
    #[arg(long, default_value_t = 60)]
    watch: u64,
    /// Nodes that are killed one after the other
    #[arg(long, default_value_t = 5)]
    deaths: usize,
    /// Facts that are changed one after the other
    #[arg(long, default_value_t = 5)]
    changes: usize,
    /// Nodes that a changed fact is looked for at
    #[arg(long, default_value_t = 8)]
    observers: usize,
    /// Seconds for which half of the nodes is cut off from the others; 0: not at all
    #[arg(long, default_value_t = 60)]
    apart: u64,
    /// Decides who is killed, changed and asked
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The serf to measure beside
    #[arg(long, default_value = "serf")]
    serf: PathBuf,
    /// Only Swarmer
    #[arg(long)]
    alone: bool,
}

/// What was found out about one of both.
struct Found {
    kind: Kind,
    /// From the start of the first to all knowing all.
    start: Duration,
    rest: AtRest,
    /// Words that called a living member dead, from the start to the end but for the cut.
    false_deaths: usize,
    /// A changed fact at each of the observers.
    changes: Histogram,
    cut: Option<Cut>,
    deaths: Deaths,
}

/// Half of the nodes was cut off.
struct Cut {
    /// Until each node said of each of the other half that it is dead. None: not in the time.
    apart: Option<Duration>,
    /// After the halves were joined: when each node said of all that they live.
    healed: Histogram,
}

/// Nodes were killed.
#[derive(Default)]
struct Deaths {
    first: Histogram,
    each: Histogram,
    all: Histogram,
}

impl Members {
    pub(crate) async fn run(&self, swarmer: &Path) -> Result<()> {
        let most = self.nodes.saturating_sub(SEEDS + 1);
        ensure!(most > 0, "--nodes {}: at least {}", self.nodes, SEEDS + 2);
        ensure!(self.deaths <= most, "--deaths {}: at most {most} of so few nodes", self.deaths);
        if !self.alone {
            println!("- serf: {}\n", serf::version(&self.serf).await?);
        }
        let mut found = vec![self.measure(Kind::Swarmer, swarmer).await?];
        if !self.alone {
            found.push(self.measure(Kind::Serf, &self.serf).await?);
        }
        table::print(self, &found);
        Ok(())
    }

    async fn measure(&self, kind: Kind, binary: &Path) -> Result<Found> {
        let folder = tempfile::tempdir()?;
        room::enter().await?;
        let say = |what: &str| eprintln!("members: {}: {what}", kind.name());
        say(&format!("starting {} nodes", self.nodes));
        let mut subject = match kind {
            Kind::Swarmer => Subject::swarmer(binary, self.nodes, folder.path()).await?,
            Kind::Serf => Subject::serf(binary, self.nodes, folder.path())?,
        };
        let mut random = StdRng::seed_from_u64(self.seed);
        let patience = START * u32::try_from(self.nodes)?;
        let all = subject.living();
        subject
            .watch
            .until(patience, "all know all", |watch, _| {
                all.iter().all(|by| knows(watch, *by, &all))
            })
            .await?;
        let start = subject.start.elapsed();
        say(&format!("all know all after {start:.1?}; {} s to settle", self.settle));
        tokio::time::sleep(Duration::from_secs(self.settle)).await;
        say(&format!("{} s at rest", self.watch));
        let rest = rest::run(&subject, Duration::from_secs(self.watch)).await?;
        subject.check()?;
        let mut others: Vec<usize> = (SEEDS..self.nodes).collect();
        others.shuffle(&mut random);
        let mut changes = Histogram::default();
        for number in 0..self.changes {
            tokio::time::sleep(PAUSE).await;
            let node = others[number % others.len()];
            let mut observers: Vec<usize> = all.iter().copied().filter(|i| *i != node).collect();
            observers.shuffle(&mut random);
            observers.truncate(self.observers.max(1));
            for time in change::run(&mut subject, node, &observers, number).await? {
                changes.record(time);
            }
            say(&format!("change {} of {}", number + 1, self.changes));
        }
        let cut = match self.apart > 0 && room::can_filter().await {
            true => Some(self.cut(&mut subject).await?),
            false => None,
        };
        let mut deaths = Deaths::default();
        for (number, node) in others.iter().take(self.deaths).enumerate() {
            tokio::time::sleep(PAUSE).await;
            death(&mut subject, *node, &mut deaths).await?;
            say(&format!("death {} of {}", number + 1, self.deaths));
        }
        subject.check()?;
        let false_deaths = subject.watch.false_deaths;
        Ok(Found { kind, start, rest, false_deaths, changes, cut, deaths })
    }

    /// Half of the nodes is cut off and joined again.
    async fn cut(&self, subject: &mut Subject) -> Result<Cut> {
        tokio::time::sleep(PAUSE).await;
        subject.watch.look()?;
        let nodes = subject.living();
        let time = Duration::from_secs(self.apart);
        let start = Instant::now();
        subject.watch.apart = true;
        subject.cut().await?;
        let apart = subject.watch.until(time, "the halves", |watch, _| {
            let pair =
                |by: usize, of: usize| half(by) == half(of) || watch.says(by, of, Word::Dead);
            nodes.iter().all(|by| nodes.iter().all(|of| pair(*by, *of)))
        });
        let apart = apart.await.is_ok().then(|| start.elapsed());
        eprintln!("members: {}: apart after {apart:.1?}", subject.kind.name());
        tokio::time::sleep(time.saturating_sub(start.elapsed())).await;
        subject.watch.look()?;
        subject.heal().await?;
        let (start, mut known, mut healed) = (Instant::now(), vec![], Histogram::default());
        let all = subject.watch.until(HEALING, "healing", |watch, _| {
            for by in &nodes {
                if !known.contains(by) && knows(watch, *by, &nodes) {
                    known.push(*by);
                    healed.record(start.elapsed());
                }
            }
            known.len() == nodes.len()
        });
        all.await?;
        subject.watch.apart = false;
        eprintln!("members: {}: healed after {:.1?}", subject.kind.name(), start.elapsed());
        subject.check()?;
        Ok(Cut { apart, healed })
    }
}

/// Whether this node says of all these others that they live.
fn knows(watch: &watch::Watch, by: usize, nodes: &[usize]) -> bool {
    nodes.iter().all(|of| *of == by || watch.says(by, *of, Word::Alive))
}

/// Kills a node, and waits until all others know it.
async fn death(subject: &mut Subject, node: usize, deaths: &mut Deaths) -> Result<()> {
    subject.watch.look()?;
    let start = Instant::now();
    subject.kill(node);
    let left = subject.living();
    let times = subject.watch.until_told(DEATH, (node, Word::Dead), &left, start).await?;
    times.iter().for_each(|time| deaths.each.record(*time));
    deaths.first.record(times.iter().min().copied().unwrap_or_default());
    deaths.all.record(times.iter().max().copied().unwrap_or_default());
    Ok(())
}
