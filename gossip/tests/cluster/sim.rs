//! A cluster in memory: cores, a seeded network with latency, loss and partitions, virtual time.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use swarmer_gossip::{
    Admission, Config, Core, Endpoint, EndpointState, Facts, Key, Keyring, KnownMember, Liveness,
    Member, MemberState, Output, Refusal, Signer, Timing, Twin, Verifier,
};
use swarmer_model::{ClusterId, EndpointHealth, NodeId};

pub(crate) const CLUSTER: ClusterId = ClusterId(0x5eed);

/// Who is admitted, for all nodes alike.
#[derive(Default)]
pub(crate) struct Admitted(pub(crate) Mutex<BTreeSet<NodeId>>);

impl Admission for Admitted {
    fn admitted(&self, node: NodeId) -> bool {
        self.0.lock().contains(&node)
    }
}

/// A keyed hash in place of a signature: cheap, and nobody here tries to break it.
pub(crate) struct Hashes(pub(crate) NodeId);

fn hash(node: NodeId, bytes: &[u8]) -> Vec<u8> {
    let mut hasher = DefaultHasher::new();
    (node, "secret", bytes).hash(&mut hasher);
    // As long as a real one.
    let mut signature = hasher.finish().to_be_bytes().to_vec();
    signature.resize(64, 7);
    signature
}

impl Signer for Hashes {
    fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        hash(self.0, bytes)
    }
}

pub(crate) struct Verifies;

impl Verifier for Verifies {
    fn verify(&self, node: NodeId, bytes: &[u8], signature: &[u8]) -> bool {
        hash(node, bytes) == signature
    }
}

/// Live connections as the test says; none unless it does.
#[derive(Default)]
pub(crate) struct Connections(pub(crate) Mutex<BTreeSet<NodeId>>);

#[async_trait]
impl Liveness for Connections {
    fn has_live_connection(&self, node: NodeId) -> bool {
        self.0.lock().contains(&node)
    }

    async fn confirm_alive(&self, _: NodeId, _: SocketAddr) -> bool {
        false
    }
}

/// When, who, from what, to what, why.
pub(crate) type Change = (Duration, NodeId, Option<MemberState>, MemberState, Arc<str>);

pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) boot: u64,
    pub(crate) addr: SocketAddr,
    pub(crate) core: Core,
    pub(crate) alive: bool,
    /// Stands still: nothing is handed to it, nothing is lost.
    pub(crate) paused: bool,
    waiting: VecDeque<Event>,
    started: Duration,
    pub(crate) connections: Arc<Connections>,
    /// Every change of a member that this node saw since its start.
    pub(crate) changes: Vec<Change>,
    pub(crate) refused: Vec<(Option<NodeId>, Refusal)>,
    pub(crate) twins: Vec<Twin>,
    /// Whom it asked over QUIC before a death.
    pub(crate) confirms: Vec<NodeId>,
    pub(crate) sent: u64,
    /// What it sent in its last exchange.
    pub(crate) exchanged: Option<Bytes>,
}

enum Event {
    Wake(usize),
    Datagram { to: SocketAddr, from: SocketAddr, bytes: Bytes },
    Request { from: usize, to: NodeId, addr: SocketAddr, bytes: Bytes },
    Answer { to: usize, from: NodeId, bytes: Option<Bytes> },
    Confirmed { to: usize, node: NodeId, alive: bool },
    Resolved { to: usize, seed: String, addrs: Vec<SocketAddr> },
}

pub(crate) struct Sim {
    pub(crate) seed: u64,
    pub(crate) now: Duration,
    pub(crate) nodes: Vec<Node>,
    pub(crate) admitted: Arc<Admitted>,
    pub(crate) loss: f64,
    /// What one way takes, if it is not the same everywhere.
    pub(crate) way: Option<fn(SocketAddr, SocketAddr) -> Duration>,
    /// Nodes of different groups do not reach each other, if `apart` says nothing else.
    pub(crate) group: Vec<u8>,
    /// Which two groups do not.
    pub(crate) apart: fn(u8, u8) -> bool,
    /// Whether push/pull streams work.
    pub(crate) streams: bool,
    pub(crate) names: BTreeMap<String, Vec<SocketAddr>>,
    /// What travelled lately, for replays.
    pub(crate) tape: Vec<(SocketAddr, SocketAddr, Bytes)>,
    pub(crate) taping: bool,
    pub(crate) rng: StdRng,
    events: BinaryHeap<Reverse<(Duration, u64)>>,
    what: BTreeMap<u64, Event>,
    count: u64,
}

pub(crate) fn id(index: usize) -> NodeId {
    NodeId(0xabc0_0000_0000_0000 + index as u64 + 1)
}

pub(crate) fn addr(index: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, (index / 250) as u8, (index % 250) as u8 + 1], 7400))
}

pub(crate) fn endpoint(name: &str, state: EndpointState) -> Endpoint {
    Endpoint {
        function: format!("default/{name}"),
        version: 1,
        state,
        in_flight: 0,
        concurrency: 100,
        health: EndpointHealth::Good,
    }
}

pub(crate) fn config(index: usize, boot: u64) -> Config {
    Config {
        cluster: CLUSTER,
        node: id(index),
        boot,
        advertise: addr(index),
        seeds: vec![addr(0).to_string(), addr(1).to_string()],
        keyring: Keyring::new(1, Key([1; 32])),
        facts: Facts {
            name: format!("node-{index}"),
            addresses: vec![addr(index)],
            wire_min: 1,
            wire_max: swarmer_model::wire::NEWEST.into(),
            ..Facts::default()
        },
        members_file: None,
        timing: Timing::default(),
    }
}

/// The same at the address of another index.
pub(crate) fn moved(index: usize, boot: u64, to: usize) -> Config {
    let mut config = config(index, boot);
    config.advertise = addr(to);
    config.facts.addresses = vec![addr(to)];
    config
}

impl Sim {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            seed,
            now: Duration::ZERO,
            nodes: Vec::new(),
            admitted: Arc::default(),
            loss: 0.0,
            way: None,
            group: Vec::new(),
            apart: |a, b| a != b,
            streams: true,
            names: BTreeMap::new(),
            tape: Vec::new(),
            taping: false,
            rng: StdRng::seed_from_u64(seed),
            events: BinaryHeap::new(),
            what: BTreeMap::new(),
            count: 0,
        }
    }

    /// A cluster of `n` nodes in which everybody sees everybody.
    pub(crate) fn cluster(seed: u64, n: usize) -> Self {
        let mut sim = Self::new(seed);
        for index in 0..n {
            sim.start(config(index, 1), Vec::new());
        }
        let full = sim.until(Duration::from_secs(30), |sim| sim.whole());
        assert!(full.is_some(), "seed {seed}: the cluster did not form: {}", sim.describe());
        sim
    }

    /// Starts a node, or starts it again.
    pub(crate) fn start(&mut self, config: Config, known: Vec<KnownMember>) -> usize {
        self.start_at(config, known, false)
    }

    /// Starts a copy of a node that runs.
    pub(crate) fn start_copy(&mut self, config: Config) -> usize {
        self.start_at(config, Vec::new(), true)
    }

    fn start_at(&mut self, config: Config, known: Vec<KnownMember>, copy: bool) -> usize {
        let (id, boot, addr) = (config.node, config.boot, config.advertise);
        self.admitted.0.lock().insert(id);
        let connections = Arc::new(Connections::default());
        let core = Core::new(
            config,
            self.admitted.clone(),
            Arc::new(Hashes(id)),
            Arc::new(Verifies),
            connections.clone(),
            known,
            self.rng.random(),
        )
        .unwrap();
        let node = Node {
            id,
            boot,
            addr,
            core,
            alive: true,
            paused: false,
            waiting: VecDeque::new(),
            started: self.now,
            connections,
            changes: Vec::new(),
            refused: Vec::new(),
            twins: Vec::new(),
            confirms: Vec::new(),
            sent: 0,
            exchanged: None,
        };
        // A copy of a node is another one with its id, at another address.
        let same = |node: &Node| node.id == id && !(copy && node.addr != addr);
        let index = match self.nodes.iter().position(same) {
            Some(index) => {
                self.nodes[index] = node;
                index
            }
            None => {
                self.nodes.push(node);
                self.group.push(0);
                self.nodes.len() - 1
            }
        };
        self.settle(index);
        index
    }

    pub(crate) fn kill(&mut self, index: usize) {
        self.nodes[index].alive = false;
    }

    pub(crate) fn resume(&mut self, index: usize) {
        self.nodes[index].paused = false;
        for event in std::mem::take(&mut self.nodes[index].waiting) {
            self.happen(event);
        }
        self.schedule(self.now, Event::Wake(index));
    }

    /// The same for a process that takes what waits and what is due by chance, as a loop that waits
    /// for both does: harder than what the core asks for.
    pub(crate) fn resume_anyhow(&mut self, index: usize, order: &mut StdRng) {
        self.nodes[index].paused = false;
        let mut waiting = std::mem::take(&mut self.nodes[index].waiting);
        loop {
            let due = self.due(index).is_some_and(|due| due <= self.now);
            let first = match (waiting.is_empty(), due) {
                (true, false) => break,
                (false, true) => order.random_bool(0.5),
                (empty, _) => !empty,
            };
            if first && let Some(event) = waiting.pop_front() {
                self.happen(event);
            } else {
                self.with(index, |core, now| core.tick(now));
            }
        }
        self.schedule(self.now, Event::Wake(index));
    }

    fn due(&self, index: usize) -> Option<Duration> {
        let node = &self.nodes[index];
        node.core.next_deadline().map(|at| at + node.started)
    }

    /// Calls into a core and carries out what it says.
    pub(crate) fn with<T>(
        &mut self,
        index: usize,
        call: impl FnOnce(&mut Core, Duration) -> T,
    ) -> T {
        let node = &mut self.nodes[index];
        let result = call(&mut node.core, self.now - node.started);
        self.settle(index);
        result
    }

    /// Delivers a datagram as it is.
    pub(crate) fn inject(&mut self, to: usize, from: SocketAddr, bytes: &[u8]) {
        self.with(to, |core, now| core.datagram(now, from, bytes));
    }

    fn schedule(&mut self, at: Duration, event: Event) {
        self.count += 1;
        self.events.push(Reverse((at, self.count)));
        self.what.insert(self.count, event);
    }

    fn latency(&mut self) -> Duration {
        Duration::from_micros(self.rng.random_range(100..2000))
    }

    fn latency_between(&mut self, from: SocketAddr, to: SocketAddr) -> Duration {
        match self.way {
            Some(way) => way(from, to).mul_f64(self.rng.random_range(0.97..1.03)),
            None => self.latency(),
        }
    }

    /// The clock of this node.
    pub(crate) fn since_start(&self, index: usize) -> Duration {
        self.now - self.nodes[index].started
    }

    fn reach(&self, a: SocketAddr, b: SocketAddr) -> bool {
        let group = |addr| self.nodes.iter().position(|n| n.addr == addr).map(|i| self.group[i]);
        match (group(a), group(b)) {
            (Some(a), Some(b)) => !(self.apart)(a, b),
            _ => true,
        }
    }

    fn settle(&mut self, index: usize) {
        while let Some(output) = self.nodes[index].core.output() {
            let from = self.nodes[index].addr;
            match output {
                Output::Send { to, bytes } => {
                    assert!(bytes.len() <= swarmer_gossip::MAX_DATAGRAM_BYTES);
                    assert_eq!(bytes[0] & 0x40, 0, "the port is shared with QUIC");
                    self.nodes[index].sent += 1;
                    if self.taping {
                        self.tape.push((from, to, bytes.clone()));
                    }
                    let lost = self.loss > 0.0 && self.rng.random_bool(self.loss);
                    if !lost && self.reach(from, to) {
                        let at = self.now + self.latency_between(from, to);
                        self.schedule(at, Event::Datagram { to, from, bytes });
                    }
                }
                Output::StartPushPull { node, addr, request } => {
                    self.nodes[index].exchanged = Some(request.clone());
                    // A dial and a round trip.
                    let at = self.now + self.latency() * 4;
                    let event = Event::Request { from: index, to: node, addr, bytes: request };
                    self.schedule(at, event);
                }
                Output::ConfirmAlive { node, .. } => {
                    self.nodes[index].confirms.push(node);
                    let alive = self.nodes[index].connections.0.lock().contains(&node);
                    let at = self.now + Duration::from_millis(if alive { 5 } else { 800 });
                    self.schedule(at, Event::Confirmed { to: index, node, alive });
                }
                Output::ResolveSeed { seed } => {
                    let addrs = self.names.get(&seed).cloned().unwrap_or_default();
                    let at = self.now + Duration::from_millis(3);
                    self.schedule(at, Event::Resolved { to: index, seed, addrs });
                }
                Output::Member { node, before, after, reason } => {
                    let change = (self.now, node, before, after, reason);
                    self.nodes[index].changes.push(change);
                }
                Output::Refused { node, reason, .. } => {
                    self.nodes[index].refused.push((node, reason));
                }
                Output::Twin(twin) => self.nodes[index].twins.push(twin),
            }
        }
        if let Some(at) = self.nodes[index].core.next_deadline() {
            let at = (self.nodes[index].started + at).max(self.now);
            self.schedule(at, Event::Wake(index));
        }
    }

    fn at_address(&self, addr: SocketAddr) -> Option<usize> {
        self.nodes.iter().position(|node| node.addr == addr && node.alive)
    }

    /// One event. `false` if there is none before `until`.
    fn step(&mut self, until: Duration) -> bool {
        let Some(Reverse((at, number))) = self.events.peek().copied() else { return false };
        if at > until {
            return false;
        }
        self.events.pop();
        self.now = at;
        let event = self.what.remove(&number).unwrap();
        // What is for a node that stands still waits for it.
        let to = match &event {
            Event::Wake(_) => None,
            Event::Datagram { to, .. } | Event::Request { addr: to, .. } => self.at_address(*to),
            Event::Answer { to, .. } | Event::Confirmed { to, .. } | Event::Resolved { to, .. } => {
                Some(*to)
            }
        };
        match to.filter(|to| self.nodes[*to].paused) {
            Some(to) => self.nodes[to].waiting.push_back(event),
            None => self.happen(event),
        }
        true
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Wake(index) => {
                let due = self.due(index).is_some_and(|due| due <= self.now);
                if due && self.nodes[index].alive && !self.nodes[index].paused {
                    self.with(index, |core, now| core.tick(now));
                }
            }
            Event::Datagram { to, from, bytes } => {
                if let Some(index) = self.at_address(to) {
                    self.with(index, |core, now| core.datagram(now, from, &bytes));
                }
            }
            Event::Request { from, to, addr, bytes } => {
                let there = self.at_address(addr).filter(|there| {
                    let node = &self.nodes[*there];
                    self.streams && node.id == to && self.reach(self.nodes[from].addr, addr)
                });
                let sender = self.nodes[from].id;
                let answer = there.and_then(|there| {
                    self.with(there, |core, now| core.serve_push_pull(now, sender, &bytes)).ok()
                });
                let at = self.now + self.latency() * 2;
                self.schedule(at, Event::Answer { to: from, from: to, bytes: answer });
            }
            Event::Answer { to, from, bytes } if self.nodes[to].alive => {
                self.with(to, |core, now| core.push_pull_done(now, from, bytes.as_deref()));
            }
            Event::Confirmed { to, node, alive } if self.nodes[to].alive => {
                self.with(to, |core, now| core.confirmed(now, node, alive));
            }
            Event::Resolved { to, seed, addrs } if self.nodes[to].alive => {
                self.with(to, |core, now| core.seed_resolved(now, &seed, addrs));
            }
            _ => {}
        }
    }

    pub(crate) fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while self.step(until) {}
        self.now = until;
    }

    /// Runs until the condition holds; how long that took, or `None` if it did not.
    pub(crate) fn until(
        &mut self,
        most: Duration,
        mut holds: impl FnMut(&mut Self) -> bool,
    ) -> Option<Duration> {
        let began = self.now;
        let until = began + most;
        // Looked at every 10 ms: that is the precision of what is measured.
        let mut look = began;
        loop {
            if self.now >= look {
                if holds(self) {
                    return Some(self.now - began);
                }
                look = self.now + Duration::from_millis(10);
            }
            if !self.step(until) {
                self.now = until;
                return holds(self).then_some(self.now - began);
            }
        }
    }

    pub(crate) fn seen(&mut self, by: usize, node: NodeId) -> Option<Member> {
        self.nodes[by].core.members().iter().find(|member| member.node == node).cloned()
    }

    pub(crate) fn state(&mut self, by: usize, node: NodeId) -> Option<MemberState> {
        self.seen(by, node).map(|member| member.state)
    }

    /// Whether all that live see just each other alive, with their records.
    pub(crate) fn whole(&mut self) -> bool {
        let living: Vec<(NodeId, u64)> =
            self.nodes.iter().filter(|n| n.alive).map(|n| (n.id, n.boot)).collect();
        self.nodes.iter_mut().filter(|node| node.alive).all(|node| {
            let members = node.core.members();
            let seen: Vec<(NodeId, u64)> = members
                .iter()
                .filter(|m| m.state == MemberState::Alive)
                .filter(|m| m.record.as_ref().is_some_and(|r| r.boot == m.boot))
                .map(|m| (m.node, m.boot))
                .collect();
            living.len() == seen.len() && living.iter().all(|one| seen.contains(one))
        })
    }

    pub(crate) fn describe(&mut self) -> String {
        let mut text = String::new();
        for node in self.nodes.iter_mut().filter(|node| node.alive) {
            let members = node.core.members();
            let alive = members.iter().filter(|m| m.state == MemberState::Alive).count();
            let records = members.iter().filter(|m| m.record.is_some()).count();
            text +=
                &format!("{}: {alive} alive, {records} records of {}; ", node.id, members.len());
        }
        text
    }
}

pub(crate) fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    times[(times.len() * percent).div_ceil(100).saturating_sub(1)]
}
