//! The way out when a majority of the voters is gone for good.

use std::{collections::BTreeSet, sync::Arc};

use swarmer_model::{NodeId, Revision};

use crate::{adapter, disk::Disk, error::RaftError, raft::Config, txn::Txn, view::View};

/// What a recovery started from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// The revision that this node has, and the cluster from now on.
    pub revision: Revision,
    /// The term in which it goes on.
    pub term: u64,
    /// The voters until now, this node among them.
    pub voters: BTreeSet<NodeId>,
}

/// Makes a stopped node the only voter of its cluster, in its own log, and commits `change` (made
/// from the state that there will be, and the voters until now) with that. Everything in its log counts from now on, also
/// what was never acknowledged; what was acknowledged by others and did not reach this log is lost.
/// The other voters must never be started again: together they could still decide something else.
///
/// Blocks. Repeatable: an end in the middle leaves what was, or what will be.
///
/// # Errors
/// [`RaftError::Membership`] if the node was no voter by its own log; [`RaftError::Storage`] and
/// [`RaftError::Log`] if the disk fails or what it holds is damaged.
pub fn recover(
    config: &Config,
    disk: Arc<dyn Disk>,
    change: impl FnOnce(&View, &BTreeSet<NodeId>) -> Txn,
) -> Result<Recovered, RaftError> {
    adapter::recover(config, disk, change)
}
