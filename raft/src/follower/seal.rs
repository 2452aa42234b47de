//! Who vouches for a frame of a feed: the voter that serves it signs each.
//!
//! What is signed: the words `swarmer feed 1`, then cluster id (u128), node id (u64), the node's
//! boot counter (u64), revision (u64), chain hash (32 bytes) and the SHA-256 of the frame, all
//! integers little-endian. The chain hash stands for the whole history up to the revision, so a
//! follower that holds one signed frame can show who told it what.

use std::{collections::BTreeMap, fmt, sync::Arc};

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
/// The most voters that are remembered: many times as many as a cluster has at a time.
const MAX_SIGNERS: usize = 64;
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

/// A frame that a voter vouches for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Vouched<'a> {
    pub(crate) node: NodeId,
    pub(crate) boot: u64,
    pub(crate) position: Position,
    pub(crate) frame: &'a [u8],
}

/// The newest that each voter vouched for, so that what is older is not taken again. Changes need
/// no more than the chain, which goes forward only; what is told of the cluster has no chain.
#[derive(Debug, Default)]
pub(crate) struct Newest(BTreeMap<NodeId, (u64, Revision)>);

impl Newest {
    /// Takes note of a frame. `told` says whether it tells of the cluster as it is.
    pub(crate) fn note(&mut self, vouched: &Vouched<'_>, told: bool) -> Result<(), FeedError> {
        let node = vouched.node;
        let (boot, revision) = self.0.get(&node).copied().unwrap_or_default();
        let revision = if vouched.boot > boot { 0 } else { revision };
        if vouched.boot < boot || (told && vouched.position.revision < revision) {
            return Err(FeedError::Replayed { node });
        }
        let revision = if told { vouched.position.revision } else { revision };
        if !self.0.contains_key(&node) && self.0.len() >= MAX_SIGNERS {
            self.0.pop_first();
        }
        self.0.insert(node, (vouched.boot, revision));
        Ok(())
    }
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

#[cfg(test)]
impl FeedSigner {
    /// The frame of a sealed one, whoever signed it.
    pub(super) fn unsealed(bytes: &[u8]) -> &[u8] {
        postcard::take_from_bytes::<Seal>(&bytes[1..]).unwrap().1
    }
}

impl FeedTrust {
    /// The frame under its seal, and who vouches for it.
    pub(crate) fn open<'a>(&self, bytes: &'a [u8]) -> Result<Vouched<'a>, FeedError> {
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
        Ok(Vouched { node: seal.node, boot: seal.boot, position: seal.position, frame })
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
        let vouched = Vouched { node: NodeId(2), boot: 5, position, frame: b"frame" };
        assert_eq!(trust.open(&good), Ok(vouched));
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

    #[test]
    fn what_a_voter_vouched_for_before_is_not_taken_again() {
        let at = |node, boot, revision| Vouched {
            node: NodeId(node),
            boot,
            position: Position { revision, chain: ChainHash([0; 32]) },
            frame: b"",
        };
        let mut newest = Newest::default();
        assert_eq!(newest.note(&at(1, 5, 10), true), Ok(()));
        // The same again says nothing new, and changes come with revisions of their own.
        assert_eq!(newest.note(&at(1, 5, 10), true), Ok(()));
        assert_eq!(newest.note(&at(1, 5, 3), false), Ok(()));
        assert_eq!(newest.note(&at(2, 4, 1), true), Ok(()), "each voter by itself");
        let replayed = Err(FeedError::Replayed { node: NodeId(1) });
        assert_eq!(newest.note(&at(1, 5, 9), true), replayed, "an older word");
        for told in [true, false] {
            assert_eq!(newest.note(&at(1, 4, 99), told), replayed, "of an older boot");
        }
        // After a start it may know less than it did.
        assert_eq!(newest.note(&at(1, 6, 2), true), Ok(()));
        assert_eq!(newest.note(&at(1, 5, 10), true), replayed);
        for node in 100..300 {
            assert_eq!(newest.note(&at(node, 1, 1), true), Ok(()));
        }
        assert_eq!(newest.0.len(), MAX_SIGNERS);
    }
}
