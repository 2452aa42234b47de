//! Nodes that are neither voter nor learner: they follow by a feed of hash-chained batches.

mod disk;
mod feed;
mod intake;
mod seal;

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
pub use feed::Feed;
use feed::Known;
use intake::Intake;
use parking_lot::Mutex;
pub use seal::{FeedKey, FeedSigner, FeedTrust, VoterKeys};
use swarmer_model::{NodeId, Revision};
use tokio::{sync::watch, time::Instant};

use crate::{
    disk::Disk,
    error::{FeedError, RaftError},
    keyspace::{ChainHash, HISTORY_MAX_BYTES, Shared},
    status::{Role, Status},
    view::View,
    wal::WalError,
};

/// A sender that was silent for so long (three heartbeats) no longer counts as heard.
const HEARD_AGE: Duration = Duration::from_secs(3);
/// How often it is looked at whether the sender has fallen silent.
const TICK: Duration = Duration::from_secs(1);

/// A node that follows. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Follower {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    node: NodeId,
    shared: Arc<Shared>,
    intake: tokio::sync::Mutex<Intake>,
    heard: Mutex<Heard>,
    log: watch::Receiver<Option<WalError>>,
    status: watch::Sender<Status>,
}

#[derive(Debug, Default)]
struct Heard {
    known: Known,
    at: Option<Instant>,
}

impl Follower {
    /// Opens what this node last knew from `dir`, on the current tokio runtime. Feeds are taken
    /// only as `trust` says.
    ///
    /// # Errors
    /// [`RaftError::Storage`] or [`RaftError::Log`] if the disk fails or what it holds is damaged.
    pub async fn open(
        node: NodeId,
        dir: &Path,
        disk: Arc<dyn Disk>,
        trust: FeedTrust,
    ) -> Result<Self, RaftError> {
        let dir = dir.to_owned();
        let opened = tokio::task::spawn_blocking(move || disk::Kept::open(disk, &dir)).await;
        let (kept, state, known) =
            opened.map_err(|error| RaftError::Storage(error.to_string()))??;
        let shared = Shared::new(state, HISTORY_MAX_BYTES);
        let (status, _) = watch::channel(Status::initial(node, Role::Follower));
        let inner = Arc::new(Inner {
            node,
            log: kept.fatal(),
            intake: tokio::sync::Mutex::new(Intake::new(kept, shared.clone(), trust)),
            shared,
            heard: Mutex::new(Heard { known, at: None }),
            status,
        });
        inner.publish();
        let weak = Arc::downgrade(&inner);
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(TICK);
            loop {
                ticks.tick().await;
                let Some(inner) = weak.upgrade() else { return };
                inner.publish();
            }
        });
        Ok(Self { inner })
    }

    /// The read side.
    pub fn view(&self) -> View {
        View::new(self.inner.shared.clone())
    }

    /// What this node knows about the cluster.
    pub fn status(&self) -> Status {
        self.inner.make_status()
    }

    /// Changes of [`Follower::status`].
    pub fn subscribe_status(&self) -> watch::Receiver<Status> {
        self.inner.status.subscribe()
    }

    /// Where a feed has to go on; none if nothing is known yet.
    pub fn position(&self) -> Option<(Revision, ChainHash)> {
        let (revision, chain) = self.view().position();
        (revision > 0).then_some((revision, chain))
    }

    /// Takes a frame of the one current feed. A new feed may start at any time; what was left of
    /// a snapshot is discarded then.
    ///
    /// # Errors
    /// [`FeedError`]; nothing of what was wrong is applied (sound batches before it in the same
    /// frame are). Ask for a new feed from [`Follower::position`].
    pub async fn consume(&self, frame: Bytes) -> Result<(), FeedError> {
        let mut intake = self.inner.intake.lock().await;
        let known = intake.take(&frame).await?;
        let mut heard = self.inner.heard.lock();
        heard.at = Some(Instant::now());
        if let Some(known) = known {
            if known.voters != heard.known.voters || known.learners != heard.known.learners {
                intake.remember(&known)?;
            }
            heard.known = known;
        }
        drop(heard);
        self.inner.publish();
        Ok(())
    }

    /// Waits for the first fatal error of the disk. The node must exit then: it would show what the
    /// next start does not know.
    pub async fn fatal(&self) -> RaftError {
        let mut log = self.inner.log.clone();
        match log.wait_for(Option::is_some).await.map(|error| error.clone()) {
            Ok(Some(error)) => error.into(),
            // The log was closed in good order.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// Writes out what is still on its way to the disk and stops.
    ///
    /// # Errors
    /// [`RaftError::Storage`]; nothing is lost but the last moments.
    pub async fn shutdown(&self) -> Result<(), RaftError> {
        self.inner.shared.close();
        self.inner.intake.lock().await.close().await
    }
}

impl Inner {
    fn make_status(&self) -> Status {
        let (revision, chain_hash) = self.shared.read(|state| (state.revision(), state.chain()));
        let heard = self.heard.lock();
        let known = &heard.known;
        let recent = heard.at.is_some_and(|at| at.elapsed() < HEARD_AGE);
        Status {
            node: self.node,
            role: Role::Follower,
            leader: known.leader,
            term: known.term,
            revision,
            last_log_index: None,
            applied_index: None,
            voters: known.voters.clone(),
            learners: known.learners.clone(),
            chain_hash,
            quorum_ok: recent && known.quorum_ok,
            lag: known.revision.saturating_sub(revision),
        }
    }

    fn publish(&self) {
        let status = self.make_status();
        self.status.send_if_modified(|current| {
            let changed = *current != status;
            if changed {
                *current = status;
            }
            changed
        });
    }
}
