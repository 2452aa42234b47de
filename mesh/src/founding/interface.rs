//! What the driver gives to the founding core, and what the core asks of it.

use swarmer_model::NodeId;

use super::{Founder, FoundingRecord, FoundingToken, RefuseReason};

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
    /// Something the operator should read.
    Log {
        /// The text.
        text: String,
    },
}

/// Why a link was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// This node refused the peer.
    Refused(RefuseReason),
    /// The peer says that it refuses this node.
    RefusedByPeer(RefuseReason),
}

impl std::fmt::Display for CloseReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(reason) => write!(f, "refused a founder: {reason}"),
            Self::RefusedByPeer(reason) => write!(f, "refused by the other founder: {reason}"),
        }
    }
}
