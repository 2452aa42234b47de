//! The membership protocol without I/O.

mod agenda;
mod codec;
mod echo;
mod exchange;
#[cfg(feature = "formed")]
mod formed;
mod inquiry;
mod local;
mod pace;
mod peer;
mod receive;
mod seeds;
mod spread;
mod summary;
mod suspicion;
mod swim;
mod view;
mod wire;

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use foca::{AccumulatingRuntime, Foca, NoCustomBroadcast, Timer};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};
use swarmer_model::{ClusterId, NodeId, wire::BRIEF};

use self::{
    agenda::{Agenda, Task},
    codec::PeerCodec,
    echo::Echoes,
    exchange::Exchanges,
    inquiry::Inquiries,
    local::Local,
    peer::Peer,
    seeds::Seeds,
    spread::Rumours,
    summary::Agreement,
    suspicion::{Allowance, Suspicion},
    view::View,
    wire::Message,
};
use crate::{
    Admission, Catalog, Config, Envelope, Facts, GossipError, Liveness, MemberState, Members,
    Refusal, Signer, Stats, Timing, Verifier,
};

#[cfg(feature = "formed")]
pub use self::formed::Formed;

/// What the core wants done.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Send this datagram.
    Send {
        /// Where to.
        to: SocketAddr,
        /// The sealed datagram.
        bytes: Bytes,
    },
    /// Exchange this request over a stream, then call [`Core::push_pull_done`], in any case.
    StartPushPull {
        /// Who must answer.
        node: NodeId,
        /// Where it is.
        addr: SocketAddr,
        /// The request.
        request: Bytes,
    },
    /// Ask the node over QUIC whether it lives, then call [`Core::confirmed`].
    ConfirmAlive {
        /// Who.
        node: NodeId,
        /// Where it is.
        addr: SocketAddr,
    },
    /// Resolve this `host:port`, then call [`Core::seed_resolved`], in any case.
    ResolveSeed {
        /// The seed as configured.
        seed: String,
    },
    /// A member's state changed.
    Member {
        /// Who.
        node: NodeId,
        /// What it was; `None` when it was not known.
        before: Option<MemberState>,
        /// What it is now.
        after: MemberState,
        /// Why.
        reason: Arc<str>,
    },
    /// Something from outside was refused and changed nothing.
    Refused {
        /// The address it came from; `None` for what came over a stream.
        from: Option<SocketAddr>,
        /// Who it claims to be from, or whose record it is.
        node: Option<NodeId>,
        /// Why.
        reason: Refusal,
    },
    /// Another process speaks with this node's key: the other members take that one for this node,
    /// or both in turn.
    Twin(Twin),
}

/// Another process with this node's id and key, by a record that it signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Twin {
    /// Its start counter, not below this node's.
    pub boot: u64,
    /// Where it says that it is.
    pub addr: Option<SocketAddr>,
}

/// A member of the last run, to find the cluster by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownMember {
    /// Who.
    pub node: NodeId,
    /// Its start counter; older packets of it are refused.
    pub boot: u64,
    /// Where it was.
    pub addr: SocketAddr,
}

/// Membership and catalog of one node.
///
/// Contract: give every input with a monotonic `now` since the node's start; after each one,
/// take outputs until [`Core::output`] is `None`, and call [`Core::tick`] at
/// [`Core::next_deadline`]. Datagrams that wait are given before a tick that is due too, so that
/// a node that was stopped for a while does not take its own silence for others'.
pub struct Core {
    cluster: ClusterId,
    node: NodeId,
    advertise: SocketAddr,
    /// What was configured: for a LAN.
    lan: Timing,
    /// The same, with a period of probes that keeps to the ways between members.
    timing: Timing,
    /// So many times longer than on a LAN it is.
    pace: u32,
    /// The round trip to all but the farthest twentieth of the members; zero while none is known.
    farthest: Duration,
    admission: Arc<dyn Admission>,
    signer: Arc<dyn Signer>,
    verifier: Arc<dyn Verifier>,
    liveness: Arc<dyn Liveness>,
    envelope: Envelope,
    swim: Foca<Peer, PeerCodec, StdRng, NoCustomBroadcast>,
    effects: AccumulatingRuntime<Peer>,
    rng: StdRng,
    agenda: Agenda,
    /// foca's next round of gossip, while there is nothing to tell.
    gossip_round: Option<Timer<Peer>>,
    suspicions: BTreeMap<NodeId, Suspicion>,
    allowance: Allowance,
    /// Some member is taken for dead by this node alone.
    presumes: bool,
    /// Who told us last that a member is suspect or down, until the view has taken it in.
    heard_from: BTreeMap<NodeId, NodeId>,
    /// When members that are down are forgotten.
    forget: BTreeMap<NodeId, (Duration, Peer)>,
    view: View,
    catalog: Catalog,
    local: Local,
    rumours: Rumours,
    seeds: Seeds,
    exchanges: Exchanges,
    agreement: Agreement,
    echoes: Echoes,
    inquiries: Inquiries,
    outputs: VecDeque<Output>,
    stats: Stats,
    /// How long this node itself stood still, all in all. Deadlines are in time without it.
    stalled: Duration,
    /// Until when suspicion is slower because this node stood still.
    slow_until: Duration,
    /// When every member was looked at last.
    looked_through: Duration,
    /// How many farewells are still to be sent; `None` while we stay.
    farewells: Option<u32>,
}

/// Farewells sent, spread over [`crate::LEAVE_LINGER`].
const FAREWELLS: u32 = 4;
/// Time between two farewells.
const FAREWELL_INTERVAL: Duration = Duration::from_millis(350);
/// How often vetoes and what is to be forgotten are looked at.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// How often every member is looked at where nothing is a reason to, at most: each change shows at
/// once.
const LOOK_THROUGH_INTERVAL: Duration = Duration::from_secs(10);
/// So many members are looked at in a second for that, whatever their number.
const LOOKED_AT_IN_A_SECOND: u32 = 100;
/// How long suspicion stays slower after a stall.
const SLOW_AFTER_STALL: Duration = Duration::from_secs(10);

impl Core {
    /// Makes the core; its clock begins at zero. `seed` decides every random choice and the
    /// nonces: take it from the system's random source outside of tests.
    ///
    /// # Errors
    /// The configuration breaks a rule.
    pub fn new(
        config: Config,
        admission: Arc<dyn Admission>,
        signer: Arc<dyn Signer>,
        verifier: Arc<dyn Verifier>,
        liveness: Arc<dyn Liveness>,
        known: Vec<KnownMember>,
        seed: [u8; 32],
    ) -> Result<Self, GossipError> {
        config.check()?;
        let mut rng = StdRng::from_seed(seed);
        let identity =
            Peer { node: config.node, addr: config.advertise, boot: config.boot, renewal: 0 };
        let facts = Facts { keys: config.keyring.held(), ..config.facts };
        let mut envelope =
            Envelope::new(config.cluster, config.node, config.boot, config.keyring, rng.random());
        for member in known.iter().filter(|member| member.node != config.node) {
            envelope.expect_boot(member.node, member.boot);
        }
        let swim = Foca::new(
            identity,
            swim::swim_config(&config.timing, 1),
            StdRng::from_seed(rng.random()),
            PeerCodec,
        );
        let mut core = Self {
            cluster: config.cluster,
            node: config.node,
            advertise: config.advertise,
            admission,
            signer,
            verifier,
            liveness,
            envelope,
            swim,
            effects: AccumulatingRuntime::new(),
            agenda: Agenda::default(),
            gossip_round: None,
            suspicions: BTreeMap::new(),
            allowance: Allowance::default(),
            presumes: false,
            heard_from: BTreeMap::new(),
            forget: BTreeMap::new(),
            view: View::new(identity),
            catalog: Catalog::new(config.cluster),
            local: Local::new(facts, config.boot),
            rumours: Rumours::default(),
            seeds: Seeds::new(&config.timing, config.seeds, known),
            exchanges: Exchanges::default(),
            agreement: Agreement::default(),
            echoes: Echoes::default(),
            inquiries: Inquiries::default(),
            outputs: VecDeque::new(),
            stats: Stats::default(),
            stalled: Duration::ZERO,
            slow_until: Duration::ZERO,
            looked_through: Duration::ZERO,
            farewells: None,
            lan: config.timing.clone(),
            timing: config.timing,
            pace: 1,
            farthest: Duration::ZERO,
            rng,
        };
        core.make_record(false)?;
        core.agenda.add(Duration::ZERO, Task::Seeds);
        core.agenda.add(SWEEP_INTERVAL, Task::Sweep);
        for (interval, task) in [
            (core.timing.digest_interval, Task::Digest),
            (core.timing.push_pull_interval, Task::PushPull),
            (core.timing.echo_interval, Task::Echo),
        ] {
            let first = core.jittered(interval);
            core.agenda.add(first, task);
        }
        Ok(core)
    }

    /// The next thing to do.
    pub fn output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Self::tick`] is wanted next.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.agenda.next().map(|at| at + self.stalled)
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Duration) {
        let mut time = self.time(now);
        if let Some(due) = self.agenda.next()
            && time > due + self.timing.stall_limit
        {
            // We stood still, and so every answer that we miss is our own fault: the time that
            // we lost did not happen for any deadline.
            self.stalled += time - due;
            self.stats.stalls += 1;
            time = due;
            self.slow_until = time + SLOW_AFTER_STALL;
        }
        while let Some(task) = self.agenda.take_due(time) {
            self.perform(time, task);
        }
    }

    fn perform(&mut self, time: Duration, task: Task) {
        if self.farewells.is_some() {
            if matches!(task, Task::Farewell) {
                self.say_farewell(time);
            }
            return;
        }
        match task {
            Task::Swim(timer) => self.swim_timer(time, timer),
            Task::Suspicion(node) => self.suspicion_due(time, node),
            Task::Inquiry(node) => self.inquiry_due(time, node),
            Task::Publish => self.publish_due(time),
            Task::Spread => self.spread_rumours(time),
            Task::Digest => {
                self.send_digest();
                let next = time + self.jittered(self.timing.digest_interval);
                self.agenda.add(next, Task::Digest);
            }
            Task::PushPull => {
                if !self.agreement.take()
                    && let Some(peer) = self.random_peers(1).first().copied()
                {
                    self.start_exchange(time, peer);
                }
                let next = time + self.jittered(self.timing.push_pull_interval);
                self.agenda.add(next, Task::PushPull);
            }
            Task::Echo => self.ask_echo(time),
            Task::Seeds => self.try_seeds(time),
            Task::Sweep => {
                self.sweep(time);
                self.agenda.add(time + SWEEP_INTERVAL, Task::Sweep);
            }
            Task::Farewell => {}
        }
    }

    /// Forgets members that are down for long and exchanges that never ended, and looks again at deaths
    /// that a live connection holds back.
    fn sweep(&mut self, time: Duration) {
        let due: Vec<Peer> =
            self.forget.values().filter(|(at, _)| *at <= time).map(|(_, peer)| *peer).collect();
        for peer in due {
            self.forget.remove(&peer.node);
            self.swim_timer(time, Timer::RemoveDown(peer));
        }
        self.exchanges.expire(time, self.timing.push_pull_timeout * 2);
        let members = u32::try_from(self.view.active()).unwrap_or(u32::MAX);
        let whole = Duration::from_secs(members.into()) / LOOKED_AT_IN_A_SECOND;
        let next = self.looked_through + whole.max(LOOK_THROUGH_INTERVAL);
        if self.view.holds_back() || time >= next {
            self.look_through(time);
        }
    }

    /// Looks at every member, which among thousands is most of what a node at rest does: drops those
    /// that are no longer admitted, and shows what foca holds.
    fn look_through(&mut self, time: Duration) {
        self.looked_through = time;
        let stale: Vec<NodeId> =
            self.catalog.nodes().filter(|node| !self.is_admitted(*node)).collect();
        for node in stale {
            self.catalog.remove(node);
        }
        self.sync(time);
    }

    /// Says that the committed members changed.
    pub fn admission_changed(&mut self, now: Duration) {
        let time = self.time(now);
        self.look_through(time);
    }

    /// All members, this node included, sorted by id. Cheap while nothing changed.
    pub fn members(&mut self) -> Arc<Members> {
        self.view.snapshot(&self.catalog)
    }

    /// The merged records.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// The counters.
    pub fn stats(&self) -> Stats {
        let mut stats = self.stats.clone();
        self.view.count(&mut stats);
        stats.records = self.catalog.len() as u64;
        let keyring = self.envelope.keyring();
        stats.key = keyring.primary();
        stats.keys = keyring.ids().count() as u64;
        stats
    }

    /// The members to keep for the next start: those that live first.
    pub fn known_members(&self) -> Vec<KnownMember> {
        self.view
            .known()
            .take(crate::MAX_PERSISTED_MEMBERS)
            .map(|peer| KnownMember { node: peer.node, boot: peer.boot, addr: peer.addr })
            .collect()
    }

    /// Begins to leave for good: the farewell is a signed record, so that nobody can say it for
    /// us. It is sent a few times; call until [`Self::has_left`].
    ///
    /// # Errors
    /// The record cannot be signed.
    pub fn leave(&mut self, now: Duration) -> Result<(), GossipError> {
        if self.farewells.is_some() {
            return Ok(());
        }
        self.make_record(true)?;
        self.farewells = Some(FAREWELLS);
        let time = self.time(now);
        self.view.leave(time);
        self.say_farewell(time);
        Ok(())
    }

    /// Whether all farewells are sent.
    pub fn has_left(&self) -> bool {
        self.farewells == Some(0)
    }

    fn say_farewell(&mut self, time: Duration) {
        let Some(left) = self.farewells.filter(|left| *left > 0) else { return };
        self.farewells = Some(left - 1);
        let targets = self.random_peers(crate::DIRECT_FANOUT * 4);
        self.send_records(&[self.node], &targets, true);
        if left > 1 {
            self.agenda.add(time + FAREWELL_INTERVAL, Task::Farewell);
        }
    }

    fn time(&self, now: Duration) -> Duration {
        now.saturating_sub(self.stalled)
    }

    fn identity(&self) -> Peer {
        *self.swim.identity()
    }

    fn is_admitted(&self, node: NodeId) -> bool {
        node == self.node || self.admission.admitted(node)
    }

    /// The interval, a tenth more or less, so that nodes started together do not stay in step.
    fn jittered(&mut self, interval: Duration) -> Duration {
        interval.mul_f64(self.rng.random_range(0.9..1.1))
    }

    fn send(&mut self, peer: &Peer, message: &Message) {
        let brief = self.may_be_brief(peer);
        self.send_payload(peer.addr, Some((peer.node, peer.boot)), &message.encode(), brief);
    }

    /// Whether what goes to the peer may leave out what that one knows.
    fn may_be_brief(&self, peer: &Peer) -> bool {
        self.speaks(BRIEF) && self.understands(peer, BRIEF)
    }

    fn send_payload(
        &mut self,
        to: SocketAddr,
        receiver: Option<(NodeId, u64)>,
        payload: &[u8],
        brief: bool,
    ) {
        let Some(bytes) = self.envelope.seal(receiver, payload, brief) else {
            debug_assert!(false, "a message of {} bytes is over its bound", payload.len());
            return;
        };
        self.stats.datagrams_out += 1;
        self.stats.bytes_out += bytes.len() as u64;
        self.outputs.push_back(Output::Send { to, bytes });
    }

    fn refuse(&mut self, from: Option<SocketAddr>, node: Option<NodeId>, reason: Refusal) {
        self.stats.refuse(reason);
        self.outputs.push_back(Output::Refused { from, node, reason });
    }
}
