//! What the parts of the transport share.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::{Mutex, RwLock};
use quinn::{
    ClientConfig, IdleTimeout, MtuDiscoveryConfig, ServerConfig, TransportConfig, VarInt,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use swarmer_model::NodeId;
use tokio::sync::{Semaphore, broadcast};
use tokio_util::sync::CancellationToken;

use super::{
    AddressBook,
    config::{
        Config, MAX_HANDSHAKES, MAX_HANDSHAKES_PER_ADDRESS, MAX_STRANGERS, MAX_UDP_PAYLOAD,
        STRANGER_WINDOW,
    },
    endpoint::Endpoints,
    faults::Faults,
    pool::Pool,
    pulse::KEPT_BYTES,
    refusals::Refusals,
    registry::Registry,
    steer,
};
use crate::{
    identity::{
        Admission, Identity, IdentityError, WallClock,
        tls::{self, ALPN_CONTROL, ALPN_DATA, Judge},
    },
    stream::Class,
};

/// Round trip time assumed before one is measured: a lost first packet is sent again after
/// about twice this. The RFC's 333 ms would cost a second.
pub(crate) const INITIAL_RTT: Duration = Duration::from_millis(100);
/// Silent peers that are told of and not heard yet by who wants to know; the oldest give way.
const SILENT_QUEUE: usize = 256;
/// Bytes of not yet accepted connection attempts that are kept, in all.
const INCOMING_BYTES: u64 = 4 * 1024 * 1024;

/// Counts since the start, and numbers of now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TransportStats {
    /// Connections that peers opened and that stand.
    pub inbound: usize,
    /// Connections that this node opened and that stand.
    pub outbound: usize,
    /// Handshakes of peers in progress.
    pub handshakes: usize,
    /// Connections of joining and founding nodes that are being served.
    pub strangers: usize,
    /// Dials of members begun.
    pub dials: u64,
    /// Dials of members that failed.
    pub dial_failures: u64,
    /// Connection attempts and streams that this node refused.
    pub refused: u64,
    /// Connection attempts dropped because there were too many at once.
    pub dropped: u64,
    /// Streams opened to members.
    pub streams_opened: u64,
    /// Streams of members handed to handlers.
    pub streams_served: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) dials: AtomicU64,
    pub(crate) dial_failures: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) dropped: AtomicU64,
    pub(crate) streams_opened: AtomicU64,
    pub(crate) streams_served: AtomicU64,
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The identity that is shown now, and what was made from it.
#[derive(Debug)]
pub(crate) struct Current {
    pub(crate) identity: Identity,
    /// Grows with every other certificate or key, so that connections of an older one are left.
    pub(crate) generation: u64,
    /// The oldest generation whose certificate is still of use, as far as this node knows: what was
    /// dialled with it serves until it is replaced.
    pub(crate) oldest_good: u64,
    /// Whether a member took a stream of this node by the certificate that it shows.
    pub(crate) taken: AtomicBool,
    pub(crate) judge: Option<Judge>,
    control: Option<ClientConfig>,
    /// For control connections with peers that do not take the question whether they live.
    lasting: Option<ClientConfig>,
    data: Option<ClientConfig>,
}

impl Current {
    pub(crate) fn client(&self, class: Class) -> Option<ClientConfig> {
        match class {
            Class::Control => self.control.clone(),
            Class::Data => self.data.clone(),
        }
    }

    /// The same of a control connection that QUIC keeps alive all the time.
    pub(crate) fn lasting_client(&self) -> Option<ClientConfig> {
        self.lasting.clone()
    }
}

pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) endpoints: Endpoints,
    pub(crate) clock: Arc<dyn WallClock>,
    pub(crate) admission: Arc<dyn Admission>,
    pub(crate) addresses: Arc<dyn AddressBook>,
    pub(crate) current: RwLock<Arc<Current>>,
    pub(crate) pool: Pool,
    pub(crate) registry: Registry,
    pub(crate) refusals: Refusals,
    pub(crate) gate: Arc<Gate>,
    /// What loses packets on purpose, where that is allowed.
    pub(crate) faults: Option<Arc<Faults>>,
    pub(crate) strangers: Arc<Semaphore>,
    /// Peers that nothing was heard of for a moment.
    pub(crate) silent: broadcast::Sender<NodeId>,
    pub(crate) stopping: CancellationToken,
    pub(crate) counters: Counters,
}

impl Shared {
    pub(crate) fn new(
        config: Config,
        endpoints: Endpoints,
        clock: Arc<dyn WallClock>,
        admission: Arc<dyn Admission>,
        addresses: Arc<dyn AddressBook>,
        current: Current,
        faults: Option<Arc<Faults>>,
    ) -> Self {
        Self {
            config,
            endpoints,
            clock,
            admission,
            addresses,
            current: RwLock::new(Arc::new(current)),
            pool: Pool::default(),
            registry: Registry::default(),
            refusals: Refusals::default(),
            gate: Arc::default(),
            faults,
            strangers: Arc::new(Semaphore::new(MAX_STRANGERS)),
            silent: broadcast::channel(SILENT_QUEUE).0,
            stopping: CancellationToken::new(),
            counters: Counters::default(),
        }
    }

    pub(crate) fn current(&self) -> Arc<Current> {
        self.current.read().clone()
    }

    /// Shows another identity from now on. Standing connections go on.
    pub(crate) fn set_identity(&self, identity: Identity) -> Result<(), IdentityError> {
        let mut current = self.current.write();
        let shown = |identity: &Identity| {
            let certificate =
                identity.membership.as_ref().map(|own| own.certificate.der().to_vec());
            (identity.node, identity.key.spki(), certificate)
        };
        // Whom a connection was opened to is not changed by whom else this node believes.
        let other = shown(&identity) != shown(&current.identity);
        let generation = current.generation + u64::from(other);
        // A certificate that nobody took opens nothing on the connections that it was shown on.
        let succeeds =
            succeeds(&current.identity, &identity) && current.taken.load(Ordering::Relaxed);
        let oldest_good = match succeeds {
            true => current.oldest_good,
            false => generation,
        };
        let (mut next, server) =
            prepare(&self.config, identity, generation, &self.clock, &self.admission)?;
        next.oldest_good = oldest_good;
        next.taken = AtomicBool::new(succeeds);
        self.endpoints.set_server_config(server);
        let next = Arc::new(next);
        *current = next.clone();
        drop(current);
        // One that is being made meanwhile is dialled anew when somebody needs it.
        if let Some(judge) = &next.judge {
            for live in self.registry.all() {
                live.judge_again(judge);
            }
        }
        Ok(())
    }

    pub(crate) fn stats(&self) -> TransportStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (inbound, outbound) = self.registry.count();
        TransportStats {
            inbound,
            outbound,
            handshakes: self.gate.inside(),
            strangers: MAX_STRANGERS - self.strangers.available_permits(),
            dials: get(&self.counters.dials),
            dial_failures: get(&self.counters.dial_failures),
            refused: get(&self.counters.refused),
            dropped: get(&self.counters.dropped),
            streams_opened: get(&self.counters.streams_opened),
            streams_served: get(&self.counters.streams_served),
        }
    }
}

/// Makes from an identity what is shown and served with it.
pub(crate) fn prepare(
    config: &Config,
    identity: Identity,
    generation: u64,
    clock: &Arc<dyn WallClock>,
    admission: &Arc<dyn Admission>,
) -> Result<(Current, Option<ServerConfigs>), IdentityError> {
    let judge = match &identity.membership {
        Some(membership) => {
            let certificate = &membership.certificate;
            if certificate.spki() != identity.key.spki() || certificate.node() != identity.node {
                return Err(IdentityError::KeyMismatch { node: certificate.node() });
            }
            if certificate.cluster() != membership.cluster {
                let reason = format!(
                    "it is of cluster {}, not of {}",
                    certificate.cluster(),
                    membership.cluster
                );
                return Err(IdentityError::Certificate { reason });
            }
            Some(Judge::new(membership, clock.clone(), admission.clone()))
        }
        None => None,
    };
    let client = |kept: Kept, alpn: &[u8]| match (&identity.membership, &judge) {
        (Some(membership), Some(judge)) => {
            let tls = tls::member_client(&identity.key, membership, judge, alpn)?;
            Ok(Some(client_config(config, tls, kept)))
        }
        _ => Ok::<_, IdentityError>(None),
    };
    let control = if config.rests() { Kept::Resting } else { Kept::Lasting };
    let (control, lasting) = (client(control, ALPN_CONTROL)?, client(Kept::Lasting, ALPN_CONTROL)?);
    let data = client(Kept::Data, ALPN_DATA)?;
    let server = tls::server(&identity, judge.as_ref())?.map(|tls| ServerConfigs {
        control: server_config(config, tls.clone(), Class::Control),
        data: server_config(config, tls, Class::Data),
    });
    let (oldest_good, taken) = (generation, AtomicBool::new(false));
    let current =
        Current { identity, generation, oldest_good, taken, judge, control, lasting, data };
    Ok((current, server))
}

/// Whether what was shown before is believed beside what is shown now: the same node of the same
/// cluster, certified by an authority that is believed still.
fn succeeds(before: &Identity, now: &Identity) -> bool {
    match (&before.membership, &now.membership) {
        (Some(old), Some(new)) => {
            (before.node, old.cluster) == (now.node, new.cluster)
                && new.bundle.issuer_of(&old.certificate).is_some()
        }
        _ => false,
    }
}

/// What peers that dial meet, on each of the two sockets.
#[derive(Debug, Clone)]
pub(crate) struct ServerConfigs {
    pub(crate) control: ServerConfig,
    pub(crate) data: ServerConfig,
}

/// How a connection is kept, and who notices that it is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    /// A control connection whose peer is asked whether it lives (`pulse.rs`).
    Resting,
    /// A control connection that QUIC keeps alive and ends.
    Lasting,
    /// A data connection (`vigil.rs`).
    Data,
    /// With a stranger, which QUIC keeps alive and ends.
    Stranger,
}

impl Kept {
    fn class(self) -> Class {
        match self {
            Self::Data => Class::Data,
            Self::Resting | Self::Lasting | Self::Stranger => Class::Control,
        }
    }
}

fn transport_config(config: &Config, kept: Kept) -> TransportConfig {
    let mut transport = TransportConfig::default();
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(MAX_UDP_PAYLOAD);
    let idle = match kept {
        Kept::Lasting | Kept::Stranger => config.idle_timeout,
        Kept::Resting | Kept::Data => config.data_idle_timeout,
    };
    let idle = IdleTimeout::try_from(idle).unwrap_or_else(|_| {
        // More than a QUIC integer of milliseconds: as good as for ever.
        IdleTimeout::from(VarInt::MAX)
    });
    transport
        .mtu_discovery_config(Some(mtu))
        .initial_rtt(INITIAL_RTT)
        .max_idle_timeout(Some(idle))
        .stream_receive_window(VarInt::from_u32(config.stream_window))
        .send_window(config.send_window)
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size((kept == Kept::Resting).then_some(KEPT_BYTES));
    transport
}

/// How a connection that we dial behaves: it takes the one-way stream by which the other side says that
/// we are let in, and but for one that rests it keeps itself alive.
pub(crate) fn client_config(
    config: &Config,
    tls: rustls::ClientConfig,
    kept: Kept,
) -> ClientConfig {
    let crypto = QuicClientConfig::try_from(tls).expect("TLS 1.3 of ring has QUIC's first suite");
    let mut transport = transport_config(config, kept);
    transport.keep_alive_interval((kept != Kept::Resting).then_some(config.keep_alive));
    match kept {
        Kept::Stranger => transport.receive_window(VarInt::from_u32(STRANGER_WINDOW)),
        Kept::Resting | Kept::Lasting | Kept::Data => transport
            .receive_window(VarInt::from_u32(config.connection_window))
            .max_concurrent_uni_streams(VarInt::from_u32(1)),
    };
    let mut client = ClientConfig::new(Arc::new(crypto));
    client.transport_config(Arc::new(transport));
    let class = kept.class();
    client.initial_dst_cid_provider(Arc::new(move || steer::connection_id(class)));
    client
}

/// How a connection that a peer dials begins: with the little that a stranger gets. It is kept as its
/// dialler wants.
fn server_config(config: &Config, tls: rustls::ServerConfig, class: Class) -> ServerConfig {
    let crypto = QuicServerConfig::try_from(tls).expect("TLS 1.3 of ring has QUIC's first suite");
    let kept = match class {
        Class::Control if config.rests() => Kept::Resting,
        Class::Control => Kept::Lasting,
        Class::Data => Kept::Data,
    };
    let mut transport = transport_config(config, kept);
    transport
        .receive_window(VarInt::from_u32(STRANGER_WINDOW))
        .max_concurrent_bidi_streams(VarInt::from_u32(1));
    let mut server = ServerConfig::with_crypto(Arc::new(crypto));
    server
        .transport_config(Arc::new(transport))
        .max_incoming(MAX_HANDSHAKES)
        .incoming_buffer_size(INCOMING_BYTES / 64)
        .incoming_buffer_size_total(INCOMING_BYTES);
    server
}

/// Counts handshakes, in all and by address.
#[derive(Debug, Default)]
pub(crate) struct Gate(Mutex<HashMap<IpAddr, usize>>);

impl Gate {
    /// Lets one in, if there is room.
    pub(crate) fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Pass> {
        let mut inside = self.0.lock();
        if inside.values().sum::<usize>() >= MAX_HANDSHAKES {
            return None;
        }
        let here = inside.entry(address).or_default();
        if *here >= MAX_HANDSHAKES_PER_ADDRESS {
            return None;
        }
        *here += 1;
        Some(Pass { gate: self.clone(), address })
    }

    pub(crate) fn inside(&self) -> usize {
        self.0.lock().values().sum()
    }
}

/// One handshake that was let in.
#[derive(Debug)]
pub(crate) struct Pass {
    gate: Arc<Gate>,
    address: IpAddr,
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut inside = self.gate.0.lock();
        if let Some(here) = inside.get_mut(&self.address) {
            *here -= 1;
            if *here == 0 {
                inside.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gate_bounds_handshakes_in_all_and_by_address() {
        let gate = Arc::new(Gate::default());
        let address = |n: usize| IpAddr::from([10, 0, 0, u8::try_from(n).unwrap()]);
        let one: Vec<_> = (0..1_000).filter_map(|_| gate.enter(address(0))).collect();
        assert_eq!(one.len(), MAX_HANDSHAKES_PER_ADDRESS);
        let others: Vec<_> = (1..200).flat_map(|n| gate.enter(address(n))).collect();
        assert_eq!(one.len() + others.len(), MAX_HANDSHAKES);
        drop(one);
        drop(others);
        assert_eq!(gate.inside(), 0);
        assert!(gate.0.lock().is_empty());
    }
}
