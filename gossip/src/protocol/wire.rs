//! The messages inside the envelope, and those of push/pull.

use serde::{Deserialize, Serialize};
use swarmer_model::NodeId;

use super::{codec::Row, peer::Peer, summary::Stretch};
use crate::{Coordinate, Digest, SignedRecord, envelope::MAX_PAYLOAD};

/// What a datagram carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Message {
    /// A SWIM message; see [`super::codec`].
    Swim(Vec<u8>),
    /// "Who is there?", to an address of which the node is not known.
    Join(Peer),
    /// The answer: this is who is here.
    Welcome(Peer),
    /// Records; `hot` ones are news and passed on.
    Records { hot: bool, records: Vec<SignedRecord> },
    /// Records too large for a datagram changed: fetch them by push/pull.
    Notice(Vec<Digest>),
    /// What the sender holds of the nodes `from..=to`.
    Digests { from: NodeId, to: NodeId, held: Vec<Digest> },
    /// Please send these nodes' records.
    Want(Vec<NodeId>),
    /// The sender's own probe of this peer failed, or it asked it twice out of turn.
    Suspicion { peer: Peer, incarnation: u16 },
    /// Answer with the same number at once: the way to you is measured. Since
    /// [`swarmer_model::wire::DISTANCES`].
    Echo(u64),
    /// The answer, and where the sender stands.
    Echoed { number: u64, coordinate: Coordinate },
    /// Fingerprints of the members that the sender takes for alive, besides itself and the receiver,
    /// and of the records that it holds.
    /// Since [`swarmer_model::wire::SUMMARIES`].
    Summary { members: u64, records: u64 },
    /// What the sender holds, stretch by stretch, where a fingerprint differed.
    Stretches(Vec<Stretch>),
    /// The sender heard that a probe of this peer by another member failed. Since
    /// [`swarmer_model::wire::SUMMARIES`].
    Accused { by: NodeId, peer: Peer, incarnation: u16 },
    /// A SWIM message without what the envelope says; see [`super::codec::Brief`]. Since
    /// [`swarmer_model::wire::BRIEF`].
    Brief(Vec<u8>),
}

/// Bytes of a payload that records may fill: variant, flag and count go off.
pub(crate) const RECORDS_ROOM: usize = MAX_PAYLOAD - 6;
/// Digests in one datagram: 30 bytes each at most, besides two bounds.
pub(crate) const DIGESTS_PER_DATAGRAM: usize = (MAX_PAYLOAD - 32) / 30;
/// Ids in one "want" datagram.
pub(crate) const WANTS_PER_DATAGRAM: usize = (MAX_PAYLOAD - 8) / 10;
/// Bytes of a payload that SWIM may fill.
pub(crate) const SWIM_ROOM: usize = MAX_PAYLOAD - 4;

impl Message {
    pub(crate) fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("plain values without maps always encode")
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        match postcard::take_from_bytes(bytes) {
            Ok((message, [])) => Some(message),
            _ => None,
        }
    }
}

/// One side of a push/pull: who is asking or answering, whom it takes for alive, what records it
/// holds, some of these, and those that it wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Exchange {
    pub(crate) peer: Peer,
    pub(crate) rows: Vec<Row>,
    pub(crate) held: Vec<Digest>,
    pub(crate) records: Vec<SignedRecord>,
    pub(crate) want: Vec<NodeId>,
}
