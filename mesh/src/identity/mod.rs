//! Who a node is: keys, the cluster's authority, SPIFFE ids, and how a peer proves who it is.
//!
//! A node has one ECDSA P-256 key for its whole life ([`NodeKey`]). The cluster's [`Authority`]
//! signs that key into a [`NodeCertificate`] for a day (an X.509 SVID: one `spiffe://` URI).
//! Signature and chain prove who a peer *says* it is; [`Admission`], fed from the desired state,
//! says whether that node with that key may take part *now*. A certificate outside of its time
//! still names its node, but opens only what [`crate::stream::StreamKind::allowed_when_expired`] says;
//! one of an authority that is not believed, over the key that was admitted, what
//! [`crate::stream::StreamKind::allowed_when_unbelieved`] says.

mod admission;
mod authority;
mod certificate;
mod clock;
mod error;
mod key;
mod spiffe;
mod standing;
pub(crate) mod tls;
mod verify;
mod workload;

use swarmer_model::{ClusterId, NodeId};

pub use admission::{Admission, Verdict};
pub use authority::{AUTHORITY_VALIDITY, Authority, CERTIFICATE_VALIDITY, CLOCK_SKEW};
pub use certificate::{Fingerprint, NodeCertificate, TrustBundle};
pub use clock::{SystemClock, WallClock};
pub use error::IdentityError;
pub use key::{NodeKey, SIGNATURE_LEN, SPKI_LEN};
pub use spiffe::{SpiffeId, SpiffePath, TrustDomain};
pub use standing::{FINISH, NoStanding, Standing, may_speak};
pub use verify::{PeerIdentity, Refusal, verify_member};
pub(crate) use verify::{Side, verify_pinned};
pub use workload::Workload;

/// All that a node shows to others, and which protocols it serves with it.
///
/// A founding or joining node has only its key; a member also has a [`Membership`]. Swapped as a
/// whole while the transport runs.
#[derive(Debug, Clone)]
pub struct Identity {
    /// This node.
    pub node: NodeId,
    /// Its key, the same for the node's whole life.
    pub key: NodeKey,
    /// Its place in a cluster, once it has one.
    pub membership: Option<Membership>,
    /// Whether `swarmer-found/1` is served: by founders and joiners, and by members for those that
    /// come late or with a token that is of no use here, who are told so.
    pub serve_found: bool,
    /// Whether `swarmer-join/1` is served. Needs a membership.
    pub serve_join: bool,
}

impl Identity {
    /// A node that is in no cluster yet. Only `swarmer-found/1` is served: by it founders meet, and a
    /// cluster looks whether a node that wants to join is where it says.
    pub fn outside(node: NodeId, key: NodeKey) -> Self {
        Self { node, key, membership: None, serve_found: true, serve_join: false }
    }

    /// A member: everything is served.
    pub fn member(node: NodeId, key: NodeKey, membership: Membership) -> Self {
        Self { node, key, membership: Some(membership), serve_found: true, serve_join: true }
    }
}

/// A node's place in a cluster.
#[derive(Debug, Clone)]
pub struct Membership {
    /// The cluster.
    pub cluster: ClusterId,
    /// The certificate over the node's key.
    pub certificate: NodeCertificate,
    /// The authorities whose certificates are believed; more than one while they rotate.
    pub bundle: TrustBundle,
}
