//! The desired state of a cluster: a revisioned keyspace with transactions, snapshots and a watch.
//!
//! [`Raft::open`] runs a voter or learner; its [`Handle`] writes, reads with a linearizable
//! barrier, changes the membership and serves the feed. Nodes that are neither follow by a
//! [`Follower`] that consumes that feed. Both offer the same [`View`] for reads and watches and
//! the same [`Client`] for writes.
//!
//! The consensus engine stays behind `adapter`; the log, vote and committed index are in [`wal`];
//! the applied keyspace is a pure state machine in `keyspace`, kept in sled between clean stops
//! and always rebuildable from snapshot and log.

#![forbid(unsafe_code)]

mod adapter;
mod client;
pub mod codes;
pub mod disk;
mod error;
mod follower;
mod gate;
mod handle;
mod keyspace;
mod lanes;
mod latency;
mod members;
mod multiplier;
mod raft;
mod recover;
mod rounds;
mod snapshot;
mod status;
mod succession;
mod transport;
mod txn;
mod view;
pub mod wal;

pub use client::Client;
pub use error::{FeedError, RaftError};
pub use follower::{Feed, FeedKey, FeedSigner, FeedTrust, Follower, VoterKeys};
pub use handle::Handle;
pub use keyspace::ChainHash;
pub use latency::{APPEND_BOUNDS_MS, AppendLatency};
pub use members::{Members, Peer};
pub use multiplier::MAX_MULTIPLIER;
pub use raft::{Config, Raft, Timing};
pub use recover::{Recovered, recover};
pub use status::{Leadership, Role, Status};
pub use transport::{
    Channel, ChannelReceiver, ChannelSender, MAX_MESSAGE_BYTES, Transport, TransportError,
};
pub use txn::{
    Check, Expect, MAX_DEADLINE, MAX_KEY_BYTES, MAX_TXN_BYTES, MAX_TXN_OPS, MAX_VALUE_BYTES, Op,
    Outcome, Txn,
};
pub use view::{Entry, Event, ListAndWatch, Update, View, Watch, WatchEnd, WatchItem};
