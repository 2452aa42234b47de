//! The live connections, both ways.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use quinn::{Connection, ConnectionError};
use swarmer_model::NodeId;
use tokio::time::Instant;

use super::{
    close::CloseCode,
    config::{MAX_INBOUND, MAX_INBOUND_PER_PEER},
    dial::chain,
    pulse::Pulse,
    silence::{Received, Spoken},
    vigil::Heard,
};
use crate::{
    identity::{PeerIdentity, Side, tls::Judge},
    stream::Class,
};

/// Who opened a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The peer; it opens the streams.
    Inbound,
    /// This node.
    Outbound,
}

/// A live connection, for status and metrics.
#[derive(Debug, Clone)]
pub struct ConnectionInfo {
    /// The peer.
    pub peer: NodeId,
    /// What it carries.
    pub class: Class,
    /// Who opened it.
    pub direction: Direction,
    /// The version of the wire that is spoken on it.
    pub version: u8,
    /// The peer's address as seen here.
    pub addr: SocketAddr,
    /// Since when it stands.
    pub age: Duration,
    /// The smoothed round trip time.
    pub rtt: Duration,
    /// Streams of the peer that are being served on it; 0 for outbound ones.
    pub streams: usize,
    /// Bytes sent on the wire.
    pub sent_bytes: u64,
    /// Bytes received on the wire.
    pub received_bytes: u64,
    /// Packets lost.
    pub lost_packets: u64,
}

/// What kind of connection it is, and what we showed on it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Of {
    pub(crate) class: Class,
    pub(crate) direction: Direction,
    pub(crate) generation: u64,
    pub(crate) own_until: SystemTime,
    /// Whether both sides take the question whether they live (`pulse.rs`).
    pub(crate) rests: bool,
}

/// A verified connection.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) connection: Connection,
    pub(crate) peer: PeerIdentity,
    pub(crate) class: Class,
    pub(crate) direction: Direction,
    pub(crate) opened: Instant,
    /// The generation of our identity that it was made with.
    pub(crate) generation: u64,
    /// Until when the certificate is good that we showed on it.
    pub(crate) own_until: SystemTime,
    pub(crate) heard: Heard,
    /// Of a control connection whose peer can be asked whether it lives.
    pub(crate) pulse: Option<Pulse>,
    /// Whether the peer's certificate was outside of its time when it was verified.
    pub(crate) born_expired: bool,
    believed: AtomicBool,
    /// Whether this node closed it because of silence.
    given_up: AtomicBool,
    version: AtomicU8,
    last_used: Mutex<Instant>,
    pub(crate) streams: AtomicUsize,
}

impl Live {
    pub(crate) fn new(
        connection: Connection,
        peer: PeerIdentity,
        of: Of,
        born_expired: bool,
        version: u8,
    ) -> Arc<Self> {
        let now = Instant::now();
        let Of { class, direction, generation, own_until, rests } = of;
        Arc::new(Self {
            connection,
            believed: AtomicBool::new(peer.believed),
            given_up: AtomicBool::new(false),
            version: AtomicU8::new(version),
            peer,
            class,
            direction,
            opened: now,
            generation,
            own_until,
            heard: Heard::new(now),
            pulse: rests.then(|| Pulse::new(now)),
            born_expired,
            last_used: Mutex::new(now),
            streams: AtomicUsize::new(0),
        })
    }

    /// Whether an authority that is believed by now signed the peer's certificate, or was believed
    /// once since the connection stands.
    pub(crate) fn believed(&self) -> bool {
        self.believed.load(Ordering::Relaxed)
    }

    /// Whether the peer's certificate opens only what makes its node whole again.
    pub(crate) fn limited(&self, now: SystemTime) -> bool {
        !self.believed() || self.peer.expired(now)
    }

    /// Looks again whether the peer's certificate is believed, when others are than before.
    pub(crate) fn judge_again(&self, judge: &Judge) {
        let side = match self.direction {
            Direction::Inbound => Side::Client,
            Direction::Outbound => Side::Server,
        };
        if !self.believed()
            && judge.member(&chain(&self.connection), side).is_ok_and(|peer| peer.believed)
        {
            self.believed.store(true, Ordering::Relaxed);
        }
    }

    /// The version of the wire that is spoken on it. Its dialler has known it since the welcome. The
    /// accepting side does not know what the dialler speaks: the oldest, until a stream says more.
    pub(crate) fn version(&self) -> u8 {
        self.version.load(Ordering::Relaxed)
    }

    /// A stream of the peer is of this version.
    pub(crate) fn heard(&self, version: u8) {
        self.version.fetch_max(version, Ordering::Relaxed);
    }

    /// Logs that the connection is over: for operators if it was lost, as all that was under way on
    /// it, such as the body of an answer, broke off then.
    pub(crate) fn log_over(&self) {
        let (peer, class) = (self.peer.node, self.class.as_str());
        let direction = match self.direction {
            Direction::Inbound => "inbound",
            Direction::Outbound => "outbound",
        };
        let reason = self.connection.close_reason();
        let given_up = self.given_up.load(Ordering::Relaxed);
        if matches!(reason, Some(ConnectionError::TimedOut)) || given_up {
            tracing::info!(
                target: "swarmer::mesh", event = "connection_lost", %peer, class, direction,
                "the peer was silent for too long; what was under way with it broke off",
            );
        } else {
            let reason = reason.map(|reason| reason.to_string());
            tracing::debug!(
                target: "swarmer::mesh", event = "connection_over", %peer, class, direction, reason,
            );
        }
    }

    /// Ends it: the peer does not answer.
    pub(crate) fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
        self.connection.close(CloseCode::DONE.var(), b"no answer in time");
    }

    pub(crate) fn alive(&self) -> bool {
        self.connection.close_reason().is_none()
    }

    pub(crate) fn touch(&self) {
        *self.last_used.lock() = Instant::now();
    }

    pub(crate) fn unused_for(&self) -> Duration {
        self.last_used.lock().elapsed()
    }

    fn info(&self) -> ConnectionInfo {
        let stats = self.connection.stats();
        ConnectionInfo {
            peer: self.peer.node,
            class: self.class,
            direction: self.direction,
            version: self.version(),
            addr: self.connection.remote_address(),
            age: self.opened.elapsed(),
            rtt: stats.path.rtt,
            streams: self.streams.load(Ordering::Relaxed),
            sent_bytes: stats.udp_tx.bytes,
            received_bytes: stats.udp_rx.bytes,
            lost_packets: stats.path.lost_packets,
        }
    }
}

/// No room for another inbound connection.
#[derive(Debug)]
pub(crate) struct Full;

/// The live connections by peer.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    peers: Mutex<HashMap<NodeId, Vec<Arc<Live>>>>,
    inbound: AtomicUsize,
}

impl Registry {
    /// Takes a connection in. An inbound one may displace the oldest of its peer and class, rather
    /// one that nothing runs on.
    pub(crate) fn insert(&self, live: &Arc<Live>) -> Result<(), Full> {
        let mut peers = self.peers.lock();
        let inbound = live.direction == Direction::Inbound;
        if inbound && self.inbound.load(Ordering::Relaxed) >= MAX_INBOUND {
            return Err(Full);
        }
        let all = peers.entry(live.peer.node).or_default();
        if inbound {
            self.inbound.fetch_add(1, Ordering::Relaxed);
            let same = |other: &&Arc<Live>| {
                other.direction == Direction::Inbound && other.class == live.class && other.alive()
            };
            if all.iter().filter(same).count() >= MAX_INBOUND_PER_PEER
                && let Some(oldest) = all
                    .iter()
                    .filter(same)
                    .min_by_key(|other| (other.streams.load(Ordering::Relaxed) > 0, other.opened))
            {
                // Its own task takes it out of the registry.
                oldest.connection.close(CloseCode::REPLACED.var(), b"newer connections stand");
            }
        }
        all.push(live.clone());
        Ok(())
    }

    pub(crate) fn remove(&self, live: &Arc<Live>) {
        let mut peers = self.peers.lock();
        let Some(all) = peers.get_mut(&live.peer.node) else {
            return;
        };
        let before = all.len();
        all.retain(|other| !Arc::ptr_eq(other, live));
        if all.len() < before && live.direction == Direction::Inbound {
            self.inbound.fetch_sub(1, Ordering::Relaxed);
        }
        if all.is_empty() {
            peers.remove(&live.peer.node);
        }
    }

    pub(crate) fn of(&self, peer: NodeId) -> Vec<Arc<Live>> {
        let peers = self.peers.lock();
        let all = peers.get(&peer).into_iter().flatten();
        all.filter(|live| live.alive()).cloned().collect()
    }

    /// Whether a control connection with the peer stands by which the word goes the same way as by
    /// a data connection of this direction: where we dialled, one that we dialled too.
    /// The time is when the oldest of them was opened.
    pub(crate) fn controlled(&self, peer: NodeId, direction: Direction) -> Option<Instant> {
        let same = |live: &Live| match direction {
            Direction::Outbound => live.direction == Direction::Outbound,
            Direction::Inbound => true,
        };
        let peers = self.peers.lock();
        let all = peers.get(&peer).into_iter().flatten();
        all.filter(|live| live.class == Class::Control && live.alive() && same(live))
            .map(|live| live.opened)
            .min()
    }

    /// All control connections, and of each whether the peer is needed: a data connection stands with it,
    /// of which it is the witness, a stream was opened `lately`, or it does not answer on another one.
    pub(crate) fn controls(&self, lately: Duration) -> Vec<(Arc<Live>, bool)> {
        let peers = self.peers.lock();
        let mut controls = Vec::with_capacity(peers.len());
        for all in peers.values() {
            let needed = all.iter().any(|live| {
                let asked = live.pulse.as_ref().is_some_and(|pulse| pulse.asked().is_some());
                live.class == Class::Data || live.unused_for() < lately || asked
            });
            let control = all.iter().filter(|live| live.class == Class::Control);
            controls.extend(control.map(|live| (live.clone(), needed)));
        }
        controls
    }

    /// All data connections, those that are over and not yet taken out among them: to ask each takes a
    /// lock that whoever drives it holds.
    pub(crate) fn data(&self) -> Vec<Arc<Live>> {
        let peers = self.peers.lock();
        peers.values().flatten().filter(|live| live.class == Class::Data).cloned().collect()
    }

    /// All that live.
    pub(crate) fn all(&self) -> Vec<Arc<Live>> {
        let peers = self.peers.lock();
        peers.values().flatten().filter(|live| live.alive()).cloned().collect()
    }

    /// What was received of each peer by now.
    pub(crate) fn received(&self) -> Vec<Received> {
        let mut all: HashMap<NodeId, Received> = HashMap::new();
        for live in self.all() {
            let (peer, stats) = (live.peer.node, live.connection.stats());
            let datagrams = stats.udp_rx.datagrams;
            let spoken = match &live.pulse {
                Some(pulse) => Spoken::WhenAsked(pulse.asked()),
                None => Spoken::Always,
            };
            let one = Received { peer, datagrams, way: stats.path.rtt, spoken };
            all.entry(peer)
                .and_modify(|held| {
                    held.datagrams += datagrams;
                    held.way = held.way.max(stats.path.rtt);
                    held.spoken = held.spoken.and(spoken);
                })
                .or_insert(one);
        }
        all.into_values().collect()
    }

    pub(crate) fn infos(&self) -> Vec<ConnectionInfo> {
        self.all().iter().map(|live| live.info()).collect()
    }

    pub(crate) fn count(&self) -> (usize, usize) {
        let peers = self.peers.lock();
        let all = peers.values().map(Vec::len).sum::<usize>();
        let inbound = self.inbound.load(Ordering::Relaxed);
        (inbound, all.saturating_sub(inbound))
    }
}
