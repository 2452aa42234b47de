//! What can go wrong between nodes.

use std::{fmt, io, net::SocketAddr, time::Duration};

use swarmer_model::{Code, Coded, NodeId};

use crate::{
    codes,
    identity::IdentityError,
    stream::{FrameError, ResetCode},
};

/// The transport cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The UDP address cannot be had.
    #[error("cannot listen on UDP address {address}")]
    Bind {
        /// What was asked for.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// Keys or certificates are unusable.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

impl Coded for TransportError {
    fn code(&self) -> Code {
        match self {
            Self::Bind { .. } => codes::BIND,
            Self::Identity(error) => error.code(),
        }
    }
}

/// Which side refused a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusedBy {
    /// This node refused the peer.
    Us,
    /// The peer refused this node.
    Peer,
}

impl fmt::Display for RefusedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Us => "this node refuses",
            Self::Peer => "refused by",
        })
    }
}

/// No stream to a peer could be opened. In every case nothing was started there.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OpenError {
    /// This node is in no cluster.
    #[error("this node has no certificate yet")]
    NoIdentity,
    /// Nobody knows where the peer is.
    #[error("the address of node {peer} is not known")]
    UnknownAddress {
        /// The peer.
        peer: NodeId,
    },
    /// The peer is this node itself.
    #[error("node {peer} is this node: nothing is sent over the network")]
    Loopback {
        /// This node.
        peer: NodeId,
    },
    /// The peer does not answer, or the way to it is broken.
    #[error("node {peer} at {address} cannot be reached: {reason}")]
    Unreachable {
        /// The peer.
        peer: NodeId,
        /// Where it was tried.
        address: SocketAddr,
        /// What QUIC says.
        reason: String,
    },
    /// Dialling failed just now; the next attempt is made a little later.
    #[error("node {peer} could not be reached just now, next attempt in {} ms: {last}", retry_in.as_millis())]
    Backoff {
        /// The peer.
        peer: NodeId,
        /// Until the next attempt.
        retry_in: Duration,
        /// How the last attempt ended.
        last: Box<OpenError>,
    },
    /// One side does not let the other in.
    #[error("{by} node {peer}: {reason}")]
    Refused {
        /// The peer.
        peer: NodeId,
        /// Which side refused.
        by: RefusedBy,
        /// The stable code.
        code: Code,
        /// The reason in words.
        reason: String,
    },
    /// The peer's certificate is expired and the kind of stream needs a valid one.
    #[error("the certificate of node {peer} is expired: only renewal and Raft are open to it")]
    Expired {
        /// The peer.
        peer: NodeId,
    },
    /// The peer's certificate is of an authority that is not believed here, and the kind of stream
    /// needs one that is.
    #[error(
        "the certificate of node {peer} is of an authority that is not believed here: one of the \
         two nodes slept while it changed, and is not whole yet"
    )]
    Unbelieved {
        /// The peer.
        peer: NodeId,
    },
    /// The peer is older than what it should be told.
    #[error("node {peer} speaks version {speaks} of the wire, and this needs version {needs}")]
    TooOld {
        /// The peer.
        peer: NodeId,
        /// The newest version that both nodes speak.
        speaks: u8,
        /// The version that is needed.
        needs: u8,
    },
    /// The deadline came first.
    #[error("no stream to node {peer} before the deadline")]
    Deadline {
        /// The peer.
        peer: NodeId,
    },
    /// The transport is stopping.
    #[error("this node is shutting down")]
    Closed,
}

impl OpenError {
    /// Whether nothing was started at the peer, so that the request may go elsewhere: always.
    pub const fn not_started(&self) -> bool {
        true
    }
}

impl Coded for OpenError {
    fn code(&self) -> Code {
        match self {
            Self::NoIdentity => codes::NO_IDENTITY,
            Self::UnknownAddress { .. } | Self::Loopback { .. } => codes::UNKNOWN_ADDRESS,
            Self::Unreachable { .. } => codes::UNREACHABLE,
            Self::Backoff { last, .. } => last.code(),
            Self::Refused { code, .. } => *code,
            Self::Expired { .. } => codes::EXPIRED,
            Self::Unbelieved { .. } => codes::UNBELIEVED,
            Self::TooOld { .. } => codes::UNKNOWN_STREAM,
            Self::Deadline { .. } => codes::DEADLINE,
            Self::Closed => codes::CLOSED,
        }
    }
}

/// A request to a peer got no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RequestError {
    /// No stream could be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The request could not be sent or the answer not be read.
    #[error("request to node {peer}: {source}")]
    Frame {
        /// The peer.
        peer: NodeId,
        /// What happened.
        source: FrameError,
    },
    /// The deadline came first; whether the peer did anything is not known.
    #[error("no answer from node {peer} before the deadline")]
    Deadline {
        /// The peer.
        peer: NodeId,
    },
}

impl RequestError {
    /// Whether nothing was started at the peer, so that the request may go elsewhere.
    pub fn not_started(&self) -> bool {
        match self {
            Self::Open(error) => error.not_started(),
            Self::Frame { source, .. } => source.not_started(),
            Self::Deadline { .. } => false,
        }
    }

    /// The code that the peer broke the stream off with.
    pub fn reset(&self) -> Option<ResetCode> {
        match self {
            Self::Frame { source: FrameError::Reset(code), .. } => Some(*code),
            _ => None,
        }
    }
}

impl Coded for RequestError {
    fn code(&self) -> Code {
        match self {
            Self::Open(error) => error.code(),
            Self::Frame { source, .. } => source.code(),
            Self::Deadline { .. } => codes::DEADLINE,
        }
    }
}

/// A node could not be dialled for joining or founding.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DialError {
    /// It does not answer.
    #[error("{address} cannot be reached: {reason}")]
    Unreachable {
        /// Where it was tried.
        address: SocketAddr,
        /// What QUIC says.
        reason: String,
    },
    /// One side does not let the other in.
    #[error("{by} {address}: {reason}")]
    Refused {
        /// Where it was tried.
        address: SocketAddr,
        /// Which side refused.
        by: RefusedBy,
        /// The stable code.
        code: Code,
        /// The reason in words.
        reason: String,
    },
    /// The deadline came first.
    #[error("{address} did not answer before the deadline")]
    Deadline {
        /// Where it was tried.
        address: SocketAddr,
    },
    /// Our own key is unusable.
    #[error("this node's identity is unusable: {reason}")]
    Identity {
        /// What is wrong.
        reason: String,
    },
}

impl Coded for DialError {
    fn code(&self) -> Code {
        match self {
            Self::Unreachable { .. } => codes::UNREACHABLE,
            Self::Refused { code, .. } => *code,
            Self::Deadline { .. } => codes::DEADLINE,
            Self::Identity { .. } => codes::KEY_FILE,
        }
    }
}
