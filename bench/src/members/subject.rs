//! What is measured: many nodes of the one or of the other, each a process.

use std::{
    net::SocketAddr,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::Result;

use super::{serf, watch::Watch};
use crate::{cluster::Cluster, process::Process, room};

/// The first so many found the cluster (Swarmer), and the others join by them (both).
pub(super) const SEEDS: usize = 3;
/// The groups that the two halves run as, so that their packets can be told apart: nodes by turns.
const GROUPS: [u32; 2] = [60_001, 60_002];

/// Which of both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Swarmer,
    Serf,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Swarmer => "Swarmer",
            Self::Serf => "serf",
        }
    }
}

/// A node, and how it is started again.
pub(super) struct Member {
    pub(super) name: String,
    /// Its port for the others.
    pub(super) listen: SocketAddr,
    /// Its API, or its RPC.
    pub(super) api: SocketAddr,
    command: Vec<String>,
    pub(super) process: Process,
    pub(super) lives: bool,
}

/// All nodes of one kind.
pub(super) struct Subject {
    pub(super) kind: Kind,
    pub(super) members: Vec<Member>,
    pub(super) watch: Watch,
    /// When the first of them was started.
    pub(super) start: Instant,
    folder: PathBuf,
}

/// Which half a node is in.
pub(super) fn half(node: usize) -> usize {
    node % 2
}

/// What a node is started with beside its flags.
fn dress(node: usize, command: &mut Command) {
    command.gid(GROUPS[half(node)]);
}

fn dress_swarmer(node: usize, command: &mut Command) {
    command.args(["--log-format", "json"]);
    dress(node, command);
}

impl Subject {
    /// Starts so many nodes, and waits for none of those that join.
    pub(super) async fn swarmer(binary: &Path, count: usize, folder: &Path) -> Result<Self> {
        let start = Instant::now();
        let mut cluster = Cluster::found_dressed(binary, SEEDS, folder, dress_swarmer).await?;
        cluster.join(count - SEEDS).await?;
        let members = cluster.nodes.into_iter().map(|node| Member {
            name: node.name,
            listen: node.listen,
            api: node.api,
            command: node.command,
            process: node.process,
            lives: true,
        });
        Ok(Self::new(Kind::Swarmer, members.collect(), start, folder))
    }

    /// The same.
    pub(super) fn serf(binary: &Path, count: usize, folder: &Path) -> Result<Self> {
        let start = Instant::now();
        let mut members = Vec::new();
        for (i, agent) in serf::agents(binary, count, SEEDS)?.into_iter().enumerate() {
            members.push(Member {
                process: launch(Kind::Serf, i, &agent.name, &agent.command, folder)?,
                name: agent.name,
                listen: agent.listen,
                api: agent.rpc,
                command: agent.command,
                lives: true,
            });
        }
        Ok(Self::new(Kind::Serf, members, start, folder))
    }

    fn new(kind: Kind, members: Vec<Member>, start: Instant, folder: &Path) -> Self {
        let watch = Watch::new(kind, members.iter().map(|member| &member.process));
        Self { kind, members, watch, start, folder: folder.to_owned() }
    }

    /// The nodes that live.
    pub(super) fn living(&self) -> Vec<usize> {
        (0..self.members.len()).filter(|node| self.members[*node].lives).collect()
    }

    pub(super) fn kill(&mut self, node: usize) {
        self.watch.end(node);
        self.members[node].lives = false;
        self.members[node].process.kill();
    }

    /// Starts one again that ended.
    pub(super) fn start_again(&mut self, node: usize) -> Result<()> {
        let member = &mut self.members[node];
        member.process.kill();
        member.process = launch(self.kind, node, &member.name, &member.command, &self.folder)?;
        member.lives = true;
        self.watch.begin(node);
        Ok(())
    }

    /// Fails if a node ended by itself.
    pub(super) fn check(&mut self) -> Result<()> {
        let living = self.members.iter_mut().filter(|member| member.lives);
        living.map(|member| &mut member.process).try_for_each(Process::check)
    }

    /// From now on no packet passes between the two halves. It is lost where it arrives: who sent
    /// it is not told.
    pub(super) async fn cut(&self) -> Result<()> {
        let ports = |wanted: usize| {
            let members = self.members.iter().enumerate().filter(|(i, _)| half(*i) == wanted);
            members
                .map(|(_, member)| member.listen.port().to_string())
                .collect::<Vec<_>>()
                .join(",")
        };
        let mut chains = "chain out { type filter hook output priority 0;\n".to_owned();
        for (i, group) in GROUPS.iter().enumerate() {
            chains += &format!("meta skgid {group} meta mark set {}\n", i + 1);
        }
        chains += "}\nchain in { type filter hook input priority 0;\n";
        for (i, other) in [(0, 1), (1, 0)] {
            let ports = ports(other);
            let protocols = "meta l4proto { tcp, udp }";
            chains += &format!("meta mark {} {protocols} th dport {{ {ports} }} drop\n", i + 1);
        }
        room::filter(&self.folder, &(chains + "}")).await
    }

    pub(super) async fn heal(&self) -> Result<()> {
        room::lift(&self.folder).await
    }
}

fn launch(kind: Kind, node: usize, name: &str, words: &[String], folder: &Path) -> Result<Process> {
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    match kind {
        Kind::Swarmer => dress_swarmer(node, &mut command),
        Kind::Serf => dress(node, &mut command),
    }
    Process::start(name, folder, &mut command)
}
