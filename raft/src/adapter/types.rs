//! The engine's types as we use them.

use std::{fmt, io};

use bytes::Bytes;
use openraft::{
    EmptyNode,
    type_config::alias::{LogIdOf, StoredMembershipOf},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::clock::Runtime;
use crate::{keyspace::Response, txn::Txn};

openraft::declare_raft_types!(
    /// The engine's parameters. Node ids are bare numbers here, as its test suite wants them.
    pub(crate) Types:
        D = Command,
        R = Response,
        NodeId = u64,
        Node = EmptyNode,
        AsyncRuntime = Runtime,
);

pub(crate) type LogId = LogIdOf<Types>;
pub(crate) type Entry = openraft::type_config::alias::EntryOf<Types>;
pub(crate) type Vote = openraft::type_config::alias::VoteOf<Types>;
pub(crate) type Membership = StoredMembershipOf<Types>;
pub(crate) type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<Types>;

/// What a log entry asks of the state machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Command(pub(crate) Txn);

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Txn { request_id, checks, ops } = &self.0;
        write!(f, "txn {request_id:032x} ({} checks, {} ops)", checks.len(), ops.len())
    }
}

/// Where the state machine stands: stored with the keyspace and in snapshots.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Position {
    pub(crate) last_applied: Option<LogId>,
    pub(crate) membership: Membership,
}

impl Position {
    pub(crate) fn meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: self.last_applied, last_membership: self.membership.clone() }
    }
}

pub(crate) fn encode<T: Serialize>(value: &T) -> io::Result<Bytes> {
    postcard::to_allocvec(value).map(Bytes::from).map_err(io::Error::other)
}

pub(crate) fn decode<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> io::Result<T> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok(_) => Err(unreadable(what, "bytes follow its end")),
        Err(error) => Err(unreadable(what, &error.to_string())),
    }
}

fn unreadable(what: &str, why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{what} cannot be read: {why}"))
}
