//! Who belongs to the cluster and where it is: the committed state's word, given to the rooms
//! that must ask it for every packet and handshake.

use std::{
    collections::{BTreeMap, HashSet},
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use parking_lot::RwLock;
use swarmer_gossip::Members;
use swarmer_mesh::{
    identity::{Admission, NodeKey, Verdict},
    transport::AddressBook,
};
use swarmer_model::{
    NodeId,
    planted::{self, Bug},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    agent::{Control, identity::PeerInfo},
    desired::DesiredStore,
};

/// Removed nodes that are remembered, so that they are told why; the oldest are forgotten and
/// then simply unknown.
const MAX_REVOKED: usize = 4096;

/// How long the question what is committed may take, and the pause before it is asked again: a
/// cluster that starts elects a leader first.
const SETTLE_DEADLINE: Duration = Duration::from_secs(3);
const SETTLE_PAUSE: Duration = Duration::from_millis(200);

/// The members by committed state; until that is here, those that the grant named.
#[derive(Clone, Default)]
pub(crate) struct PeerBook {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Members that this node was told of when it was admitted.
    first: RwLock<BTreeMap<NodeId, PeerInfo>>,
    first_voters: RwLock<HashSet<NodeId>>,
    desired: OnceLock<DesiredStore>,
    control: OnceLock<Control>,
    members: OnceLock<watch::Receiver<Arc<Members>>>,
    revoked: RwLock<HashSet<NodeId>>,
    /// Whether the committed members were known here as they were after this start.
    settled: watch::Sender<bool>,
}

impl PeerBook {
    /// Takes what the grant told.
    pub(crate) fn set_first(&self, peers: &[PeerInfo], voters: &[NodeId]) {
        *self.inner.first.write() = peers.iter().map(|peer| (peer.node, peer.clone())).collect();
        *self.inner.first_voters.write() = voters.iter().copied().collect();
    }

    /// From now on the committed state decides.
    pub(crate) fn set_desired(&self, desired: DesiredStore, control: Control) {
        let _ = self.inner.desired.set(desired);
        let _ = self.inner.control.set(control);
    }

    /// From now on gossip tells where members are.
    pub(crate) fn set_members(&self, members: watch::Receiver<Arc<Members>>) {
        let _ = self.inner.members.set(members);
    }

    /// Remembers that a node was removed.
    pub(crate) fn revoke(&self, node: NodeId) {
        let mut revoked = self.inner.revoked.write();
        if revoked.len() < MAX_REVOKED {
            revoked.insert(node);
        }
    }

    /// From now on, who is not known here is no member.
    fn set_settled(&self) {
        self.inner.settled.send_replace(true);
    }

    fn is_settled(&self) -> bool {
        *self.inner.settled.borrow()
    }

    /// Becomes true once the committed state is known here as it was after this start.
    pub(crate) fn settled(&self) -> watch::Receiver<bool> {
        self.inner.settled.subscribe()
    }

    /// A node's public key.
    pub(crate) fn spki(&self, node: NodeId) -> Option<Vec<u8>> {
        if let Some(desired) = self.inner.desired.get() {
            let desired = desired.current();
            if !desired.nodes.is_empty() {
                return desired.nodes.get(&node)?.spec.spki();
            }
        }
        self.inner.first.read().get(&node).map(|peer| peer.spki.clone())
    }

    /// Whether a member has this public key.
    pub(crate) fn knows(&self, spki: &[u8]) -> bool {
        if let Some(desired) = self.inner.desired.get()
            && desired
                .current()
                .nodes
                .values()
                .any(|node| node.spec.spki().as_deref() == Some(spki))
        {
            return true;
        }
        self.inner.first.read().values().any(|peer| peer.spki == spki)
    }

    /// The member that is reached under an address.
    pub(crate) fn at(&self, address: SocketAddr) -> Option<NodeId> {
        if let Some(members) = self.inner.members.get() {
            let members = members.borrow();
            if let Some(member) = members.iter().find(|member| member.addr == address) {
                return Some(member.node);
            }
        }
        if let Some(desired) = self.inner.desired.get() {
            let desired = desired.current();
            let node = desired.nodes.iter().find(|(_, node)| node.spec.address == address);
            if let Some((id, _)) = node {
                return Some(*id);
            }
        }
        let first = self.inner.first.read();
        first.values().find(|peer| peer.address == address).map(|peer| peer.node)
    }

    /// Whether a node votes, as far as this node knows.
    pub(crate) fn votes(&self, node: NodeId) -> bool {
        if let Some(control) = self.inner.control.get() {
            let voters = control.status().voters;
            if !voters.is_empty() {
                return voters.contains(&node);
            }
        }
        self.inner.first_voters.read().contains(&node)
    }
}

/// Lets the book speak for certain once the local copy has everything that was committed before this
/// start.
pub(crate) async fn settle(
    book: PeerBook,
    control: Control,
    desired: DesiredStore,
    shutdown: CancellationToken,
) {
    loop {
        if let Ok(revision) = control.barrier(SETTLE_DEADLINE).await {
            let reached = desired.wait_until(|state| state.revision >= revision);
            if reached.await.is_some() {
                book.set_settled();
            }
            return;
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(SETTLE_PAUSE) => {}
        }
    }
}

impl Admission for PeerBook {
    fn check(&self, node: NodeId, spki: &[u8]) -> Verdict {
        if self.inner.revoked.read().contains(&node) {
            if planted::is_on(Bug::ServeRemovedNode) {
                return Verdict::Admitted;
            }
            return Verdict::Revoked;
        }
        match self.spki(node) {
            Some(known) if known == spki => Verdict::Admitted,
            // It may have been admitted while this node was away.
            None if !self.is_settled() => Verdict::NotYet,
            _ => Verdict::Unknown,
        }
    }

    fn voter(&self, node: NodeId) -> bool {
        self.votes(node)
    }
}

impl AddressBook for PeerBook {
    fn address(&self, node: NodeId) -> Option<SocketAddr> {
        if let Some(members) = self.inner.members.get() {
            let members = members.borrow();
            if let Some(member) = members.iter().find(|member| member.node == node) {
                return Some(member.addr);
            }
        }
        if let Some(desired) = self.inner.desired.get()
            && let Some(node) = desired.current().nodes.get(&node)
        {
            return Some(node.spec.address);
        }
        self.inner.first.read().get(&node).map(|peer| peer.address)
    }
}

impl swarmer_gossip::Admission for PeerBook {
    fn admitted(&self, node: NodeId) -> bool {
        !self.inner.revoked.read().contains(&node) && self.spki(node).is_some()
    }

    fn is_certain(&self) -> bool {
        self.is_settled()
    }
}

impl swarmer_raft::VoterKeys for PeerBook {
    fn signed_by_voter(&self, node: NodeId, message: &[u8], signature: &[u8]) -> bool {
        self.votes(node)
            && self.spki(node).is_some_and(|spki| NodeKey::verify(&spki, message, signature))
    }
}

impl swarmer_gossip::Verifier for PeerBook {
    fn verify(&self, node: NodeId, bytes: &[u8], signature: &[u8]) -> bool {
        self.spki(node).is_some_and(|spki| NodeKey::verify(&spki, bytes, signature))
    }
}

/// Signs gossip records and the feed with the node's key.
pub(crate) struct SigningKey(pub(crate) NodeKey);

impl swarmer_raft::FeedKey for SigningKey {
    fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.0.sign(message)
    }
}

impl swarmer_gossip::Signer for SigningKey {
    fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        self.0.sign(bytes)
    }
}
