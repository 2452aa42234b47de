//! Who may take part now: what the desired state says of a node and its key.

use swarmer_model::NodeId;

/// What the desired state says of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Admitted with exactly this key.
    Admitted,
    /// Not known here, or known with another key.
    Unknown,
    /// Not known here, where it is not known yet who is a member: this node has just started.
    NotYet,
    /// Removed.
    Revoked,
}

/// The desired state's word on members. Implemented by the node over its copy of that state.
///
/// Called in every handshake and for every stream: answer from memory, without blocking.
pub trait Admission: Send + Sync + 'static {
    /// Whether `node` is admitted with the public key `spki` (DER, SubjectPublicKeyInfo).
    fn check(&self, node: NodeId, spki: &[u8]) -> Verdict;

    /// Whether `node` is a voter. Only voters may speak Raft with an expired certificate.
    fn voter(&self, node: NodeId) -> bool;
}
