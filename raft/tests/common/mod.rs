//! A cluster in one process: real disks, and a network that can be cut.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]
#![allow(dead_code, clippy::allow_attributes, reason = "each test file uses a part of it")]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, stream::BoxStream};
use parking_lot::Mutex;
use swarmer_model::{NodeId, wire};
use swarmer_raft::{
    Channel, ChannelReceiver, ChannelSender, Config, Handle, Outcome, Raft, RaftError, Transport,
    TransportError, Txn,
    disk::{Disk, RealDisk, SimDisk},
};
use tokio::time::Instant;

pub(crate) const SOON: Duration = Duration::from_secs(10);
/// What a channel takes: more than an engine may have in flight.
const IN_FLIGHT: usize = 64;

#[derive(Default)]
struct Links {
    nodes: BTreeMap<NodeId, Handle>,
    /// Directed pairs that are cut.
    cut: BTreeSet<(NodeId, NodeId)>,
    /// Answers of proposals that are still to be lost.
    lose_answers: usize,
    /// The newest version of the wire that a node speaks; where it is missing: that of this build.
    speaks: BTreeMap<NodeId, u8>,
    /// Nodes that the others take for newer than they are.
    overrated: BTreeSet<NodeId>,
    /// Messages with writes that reached a node: which, and whether with one write or with many.
    writes: Vec<(NodeId, Form)>,
    /// Barriers asked of the leader by others.
    barriers: usize,
    /// Bytes of snapshots that were handed over.
    snapshot_bytes: usize,
    /// After so many more of them one message is lost.
    break_snapshot_after: Option<usize>,
    /// How long everything is on its way, in each direction.
    way: Duration,
    /// No channel can be opened: votes pass, and nothing of a leader.
    no_channels: bool,
    /// All channels that were opened: from, to, and whether the opener still has it.
    channels: Vec<(NodeId, NodeId, Weak<()>)>,
}

/// How writes came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Alone,
    Together,
}

/// The network: which handles there are, and who cannot reach whom.
#[derive(Default, Clone)]
pub(crate) struct Net(Arc<Mutex<Links>>);

struct Port {
    net: Net,
    node: NodeId,
}

impl Net {
    pub(crate) fn port(&self, node: NodeId) -> Arc<dyn Transport> {
        Arc::new(Port { net: self.clone(), node })
    }

    pub(crate) fn cut(&self, a: NodeId, b: NodeId) {
        self.0.lock().cut.extend([(a, b), (b, a)]);
    }

    pub(crate) fn isolate(&self, node: NodeId) {
        let others: Vec<NodeId> = self.0.lock().nodes.keys().copied().collect();
        for other in others.into_iter().filter(|other| *other != node) {
            self.cut(node, other);
        }
    }

    /// Nobody hears this node, which hears all of them.
    pub(crate) fn mute(&self, node: NodeId) {
        let mut links = self.0.lock();
        let others: Vec<NodeId> = links.nodes.keys().copied().collect();
        links.cut.extend(others.into_iter().map(|other| (node, other)));
    }

    /// How many channels were opened so far.
    pub(crate) fn opened(&self) -> usize {
        self.0.lock().channels.len()
    }

    /// How many channels a node has to another one at this moment.
    pub(crate) fn open_now(&self, from: NodeId, to: NodeId) -> usize {
        let links = self.0.lock();
        let here =
            |(a, b, kept): &&(_, _, Weak<()>)| (*a, *b) == (from, to) && kept.strong_count() > 0;
        links.channels.iter().filter(here).count()
    }

    /// From now on everything is so long on its way, in each direction.
    pub(crate) fn delay(&self, way: Duration) {
        self.0.lock().way = way;
    }

    /// Lets votes pass, and nothing more of whoever is elected from now on.
    pub(crate) fn refuse_channels(&self) {
        self.0.lock().no_channels = true;
    }

    pub(crate) fn heal(&self) {
        let mut links = self.0.lock();
        links.cut.clear();
        links.no_channels = false;
    }

    /// Barriers that were asked of the leader by others so far.
    pub(crate) fn barriers(&self) -> usize {
        self.0.lock().barriers
    }

    /// Bytes of messages with parts of snapshots that were handed over so far.
    pub(crate) fn snapshot_bytes(&self) -> usize {
        self.0.lock().snapshot_bytes
    }

    /// Breaks the sending of a snapshot off once, when so many bytes of it are over.
    pub(crate) fn break_snapshot_after(&self, bytes: usize) {
        let mut links = self.0.lock();
        links.break_snapshot_after = Some(links.snapshot_bytes + bytes);
    }

    /// Whether it has happened.
    pub(crate) fn snapshot_broke(&self) -> bool {
        self.0.lock().break_snapshot_after.is_none()
    }

    /// From now on a node is one that speaks this version of the wire at most.
    pub(crate) fn speaks(&self, node: NodeId, newest: u8) {
        self.0.lock().speaks.insert(node, newest);
    }

    /// The others believe, until they have sent it something once, that the node speaks the newest.
    pub(crate) fn overrate(&self, node: NodeId) {
        self.0.lock().overrated.insert(node);
    }

    /// Messages with writes that reached this node since the last look.
    pub(crate) fn writes_to(&self, node: NodeId) -> Vec<Form> {
        let mut links = self.0.lock();
        let (here, others) = links.writes.drain(..).partition(|(target, _)| *target == node);
        links.writes = others;
        let here: Vec<(NodeId, Form)> = here;
        here.into_iter().map(|(_, form)| form).collect()
    }

    pub(crate) fn lose_answers(&self, count: usize) {
        self.0.lock().lose_answers = count;
    }
}

impl Links {
    fn agreed(&self, a: NodeId, b: NodeId) -> u8 {
        let newest = |node: NodeId| self.speaks.get(&node).copied().unwrap_or(wire::NEWEST);
        newest(a).min(newest(b))
    }
}

#[async_trait]
impl Transport for Port {
    fn version(&self, target: NodeId) -> u8 {
        let links = self.net.0.lock();
        match links.overrated.contains(&target) {
            true => wire::NEWEST,
            false => links.agreed(self.node, target),
        }
    }

    fn round_trip(&self, _: NodeId) -> Option<Duration> {
        Some(self.net.0.lock().way * 2)
    }

    async fn call(
        &self,
        target: NodeId,
        since: u8,
        body: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, TransportError> {
        let handle = self.reach(target)?;
        let version = self.net.0.lock().agreed(self.node, target);
        if since > version {
            self.net.0.lock().overrated.remove(&target);
            return Err(TransportError::Unreachable("it is too old".to_owned()));
        }
        // The variant after format and the intended node: the third is a part of a snapshot, the
        // fifth a proposal, the sixth a barrier, the seventh many proposals.
        let variant = {
            let mut rest = &body[1..];
            while rest[0] & 0x80 != 0 {
                rest = &rest[1..];
            }
            rest[1]
        };
        let form = match variant {
            4 => Some(Form::Alone),
            6 => Some(Form::Together),
            _ => None,
        };
        self.net.0.lock().writes.extend(form.map(|form| (target, form)));
        self.net.0.lock().barriers += usize::from(variant == 5);
        if variant == 2 {
            let mut links = self.net.0.lock();
            if links.break_snapshot_after.is_some_and(|at| links.snapshot_bytes >= at) {
                links.break_snapshot_after = None;
                return Err(TransportError::Failed("it broke".to_owned()));
            }
            links.snapshot_bytes += body.len();
        }
        let way = self.net.0.lock().way;
        let answered = async {
            tokio::time::sleep(way).await;
            let answer = handle.handle_message(self.node, version, body).await;
            tokio::time::sleep(way).await;
            answer
        };
        let answer = tokio::time::timeout(deadline, answered);
        let answer = match answer.await {
            Err(_) => return Err(TransportError::Timeout),
            Ok(Err(error)) => return Err(TransportError::Failed(error.to_string())),
            Ok(Ok(answer)) => answer,
        };
        let mut links = self.net.0.lock();
        if links.cut.contains(&(target, self.node)) {
            return Err(TransportError::Timeout);
        }
        if form.is_some() && links.lose_answers > 0 {
            links.lose_answers -= 1;
            return Err(TransportError::Failed("the answer was lost".to_owned()));
        }
        Ok(answer)
    }

    async fn open(&self, target: NodeId, _: Duration) -> Result<Channel, TransportError> {
        let handle = self.reach(target)?;
        if self.net.0.lock().no_channels {
            return Err(TransportError::Unreachable("no channels".to_owned()));
        }
        let kept = Arc::new(());
        self.net.0.lock().channels.push((self.node, target, Arc::downgrade(&kept)));
        let way = self.net.0.lock().way;
        tokio::time::sleep(way * 2).await;
        let (sender, messages) = futures::channel::mpsc::channel(IN_FLIGHT);
        let messages = messages.then(move |(sent, message)| async move {
            tokio::time::sleep_until(sent + way).await;
            message
        });
        let answers = handle.serve_appends(self.node, messages).boxed();
        let line = |from, to| Line { net: self.net.clone(), from, to };
        let sender = Sender { line: line(self.node, target), messages: sender };
        let answers = Mutex::new(answers);
        let (line, held) = (line(target, self.node), None);
        let receiver = Receiver { line, answers, way, held, _kept: kept };
        Ok(Channel { sender: Box::new(sender), receiver: Box::new(receiver) })
    }
}

/// One direction of a channel.
struct Line {
    net: Net,
    from: NodeId,
    to: NodeId,
}

impl Line {
    fn check(&self) -> Result<(), TransportError> {
        let links = self.net.0.lock();
        if links.cut.contains(&(self.from, self.to)) {
            return Err(TransportError::Failed("cut".to_owned()));
        }
        Ok(())
    }
}

struct Sender {
    line: Line,
    messages: futures::channel::mpsc::Sender<(Instant, Bytes)>,
}

#[async_trait]
impl ChannelSender for Sender {
    fn push(&mut self, message: Bytes) {
        if self.line.check().is_ok() {
            // The other side may have closed the channel; its answers end then.
            let sent = self.messages.try_send((Instant::now(), message));
            assert!(!sent.is_err_and(|error| error.is_full()), "more in flight than is allowed");
        }
    }

    async fn flush(&mut self) -> Result<(), TransportError> {
        self.line.check()
    }
}

struct Receiver {
    line: Line,
    answers: Mutex<BoxStream<'static, Result<Bytes, RaftError>>>,
    way: Duration,
    /// The answer that is on its way, and when it is here.
    held: Option<(Instant, Option<Result<Bytes, RaftError>>)>,
    _kept: Arc<()>,
}

#[async_trait]
impl ChannelReceiver for Receiver {
    async fn receive(&mut self) -> Result<Bytes, TransportError> {
        if self.held.is_none() {
            let answer = self.answers.get_mut().next().await;
            self.held = Some((Instant::now() + self.way, answer));
        }
        if let Some((at, _)) = &self.held {
            tokio::time::sleep_until(*at).await;
        }
        let answer = self.held.take().and_then(|(_, answer)| answer);
        self.line.check()?;
        match answer {
            Some(Ok(answer)) => Ok(answer),
            Some(Err(error)) => Err(TransportError::Failed(error.to_string())),
            None => Err(TransportError::Failed("closed".to_owned())),
        }
    }
}

impl Port {
    fn reach(&self, target: NodeId) -> Result<Handle, TransportError> {
        let links = self.net.0.lock();
        let cut = links.cut.contains(&(self.node, target));
        let handle = links.nodes.get(&target).filter(|_| !cut).cloned();
        handle.ok_or_else(|| TransportError::Unreachable("cut".to_owned()))
    }
}

/// Waits for what has no news to wait for.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let holds = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(SOON, holds).await.is_ok(), "never came true: {what}");
}

/// What the files below a directory take.
pub(crate) fn bytes_below(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).unwrap();
    // Whatever is removed meanwhile takes nothing.
    let bytes = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.ok()?;
        let meta = entry.metadata().ok()?;
        Some(if meta.is_dir() { bytes_below(&entry.path()) } else { meta.len() })
    };
    entries.filter_map(bytes).sum()
}

pub(crate) struct Cluster {
    pub(crate) net: Net,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) nodes: BTreeMap<NodeId, Raft>,
    pub(crate) tune: fn(&mut Config),
    /// Disks in memory instead of real ones.
    pub(crate) disks: Option<BTreeMap<NodeId, SimDisk>>,
}

impl Cluster {
    /// So many voters, with a leader.
    pub(crate) async fn start(count: u64) -> Self {
        Self::tuned(count, |_| {}).await
    }

    pub(crate) async fn tuned(count: u64, tune: fn(&mut Config)) -> Self {
        Self::with(count, tune, None, Net::default()).await
    }

    /// All of them so far from each other.
    pub(crate) async fn far(count: u64, way: Duration, tune: fn(&mut Config)) -> Self {
        let net = Net::default();
        net.delay(way);
        Self::with(count, tune, None, net).await
    }

    /// On disks in memory, without sled.
    pub(crate) async fn simulated(count: u64) -> Self {
        Self::simulated_and_tuned(count, |config| config.applied_dir = None).await
    }

    /// On disks in memory; `tune` must leave sled out.
    pub(crate) async fn simulated_and_tuned(count: u64, tune: fn(&mut Config)) -> Self {
        Self::with(count, tune, Some(BTreeMap::new()), Net::default()).await
    }

    async fn with(
        count: u64,
        tune: fn(&mut Config),
        disks: Option<BTreeMap<NodeId, SimDisk>>,
        net: Net,
    ) -> Self {
        let mut cluster =
            Self { disks, net, dir: tempfile::tempdir().unwrap(), nodes: BTreeMap::new(), tune };
        for id in 1..=count {
            cluster.open(NodeId(id)).await;
        }
        let voters: BTreeSet<NodeId> = cluster.nodes.keys().copied().collect();
        cluster.handle(1).initialize(voters.clone()).await.unwrap();
        cluster.handle(1).initialize(voters).await.unwrap();
        cluster.leader().await;
        cluster
    }

    pub(crate) fn path(&self, node: NodeId) -> PathBuf {
        self.dir.path().join(node.to_string())
    }

    pub(crate) async fn open(&mut self, node: NodeId) {
        let mut config = Config::new(node, self.path(node));
        (self.tune)(&mut config);
        let disk: Arc<dyn Disk> = match &mut self.disks {
            None => Arc::new(RealDisk),
            Some(disks) => Arc::new(disks.entry(node).or_insert_with(SimDisk::new).clone()),
        };
        let raft = Raft::open(config, disk, self.net.port(node)).await.unwrap();
        self.net.0.lock().nodes.insert(node, raft.handle());
        self.nodes.insert(node, raft);
    }

    /// Stops a node; its data stays.
    pub(crate) async fn stop(&mut self, node: NodeId) {
        self.net.0.lock().nodes.remove(&node);
        let raft = self.nodes.remove(&node).unwrap();
        raft.handle().shutdown().await.unwrap();
    }

    /// Takes a node off the network, and out of this cluster; the caller ends it.
    pub(crate) fn forget(&mut self, node: NodeId) {
        self.net.0.lock().nodes.remove(&node);
        self.nodes.remove(&node);
    }

    pub(crate) fn handle(&self, node: u64) -> Handle {
        self.nodes[&NodeId(node)].handle()
    }

    /// The disk in memory of a node.
    pub(crate) fn disk(&self, node: NodeId) -> &SimDisk {
        &self.disks.as_ref().unwrap()[&node]
    }

    /// The leader that a majority follows.
    pub(crate) async fn leader(&self) -> NodeId {
        self.leader_of(&self.nodes.keys().copied().collect::<Vec<_>>()).await
    }

    /// Waits until all of these agree on one of them.
    pub(crate) async fn leader_of(&self, nodes: &[NodeId]) -> NodeId {
        let agreed = async {
            let mut watch = self.nodes[&nodes[0]].handle().subscribe_leadership();
            loop {
                let first = self.nodes[&nodes[0]].handle().status().leader;
                if let Some(leader) = first
                    && nodes.contains(&leader)
                    && nodes.iter().all(|n| self.nodes[n].handle().status().leader == first)
                {
                    return leader;
                }
                let _ = tokio::time::timeout(Duration::from_millis(20), watch.changed()).await;
            }
        };
        tokio::time::timeout(SOON, agreed).await.expect("a leader")
    }

    pub(crate) async fn put(&self, node: u64, key: &str, value: &str) -> u64 {
        let txn = Txn::new().put(key, value.to_owned());
        match self.handle(node).write(txn, SOON).await {
            Ok(Outcome::Committed { revision }) => revision,
            other => panic!("{key}: {other:?}"),
        }
    }

    /// Waits until all nodes are at a revision; they must then have the same chain.
    pub(crate) async fn settle(&self, revision: u64) {
        let mut chains = BTreeSet::new();
        for raft in self.nodes.values() {
            raft.view().wait_for(revision, SOON).await.unwrap();
            let (at, chain) = raft.view().position();
            assert_eq!(at, revision);
            chains.insert(chain.0);
        }
        assert_eq!(chains.len(), 1, "the states differ");
    }

    /// The power of the whole cluster fails: what was not synced is gone.
    pub(crate) async fn power_cut(&mut self, seed: u64) {
        let nodes: Vec<NodeId> = self.nodes.keys().copied().collect();
        self.die(&nodes, |node, disk| disk.power_cut(seed ^ node.0)).await;
    }

    /// kill -9, and a new start at once: what was written is there, synced or not.
    pub(crate) async fn kill(&mut self, nodes: &[NodeId]) {
        self.die(nodes, |_, disk| disk.restart()).await;
    }

    async fn die(&mut self, nodes: &[NodeId], death: impl Fn(NodeId, &SimDisk) -> SimDisk) {
        for node in nodes {
            let disk = self.disks.as_mut().unwrap().get_mut(node).unwrap();
            *disk = death(*node, disk);
            self.net.0.lock().nodes.remove(node);
        }
        for node in nodes {
            // It cannot write any more; stopping it may fail, as it should.
            let _ = self.nodes.remove(node).unwrap().handle().shutdown().await;
        }
        for node in nodes {
            self.open(*node).await;
        }
    }

    pub(crate) async fn stop_all(&mut self) {
        for node in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.stop(node).await;
        }
    }
}
