//! All machines, the network between them, and who watches over it.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures::FutureExt as _;
use parking_lot::Mutex;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use swarmer_gossip::KnownMember;
use swarmer_model::NodeId;
use swarmer_raft::{Update, disk::Skip};
use tokio_util::sync::CancellationToken;

use crate::{
    bug::Bug,
    disk::Drive,
    net::Net,
    node::{self, Node, Start},
    oracle::{Opened, Oracle},
    planner,
    trace::Trace,
};

/// What a run is made from.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) seed: u64,
    /// Simulated time: faults for two thirds of it, then calm.
    pub(crate) seconds: u64,
    pub(crate) voters: u64,
    pub(crate) followers: u64,
    pub(crate) bug: Option<Bug>,
}

/// How a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Death {
    /// `kill -9`.
    Kill,
    /// The power fails.
    PowerCut,
}

/// A machine over all of its starts.
struct Machine {
    drive: Drive,
    boot: u64,
    /// The members that it knew at its last death.
    known: Vec<KnownMember>,
    /// The process that it runs or starts.
    process: Option<CancellationToken>,
    /// Its disk was made to fail: it may stop or not open.
    failing: bool,
}

pub(crate) struct World {
    pub(crate) settings: Settings,
    pub(crate) trace: Arc<Trace>,
    pub(crate) net: Net,
    pub(crate) oracle: Mutex<Oracle>,
    machines: Mutex<BTreeMap<NodeId, Machine>>,
    dice: Mutex<StdRng>,
    /// No more faults.
    pub(crate) calm: CancellationToken,
    /// No more clients.
    pub(crate) stop: CancellationToken,
}

/// How long a machine whose process stopped by itself takes to start it again.
const RESTART: Duration = Duration::from_millis(500);

impl World {
    pub(crate) fn new(settings: Settings, print: bool) -> Arc<Self> {
        let trace = Arc::new(Trace::new(print));
        let mut dice = StdRng::seed_from_u64(settings.seed);
        let net = Net::new(dice.random(), trace.clone());
        let machines = (1..=settings.voters + settings.followers).map(|id| {
            let drive = Drive::new(dice.random());
            if settings.bug == Some(Bug::DiskLosesSynced) {
                drive.inner().set_skip(&[Skip::Files]);
            }
            let known = Vec::new();
            (NodeId(id), Machine { drive, boot: 0, known, process: None, failing: false })
        });
        Arc::new(Self {
            machines: Mutex::new(machines.collect()),
            dice: Mutex::new(dice),
            net,
            trace,
            settings,
            oracle: Mutex::default(),
            calm: CancellationToken::new(),
            stop: CancellationToken::new(),
        })
    }

    /// A generator of its own for somebody, from the seed.
    pub(crate) fn dice(&self) -> StdRng {
        StdRng::seed_from_u64(self.dice.lock().random())
    }

    pub(crate) fn ids(&self) -> Vec<NodeId> {
        self.machines.lock().keys().copied().collect()
    }

    pub(crate) fn voters(&self) -> Vec<NodeId> {
        (1..=self.settings.voters).map(NodeId).collect()
    }

    /// Does something to the disk of a machine.
    pub(crate) fn with_drive<T>(&self, id: NodeId, what: impl FnOnce(&mut Drive) -> T) -> T {
        let mut machines = self.machines.lock();
        what(&mut machines.get_mut(&id).expect("a machine").drive)
    }

    /// The disk of this machine fails soon.
    pub(crate) fn spoil(&self, id: NodeId, what: impl FnOnce(&mut Drive)) {
        let mut machines = self.machines.lock();
        let machine = machines.get_mut(&id).expect("a machine");
        machine.failing = true;
        what(&mut machine.drive);
    }

    /// Starts the process of a machine, unless there is one.
    pub(crate) async fn start(self: &Arc<Self>, id: NodeId) {
        let seed = self.dice.lock().random();
        let (start, dead) = {
            let mut machines = self.machines.lock();
            let machine = machines.get_mut(&id).expect("a machine");
            if machine.process.is_some() {
                return;
            }
            let dead = CancellationToken::new();
            machine.process = Some(dead.clone());
            if self.settings.bug != Some(Bug::BootNotCounted) || machine.boot == 0 {
                machine.boot += 1;
            }
            let start = Start {
                id,
                boot: machine.boot,
                disk: machine.drive.mount(),
                known: machine.known.clone(),
                seed,
                dead: dead.clone(),
            };
            (start, dead)
        };
        let boot = start.boot;
        let opened = Node::open(&self.net, self.settings.voters, start).await;
        match opened {
            Ok(node) if dead.is_cancelled() => Arc::new(node).bury(),
            Ok(node) => {
                let (revision, chain) = node.view().position();
                self.trace
                    .note(&format!("n{} starts ({boot}), at revision {revision} {chain:?}", id.0));
                self.run(Arc::new(node));
            }
            Err(_) if dead.is_cancelled() => {}
            Err(error) => {
                self.trace.note(&format!("n{} cannot start: {error}", id.0));
                self.stopped(id, &error.to_string());
            }
        }
    }

    fn run(self: &Arc<Self>, node: Arc<Node>) {
        self.oracle.lock().counts.starts += 1;
        self.note_state(&node);
        self.net.join(node.clone());
        tokio::spawn(node.gossip.clone().run());
        tokio::spawn(watch_state(self.clone(), node.clone()));
        tokio::spawn(watch_leadership(self.clone(), node.clone()));
        tokio::spawn(node::follow(self.clone(), node.clone()));
        tokio::spawn(planner::hold(self.clone(), node.clone()));
        tokio::spawn(planner::run(self.clone(), node.clone()));
        let world = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = node.dead.cancelled() => {}
                error = node.fatal() => {
                    world.trace.note(&format!("n{} stops: {error}", node.id.0));
                    world.stopped(node.id, &error.to_string());
                }
            }
        });
    }

    /// A process ended by itself, or could not begin. Its machine starts it again.
    fn stopped(self: &Arc<Self>, id: NodeId, why: &str) {
        let failing =
            std::mem::take(&mut self.machines.lock().get_mut(&id).expect("a machine").failing);
        if !failing {
            let text = format!("node {} stopped on a sound disk: {why}", id.0);
            self.oracle.lock().violate("liveness", text);
        }
        self.kill(id, Death::Kill);
        let world = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(RESTART).await;
            world.start(id).await;
        });
    }

    /// Ends the process of a machine, if there is one.
    pub(crate) fn kill(self: &Arc<Self>, id: NodeId, death: Death) {
        let node = self.net.leave(id);
        if let Some(node) = &node {
            self.drain(node);
        }
        let mut machines = self.machines.lock();
        let machine = machines.get_mut(&id).expect("a machine");
        let Some(process) = machine.process.take() else { return };
        process.cancel();
        if let Some(node) = &node {
            machine.known = node.gossip.known();
        }
        match death {
            Death::Kill => machine.drive.kill(),
            Death::PowerCut => machine.drive.cut_power(),
        }
        if self.settings.bug == Some(Bug::DiskWiped) && death == Death::PowerCut {
            machine.drive.wipe();
        }
        machine.failing = false;
        drop(machines);
        self.oracle.lock().counts.power_cuts += u64::from(death == Death::PowerCut);
        self.trace.note(&format!("n{} dies ({death:?})", id.0));
        if let Some(node) = node {
            node.bury();
        }
    }

    /// Everything works from now on.
    pub(crate) fn heal(&self) {
        self.calm.cancel();
        self.net.heal();
        for machine in self.machines.lock().values() {
            machine.drive.slow_down(None);
        }
        if self.settings.bug == Some(Bug::StaysCut) {
            let others = self.ids().into_iter().filter(|id| id.0 != 1);
            let pairs: Vec<_> = others.flat_map(|id| [(NodeId(1), id), (id, NodeId(1))]).collect();
            self.net.cut(&pairs);
        }
        self.trace.note("healed");
    }

    /// Takes note of the whole state of a node.
    pub(crate) fn note_state(&self, node: &Node) {
        let view = node.view();
        let (revision, list) = view.list("");
        let entries = list.into_iter().map(|(key, entry)| (key, (entry.revision, entry.value)));
        let (at, chain) = view.position();
        assert_eq!(at, revision, "nothing runs between the two");
        let mut oracle = self.oracle.lock();
        oracle.seen_at(node.id, (revision, chain));
        let opened = Opened {
            node: node.id,
            at: self.trace.now(),
            revision,
            chain,
            entries: entries.collect(),
        };
        oracle.opened.push(opened);
        node.tapped.store(revision, Ordering::Relaxed);
    }

    /// Takes note of what a node has applied and nobody has looked at yet.
    fn drain(&self, node: &Node) {
        let from = node.tapped.load(Ordering::Relaxed);
        let Ok(mut watch) = node.view().watch(Some(from), "") else { return };
        while let Some(Ok(item)) = watch.next().now_or_never() {
            self.oracle.lock().applied(node.id, item.revision, &item.events);
        }
    }
}

/// Takes note of everything that a node applies.
async fn watch_state(world: Arc<World>, node: Arc<Node>) {
    let view = node.view();
    let mut updates = view.list_and_watch("");
    loop {
        let update = tokio::select! {
            biased;
            () = node.dead.cancelled() => return,
            update = updates.next() => update,
        };
        match update {
            None => return,
            Some(Update::Snapshot { revision, .. }) => {
                node.tapped.store(revision, Ordering::Relaxed);
            }
            Some(Update::Changes(item)) => {
                world.trace.mix(&[3, node.id.0, item.revision, item.events.len() as u64]);
                world.oracle.lock().applied(node.id, item.revision, &item.events);
                node.tapped.store(item.revision, Ordering::Relaxed);
            }
        }
        world.oracle.lock().seen_at(node.id, view.position());
    }
}

/// How often one looks whether the log was purged.
const PURGE_LOOK: Duration = Duration::from_millis(200);

/// Takes note of who leads.
async fn watch_leadership(world: Arc<World>, node: Arc<Node>) {
    let Some(raft) = node.raft() else { return };
    let mut leaderships = raft.subscribe_leadership();
    let mut purged = raft.purged_index();
    loop {
        let now = leaderships.borrow_and_update().clone();
        if world.oracle.lock().stands(&now) {
            world.trace.note(&format!("n{} leads in term {}", node.id.0, now.term));
        }
        if raft.purged_index() != purged {
            purged = raft.purged_index();
            world.oracle.lock().counts.purges += 1;
        }
        tokio::select! {
            biased;
            () = node.dead.cancelled() => return,
            changed = leaderships.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(PURGE_LOOK) => {}
        }
    }
}
