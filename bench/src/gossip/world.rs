//! Cores on a network in memory, in virtual time.

use std::{cmp::Ordering, collections::BinaryHeap, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use bytes::Bytes;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use swarmer_gossip::{Config, Core, Facts, Formed, Key, Keyring, MemberState, Output, Timing};
use swarmer_model::{ClusterId, NodeId, wire};

use super::{
    map::{Map, addr, id, index},
    ports::{Anyone, Hashes},
};

/// What a question over QUIC takes of which nobody answers.
const UNANSWERED: Duration = Duration::from_millis(800);
/// Members in each region that find out where one there stands, and for how long they do.
const SCOUTS: usize = 8;
const SCOUTING: Duration = Duration::from_secs(15 * 60);
/// A way takes up to so much longer than the shortest.
const JITTER: f64 = 1.05;

pub(super) struct Node {
    pub(super) core: Core,
    /// The world's time when it started.
    started: Duration,
    /// Its next wake-up that is on the agenda.
    wake: Duration,
    pub(super) alive: bool,
    /// Whether it is one of those that get too little CPU, and until when it stands still.
    pub(super) slow: bool,
    still: Duration,
    /// Requests and answers of push/pull that it sent, bytes.
    pub(super) streamed: u64,
}

enum What {
    /// One of the slow stands still from now on.
    Still,
    Wake,
    Datagram(SocketAddr, Bytes),
    Request(usize, Bytes),
    Answer(NodeId, Option<Bytes>),
    Confirmed(NodeId),
    Resolved(String),
}

struct Event {
    at: Duration,
    number: u64,
    to: usize,
    what: What,
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Event {}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Event {
    /// The earliest is the greatest: the heap gives that one first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

/// The state of a member changed in the eyes of another one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Change {
    pub(super) at: Duration,
    pub(super) by: usize,
    pub(super) of: NodeId,
    pub(super) after: MemberState,
}

/// What is to be measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) members: usize,
    pub(super) map: Map,
    pub(super) loss: f64,
    /// The share of members that stand still for 0.3 to 3 s and run for as long, again and again.
    pub(super) slow: f64,
    pub(super) seed: u64,
}

pub(super) struct World {
    pub(super) now: Duration,
    pub(super) nodes: Vec<Node>,
    pub(super) changes: Vec<Change>,
    /// This region reaches no other one.
    pub(super) cut: Option<usize>,
    plan: Plan,
    rng: StdRng,
    events: BinaryHeap<Event>,
    count: u64,
}

fn config(index: usize) -> Config {
    Config {
        cluster: ClusterId(0xbe7c),
        node: id(index),
        boot: 1,
        advertise: addr(index),
        seeds: vec![addr(0).to_string()],
        keyring: Keyring::new(1, Key([7; 32])),
        facts: Facts {
            name: format!("node-{index}"),
            addresses: vec![addr(index)],
            wire_min: wire::OLDEST.into(),
            wire_max: wire::NEWEST.into(),
            software: "0.1.0".into(),
            ..Facts::default()
        },
        members_file: None,
        timing: Timing::default(),
    }
}

impl World {
    /// A cluster that has stood for long: everybody knows everybody, and where it stands itself. It does
    /// not form by itself, which would take longer than all that is measured.
    pub(super) fn formed(plan: Plan) -> anyhow::Result<Self> {
        let scouts = Plan { members: SCOUTS * plan.map.regions, slow: 0.0, ..plan };
        let mut scouts = Self::met(scouts, None)?;
        scouts.run(SCOUTING);
        Self::met(plan, Some(&scouts))
    }

    /// A cluster in which everybody knows everybody, before its first probe. Where a member stands
    /// a scout in its region found out.
    fn met(plan: Plan, scouts: Option<&Self>) -> anyhow::Result<Self> {
        let mut rng = StdRng::seed_from_u64(plan.seed);
        let now = Duration::ZERO;
        let mut nodes = Vec::with_capacity(plan.members);
        for index in 0..plan.members {
            let key = Arc::new(Hashes(id(index)));
            let anyone = Arc::new(Anyone);
            let (admission, liveness) = (anyone.clone(), anyone);
            let mut core = Core::new(
                config(index),
                admission,
                key.clone(),
                key,
                liveness,
                Vec::new(),
                rng.random(),
            )?;
            if let Some(scouts) = scouts {
                // The regions go by turns here and there.
                core.stand_like(now, &scouts.nodes[index % scouts.nodes.len()].core)?;
            }
            nodes.push(Node {
                core,
                started: now,
                wake: Duration::MAX,
                alive: true,
                slow: rng.random_bool(plan.slow),
                still: now,
                streamed: 0,
            });
        }
        let cluster = Formed::of(nodes.iter().map(|node| &node.core));
        let cluster = cluster.context("a cluster of nobody")?;
        let mut world = Self {
            now,
            nodes,
            changes: Vec::new(),
            cut: None,
            plan,
            rng,
            events: BinaryHeap::new(),
            count: 0,
        };
        for node in 0..world.nodes.len() {
            world.nodes[node].core.take_place(now, &cluster);
            // All are in step now, which no cluster is: each stands still for a while of its own, so that
            // their probes are spread over the longest period that these can have.
            let still = Duration::from_micros(world.rng.random_range(400_000..2_900_000));
            world.nodes[node].wake = still;
            world.push(still, node, What::Wake);
            if world.nodes[node].slow {
                world.push(still, node, What::Still);
            }
        }
        Ok(world)
    }

    /// How many see all the others alive, with their records.
    pub(super) fn whole(&mut self) -> usize {
        let all = self.nodes.len() as u64;
        let living = self.nodes.iter().filter(|node| node.alive);
        living
            .filter(|node| {
                let stats = node.core.stats();
                stats.members_alive == all && stats.records == all
            })
            .count()
    }

    fn push(&mut self, at: Duration, to: usize, what: What) {
        self.count += 1;
        self.events.push(Event { at, number: self.count, to, what });
    }

    fn open(&self, from: usize, to: usize) -> bool {
        let map = self.plan.map;
        let (from, to) = (map.region(from), map.region(to));
        from == to || self.cut.is_none_or(|cut| cut != from && cut != to)
    }

    fn way(&mut self, from: usize, to: usize) -> Duration {
        self.plan.map.way(from, to).mul_f64(self.rng.random_range(1.0..JITTER))
    }

    /// Calls into a core and carries out what it says.
    pub(super) fn with<T>(&mut self, who: usize, call: impl FnOnce(&mut Core, Duration) -> T) -> T {
        let node = &mut self.nodes[who];
        let result = call(&mut node.core, self.now - node.started);
        while let Some(output) = self.nodes[who].core.output() {
            self.carry_out(who, output);
        }
        let node = &mut self.nodes[who];
        if let Some(at) = node.core.next_deadline() {
            let at = (node.started + at).max(self.now);
            if at < node.wake || node.wake <= self.now {
                node.wake = at;
                self.push(at, who, What::Wake);
            }
        }
        result
    }

    fn carry_out(&mut self, who: usize, output: Output) {
        match output {
            Output::Send { to, bytes } => {
                let to = index(to);
                let lost = self.plan.loss > 0.0 && self.rng.random_bool(self.plan.loss);
                if !lost && to < self.nodes.len() && self.open(who, to) {
                    let at = self.now + self.way(who, to);
                    self.push(at, to, What::Datagram(addr(who), bytes));
                }
            }
            Output::StartPushPull { addr, request, .. } => {
                let to = index(addr);
                self.nodes[who].streamed += request.len() as u64;
                // A dial, and the request.
                let at = self.now + self.way(who, to) * 3;
                self.push(at, to, What::Request(who, request));
            }
            Output::ConfirmAlive { node, .. } => {
                self.push(self.now + UNANSWERED, who, What::Confirmed(node));
            }
            Output::ResolveSeed { seed } => {
                self.push(self.now, who, What::Resolved(seed));
            }
            Output::Member { node, after, .. } => {
                self.changes.push(Change { at: self.now, by: who, of: node, after });
            }
            Output::Refused { .. } | Output::Twin(_) => {}
        }
    }

    pub(super) fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while self.events.peek().is_some_and(|event| event.at <= until) {
            if let Some(event) = self.events.pop() {
                self.now = event.at;
                self.happen(event.to, event.what);
            }
        }
        self.now = until;
    }

    /// Runs until the condition holds, which is looked at every 10 ms; how long that took.
    pub(super) fn until(
        &mut self,
        most: Duration,
        mut holds: impl FnMut(&mut Self) -> bool,
    ) -> Option<Duration> {
        let began = self.now;
        while self.now - began < most {
            if holds(self) {
                return Some(self.now - began);
            }
            self.run(Duration::from_millis(10));
        }
        None
    }

    fn happen(&mut self, to: usize, what: What) {
        if !self.nodes[to].alive && !matches!(what, What::Request(..)) {
            return;
        }
        let still = self.nodes[to].still;
        if still > self.now && !matches!(what, What::Still) {
            // What waits is taken in its turn, and before what is due.
            let due = Duration::from_micros(matches!(what, What::Wake).into());
            return self.push(still + due, to, what);
        }
        match what {
            What::Still => {
                let mut turn = || Duration::from_micros(self.rng.random_range(300_000..3_000_000));
                let (still, next) = (self.now + turn(), turn());
                self.nodes[to].still = still;
                self.push(still + next, to, What::Still);
            }
            What::Wake => {
                // An earlier one took its place meanwhile.
                if self.nodes[to].wake <= self.now {
                    self.with(to, |core, now| core.tick(now));
                }
            }
            What::Datagram(from, bytes) => {
                self.with(to, |core, now| core.datagram(now, from, &bytes));
            }
            What::Request(from, bytes) => {
                let there = self.nodes[to].alive && self.open(from, to);
                let serve = |core: &mut Core, now| core.serve_push_pull(now, id(from), &bytes).ok();
                let answer = if there { self.with(to, serve) } else { None };
                let at = match &answer {
                    Some(answer) => {
                        self.nodes[to].streamed += answer.len() as u64;
                        self.now + self.way(to, from)
                    }
                    None => self.now + Timing::default().push_pull_timeout,
                };
                self.push(at, from, What::Answer(id(to), answer));
            }
            What::Answer(from, answer) => {
                self.with(to, |core, now| core.push_pull_done(now, from, answer.as_deref()));
            }
            What::Confirmed(node) => self.with(to, |core, now| core.confirmed(now, node, false)),
            What::Resolved(seed) => {
                self.with(to, |core, now| core.seed_resolved(now, &seed, vec![addr(0)]));
            }
        }
    }
}
