//! Nodes that are neither voter nor learner: they follow by a feed of hash-chained batches.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use swarmer_model::{NodeId, Revision};
use tokio::sync::watch;

use crate::{
    disk::Disk,
    error::{FeedError, RaftError},
    keyspace::ChainHash,
    status::Status,
    view::View,
};

/// The sending side of a feed; made by [`crate::Handle::feed`].
#[derive(Debug)]
pub struct Feed {
    _private: (),
}

#[expect(clippy::todo, reason = "first slice: signatures")]
impl Feed {
    /// The next frame, at most 256 KiB; one at least every second. None when the node is
    /// stopping. Cancel-safe.
    pub async fn next(&mut self) -> Option<Bytes> {
        todo!()
    }
}

/// A node that follows. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Follower {
    _private: (),
}

#[expect(clippy::todo, unused_variables, reason = "first slice: signatures")]
impl Follower {
    /// Opens what this node last knew from `dir`.
    ///
    /// # Errors
    /// [`RaftError::Storage`] if the disk fails or what it holds is damaged.
    pub async fn open(node: NodeId, dir: &Path, disk: Arc<dyn Disk>) -> Result<Self, RaftError> {
        todo!()
    }

    /// The read side.
    pub fn view(&self) -> View {
        todo!()
    }

    /// What this node knows about the cluster.
    pub fn status(&self) -> Status {
        todo!()
    }

    /// Changes of [`Follower::status`].
    pub fn subscribe_status(&self) -> watch::Receiver<Status> {
        todo!()
    }

    /// Where a feed has to go on; none if nothing is known yet.
    pub fn position(&self) -> Option<(Revision, ChainHash)> {
        todo!()
    }

    /// Takes a frame of the one current feed.
    ///
    /// # Errors
    /// [`FeedError`]; the state is unchanged then. Ask for a new feed from
    /// [`Follower::position`].
    pub async fn consume(&self, frame: Bytes) -> Result<(), FeedError> {
        todo!()
    }

    /// Writes out what is still on its way to the disk and stops.
    ///
    /// # Errors
    /// [`RaftError::Storage`]; nothing is lost but the last moments.
    pub async fn shutdown(&self) -> Result<(), RaftError> {
        todo!()
    }
}
