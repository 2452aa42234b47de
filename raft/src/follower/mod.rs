//! Nodes that are neither voter nor learner: they follow by a feed of hash-chained batches.

mod disk;
mod feed;
mod intake;
mod seal;

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
pub use feed::Feed;
use feed::Known;
pub(crate) use feed::Then;
use intake::Intake;
use parking_lot::Mutex;
pub use seal::{FeedKey, FeedSigner, FeedTrust, VoterKeys};
use swarmer_model::{NodeId, Revision};
use tokio::{sync::watch, time::Instant};

use crate::{
    disk::{Disk, blocking},
    error::{FeedError, RaftError},
    handle::Handle,
    keyspace::{ChainHash, HISTORY_MAX_BYTES, NotShown, Shared, State},
    status::{Leadership, Role, Status},
    view::View,
    wal::WalError,
};

/// A sender that was silent for so long (two heartbeats, and time for one on the way) no longer
/// counts as heard.
const HEARD_AGE: Duration = Duration::from_secs(12);
/// The same when its feed has ended, and no other one brought anything.
const ENDED_AGE: Duration = Duration::from_secs(3);
/// How often it is looked at whether the sender has fallen silent.
const TICK: Duration = Duration::from_secs(1);
/// How long an engine that takes over waits for the feed to come to where the engine's history
/// starts, so that no watcher has to list again; a feed that has stopped is not waited for.
const CUT_AFTER: Duration = Duration::from_secs(5);
/// How often it is looked at how far the two are, without news.
const LOOK: Duration = Duration::from_millis(100);

async fn read(dir: &Path, disk: Arc<dyn Disk>) -> Result<(disk::Kept, State, Known), RaftError> {
    let dir = dir.to_owned();
    let opening = disk.clone();
    let opened = blocking(&disk, move || Ok(disk::Kept::open(opening, &dir))).await;
    opened.map_err(|error| RaftError::Storage(error.to_string()))?
}

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
    leadership: watch::Sender<Leadership>,
}

#[derive(Debug, Default)]
struct Heard {
    known: Known,
    /// Until when it counts.
    until: Option<Instant>,
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
        let (kept, state, known) = read(dir, disk).await?;
        let shared = Shared::new(state, HISTORY_MAX_BYTES);
        Ok(Self::start(node, kept, shared, known, trust))
    }

    /// Goes on where a voter or learner of this node ended: its views, made at any time, show what
    /// this one follows. `ended` must have been stopped by [`Handle::retire`].
    ///
    /// # Errors
    /// As [`Follower::open`].
    pub async fn succeed(
        ended: &Handle,
        dir: &Path,
        disk: Arc<dyn Disk>,
        trust: FeedTrust,
    ) -> Result<Self, RaftError> {
        let shared = ended.place();
        let (mut kept, before, _) = read(dir, disk).await?;
        // On the disk first: what is shown is never taken back by a restart.
        let state = shared.read(State::clone);
        if (before.revision(), before.chain()) != (state.revision(), state.chain()) {
            kept.start_from(&state).await?;
        }
        let status = ended.status();
        let known = Known {
            revision: status.revision,
            leader: None,
            term: status.term,
            voters: status.voters,
            learners: status.learners,
            quorum_ok: false,
        };
        kept.remember(&known).map_err(|error| RaftError::Storage(error.to_string()))?;
        Ok(Self::start(status.node, kept, shared, known, trust))
    }

    fn start(
        node: NodeId,
        kept: disk::Kept,
        shared: Arc<Shared>,
        known: Known,
        trust: FeedTrust,
    ) -> Self {
        let (leadership, _) = watch::channel(Leadership::initial(node, Role::Follower));
        let inner = Arc::new(Inner {
            node,
            log: kept.fatal(),
            intake: tokio::sync::Mutex::new(Intake::new(kept, shared.clone(), trust)),
            shared,
            heard: Mutex::new(Heard { known, until: None }),
            leadership,
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
        Self { inner }
    }

    /// Lets an engine of this node that has caught up show its state in place of this one's: all
    /// views made before or after show what the engine applies, from a revision on that is not
    /// below what was shown. Nothing is followed any more then. Until it can be so, and if it does
    /// not come to be within `deadline`, this one goes on as before.
    ///
    /// # Errors
    /// [`RaftError::Timeout`]; [`RaftError::Storage`] if the two have different histories.
    pub async fn give_way(&self, to: &Handle, deadline: Duration) -> Result<(), RaftError> {
        let start = Instant::now();
        let late = |what: &str| RaftError::Timeout {
            what: what.to_owned(),
            waited_ms: crate::view::millis(start.elapsed()),
        };
        let next = to.place();
        let mut progress = next.progress();
        // Close behind first, with the feed still running, so that the pause below is short.
        loop {
            let (revision, oldest) = next.reach();
            let shown = self.inner.shared.read(State::revision);
            let waited = start.elapsed();
            if revision > 0 && revision >= shown && (oldest <= shown || waited > CUT_AFTER) {
                break;
            }
            let rest = deadline.saturating_sub(waited).min(LOOK);
            if rest.is_zero() {
                return Err(late("the new voter's state up to date"));
            }
            let _ = tokio::time::timeout(rest, progress.changed()).await;
        }
        // Frames that come in wait here.
        let mut intake = self.inner.intake.lock().await;
        loop {
            match next.show_in(&self.inner.shared) {
                Ok(()) => break,
                Err(NotShown::Chain(revision)) => {
                    return Err(RaftError::Storage(format!(
                        "at revision {revision} the log of the voters and what this node followed \
                         differ"
                    )));
                }
                Err(NotShown::Behind) => {
                    let rest = deadline.saturating_sub(start.elapsed());
                    match tokio::time::timeout(rest, progress.changed()).await {
                        Ok(Ok(())) => {}
                        Ok(Err(_)) => return Err(RaftError::ShutDown),
                        Err(_) => return Err(late("the last changes in the new voter's state")),
                    }
                }
            }
        }
        intake.finish().await
    }

    /// The read side.
    pub fn view(&self) -> View {
        View::new(self.inner.shared.clone())
    }

    /// What this node knows about the cluster.
    pub fn status(&self) -> Status {
        self.inner.make_status()
    }

    /// Who leads, on every change.
    pub fn subscribe_leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.leadership.subscribe()
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
        heard.until = Some(Instant::now() + HEARD_AGE);
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

    /// Takes note that the current feed has ended, for whatever reason.
    pub fn feed_ended(&self) {
        let ends = Instant::now() + ENDED_AGE;
        let mut heard = self.inner.heard.lock();
        heard.until = heard.until.map(|until| until.min(ends));
    }

    /// A feed for a node that takes this one for a voter, which it was: all that is known here and
    /// then who votes, each frame signed; it ends with that. See [`Handle::feed`].
    pub fn feed(
        &self,
        from: Option<(Revision, ChainHash)>,
        signer: FeedSigner,
        version: u8,
    ) -> Feed {
        let (shared, leadership) = (self.inner.shared.clone(), self.subscribe_leadership());
        Feed::new(shared, leadership, from, signer, version, Then::Ends)
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
    fn make_leadership(&self) -> Leadership {
        let heard = self.heard.lock();
        let known = &heard.known;
        let recent = heard.until.is_some_and(|until| Instant::now() < until);
        Leadership {
            node: self.node,
            role: Role::Follower,
            leader: known.leader,
            term: known.term,
            voters: known.voters.clone(),
            learners: known.learners.clone(),
            quorum_ok: recent && known.quorum_ok,
        }
    }

    fn make_status(&self) -> Status {
        let (revision, chain_hash) = self.shared.read(|state| (state.revision(), state.chain()));
        let lag = self.heard.lock().known.revision.saturating_sub(revision);
        Status::of(self.make_leadership(), (revision, chain_hash), lag)
    }

    fn publish(&self) {
        let leadership = self.make_leadership();
        self.leadership.send_if_modified(|current| current.replace(leadership));
    }
}
