//! What the cores ask of other rooms.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    net::SocketAddr,
};

use async_trait::async_trait;
use swarmer_gossip::{Admission, Liveness, Signer, Verifier};
use swarmer_model::NodeId;

/// Everybody is admitted, and nobody has a connection: nothing speaks against a death.
pub(super) struct Anyone;

impl Admission for Anyone {
    fn admitted(&self, _: NodeId) -> bool {
        true
    }
}

#[async_trait]
impl Liveness for Anyone {
    fn has_live_connection(&self, _: NodeId) -> bool {
        false
    }

    async fn confirm_alive(&self, _: NodeId, _: SocketAddr) -> bool {
        false
    }
}

/// A keyed hash as long as a signature.
pub(super) struct Hashes(pub(super) NodeId);

fn hash(node: NodeId, bytes: &[u8]) -> Vec<u8> {
    let mut hasher = DefaultHasher::new();
    (node, bytes).hash(&mut hasher);
    let mut signature = hasher.finish().to_be_bytes().to_vec();
    signature.resize(64, 7);
    signature
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
