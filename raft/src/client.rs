//! Writes and barriers from any node, through whichever voter leads.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use swarmer_model::{NodeId, Revision};
use tokio::sync::watch;

use crate::{
    error::RaftError,
    status::Status,
    transport::Transport,
    txn::{Outcome, Txn},
    view::View,
};

/// The one write path of voters and followers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    _private: (),
}

#[expect(clippy::todo, unused_variables, reason = "first slice: signatures")]
impl Client {
    /// A client on node `node` that follows: `status` and `view` are those of its
    /// [`crate::Follower`]; `seeds` are asked while the status names no voters.
    pub fn new(
        node: NodeId,
        transport: Arc<dyn Transport>,
        status: watch::Receiver<Status>,
        view: View,
        seeds: BTreeSet<NodeId>,
    ) -> Self {
        todo!()
    }

    /// See [`crate::Handle::write`].
    ///
    /// # Errors
    /// See [`crate::Handle::write`].
    pub async fn write(&self, txn: Txn, deadline: Duration) -> Result<Outcome, RaftError> {
        todo!()
    }

    /// See [`crate::Handle::read_index`]: waits until the view of this node has caught up.
    ///
    /// # Errors
    /// See [`crate::Handle::read_index`].
    pub async fn read_index(&self, deadline: Duration) -> Result<Revision, RaftError> {
        todo!()
    }
}
