//! `health`: how soon all nodes leave a copy alone that is no good any more.
//!
//! A function has copies on some of many nodes, and every node's ingress gets a light, steady
//! stream of requests. Then one copy begins to fail, or its node is killed, drained or stopped.
//! Who answered says `x-swarmer-node`; what was tried in vain and then elsewhere, and is seen by no
//! client, every node writes into its log (`swarmer::dispatch`, at the level of debug).
//!
//! A copy fails because what it calls is out of reach, for its node alone: each node runs as a
//! group of its own, and a rule of the network refuses that group's packets.

mod load;
mod table;
mod trial;

use std::{
    os::unix::process::CommandExt as _,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use clap::{Args, ValueEnum};
use rand::{SeedableRng as _, rngs::StdRng};
use swarmer_runtime::fixtures::{Behaviour, behaviour_p2};

use self::{
    load::Load,
    trial::{Event, Outcome, Stage},
};
use crate::{
    cluster::Cluster,
    process::{Process, free_addresses},
    room,
    tail::Tail,
};

/// These found the cluster and vote.
const FOUNDERS: usize = 3;
/// The group that the first node runs as; the next ones follow.
const GROUP: u32 = 61_000;
/// Until all copies serve and nothing fails.
const STEADY: Duration = Duration::from_secs(120);
/// For so long all must be well before it counts.
const WELL: Duration = Duration::from_secs(1);

/// How a copy fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Failure {
    /// The guest traps: the runtime answers for it
    Trap,
    /// The guest itself answers 502
    Answer,
}

/// How soon a copy is left alone that fails, or whose node dies or goes
#[derive(Debug, Args)]
pub(crate) struct Health {
    /// Nodes; three of them found the cluster
    #[arg(long, default_value_t = 32)]
    nodes: usize,
    /// Nodes that hold a copy of the function
    #[arg(long, default_value_t = 6)]
    copies: usize,
    /// Milliseconds from one request to the next at each node's ingress
    #[arg(long, default_value_t = 50)]
    every: u64,
    /// How often each thing is done
    #[arg(long, default_value_t = 3)]
    trials: usize,
    /// Seconds that are watched after it
    #[arg(long, default_value_t = 15)]
    watch: u64,
    /// How a copy fails
    #[arg(long, value_enum, default_value_t = Failure::Trap)]
    failure: Failure,
    /// Only these things
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Event>,
    /// Decides whose copy it is
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// What a node is started with beside its flags.
fn dress(node: usize, command: &mut Command) {
    let filter = "warn,swarmer=info,swarmer::dispatch=debug,openraft=off,foca=error,quinn=error";
    command.args(["--log-format", "json"]).env("SWARMER_LOG", filter);
    command.gid(GROUP + node as u32);
}

impl Health {
    pub(crate) async fn run(&self, swarmer: &Path) -> Result<()> {
        ensure!(self.nodes > FOUNDERS, "--nodes {}: more than {FOUNDERS}", self.nodes);
        ensure!(
            (2..self.nodes).contains(&self.copies),
            "--copies {}: at least 2, and fewer than the nodes",
            self.copies
        );
        ensure!(self.every > 0 && self.watch > 1, "--every and --watch: longer");
        let folder = tempfile::tempdir()?;
        room::enter().await?;
        let mut events = match self.only.is_empty() {
            true => Event::ALL.to_vec(),
            false => self.only.clone(),
        };
        let filters = room::can_filter().await;
        events.retain(|event| *event != Event::Fails || filters);
        ensure!(!events.is_empty(), "a copy is made fail by `nft`, which is not to be had here");
        let dependency = free_addresses(1)?[0];
        let mut hello = Command::new(std::env::current_exe()?);
        hello.args(["__hello", &dependency.to_string()]);
        let mut hello = Process::start("dependency", folder.path(), &mut hello)?;
        hello.until_listening(dependency).await?;
        eprintln!("health: starting {} nodes", self.nodes);
        let found = Cluster::found_dressed(swarmer, FOUNDERS, folder.path(), dress);
        let mut cluster = found.await?;
        cluster.join(self.nodes - FOUNDERS).await?;
        cluster.until_whole().await?;
        let file = folder.path().join("relay.wasm");
        std::fs::write(&file, behaviour_p2(self.failure.behaviour()))?;
        let (copies, authority) = (self.copies.to_string(), dependency.to_string());
        let more = ["--name", "relay", "--route", "/", "--replicas", &copies, "--timeout", "5s"];
        let more = [&more[..], &["--outgoing", &authority]].concat();
        eprintln!("health: deploying {copies} copies");
        cluster.deploy(0, &file, &more).await?;
        let load =
            Load::start(&cluster, &format!("/{dependency}/"), Duration::from_millis(self.every))?;
        let mut stage = Stage {
            logs: cluster.nodes.iter().map(|node| Tail::new(node.process.log())).collect(),
            cluster,
            load,
            random: StdRng::seed_from_u64(self.seed),
            folder: folder.path(),
            dependency,
            watch: Duration::from_secs(self.watch),
            last: None,
        };
        let mut outcomes: Vec<(Event, Vec<Outcome>)> =
            events.iter().map(|event| (*event, Vec::new())).collect();
        for number in 1..=self.trials {
            for (event, outcomes) in &mut outcomes {
                let servers = self.steady(&mut stage).await?;
                eprintln!("health: {event:?}, {number} of {}", self.trials);
                outcomes.push(stage.trial(*event, &servers).await?);
            }
        }
        table::print(self, &outcomes, filters);
        Ok(())
    }

    /// Waits until every request is answered well and each copy answers some; who they are.
    async fn steady(&self, stage: &mut Stage<'_>) -> Result<Vec<usize>> {
        let start = Instant::now();
        loop {
            stage.load.take();
            tokio::time::sleep(WELL).await;
            stage.cluster.check()?;
            let seen = stage.load.take();
            let fault = seen.iter().find_map(|seen| seen.fault.as_ref());
            let mut servers: Vec<usize> = seen.iter().filter_map(|seen| seen.server).collect();
            servers.sort_unstable();
            servers.dedup();
            let asked = |node: usize| seen.iter().any(|seen| seen.from == node);
            if fault.is_none() && servers.len() == self.copies && (0..self.nodes).all(asked) {
                return Ok(servers);
            }
            if start.elapsed() > STEADY {
                let (count, fault) = (servers.len(), fault.map_or("none", String::as_str));
                bail!(
                    "after {STEADY:?} {count} nodes answer instead of {}; a fault: {fault}",
                    self.copies
                );
            }
        }
    }
}

impl Failure {
    fn behaviour(self) -> Behaviour {
        match self {
            Self::Trap => Behaviour::CallerOrTrap,
            Self::Answer => Behaviour::Caller,
        }
    }
}
