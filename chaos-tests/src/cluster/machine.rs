//! The cluster under test: found, killed, paused, cut and healed.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use http::Method;
use parking_lot::Mutex;
use serde_json::json;
use tempfile::TempDir;

use super::{
    binary::Binary,
    fittings::Fitter,
    folder::{self, copy_tree},
    gateway::{Gateway, Port},
    launch::{Launch, listen},
    need::{Gear, Need},
    network::Network,
    node::{Node, State},
    regions::Regions,
    stranger::{Foreign, PLACES},
    tap::Tap,
    wires::Wires,
};

/// How long a founding may take on a busy machine.
const FOUNDING: Duration = Duration::from_secs(60);
/// How long one look at a node may take.
const LOOK: Duration = Duration::from_secs(2);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// Nodes, their network and their folders.
pub struct Cluster {
    pub(super) nodes: Vec<Arc<Mutex<Node>>>,
    names: Vec<Arc<str>>,
    /// None: there are no places for strangers.
    pub(super) foreign: Option<Foreign>,
    pub(super) network: Network,
    cuts: Mutex<Cuts>,
    /// Nodes that lost their log.
    lost: Mutex<BTreeSet<usize>>,
    /// Nodes that are away with their region, so that they cannot know what happens.
    away: Mutex<BTreeSet<usize>>,
    /// Removed last.
    pub(super) folder: TempDir,
}

#[derive(Default)]
struct Cuts {
    next: u64,
    /// What each fault that is going on drops: pairs, and percent of the rest.
    active: BTreeMap<u64, (BTreeSet<(usize, usize)>, u8)>,
}

impl Cluster {
    /// Makes ready for `count` nodes and faults that need this, without starting them.
    ///
    /// # Errors
    /// The machine lacks something.
    pub fn prepare(binary: &Binary, count: usize, gear: &Gear) -> Result<Self> {
        let folder = folder::make()?;
        // And the guest.
        let places = count + 1 + if gear.stranger { PLACES } else { 0 };
        let laid = gear.regions.iter().flat_map(Regions::wires);
        let network = match gear.needs.contains(&Need::Switch) {
            true => Network::switched(places, Wires::new(gear.seed).laid(laid))?,
            false => Network::new(places)?,
        };
        let founding = binary.founding_token()?;
        let founders = count - gear.joiners;
        let seeds = Self::seeds(founders);
        let fitter = Fitter::new(&gear.needs, folder.path())?;
        let plain = Fitter::new(&BTreeSet::new(), folder.path())?;
        let mut nodes = Vec::new();
        let mut names = Vec::new();
        for i in 0..=count {
            let name = format!("n{}", i + 1);
            // Of its own: one that is let in anew has another one.
            let token = folder.path().join(format!("{name}.token"));
            if i < founders {
                std::fs::write(&token, &founding)?;
            }
            let (binary, seeds) = (binary.clone(), seeds.clone());
            let (expect, regions, sites) = (founders, gear.regions, gear.sites);
            let launch = Launch { binary, token, seeds, expect, regions, sites };
            // The guest's disk and clock are those of the machine.
            let fitter = if i == count { &plain } else { &fitter };
            let fittings = fitter.fit(&folder.path().join(&name))?;
            let start = launch.of(i, &name, &fittings);
            let log = folder.path().join(format!("{name}.log"));
            let mut node = Node::new(name.clone(), log, fittings, start);
            node.become_old(i < gear.old);
            nodes.push(Arc::new(Mutex::new(node)));
            names.push(Arc::from(name));
        }
        let foreign = |fittings| {
            let folder = folder.path().to_owned();
            Foreign::new(binary, places - 1, folder, &seeds, fittings)
        };
        let foreign = match gear.stranger {
            true => Some(foreign(plain.fit(&folder.path().join("foreign"))?)?),
            false => None,
        };
        let (cuts, lost, away) = (Mutex::default(), Mutex::default(), Mutex::default());
        Ok(Self { nodes, names, foreign, network, cuts, lost, away, folder })
    }

    /// A cluster that stands and is ready on every node.
    ///
    /// # Errors
    /// As [`Cluster::prepare`]; or it does not stand within a minute.
    pub async fn found(binary: &Binary, count: usize, gear: &Gear) -> Result<Self> {
        let cluster = Self::prepare(binary, count, gear)?;
        let founders = count - gear.joiners;
        cluster.stand(0..founders).await?;
        for node in founders..count {
            let region = gear.regions.and_then(|regions| regions.name(node));
            cluster.give_token(node, &cluster.join_token(region).await?)?;
        }
        cluster.stand(founders..count).await?;
        Ok(cluster)
    }

    /// Starts these nodes, and waits until they are ready.
    async fn stand(&self, nodes: Range<usize>) -> Result<()> {
        for node in nodes.clone() {
            self.start(node).await?;
        }
        let began = Instant::now();
        for node in nodes {
            while !self.is_ready(node).await {
                if self.state(node) == State::Ended {
                    bail!("{} ended:\n{}", self.names[node], self.last_lines(node));
                }
                if began.elapsed() > FOUNDING {
                    let name = &self.names[node];
                    bail!("{name} is not ready after {FOUNDING:?}:\n{}", self.last_lines(node));
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
        Ok(())
    }

    /// A token by which one node joins, in this region if one is named.
    async fn join_token(&self, region: Option<&str>) -> Result<String> {
        let wish = json!({ "kind": "join", "region": region }).to_string();
        let mut api = self.gateway(0, Port::Api);
        let began = Instant::now();
        loop {
            let reply = api.send(Method::POST, "/v1/tokens", &[], wish.clone(), LOOK).await;
            let made = reply.as_ref().ok().map(|reply| reply.json());
            if let Some(token) = made.as_ref().and_then(|made| made["token"].as_str()) {
                return Ok(token.to_owned());
            }
            if began.elapsed() > FOUNDING {
                bail!("no token is made: {reply:?}");
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// How many nodes; the guest is none of them.
    pub fn count(&self) -> usize {
        self.nodes.len() - 1
    }

    /// One more node, which does not found, and runs only if it is let in by [`Cluster::join`].
    pub fn guest(&self) -> usize {
        self.count()
    }

    /// Starts the guest with a join token, and waits until it is ready.
    ///
    /// # Errors
    /// It cannot be started, or is not ready in time.
    pub async fn join(&self, token: &str) -> Result<()> {
        self.give_token(self.guest(), token)?;
        self.start(self.guest()).await?;
        let began = Instant::now();
        while !self.is_ready(self.guest()).await {
            if began.elapsed() > FOUNDING {
                bail!("the guest is not let in:\n{}", self.last_lines(self.guest()));
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    /// The gossip that comes to a node in the given time.
    ///
    /// # Errors
    /// Not root.
    pub async fn overhear(&self, node: usize, lasts: Duration) -> Result<Vec<Vec<u8>>> {
        let open = self.network.inside(node).handle().spawn(async { Tap::open() });
        open.await.context("the namespace is gone")??.listen(lasts).await
    }

    /// Sends a datagram to a node's port for the others, from its own machine: no cut holds it up.
    ///
    /// # Errors
    /// The socket's.
    pub async fn tell(&self, node: usize, datagram: &[u8]) -> Result<()> {
        let (to, datagram) = (listen(node), datagram.to_vec());
        let sent = self.network.inside(node).handle().spawn(async move {
            let socket = tokio::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0)).await?;
            socket.send_to(&datagram, to).await
        });
        sent.await.context("the namespace is gone")??;
        Ok(())
    }

    /// Drops all that any other node, and the guest, sends to this one, until [`Cluster::mend`]. A
    /// stranger still reaches it, and nobody else.
    ///
    /// # Errors
    /// What `nft` said.
    pub fn shut(&self, node: usize) -> Result<u64> {
        self.cut(self.others(node).map(|other| (other, node)).collect(), 0)
    }

    /// The name of a node.
    pub fn name(&self, node: usize) -> &Arc<str> {
        &self.names[node]
    }

    /// A way to a node.
    pub fn gateway(&self, node: usize, port: Port) -> Gateway {
        let inside = self.network.inside(node).handle().clone();
        Gateway::new(inside, port, Arc::clone(&self.names[node]))
    }

    /// How a node's process is.
    pub fn state(&self, node: usize) -> State {
        self.nodes[node].lock().state()
    }

    /// Starts a node, if it does not run.
    ///
    /// # Errors
    /// The process cannot be started.
    pub async fn start(&self, node: usize) -> Result<()> {
        let process = Arc::clone(&self.nodes[node]);
        // By the thread of the namespace: a process is in the namespace of the thread that starts
        // it, and ends when that thread does.
        let started =
            self.network.inside(node).handle().spawn(async move { process.lock().start() });
        started.await.context("the namespace is gone")?
    }

    /// From its next start on a node is as of the other binary: of an older one that speaks only the
    /// oldest version of the wire, or of this one.
    pub fn exchange(&self, node: usize) {
        let mut node = self.nodes[node].lock();
        let old = node.is_old();
        node.become_old(!old);
    }

    /// kill -9. Gives whether there was something to kill.
    pub fn kill(&self, node: usize) -> bool {
        self.nodes[node].lock().kill()
    }

    /// SIGSTOP. Gives whether there was something to stop.
    pub fn pause(&self, node: usize) -> bool {
        self.nodes[node].lock().pause()
    }

    /// SIGCONT.
    pub fn resume(&self, node: usize) {
        self.nodes[node].lock().resume();
    }

    /// kill -9, and its log of the control state is gone for good: it must not take part again under
    /// its id, and nothing is expected of it any more. Gives it, if it ran.
    ///
    /// # Errors
    /// The file system's.
    pub async fn lose_log(&self, node: usize) -> Result<Vec<usize>> {
        let ran = self.kill(node);
        self.lost.lock().insert(node);
        let raft = self.data(node).join("raft");
        tokio::task::spawn_blocking(move || std::fs::remove_dir_all(raft)).await??;
        Ok(if ran { vec![node] } else { Vec::new() })
    }

    /// These nodes go away with their region, or are back.
    pub fn part(&self, nodes: &[usize], away: bool) {
        let mut all = self.away.lock();
        for node in nodes {
            if away {
                all.insert(*node);
            } else {
                all.remove(node);
            }
        }
    }

    /// The nodes that are away with their region.
    pub fn away(&self) -> BTreeSet<usize> {
        self.away.lock().clone()
    }

    /// The nodes that did not lose their log.
    pub fn whole(&self) -> Vec<usize> {
        let lost = self.lost.lock();
        (0..self.count()).filter(|node| !lost.contains(node)).collect()
    }

    /// Drops packets until [`Cluster::mend`] is called with what this gives.
    ///
    /// # Errors
    /// What `nft` said.
    pub fn cut(&self, pairs: BTreeSet<(usize, usize)>, loss: u8) -> Result<u64> {
        let mut cuts = self.cuts.lock();
        cuts.next += 1;
        let id = cuts.next;
        cuts.active.insert(id, (pairs, loss));
        self.apply(&cuts)?;
        Ok(id)
    }

    /// Ends one cut. Gives whether it had stood until now: the end of a run heals them all.
    ///
    /// # Errors
    /// What `nft` said.
    pub fn mend(&self, id: u64) -> Result<bool> {
        let mut cuts = self.cuts.lock();
        let stood = cuts.active.remove(&id).is_some();
        self.apply(&cuts)?;
        Ok(stood)
    }

    fn apply(&self, cuts: &Cuts) -> Result<()> {
        let pairs = cuts.active.values().flat_map(|(pairs, _)| pairs).copied().collect();
        let loss = cuts.active.values().map(|(_, loss)| *loss).max().unwrap_or(0);
        self.network.cut(&pairs, loss)
    }

    /// Ends every fault: nothing is dropped, every process runs.
    ///
    /// # Errors
    /// What `nft` said, or a process cannot be started.
    pub async fn heal(&self) -> Result<()> {
        {
            let mut cuts = self.cuts.lock();
            cuts.active.clear();
            self.apply(&cuts)?;
        }
        self.network.heal();
        for node in 0..self.count() {
            self.nodes[node].lock().fittings.heal()?;
            self.resume(node);
            self.start(node).await?;
        }
        Ok(())
    }

    /// Whether a node says that it is ready.
    pub async fn is_ready(&self, node: usize) -> bool {
        let mut gateway = self.gateway(node, Port::Api);
        let reply = gateway.send(Method::GET, "/readyz", &[], "", LOOK).await;
        reply.is_ok_and(|reply| reply.status == 200)
    }

    /// Whether every node says so.
    pub async fn all_ready(&self) -> bool {
        for node in 0..self.count() {
            if !self.is_ready(node).await {
                return false;
            }
        }
        true
    }

    /// Copies the nodes' Raft logs and snapshots into `folder`, to see where they part. All nodes
    /// are killed first: what is copied is what they left.
    ///
    /// # Errors
    /// The file system's.
    pub fn keep_raft(&self, folder: &Path) -> Result<()> {
        for node in &self.nodes {
            node.lock().kill();
        }
        for (i, name) in self.names.iter().enumerate() {
            let raft = self.nodes[i].lock().fittings.seen().join("raft");
            let kept = folder.join(format!("{name}-raft"));
            // Of an earlier run of the same seed.
            if kept.exists() {
                std::fs::remove_dir_all(&kept)?;
            }
            // A node that never took part has none.
            if raft.is_dir() {
                copy_tree(&raft, &kept)?;
            }
        }
        Ok(())
    }

    /// Copies the nodes' logs into `folder`.
    ///
    /// # Errors
    /// The file system's.
    pub fn keep_logs(&self, folder: &Path) -> Result<()> {
        for node in self.nodes.iter().chain(self.foreign.iter().map(|foreign| &foreign.node)) {
            let log = node.lock().log.clone();
            // The guest may never have been started.
            if let Some(name) = log.file_name().filter(|_| log.is_file()) {
                std::fs::copy(&log, folder.join(name))?;
            }
        }
        Ok(())
    }

    /// The snapshots that a node has now, by the names of their files; none while it is being
    /// started, killed or without power.
    pub fn snapshots(&self, node: usize) -> Vec<String> {
        if self.nodes[node].is_locked() {
            return Vec::new();
        }
        let files = std::fs::read_dir(self.data(node).join("raft/snapshots"));
        let names = files.into_iter().flatten().flatten().map(|file| file.file_name());
        names.filter_map(|name| name.into_string().ok()).filter(|n| n.ends_with(".snap")).collect()
    }

    /// The data directory of a node, as the harness sees it.
    pub(super) fn data(&self, node: usize) -> PathBuf {
        self.nodes[node].lock().fittings.seen()
    }

    pub(super) fn last_lines(&self, node: usize) -> String {
        let log = std::fs::read_to_string(&self.nodes[node].lock().log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Before their folder goes, and before the threads that they would die with.
        for node in self.nodes.iter().chain(self.foreign.iter().map(|foreign| &foreign.node)) {
            node.lock().kill();
        }
    }
}
