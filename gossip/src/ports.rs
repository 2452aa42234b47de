//! What membership needs from other rooms; the node implements these.

use std::{fmt, net::SocketAddr, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use swarmer_model::NodeId;

/// Sends one datagram from the port that is shared with QUIC. Must not block; a full socket
/// drops the datagram.
pub trait DatagramSender: Send + Sync + 'static {
    /// Sends `bytes`, at most [`crate::MAX_DATAGRAM_BYTES`], to `to`.
    fn send(&self, to: SocketAddr, bytes: Bytes);
}

/// Why an exchange failed; only logged and counted.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ExchangeError(pub String);

/// Carries one request and its answer over an authenticated stream. The caller puts a deadline
/// ([`crate::Timing::push_pull_timeout`]) around it.
#[async_trait]
pub trait PushPull: Send + Sync + 'static {
    /// Sends `request` to the node at `addr` and returns what its
    /// [`crate::Handle::serve_push_pull`] answered. `node` is who must be there; `None` takes
    /// whoever proves to be an admitted member.
    async fn exchange(
        &self,
        node: Option<NodeId>,
        addr: SocketAddr,
        request: Bytes,
    ) -> Result<Bytes, ExchangeError>;
}

/// What the connections between nodes know of a peer's life.
#[async_trait]
pub trait Liveness: Send + Sync + 'static {
    /// Whether there is an mTLS connection to the node that acknowledged something within the
    /// last moments; it vetoes "down". Called often: must be cheap.
    fn has_live_connection(&self, node: NodeId) -> bool;

    /// Asks the node over QUIC whether it is there, dialling if need be. The caller puts a
    /// deadline around it; any failure is "no".
    async fn confirm_alive(&self, node: NodeId, addr: SocketAddr) -> bool;
}

/// Who belongs to the cluster, by the committed state.
pub trait Admission: Send + Sync + 'static {
    /// Whether the node is admitted and not removed. Called for every datagram: must be cheap.
    fn admitted(&self, node: NodeId) -> bool;

    /// Whether it is known by now who is a member: not at once after a start. Until then a node
    /// that is not known is refused without an alarm.
    fn is_certain(&self) -> bool {
        true
    }
}

/// Signs this node's records with its identity key.
pub trait Signer: Send + Sync + 'static {
    /// The signature over `bytes`, at most [`crate::MAX_SIGNATURE_BYTES`] long.
    fn sign(&self, bytes: &[u8]) -> Vec<u8>;
}

/// Checks records against the public keys that admission committed.
pub trait Verifier: Send + Sync + 'static {
    /// Whether `signature` over `bytes` is by the key of `node`.
    fn verify(&self, node: NodeId, bytes: &[u8], signature: &[u8]) -> bool;
}

/// All that the shell needs; see each trait.
#[derive(Clone)]
pub struct Deps {
    /// The shared UDP port.
    pub sender: Arc<dyn DatagramSender>,
    /// Streams for push/pull.
    pub push_pull: Arc<dyn PushPull>,
    /// Connections' view of peers.
    pub liveness: Arc<dyn Liveness>,
    /// The committed members.
    pub admission: Arc<dyn Admission>,
    /// This node's key.
    pub signer: Arc<dyn Signer>,
    /// The members' public keys.
    pub verifier: Arc<dyn Verifier>,
}

impl fmt::Debug for Deps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Deps")
    }
}
