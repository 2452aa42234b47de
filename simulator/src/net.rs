//! The network: delays, losses and cuts from the seed, for streams and for datagrams.
//!
//! Streams are ordered and lose nothing, as over QUIC: a lost packet is a delay, and a cut holds
//! everything back until it is healed, or until it is given up. Datagrams are lost, doubled and
//! come out of order.

mod feed;
mod transport;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use swarmer_model::NodeId;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

pub(crate) use feed::{CLUSTER, trust};
pub(crate) use transport::Port;

use crate::{node::Node, trace::Trace};

/// Usual delay of one direction, in milliseconds.
const DELAY_MS: (u64, u64) = (0, 4);
/// How long a lost packet of a stream takes longer than the others.
const RETRANSMIT: Duration = Duration::from_millis(120);
/// How long a stream holds on to what a cut keeps back.
const LINGER: Duration = Duration::from_secs(8);
/// One datagram of so many comes twice.
const DOUBLED: u32 = 100;

/// The network and who is on it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Net(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    /// Told when anything about the links changed.
    changed: watch::Sender<()>,
    trace: Arc<Trace>,
}

struct State {
    dice: StdRng,
    nodes: BTreeMap<NodeId, Arc<Node>>,
    /// Directed pairs that are cut.
    cut: BTreeSet<(NodeId, NodeId)>,
    /// The share of packets that is lost.
    loss: f64,
    /// Directed pairs that are slow, by so many milliseconds.
    slow: BTreeMap<(NodeId, NodeId), u64>,
    counts: Counts,
}

/// What the network did.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) messages: u64,
    pub(crate) datagrams: u64,
    pub(crate) held: u64,
}

pub(crate) fn addr(node: NodeId) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, node.0 as u8], 7400))
}

fn node_at(addr: SocketAddr) -> NodeId {
    match addr {
        SocketAddr::V4(addr) => NodeId(u64::from(addr.ip().octets()[3])),
        SocketAddr::V6(_) => NodeId(0),
    }
}

impl Net {
    pub(crate) fn new(seed: u64, trace: Arc<Trace>) -> Self {
        let state = State {
            dice: StdRng::seed_from_u64(seed),
            nodes: BTreeMap::new(),
            cut: BTreeSet::new(),
            loss: 0.0,
            slow: BTreeMap::new(),
            counts: Counts::default(),
        };
        Self(Arc::new(Inner { state: Mutex::new(state), changed: watch::Sender::new(()), trace }))
    }

    // --- Who is there.

    pub(crate) fn join(&self, node: Arc<Node>) {
        self.0.state.lock().nodes.insert(node.id, node);
    }

    pub(crate) fn leave(&self, node: NodeId) -> Option<Arc<Node>> {
        self.0.state.lock().nodes.remove(&node)
    }

    pub(crate) fn node(&self, node: NodeId) -> Option<Arc<Node>> {
        self.0.state.lock().nodes.get(&node).cloned()
    }

    pub(crate) fn nodes(&self) -> Vec<Arc<Node>> {
        self.0.state.lock().nodes.values().cloned().collect()
    }

    /// The node that leads by its own word; of several the one of the highest term.
    pub(crate) fn leader(&self) -> Option<NodeId> {
        let statuses = self.nodes().into_iter().map(|node| node.status());
        let leads = |status: &swarmer_raft::Status| status.role == swarmer_raft::Role::Leader;
        statuses.filter(leads).max_by_key(|status| status.term).map(|status| status.node)
    }

    // --- Faults.

    pub(crate) fn cut(&self, pairs: &[(NodeId, NodeId)]) {
        self.0.state.lock().cut.extend(pairs);
        self.0.changed.send_replace(());
    }

    pub(crate) fn mend(&self, pairs: &[(NodeId, NodeId)]) {
        self.0.state.lock().cut.retain(|pair| !pairs.contains(pair));
        self.0.changed.send_replace(());
    }

    pub(crate) fn set_loss(&self, loss: f64) {
        self.0.state.lock().loss = loss;
    }

    pub(crate) fn set_slow(&self, pairs: &[(NodeId, NodeId)], ms: Option<u64>) {
        let mut state = self.0.state.lock();
        for pair in pairs {
            match ms {
                Some(ms) => state.slow.insert(*pair, ms),
                None => state.slow.remove(pair),
            };
        }
    }

    pub(crate) fn heal(&self) {
        let mut state = self.0.state.lock();
        state.cut.clear();
        state.slow.clear();
        state.loss = 0.0;
        drop(state);
        self.0.changed.send_replace(());
    }

    pub(crate) fn counts(&self) -> Counts {
        self.0.state.lock().counts
    }

    /// Whether packets go from one to the other at this moment.
    pub(crate) fn is_open(&self, from: NodeId, to: NodeId) -> bool {
        !self.0.state.lock().cut.contains(&(from, to))
    }

    // --- Ways.

    fn delay(&self, from: NodeId, to: NodeId, stream: bool) -> Duration {
        let mut state = self.0.state.lock();
        let usual = state.dice.random_range(DELAY_MS.0..DELAY_MS.1);
        let slow = state.slow.get(&(from, to)).copied().unwrap_or(0);
        let slow = if slow > 0 { state.dice.random_range(slow / 2..=slow) } else { 0 };
        let mut delay = Duration::from_millis(usual + slow);
        while stream && state.loss > 0.0 && delay < LINGER && {
            let loss = state.loss;
            state.dice.random_bool(loss)
        } {
            delay += RETRANSMIT;
        }
        delay
    }

    /// The way of a message of a stream: true when it arrives, false if it never does.
    pub(crate) async fn travel(&self, from: NodeId, to: NodeId) -> bool {
        let delay = self.delay(from, to, true);
        sleep(delay).await;
        let mut changed = self.0.changed.subscribe();
        if !self.is_open(from, to) {
            self.0.state.lock().counts.held += 1;
            let until = Instant::now() + LINGER;
            while !self.is_open(from, to) {
                if tokio::time::timeout_at(until, changed.changed()).await.is_err() {
                    return false;
                }
            }
        }
        self.0.state.lock().counts.messages += 1;
        self.0.trace.mix(&[1, from.0, to.0]);
        true
    }

    /// Sends a datagram; nobody is told what became of it.
    pub(crate) fn datagram(&self, from: NodeId, to: SocketAddr, bytes: Bytes) {
        let target = node_at(to);
        let copies = {
            let mut state = self.0.state.lock();
            state.counts.datagrams += 1;
            let loss = state.loss;
            let lost = loss > 0.0 && state.dice.random_bool(loss);
            let doubled = state.dice.random_ratio(1, DOUBLED);
            if lost { 0 } else { 1 + usize::from(doubled) }
        };
        for _ in 0..copies {
            let (net, bytes) = (self.clone(), bytes.clone());
            let delay = self.delay(from, target, false);
            tokio::spawn(async move {
                sleep(delay).await;
                if !net.is_open(from, target) {
                    return;
                }
                net.0.trace.mix(&[2, from.0, target.0, bytes.len() as u64]);
                if let Some(node) = net.node(target) {
                    node.gossip.datagram(addr(from), &bytes);
                }
            });
        }
    }
}
