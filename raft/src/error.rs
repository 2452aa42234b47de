//! What can go wrong, with the code under which users find it explained.

use swarmer_model::{Code, Coded, NodeId, Revision};

use crate::{codes, wal::WalError};

/// An error of the replicated state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RaftError {
    /// A majority of the voters cannot be reached; nothing was changed.
    #[error("no quorum: {0}; the change was not made")]
    NoQuorum(String),
    /// No leader within the deadline; nothing was changed.
    #[error(
        "no leader is known and none was elected within {waited_ms} ms; the change was not made"
    )]
    NoLeader {
        /// How long was waited, in milliseconds.
        waited_ms: u64,
    },
    /// Too much is under way; nothing was changed.
    #[error("too many changes are under way; this one was not made")]
    Busy,
    /// Sent but not acknowledged: the outcome is not known.
    #[error(
        "no acknowledgement within {waited_ms} ms: the change may or may not have happened; \
         send it again with the same request id"
    )]
    TimeoutUnknown {
        /// How long was waited, in milliseconds.
        waited_ms: u64,
    },
    /// The local state did not reach a revision in time.
    #[error("{what} not reached within {waited_ms} ms")]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long was waited, in milliseconds.
        waited_ms: u64,
    },
    /// The transaction breaks a bound.
    #[error("invalid transaction: {0}")]
    Invalid(String),
    /// The keyspace is at its bound.
    #[error("the keyspace is full ({used_bytes} of {max_bytes} bytes); the change was not made")]
    Full {
        /// Bytes of keys and values held.
        used_bytes: u64,
        /// The bound.
        max_bytes: u64,
    },
    /// The history does not reach back so far.
    #[error("revision {asked} is compacted; the oldest one that can be watched from is {oldest}")]
    Compacted {
        /// What was asked for.
        asked: Revision,
        /// The oldest revision that a watch can start from.
        oldest: Revision,
    },
    /// Only the leader does this.
    #[error("this node is not the leader; the leader is {}", shown(*leader))]
    NotLeader {
        /// Who leads, as far as known.
        leader: Option<NodeId>,
    },
    /// A change of membership was refused.
    #[error("membership not changed: {0}")]
    Membership(String),
    /// Disk failure or damage: fatal.
    #[error("storage: {0}")]
    Storage(String),
    /// The log failed or is damaged: fatal.
    #[error("{reason}")]
    Log {
        /// The log's own code: a full disk and a damaged one want different things of a user.
        code: Code,
        /// What it said.
        reason: String,
    },
    /// A message that cannot be understood.
    #[error("bad message: {0}")]
    BadMessage(String),
    /// A message that was meant for another node.
    #[error("a message for node {intended} reached node {actual}")]
    WrongNode {
        /// Whom it was meant for.
        intended: NodeId,
        /// Who got it.
        actual: NodeId,
    },
    /// This node is stopping.
    #[error("this node is stopping")]
    ShutDown,
}

fn shown(leader: Option<NodeId>) -> String {
    leader.map_or_else(|| "not known".to_owned(), |leader| leader.to_string())
}

impl RaftError {
    /// Whether the node must stop: it can no longer promise anything.
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::Storage(_) | Self::Log { .. })
    }
}

impl From<WalError> for RaftError {
    fn from(error: WalError) -> Self {
        Self::Log { code: error.code(), reason: error.to_string() }
    }
}

impl Coded for RaftError {
    fn code(&self) -> Code {
        match self {
            Self::NoQuorum(_) => codes::NO_QUORUM,
            Self::NoLeader { .. } => codes::NO_LEADER,
            Self::Busy => codes::BUSY,
            Self::TimeoutUnknown { .. } => codes::TIMEOUT_UNKNOWN,
            Self::Timeout { .. } => codes::TIMEOUT,
            Self::Invalid(_) => codes::INVALID,
            Self::Full { .. } => codes::FULL,
            Self::Compacted { .. } => codes::COMPACTED,
            Self::NotLeader { .. } => codes::NOT_LEADER,
            Self::Membership(_) => codes::MEMBERSHIP,
            Self::Storage(_) => codes::STORAGE,
            Self::Log { code, .. } => *code,
            Self::BadMessage(_) | Self::WrongNode { .. } => codes::BAD_MESSAGE,
            Self::ShutDown => codes::SHUT_DOWN,
        }
    }
}

/// Why a frame of the feed was refused. After any of these except [`FeedError::Storage`], drop the
/// feed and ask for a new one from [`crate::Follower::position`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FeedError {
    /// The frame cannot be read.
    #[error("feed frame is malformed: {0}")]
    Malformed(String),
    /// Batches are missing, or it would go back.
    #[error("feed offers revision {offered} where {expected} comes next")]
    Gap {
        /// The revision that comes next.
        expected: Revision,
        /// What the frame brought.
        offered: Revision,
    },
    /// The hash chain does not fit.
    #[error("hash chain broken at revision {revision}: the feed is forged or a state is damaged")]
    Chain {
        /// Where.
        revision: Revision,
    },
    /// Nobody vouches for it whom this node knows as a voter of the cluster.
    #[error(
        "feed frame is not signed by a voter of this cluster; it names node {node} as its signer"
    )]
    Signature {
        /// Who is said to have signed.
        node: NodeId,
    },
    /// A voter vouched for it, before something that it vouched for and that was taken already: it
    /// was kept by somebody and is given again.
    #[error("feed frame is an old one of node {node}, given again")]
    Replayed {
        /// Who signed it.
        node: NodeId,
    },
    /// A snapshot chunk without a beginning, out of order, or with a wrong digest.
    #[error("snapshot in the feed is broken: {0}")]
    Snapshot(String),
    /// The disk failed: the node must stop.
    #[error("storage: {0}")]
    Storage(String),
    /// The node follows no longer: it has the log.
    #[error("the node has the log and follows no longer")]
    Over,
}

impl Coded for FeedError {
    fn code(&self) -> Code {
        match self {
            Self::Storage(_) => codes::STORAGE,
            Self::Signature { .. } | Self::Replayed { .. } => codes::FEED_SIGNATURE,
            _ => codes::BAD_FEED,
        }
    }
}
