//! Who vouches for a frame of a feed: the voter that serves it signs each.
//!
//! What is signed: the words `swarmer feed 1`, then cluster id (u128), node id (u64), the node's
//! boot counter (u64), revision (u64), chain hash (32 bytes) and the SHA-256 of the frame, all
//! integers little-endian. The chain hash stands for the whole history up to the revision, so a
//! follower that holds one signed frame can show who told it what.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use swarmer_model::{ClusterId, NodeId, Revision};

use super::feed::{MAX_FRAME_BYTES, VERSION};
use crate::{error::FeedError, keyspace::ChainHash};

/// What stands before everything that is signed, so that the signature is good for nothing else.
const WORDS: &[u8] = b"swarmer feed 1";
/// The longest signature that is looked at; ECDSA P-256 has 64 bytes, or 72 in DER.
const MAX_SIGNATURE_BYTES: usize = 128;
/// The most that sealing adds to a frame.
pub(crate) const SEAL_BYTES: usize = 256;

/// Signs with the key of this node.
pub trait FeedKey: Send + Sync + 'static {
    /// The signature of the message.
    fn sign(&self, message: &[u8]) -> Vec<u8>;
}

/// Knows the keys of the cluster's voters.
pub trait VoterKeys: Send + Sync + 'static {
    /// Whether the node is a voter, to this node's knowledge, and its key signed the message.
    fn signed_by_voter(&self, node: NodeId, message: &[u8], signature: &[u8]) -> bool;
}

/// The voter that serves a feed. Cheap to clone.
#[derive(Clone)]
pub struct FeedSigner {
    /// The cluster.
    pub cluster: ClusterId,
    /// The voter.
    pub node: NodeId,
    /// Counts its starts.
    pub boot: u64,
    /// Its key.
    pub key: Arc<dyn FeedKey>,
}

/// The cluster that a follower belongs to, and its voters.
#[derive(Clone)]
pub struct FeedTrust {
    /// The cluster.
    pub cluster: ClusterId,
    /// The keys of its voters.
    pub voters: Arc<dyn VoterKeys>,
}

/// Where the sender stands, by its word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Position {
    pub(crate) revision: Revision,
    pub(crate) chain: ChainHash,
}

#[derive(Serialize, Deserialize)]
struct Seal {
    node: NodeId,
    boot: u64,
    position: Position,
    signature: Vec<u8>,
}

impl fmt::Debug for FeedSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FeedSigner").field("node", &self.node).finish_non_exhaustive()
    }
}

impl fmt::Debug for FeedTrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FeedTrust").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

impl FeedSigner {
    /// The frame with its seal before it: version, seal, frame.
    pub(crate) fn seal(&self, position: Position, frame: &[u8]) -> Bytes {
        let message = message(self.cluster, self.node, self.boot, position, frame);
        let signature = self.key.sign(&message);
        let seal = Seal { node: self.node, boot: self.boot, position, signature };
        let mut bytes = postcard::to_extend(&seal, vec![VERSION]).unwrap_or_default();
        debug_assert!(bytes.len() <= SEAL_BYTES, "a seal of {} bytes", bytes.len());
        bytes.extend_from_slice(frame);
        bytes.into()
    }
}

impl FeedTrust {
    /// The frame under its seal, and where the voter stands that signed it.
    pub(crate) fn open<'a>(&self, bytes: &'a [u8]) -> Result<(Position, &'a [u8]), FeedError> {
        if bytes.len() > MAX_FRAME_BYTES {
            let why = format!("{} bytes, at most {MAX_FRAME_BYTES}", bytes.len());
            return Err(FeedError::Malformed(why));
        }
        let sealed = match bytes.split_first() {
            Some((&VERSION, sealed)) => sealed,
            Some((version, _)) => {
                return Err(FeedError::Malformed(format!("version {version}, not {VERSION}")));
            }
            None => return Err(FeedError::Malformed("it is empty".to_owned())),
        };
        let (seal, frame) = postcard::take_from_bytes::<Seal>(sealed)
            .map_err(|error| FeedError::Malformed(error.to_string()))?;
        let message = message(self.cluster, seal.node, seal.boot, seal.position, frame);
        if seal.signature.len() > MAX_SIGNATURE_BYTES
            || !self.voters.signed_by_voter(seal.node, &message, &seal.signature)
        {
            return Err(FeedError::Signature { node: seal.node });
        }
        Ok((seal.position, frame))
    }
}

fn message(
    cluster: ClusterId,
    node: NodeId,
    boot: u64,
    position: Position,
    frame: &[u8],
) -> Vec<u8> {
    let frame: [u8; 32] = Sha256::digest(frame).into();
    [
        WORDS,
        &cluster.0.to_le_bytes(),
        &node.0.to_le_bytes(),
        &boot.to_le_bytes(),
        &position.revision.to_le_bytes(),
        &position.chain.0,
        &frame,
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A key that everybody can check: the SHA-256 of the node's id and the message.
    struct Key(NodeId);

    fn mark(node: NodeId, message: &[u8]) -> Vec<u8> {
        Sha256::digest([&node.0.to_le_bytes()[..], message].concat()).to_vec()
    }

    impl FeedKey for Key {
        fn sign(&self, message: &[u8]) -> Vec<u8> {
            mark(self.0, message)
        }
    }

    /// Nodes 1 to 3 vote.
    struct Voters;

    impl VoterKeys for Voters {
        fn signed_by_voter(&self, node: NodeId, message: &[u8], signature: &[u8]) -> bool {
            (1..=3).contains(&node.0) && mark(node, message) == signature
        }
    }

    fn signer(cluster: u128, node: u64, key: u64) -> FeedSigner {
        let key = Arc::new(Key(NodeId(key)));
        FeedSigner { cluster: ClusterId(cluster), node: NodeId(node), boot: 5, key }
    }

    #[test]
    fn only_a_voter_of_this_cluster_vouches_for_a_frame() {
        let position = Position { revision: 7, chain: ChainHash([9; 32]) };
        let trust = FeedTrust { cluster: ClusterId(1), voters: Arc::new(Voters) };
        let good = signer(1, 2, 2).seal(position, b"frame");
        assert_eq!(trust.open(&good), Ok((position, &b"frame"[..])));
        for (what, signer) in [
            ("no voter", signer(1, 4, 4)),
            ("a node in a voter's name", signer(1, 2, 4)),
            ("a voter in another's name", signer(1, 2, 3)),
            ("another cluster", signer(2, 2, 2)),
        ] {
            let node = signer.node;
            let bytes = signer.seal(position, b"frame");
            assert_eq!(trust.open(&bytes), Err(FeedError::Signature { node }), "{what}");
        }
        // Whatever is changed, revision, chain, boot and frame alike, is no longer vouched for.
        for at in 0..good.len() {
            let mut bytes = good.to_vec();
            bytes[at] ^= 1;
            assert!(trust.open(&bytes).is_err(), "byte {at}");
            assert!(trust.open(&good[..at]).is_err(), "cut at {at}");
        }
    }
}
