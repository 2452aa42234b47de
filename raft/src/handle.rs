//! The only way into a running voter or learner.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use swarmer_model::{NodeId, Revision};
use tokio::sync::watch;

use crate::{
    client::Client,
    error::RaftError,
    follower::Feed,
    keyspace::ChainHash,
    status::Status,
    txn::{Outcome, Txn},
    view::View,
};

/// Cheap to clone. All waits end by their deadline.
#[derive(Debug, Clone)]
pub struct Handle {
    _private: (),
}

#[expect(clippy::todo, unused_variables, reason = "first slice: signatures")]
impl Handle {
    /// Makes these nodes the first voters of a new cluster. To be called on one node of a
    /// cluster (the same set elsewhere does no harm). Does nothing if this node is already part
    /// of a cluster.
    ///
    /// # Errors
    /// [`RaftError::Membership`] if this node is not among them.
    pub async fn initialize(&self, voters: BTreeSet<NodeId>) -> Result<(), RaftError> {
        todo!()
    }

    /// Answers a message of another node's [`crate::Transport::call`]. `from` is the sender as
    /// the connection authenticated it.
    ///
    /// # Errors
    /// [`RaftError::BadMessage`], [`RaftError::WrongNode`], or what stopped the engine. The
    /// caller reports them to the sender as a failed call.
    pub async fn handle_message(&self, from: NodeId, body: Bytes) -> Result<Bytes, RaftError> {
        todo!()
    }

    /// Commits a transaction, here or through the leader; retried within the deadline, safely by
    /// its request id.
    ///
    /// # Errors
    /// [`RaftError::Invalid`], [`RaftError::Full`], [`RaftError::NoQuorum`] and
    /// [`RaftError::NoLeader`]: it did not happen. [`RaftError::TimeoutUnknown`]: it may have.
    pub async fn write(&self, txn: Txn, deadline: Duration) -> Result<Outcome, RaftError> {
        todo!()
    }

    /// The linearizable barrier: when it returns, [`Handle::view`] shows every write that was
    /// acknowledged anywhere before the call. Returns the revision reached.
    ///
    /// # Errors
    /// [`RaftError::NoQuorum`], [`RaftError::NoLeader`], [`RaftError::Timeout`].
    pub async fn read_index(&self, deadline: Duration) -> Result<Revision, RaftError> {
        todo!()
    }

    /// The read side.
    pub fn view(&self) -> View {
        todo!()
    }

    /// The write side as a follower has it too.
    pub fn client(&self) -> Client {
        todo!()
    }

    /// What this node knows about the cluster.
    pub fn status(&self) -> Status {
        todo!()
    }

    /// Changes of [`Handle::status`].
    pub fn subscribe_status(&self) -> watch::Receiver<Status> {
        todo!()
    }

    /// A feed for a node that follows, from its position (see [`crate::Follower::position`]).
    pub fn feed(&self, from: Option<(Revision, ChainHash)>) -> Feed {
        todo!()
    }

    /// Adds a learner; done on the leader only. Returns when it has caught up or `deadline` is
    /// over.
    ///
    /// # Errors
    /// [`RaftError::NoLeader`] names no one if this node is not the leader; see
    /// [`Handle::status`]. [`RaftError::Membership`] if refused.
    pub async fn add_learner(&self, node: NodeId, deadline: Duration) -> Result<(), RaftError> {
        todo!()
    }

    /// Makes exactly these nodes the voters (learners become voters, other voters leave); done
    /// on the leader only. Call it again with the same set after an error: a change left half
    /// done is finished by that.
    ///
    /// # Errors
    /// As [`Handle::add_learner`].
    pub async fn change_voters(
        &self,
        voters: BTreeSet<NodeId>,
        deadline: Duration,
    ) -> Result<(), RaftError> {
        todo!()
    }

    /// Hands the leadership over, if this node has it; returns when another one leads.
    ///
    /// # Errors
    /// [`RaftError::Timeout`] if it did not happen in time.
    pub async fn transfer_leader(&self, to: NodeId, deadline: Duration) -> Result<(), RaftError> {
        todo!()
    }

    /// Makes a snapshot now; returns when it is on the disk.
    ///
    /// # Errors
    /// [`RaftError::Timeout`].
    pub async fn snapshot_now(&self, deadline: Duration) -> Result<(), RaftError> {
        todo!()
    }

    /// Waits for the first fatal error. The node must exit then.
    pub async fn fatal(&self) -> RaftError {
        todo!()
    }

    /// Stops the engine, flushes the keyspace and marks the stop as clean.
    ///
    /// # Errors
    /// [`RaftError::Storage`]; nothing is lost by that, the next start takes longer.
    pub async fn shutdown(&self) -> Result<(), RaftError> {
        todo!()
    }
}
