//! Bytes between nodes: one UDP port for gossip and QUIC, two connections per peer.
//!
//! [`Transport::build`] binds the port and gives a [`Handle`] (the only way to send) and the
//! [`GossipSocket`]; [`Transport::run`] serves peers until told to stop. A peer is verified
//! before a byte of it is read: by TLS, by its chain, and by [`crate::identity::Admission`].
//!
//! Each pair of nodes has up to two connections in each direction: whoever opens streams dials.
//! *Control* carries Raft, membership and the watch, *data* calls and artifacts, because QUIC's
//! windows and congestion control are per connection.

mod accept;
mod close;
mod config;
mod dial;
mod endpoint;
mod error;
mod faults;
mod gossip;
mod handle;
mod pool;
mod pulse;
mod refusals;
mod registry;
mod runtime;
mod shared;
mod silence;
mod socket;
mod steer;
mod stranger;
mod vigil;

use std::{net::SocketAddr, time::SystemTime};

use async_trait::async_trait;
use quinn::{RecvStream, SendStream};
use swarmer_model::NodeId;

pub use crate::stream::{Class, StreamKind};
pub use close::CloseCode;
pub(crate) use close::loss_code;
pub use config::*;
pub use endpoint::{Dependencies, Transport};
pub use error::{DialError, OpenError, RefusedBy, RequestError, TransportError};
pub use gossip::{GossipSender, GossipSocket, GossipStats};
pub use handle::Handle;
pub use refusals::Refused;
pub use registry::{ConnectionInfo, Direction};
pub use shared::TransportStats;
pub use stranger::{FoundStream, JoinStream};

/// Where nodes are. Implemented by the node over gossip and the desired state.
///
/// Called before every dial: answer from memory, without blocking.
pub trait AddressBook: Send + Sync + 'static {
    /// The peer's UDP address, if it is known.
    fn address(&self, node: NodeId) -> Option<SocketAddr>;
}

/// A verified, admitted peer, as a stream's handler sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The node.
    pub node: NodeId,
    /// The connection that the stream came on.
    pub class: Class,
    /// The version of the wire that is spoken on the stream.
    pub version: u8,
    /// Whether its certificate is outside of its time, or of an authority that is not believed
    /// here. Then only what makes it whole again comes through to handlers at all.
    pub limited: bool,
    /// Until when its certificate is valid.
    pub not_after: SystemTime,
    /// Where it sends from.
    pub addr: SocketAddr,
}

/// Serves the streams that members open to this node.
#[async_trait]
pub trait StreamHandler: Send + Sync + 'static {
    /// Serves one stream, whose header has been read. One task per stream, on the runtime of its
    /// class; at most [`MAX_CONTROL_STREAMS`] or [`MAX_DATA_STREAMS`] per connection.
    ///
    /// A handler that does not know the kind resets with `ResetCode::UNKNOWN_KIND`. Dropping
    /// `send` without `finish` or `reset` ends the stream *as if it were complete* (quinn
    /// finishes it): reset it explicitly on every failure after the first byte.
    async fn handle(&self, peer: Peer, kind: StreamKind, send: SendStream, recv: RecvStream);
}

/// Which protocol a stranger came by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// `swarmer-join/1`: it has shown no certificate.
    Join,
    /// `swarmer-found/1`: it has proven this key (DER, SubjectPublicKeyInfo).
    Found {
        /// The founder's key.
        spki: Vec<u8>,
    },
}

/// Serves nodes that are not members yet.
#[async_trait]
pub trait JoinHandler: Send + Sync + 'static {
    /// Serves the one stream of a stranger's connection, within [`STRANGER_LIFETIME`]; at most
    /// [`MAX_STRANGERS`] at once. Finish `send` at the end; the connection stays until the
    /// stranger has read it or the time is over.
    ///
    /// `exporter` is the same on both ends of this connection and on no other (RFC 5705, RFC
    /// 8446 section 7.5): proofs that contain it cannot be relayed.
    async fn join(
        &self,
        remote: SocketAddr,
        entry: Entry,
        exporter: [u8; 32],
        send: SendStream,
        recv: RecvStream,
    );
}
