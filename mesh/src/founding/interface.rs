//! What the driver gives to the founding core, and what the core asks of it.

use swarmer_model::{ClusterId, Code, NodeId};

use super::{Founder, FoundingRecord, FoundingToken, RefuseReason, codes};

/// One stream to another founder; numbers are the driver's and are not used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(pub u64);

/// Which end of a link this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// This node opened the connection.
    Dialer,
    /// The peer did.
    Acceptor,
}

/// What a founder starts from.
#[derive(Debug, Clone)]
pub struct FoundingConfig {
    /// The shared token.
    pub token: FoundingToken,
    /// How many founders there are, itself included: 1 to [`MAX_FOUNDERS`](super::MAX_FOUNDERS).
    pub expect: usize,
    /// This node.
    pub me: Founder,
    /// A random number of this run of the node, by which it knows itself again where a seed leads
    /// back to it: a copied data directory has the same node id and key, never the same run.
    pub run: [u8; 16],
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Input {
    /// A stream is open, dialled or accepted.
    Connected {
        /// Its number.
        link: LinkId,
        /// Which end this is.
        side: Side,
        /// The TLS exporter of the connection, the same on both ends.
        exporter: [u8; 32],
        /// The public key of the peer's certificate, as SubjectPublicKeyInfo.
        peer_spki: Vec<u8>,
    },
    /// A message came in.
    Received {
        /// On which link.
        link: LinkId,
        /// The message.
        bytes: Vec<u8>,
    },
    /// A stream is gone.
    Disconnected {
        /// Which.
        link: LinkId,
    },
    /// The record of this number, and all before, are durable.
    Persisted {
        /// The number.
        sequence: u64,
    },
    /// The cluster is made: what each founder gets, this one included. May be given again with
    /// fresher grants.
    Founded {
        /// Opaque bytes for each founder, at most [`MAX_GRANT_BYTES`](super::MAX_GRANT_BYTES) each.
        grants: Vec<(NodeId, Vec<u8>)>,
    },
    /// This founder's own part is durable on its disk.
    GrantStored,
    /// Time passed; at least every [`RESEND_EVERY`](super::RESEND_EVERY).
    Tick,
    /// Every seed was asked once whether a cluster stands there (`Founding::answered`, or it
    /// could not be dialled), or the time for that is over. One that founds alone does not begin
    /// before it; the others have to meet each other anyway.
    SeedsAsked,
}

/// What to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Send a message. Lost ones are sent again later.
    Send {
        /// On which link.
        link: LinkId,
        /// The message.
        bytes: Vec<u8>,
    },
    /// Make the record durable, in the order of the numbers, then give [`Input::Persisted`].
    Persist {
        /// The number.
        sequence: u64,
        /// What to write; replaces what was written before.
        record: Box<FoundingRecord>,
    },
    /// Close a link (after what was sent on it) and log why.
    Close {
        /// Which.
        link: LinkId,
        /// Why.
        reason: CloseReason,
    },
    /// Dial an address that another founder told of.
    Dial {
        /// `host:port`.
        address: String,
    },
    /// Make the cluster with these founders: CA, first Raft state, grants. Comes again after a
    /// restart until [`Input::Founded`] is durable, always with the same founders, so making it
    /// must be repeatable.
    Found {
        /// All N, this one included, in the order of their ids.
        founders: Vec<Founder>,
    },
    /// This founder's part. Store it, then give [`Input::GrantStored`]; it may come more than
    /// once.
    Granted {
        /// The bytes that the maker of the cluster gave for this founder.
        grant: Vec<u8>,
    },
    /// The cluster stands without this node: end founding and tell the operator.
    JoinInstead {
        /// A member's address.
        hint: String,
    },
    /// This node must not found: end founding and tell the operator.
    GiveUp {
        /// On which link it was learnt.
        link: LinkId,
        /// Why.
        reason: GiveUp,
    },
    /// Somebody showed the token of the standing cluster, or one of another cluster; it was told
    /// so, and the operator of this side should read it too.
    TurnedAway {
        /// On which link.
        link: LinkId,
        /// Who it says it is.
        node: NodeId,
        /// Why.
        reason: TurnedAway,
    },
    /// Something the operator should read.
    Log {
        /// The text.
        text: String,
    },
}

/// Why a founder gives up before it has bound itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GiveUp {
    /// It would found alone, and a seed says that a cluster stands there: another one, or its own
    /// without a proof.
    Standing {
        /// That cluster.
        cluster: ClusterId,
    },
    /// It would found alone, and a seed does not take it for one of its own.
    Alone {
        /// What the seed, or this node, said.
        reason: RefuseReason,
    },
}

/// Why somebody with a founding token was turned away where a cluster stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TurnedAway {
    /// The token is of this cluster, and is spent.
    Spent,
    /// The token names this cluster, and its secret is not the one that founded it.
    WrongSecret,
    /// The token is of another cluster.
    OtherCluster {
        /// Which one.
        cluster: ClusterId,
    },
}

impl TurnedAway {
    /// The stable code of the reason.
    pub fn code(self) -> Code {
        match self {
            Self::Spent => codes::ALREADY_FOUNDED,
            Self::WrongSecret => codes::WRONG_SECRET,
            Self::OtherCluster { .. } => codes::OTHER_CLUSTER,
        }
    }
}

impl std::fmt::Display for TurnedAway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Spent => f.write_str(
                "a founding token is spent once the cluster stands: give that node a join token \
                 of `swarmer token create`",
            ),
            Self::WrongSecret => f.write_str(
                "its founding token names this cluster but has not the secret that founded it, \
                 and founding is over: give that node a join token of `swarmer token create`",
            ),
            Self::OtherCluster { cluster } => write!(
                f,
                "its founding token is of another cluster, {cluster}: correct its --join, or give \
                 it a join token of `swarmer token create`"
            ),
        }
    }
}

/// Why a link was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// The link leads back to this very node.
    Myself,
    /// A member of a cluster that stands is at the other end, by its own word or proven.
    Standing {
        /// The cluster.
        cluster: ClusterId,
        /// Whether it is certainly that of this founder's token.
        proven: bool,
    },
    /// This node refused the peer.
    Refused(RefuseReason),
    /// The peer says that it refuses this node.
    RefusedByPeer(RefuseReason),
}

impl std::fmt::Display for CloseReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Myself => f.write_str("the seed is this node itself"),
            Self::Standing { cluster, proven } => {
                let proof = if *proven { "proven" } else { "by its own word" };
                write!(f, "cluster {cluster} stands at the other end, {proof}")
            }
            Self::Refused(reason) => write!(f, "refused a founder: {reason}"),
            Self::RefusedByPeer(reason) => write!(f, "refused by the other founder: {reason}"),
        }
    }
}
