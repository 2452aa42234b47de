//! What voters say to each other. What is not understood since ever is in [`swarmer_model::wire`].

use std::{io, time::Duration};

use bytes::Bytes;
use openraft::raft::{
    AppendEntriesRequest, SnapshotResponse, StreamAppendResult, TransferLeaderRequest, VoteRequest,
    VoteResponse,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use swarmer_model::{NodeId, wire};

use super::types::{SnapshotMeta, Types, Vote, decode};
use crate::{
    error::RaftError, keyspace::Response, transport::MAX_MESSAGE_BYTES, txn::Txn, view::millis,
};

/// The first byte of every message. Where it differs nobody understands anybody: what is changed so
/// that older nodes can be spoken to is a version of the wire instead.
const FORMAT: u8 = 2;

/// One snapshot chunk at most.
pub(crate) const SNAPSHOT_CHUNK_BYTES: usize = 1 << 20;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Envelope {
    /// Whom it is meant for: an address may meanwhile belong to another node.
    pub(crate) to: u64,
    pub(crate) request: Request,
}

/// A message of an ordered channel.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Append {
    /// As in [`Envelope`].
    pub(crate) to: u64,
    pub(crate) rpc: AppendEntriesRequest<Types>,
}

/// The answer to an [`Append`]; any but a success is the last one on its channel.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Appended(pub(crate) StreamAppendResult<Types>);

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    Vote(VoteRequest<Types>),
    PreVote(VoteRequest<Types>),
    Snapshot(SnapshotChunk),
    Transfer(TransferLeaderRequest<Types>),
    Propose(Proposal),
    ReadIndex {
        ttl_ms: u64,
    },
    /// Each is answered in its place, all at once.
    ProposeMany(Vec<Proposal>),
}

impl Request {
    /// The version of the wire since which it is understood.
    pub(crate) const fn since(&self) -> u8 {
        match self {
            Self::ProposeMany(_) => wire::MANY_WRITES,
            Self::Vote(_)
            | Self::PreVote(_)
            | Self::Snapshot(_)
            | Self::Transfer(_)
            | Self::Propose(_)
            | Self::ReadIndex { .. } => wire::OLDEST,
        }
    }
}

/// A write, sent on by a node that does not lead.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Proposal {
    pub(crate) txn: Txn,
    pub(crate) ttl_ms: u64,
}

/// A part of a snapshot file.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SnapshotChunk {
    pub(crate) vote: Vote,
    /// Which file of which node: the same however often it is sent.
    pub(crate) transfer: u64,
    pub(crate) offset: u64,
    /// Nothing at the beginning asks how much of it is there already.
    pub(crate) bytes: Bytes,
    /// With the last chunk.
    pub(crate) finish: Option<SnapshotMeta>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    Vote(VoteResponse<Types>),
    Snapshot(SnapshotReply),
    Transfer(Result<(), String>),
    Propose(ProposeReply),
    ReadIndex(ReadReply),
    ProposeMany(Vec<ProposeReply>),
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum SnapshotReply {
    /// Taken so far.
    Continue { received: u64 },
    /// Installed, or refused for the vote in it.
    Done(SnapshotResponse<Types>),
    /// Another sending came in between, or the file is broken: begin again.
    Restart(String),
}

/// What a voter answers to a proposal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ProposeReply {
    Answer(Response),
    /// Not proposed here.
    NotLeader {
        leader: Option<u64>,
    },
    /// Not proposed: this leader has not heard from a majority for a while.
    NoQuorum,
    /// Proposed; what became of it is not known.
    Unknown {
        leader: Option<u64>,
    },
    Invalid(String),
    /// Not proposed: too many are under way.
    Busy,
}

/// What a voter answers to a read barrier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ReadReply {
    At(u64),
    NotLeader { leader: Option<u64> },
    NoQuorum,
}

/// A request as it is sent, with the version of the wire since which it is understood.
pub(crate) fn request(to: u64, request: Request) -> io::Result<(u8, Bytes)> {
    Ok((request.since(), framed(&Envelope { to, request })?))
}

pub(crate) fn propose_request(to: NodeId, proposal: Proposal) -> io::Result<(u8, Bytes)> {
    request(to.0, Request::Propose(proposal))
}

pub(crate) fn propose_many_request(
    to: NodeId,
    proposals: Vec<Proposal>,
) -> io::Result<(u8, Bytes)> {
    request(to.0, Request::ProposeMany(proposals))
}

pub(crate) fn read_request(to: NodeId, ttl: Duration) -> io::Result<(u8, Bytes)> {
    request(to.0, Request::ReadIndex { ttl_ms: millis(ttl) })
}

pub(crate) fn framed<T: Serialize>(value: &T) -> io::Result<Bytes> {
    let body = postcard::to_extend(value, vec![FORMAT]).map_err(io::Error::other)?;
    if body.len() > MAX_MESSAGE_BYTES {
        return Err(io::Error::other(format!("a message of {} bytes is too long", body.len())));
    }
    Ok(body.into())
}

pub(crate) fn decode_framed<T: DeserializeOwned>(body: &[u8]) -> Result<T, RaftError> {
    if body.len() > MAX_MESSAGE_BYTES {
        return Err(RaftError::BadMessage(format!(
            "it has {} bytes, at most {MAX_MESSAGE_BYTES}",
            body.len()
        )));
    }
    match body.split_first() {
        Some((&FORMAT, rest)) => {
            decode("it", rest).map_err(|error| RaftError::BadMessage(error.to_string()))
        }
        Some((format, _)) => Err(RaftError::BadMessage(format!(
            "it is of format {format}, this node speaks {FORMAT}"
        ))),
        None => Err(RaftError::BadMessage("it is empty".to_owned())),
    }
}

pub(crate) fn decode_reply(body: &[u8]) -> Result<Reply, RaftError> {
    decode_framed(body)
}
