//! How the transport is set up, and every bound of it.

use std::{net::SocketAddr, time::Duration};

use swarmer_model::wire;
use tokio::runtime::Handle as Runtime;

use crate::stream::{Class, Versions};

/// Largest UDP payload that QUIC tries. With segmentation offload and a larger one, quinn 0.11
/// sends batches of more than 64 KiB, does not notice EMSGSIZE and falls back to 1,200 bytes.
pub const MAX_UDP_PAYLOAD: u16 = 6_500;
/// Largest gossip datagram taken or sent, in bytes. Gossip keeps below what fits one Ethernet
/// frame; this leaves room for jumbo frames without making the queue large.
pub const MAX_GOSSIP_DATAGRAM: usize = 2_048;
/// Gossip datagrams that wait for the reader: 2 MiB at most, some seconds of a big cluster.
pub const GOSSIP_QUEUE: usize = 1_024;
/// Handshakes at once. A P-256 handshake takes about 3 ms of CPU on this side: this many are
/// under a second of work.
pub const MAX_HANDSHAKES: usize = 256;
/// Handshakes at once from one address: a whole development cluster lives on one, a flood
/// usually comes from one too.
pub const MAX_HANDSHAKES_PER_ADDRESS: usize = 64;
/// From this many handshakes on, senders must first prove that they have their address (QUIC
/// Retry, RFC 9000, section 8.1.2).
pub const RETRY_ABOVE: usize = 32;
/// Connections of joining and founding nodes at once: strangers until they prove otherwise.
pub const MAX_STRANGERS: usize = 64;
/// How long such a connection may take in all.
pub const STRANGER_LIFETIME: Duration = Duration::from_secs(30);
/// Received bytes that a stranger's connection may hold.
pub const STRANGER_WINDOW: u32 = 256 * 1024;
/// Inbound connections of one class from one member: one in use, one being replaced, and some
/// that a lost network left behind. The oldest is closed for a newer.
pub const MAX_INBOUND_PER_PEER: usize = 4;
/// Inbound connections in all: two from each of 16,384 members, and one being replaced here and there.
pub const MAX_INBOUND: usize = 40_000;
/// Members and classes that the pool remembers something about: both of 16,384.
pub const MAX_POOL: usize = 32_768;
/// Streams at once on a control connection.
pub const MAX_CONTROL_STREAMS: u32 = 1_024;
/// Streams at once on a data connection: calls in flight from one peer.
pub const MAX_DATA_STREAMS: u32 = 4_096;
/// Asked of the kernel for the socket, each way. The default of 212 kB loses packets even on
/// loopback. The kernel may give less (`net.core.rmem_max`).
pub const SOCKET_BUFFER: usize = 4 * 1024 * 1024;
/// An answer to `request` must fit in one frame, see [`crate::stream::MAX_FRAME`].
pub const MAX_REQUEST: usize = crate::stream::MAX_FRAME;

/// What [`super::Handle::lose`] is told to lose all packets.
pub const LOSE_ALL: u32 = 1000;

/// How the transport is set up.
#[derive(Debug, Clone)]
pub struct Config {
    /// The UDP address for gossip and QUIC; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Runs the control socket, the control connections and gossip. Give it threads of its own,
    /// on which no guest runs: a stall here of [`Config::idle_timeout`] looks like the death of
    /// every peer.
    pub io: Runtime,
    /// Runs the handlers of streams on control connections, and of joining and founding.
    pub control: Runtime,
    /// Runs the data socket, the data connections and the handlers of their streams.
    pub data: Runtime,
    /// After so much silence a peer is asked whether it lives, if something is under way with it; the
    /// dialler of a data connection says something this often (`pulse.rs`).
    pub keep_alive: Duration,
    /// The same of a peer with which nothing is under way: no data connection stands, and no stream was
    /// opened lately. Longer than what lasts on a connection is silent for.
    pub keep_alive_at_rest: Duration,
    /// Silence from then on that makes the peer of a control connection lost (but at least some round
    /// trips). With `keep_alive` this bounds how long a killed node goes unnoticed: at most about the sum
    /// of both.
    pub idle_timeout: Duration,
    /// Silence after which a data connection is lost whatever its peer's control connection says.
    /// Long, because its packets wait behind guests for their threads, on either side: until then
    /// it is the control connection that says whether the peer lives (`vigil.rs`). QUIC ends a control
    /// connection by it, too, should nobody look after that.
    pub data_idle_timeout: Duration,
    /// For address, handshake and welcome together; on the data connection up to
    /// [`Self::data_idle_timeout`], if the peer's control connection says that it lives.
    pub dial_timeout: Duration,
    /// First pause after a failed dial; doubles.
    pub backoff_min: Duration,
    /// Longest pause after failed dials.
    pub backoff_max: Duration,
    /// A data connection on which no stream was opened for so long is left; the other side closes it
    /// a quarter of that later, when nothing runs on it.
    pub unused_timeout: Duration,
    /// The same of a control connection, shorter: whoever is asked now and then is dialled for it, and a
    /// node at rest keeps no connections alive but those on which something lasts.
    pub control_unused_timeout: Duration,
    /// For the header of a stream to arrive.
    pub header_timeout: Duration,
    /// Received bytes that one stream may hold.
    pub stream_window: u32,
    /// Received bytes that all streams of a connection may hold: many streams' windows, so that
    /// a few whose readers stand still do not stop the others.
    pub connection_window: u32,
    /// Bytes sent and not yet acknowledged that a connection may hold.
    pub send_window: u64,
    /// How long handlers get to end when the transport stops.
    pub stop_grace: Duration,
    /// Whether [`super::Handle::lose`] may lose packets of this port on purpose.
    pub faults: bool,
    /// The newest version of the wire that this node speaks; at most [`wire::NEWEST`]. Below
    /// [`wire::OLDEST`] it speaks this one alone, as a node would that is too old.
    pub wire_max: u8,
}

impl Config {
    /// Defaults for a LAN; everything runs on `io`.
    pub fn new(listen: SocketAddr, io: Runtime) -> Self {
        Self {
            listen,
            control: io.clone(),
            data: io.clone(),
            io,
            keep_alive: Duration::from_millis(200),
            keep_alive_at_rest: Duration::from_millis(1_200),
            idle_timeout: Duration::from_millis(800),
            data_idle_timeout: Duration::from_secs(10),
            dial_timeout: Duration::from_secs(3),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(1),
            unused_timeout: Duration::from_secs(240),
            control_unused_timeout: Duration::from_secs(30),
            header_timeout: Duration::from_secs(5),
            stream_window: 8 * 1024 * 1024,
            connection_window: 256 * 1024 * 1024,
            send_window: 32 * 1024 * 1024,
            stop_grace: Duration::from_secs(2),
            faults: false,
            wire_max: wire::NEWEST,
        }
    }

    /// For how long a connection of this class may go without a new stream before it is left.
    pub(crate) fn unused(&self, class: Class) -> Duration {
        match class {
            Class::Control => self.control_unused_timeout,
            Class::Data => self.unused_timeout,
        }
    }

    /// Whether control connections of this node may rest (`pulse.rs`).
    pub(crate) fn rests(&self) -> bool {
        self.wire_max >= wire::RESTING
    }

    /// The versions of the wire that this node speaks.
    pub(crate) fn versions(&self) -> Versions {
        Versions { oldest: wire::OLDEST.min(self.wire_max), newest: self.wire_max }
    }
}
