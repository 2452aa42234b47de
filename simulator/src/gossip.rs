//! Drives the membership core of one process over the simulated network.

use std::{
    net::SocketAddr,
    sync::{Arc, Weak},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use swarmer_gossip::{
    Admission, Config, Core, Endpoint, Facts, Key, Keyring, KnownMember, Liveness, Member, Output,
    RecordUpdate, Signer, Timing, Verifier,
};
use swarmer_model::{Digest, NodeId, wire};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::net::{CLUSTER, Net, addr};

/// What a question over a live connection takes, and over one that must be dialled in vain.
const CONFIRM: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(800));
/// Looked at again after so long where nothing is due.
const IDLE: Duration = Duration::from_secs(3600);
/// Nodes 1 and 2 are the seeds of all.
const SEEDS: [NodeId; 2] = [NodeId(1), NodeId(2)];

/// The membership of one process.
pub(crate) struct Membership {
    net: Net,
    node: NodeId,
    core: Mutex<Core>,
    started: Instant,
    /// How far this machine's clock ran ahead.
    skew: Mutex<Duration>,
    wake: Notify,
    dead: CancellationToken,
}

struct Everybody;

impl Admission for Everybody {
    fn admitted(&self, _: NodeId) -> bool {
        true
    }
}

/// A keyed hash in place of a signature.
struct Hashes(NodeId);

fn hash(node: NodeId, bytes: &[u8]) -> Vec<u8> {
    Digest::of(&[&node.0.to_le_bytes(), bytes].concat()).0.to_vec()
}

impl Signer for Hashes {
    fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        hash(self.0, bytes)
    }
}

impl Verifier for Hashes {
    fn verify(&self, node: NodeId, bytes: &[u8], signature: &[u8]) -> bool {
        hash(node, bytes) == signature
    }
}

/// The connections of a node: those that the network would carry.
struct Connections {
    net: Net,
    node: NodeId,
}

#[async_trait]
impl Liveness for Connections {
    fn has_live_connection(&self, node: NodeId) -> bool {
        let net = &self.net;
        net.node(node).is_some() && net.is_open(self.node, node) && net.is_open(node, self.node)
    }

    async fn confirm_alive(&self, node: NodeId, _: SocketAddr) -> bool {
        self.has_live_connection(node)
    }
}

impl Membership {
    pub(crate) fn new(
        net: Net,
        node: NodeId,
        boot: u64,
        known: Vec<KnownMember>,
        seed: [u8; 32],
        dead: CancellationToken,
    ) -> Arc<Self> {
        let config = Config {
            cluster: CLUSTER,
            node,
            boot,
            advertise: addr(node),
            seeds: SEEDS.iter().map(|seed| addr(*seed).to_string()).collect(),
            keyring: Keyring::new(1, Key([7; 32])),
            facts: Facts {
                name: format!("n{}", node.0),
                addresses: vec![addr(node)],
                wire_min: wire::OLDEST.into(),
                wire_max: wire::NEWEST.into(),
                ..Facts::default()
            },
            members_file: None,
            timing: Timing::default(),
        };
        let keys = Arc::new(Hashes(node));
        let connections = Arc::new(Connections { net: net.clone(), node });
        let core = Core::new(
            config,
            Arc::new(Everybody),
            keys.clone(),
            keys,
            connections.clone(),
            known,
            seed,
        )
        .expect("a configuration by the rules");
        Arc::new(Self {
            net,
            node,
            core: Mutex::new(core),
            started: Instant::now(),
            skew: Mutex::default(),
            wake: Notify::new(),
            dead,
        })
    }

    /// Ticks when it is due, until the process dies.
    pub(crate) async fn run(self: Arc<Self>) {
        loop {
            let due = self.core.lock().next_deadline();
            let skew = *self.skew.lock();
            let at = self.started + due.unwrap_or(IDLE).saturating_sub(skew);
            tokio::select! {
                biased;
                () = self.dead.cancelled() => return,
                () = self.wake.notified() => {}
                () = sleep_until(at) => self.with(|core, now| core.tick(now)),
            }
        }
    }

    /// The clock of this machine runs ahead by so much at once.
    pub(crate) fn skip(&self, by: Duration) {
        *self.skew.lock() += by;
        self.wake.notify_one();
    }

    /// Time since the start, on this machine's clock.
    pub(crate) fn now(&self) -> Duration {
        self.started.elapsed() + *self.skew.lock()
    }

    pub(crate) fn datagram(self: &Arc<Self>, from: SocketAddr, bytes: &[u8]) {
        self.with(|core, now| core.datagram(now, from, bytes));
    }

    pub(crate) fn members(&self) -> Arc<Vec<Member>> {
        self.core.lock().members()
    }

    /// What a next start of the machine knows.
    pub(crate) fn known(&self) -> Vec<KnownMember> {
        self.core.lock().known_members()
    }

    /// Says what functions this node has ready.
    pub(crate) fn offer(self: &Arc<Self>, endpoints: Vec<Endpoint>) {
        let update = RecordUpdate::Endpoints(endpoints);
        self.with(|core, now| core.publish(now, update)).expect("few endpoints");
    }

    fn with<T>(self: &Arc<Self>, call: impl FnOnce(&mut Core, Duration) -> T) -> T {
        let now = self.now();
        let mut outputs = Vec::new();
        let result = {
            let mut core = self.core.lock();
            let result = call(&mut core, now);
            while let Some(output) = core.output() {
                outputs.push(output);
            }
            result
        };
        if !self.dead.is_cancelled() {
            outputs.into_iter().for_each(|output| self.carry_out(output));
        }
        self.wake.notify_one();
        result
    }

    fn carry_out(self: &Arc<Self>, output: Output) {
        let me = Arc::downgrade(self);
        match output {
            Output::Send { to, bytes } => self.net.datagram(self.node, to, bytes),
            Output::StartPushPull { node, request, .. } => {
                let (net, from) = (self.net.clone(), self.node);
                tokio::spawn(async move {
                    let exchange = exchange(&net, from, node, &request);
                    let timeout = Timing::default().push_pull_timeout;
                    let answer = tokio::time::timeout(timeout, exchange).await.ok().flatten();
                    let done = |core: &mut Core, now| {
                        core.push_pull_done(now, node, answer.as_deref());
                    };
                    tell(&me, done);
                });
            }
            Output::ConfirmAlive { node, .. } => {
                let connections = Connections { net: self.net.clone(), node: self.node };
                tokio::spawn(async move {
                    let alive = connections.has_live_connection(node);
                    sleep(if alive { CONFIRM.0 } else { CONFIRM.1 }).await;
                    tell(&me, |core, now| core.confirmed(now, node, alive));
                });
            }
            Output::ResolveSeed { seed } => {
                tokio::spawn(async move {
                    let addrs = seed.parse().into_iter().collect();
                    tell(&me, |core, now| core.seed_resolved(now, &seed, addrs));
                });
            }
            // No data directory is copied here.
            Output::Member { .. } | Output::Refused { .. } | Output::Twin(_) => {}
        }
    }
}

fn tell(me: &Weak<Membership>, call: impl FnOnce(&mut Core, Duration)) {
    if let Some(me) = me.upgrade().filter(|me| !me.dead.is_cancelled()) {
        me.with(call);
    }
}

/// One exchange over a stream.
async fn exchange(net: &Net, from: NodeId, to: NodeId, request: &[u8]) -> Option<Bytes> {
    if !net.travel(from, to).await {
        return None;
    }
    let there = net.node(to)?;
    let answer = there.gossip.with(|core, now| core.serve_push_pull(now, from, request)).ok()?;
    net.travel(to, from).await.then_some(answer)
}
