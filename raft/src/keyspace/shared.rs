//! The state that readers, watchers and feeds share with the one writer, and its recent history.

use std::{
    collections::VecDeque,
    sync::{Arc, OnceLock},
};

use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use swarmer_model::Revision;
use tokio::sync::watch;

use super::{
    batch::{Batch, ChainHash},
    state::{BatchRefused, Response, State, StateImage},
};
use crate::txn::Txn;

/// The most bytes of batches kept in memory for watchers and feeds: a node that was cut off for
/// minutes under normal change catches up without a snapshot.
pub(crate) const HISTORY_MAX_BYTES: usize = 16 << 20;
/// The most batches that one look into the history brings: bounds the time under the lock.
const TAIL_MAX_BATCHES: usize = 64;

/// How far the state is; what watchers wait on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) revision: Revision,
    /// Nothing will follow.
    pub(crate) closed: bool,
}

/// The next batches after a revision.
#[derive(Debug)]
pub(crate) enum Tail {
    Batches(Vec<Arc<Batch>>),
    /// The history starts later.
    Compacted,
}

/// The next batch after a revision that somebody wants.
#[derive(Debug)]
pub(crate) enum Found {
    Batch(Arc<Batch>),
    /// None up to this revision.
    NoneUpTo(Revision),
    /// The history starts after `oldest`.
    Compacted {
        oldest: Revision,
    },
}

/// How a feed goes on from a position.
#[derive(Debug)]
pub(crate) enum Catchup {
    /// By the batches after this revision.
    Tail(Revision),
    /// By a whole state, then the batches after it.
    Image(StateImage),
}

#[derive(Debug, Default)]
struct Inner {
    state: State,
    history: VecDeque<Arc<Batch>>,
    bytes: usize,
    max_bytes: usize,
    /// Position before the first batch of the history.
    floor: (Revision, ChainHash),
}

/// Shared by clones of [`crate::View`]; written by one task only.
///
/// A node that follows and becomes a voter has two for a while: the one that its readers look at,
/// and the one that the engine brings up to date. [`Shared::show_in`] makes them one: from then on
/// whoever holds the second works on the first.
#[derive(Debug)]
pub(crate) struct Shared {
    inner: RwLock<Inner>,
    progress: watch::Sender<Progress>,
    /// Where the state went; that one's never went anywhere.
    front: OnceLock<Arc<Shared>>,
}

/// Why a state cannot be shown in the place of another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotShown {
    /// It is older than what is shown.
    Behind,
    /// At one revision the two have different histories.
    Chain(Revision),
}

impl Shared {
    pub(crate) fn new(state: State, max_bytes: usize) -> Arc<Self> {
        let revision = state.revision();
        let floor = (revision, state.chain());
        let inner = Inner { state, history: VecDeque::new(), bytes: 0, max_bytes, floor };
        let (progress, _) = watch::channel(Progress { revision, closed: false });
        Arc::new(Self { inner: RwLock::new(inner), progress, front: OnceLock::new() })
    }

    /// Where the state is: here, unless it went elsewhere.
    pub(crate) fn place(self: &Arc<Self>) -> Arc<Self> {
        self.front.get().unwrap_or(self).clone()
    }

    /// The state may go elsewhere while this waits for the lock, so it is looked at once more.
    fn reading(&self) -> RwLockReadGuard<'_, Inner> {
        let own = self.inner.read();
        let Some(front) = self.front.get() else { return own };
        drop(own);
        front.inner.read()
    }

    fn writing(&self) -> RwLockWriteGuard<'_, Inner> {
        let own = self.inner.write();
        let Some(front) = self.front.get() else { return own };
        drop(own);
        front.inner.write()
    }

    /// Moves this state to where another one is shown, so that readers there go on without a
    /// break: what they have not seen yet of the changes is in the history, if this one reaches
    /// back so far; else watchers list again. Whoever wrote there must have stopped.
    pub(crate) fn show_in(&self, front: &Arc<Self>) -> Result<(), NotShown> {
        {
            let mut own = self.inner.write();
            let mut shown = front.inner.write();
            let (revision, chain) = (shown.state.revision(), shown.state.chain());
            if own.state.revision() < revision {
                return Err(NotShown::Behind);
            }
            match own.chain_at(revision) {
                Some(found) if found != chain => return Err(NotShown::Chain(revision)),
                Some(_) => {
                    let own = std::mem::take(&mut *own);
                    shown.state = own.state;
                    let newer = own.history.into_iter().filter(|batch| batch.revision > revision);
                    newer.for_each(|batch| shown.remember(batch));
                }
                None => {
                    let max_bytes = shown.max_bytes;
                    *shown = Inner { max_bytes, ..std::mem::take(&mut *own) };
                }
            }
            let gone = self.front.set(front.clone());
            debug_assert!(gone.is_ok(), "a state goes elsewhere once");
        }
        front.announce();
        // Whoever waits here looks again, and waits there from then on.
        self.progress.send_modify(|_| {});
        Ok(())
    }

    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.front.get().map_or(&self.progress, |front| &front.progress).subscribe()
    }

    pub(crate) fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.reading().state)
    }

    /// Applies a transaction. Readers see it at once; who waits for it is woken by
    /// [`Shared::announce`], once for all that were applied together: every watcher wakes for it.
    pub(crate) fn apply(&self, txn: &Txn) -> (Response, Option<Arc<Batch>>) {
        let mut inner = self.writing();
        let (response, batch) = inner.state.apply(txn);
        if let Some(batch) = &batch {
            inner.remember(batch.clone());
        }
        (response, batch)
    }

    pub(crate) fn apply_batch(&self, batch: Arc<Batch>) -> Result<(), BatchRefused> {
        let mut inner = self.writing();
        inner.state.apply_batch(&batch)?;
        inner.remember(batch);
        drop(inner);
        self.announce();
        Ok(())
    }

    /// Puts another state in place; watchers that have not seen all of it are told to list again.
    pub(crate) fn replace(&self, state: State) {
        let mut inner = self.writing();
        let max_bytes = inner.max_bytes;
        let floor = (state.revision(), state.chain());
        *inner = Inner { state, history: VecDeque::new(), bytes: 0, max_bytes, floor };
        drop(inner);
        self.announce();
    }

    pub(crate) fn close(&self) {
        let progress = self.front.get().map_or(&self.progress, |front| &front.progress);
        progress.send_modify(|progress| progress.closed = true);
    }

    /// The batches after `seen`, not more than a few at a time.
    pub(crate) fn tail(&self, seen: Revision) -> Tail {
        let inner = self.reading();
        let (oldest, _) = inner.floor;
        if seen < oldest {
            return Tail::Compacted;
        }
        let skip = usize::try_from(seen - oldest).unwrap_or(usize::MAX);
        Tail::Batches(inner.history.iter().skip(skip).take(TAIL_MAX_BATCHES).cloned().collect())
    }

    /// The first batch after `seen` that is `wanted`; not more than a few are looked at.
    pub(crate) fn first_after(&self, seen: Revision, wanted: impl Fn(&Batch) -> bool) -> Found {
        let inner = self.reading();
        let (oldest, _) = inner.floor;
        if seen < oldest {
            return Found::Compacted { oldest };
        }
        let skip = usize::try_from(seen - oldest).unwrap_or(usize::MAX);
        let mut up_to = seen;
        for batch in inner.history.iter().skip(skip).take(TAIL_MAX_BATCHES) {
            if wanted(batch) {
                return Found::Batch(batch.clone());
            }
            up_to = batch.revision;
        }
        Found::NoneUpTo(up_to)
    }

    /// The revision that the state has, and the oldest that the history reaches back to.
    pub(crate) fn reach(&self) -> (Revision, Revision) {
        let inner = self.reading();
        (inner.state.revision(), inner.floor.0)
    }

    /// How a feed starts that has seen everything up to `from`.
    pub(crate) fn catch_up(&self, from: Option<(Revision, ChainHash)>) -> Catchup {
        let inner = self.reading();
        if let Some((revision, chain)) = from
            && inner.chain_at(revision) == Some(chain)
        {
            return Catchup::Tail(revision);
        }
        Catchup::Image(inner.state.image())
    }

    /// Wakes who waits for a revision, if there is a new one.
    pub(crate) fn announce(&self) {
        let revision = self.reading().state.revision();
        let progress = self.front.get().map_or(&self.progress, |front| &front.progress);
        progress.send_if_modified(|progress| {
            let new = progress.revision != revision;
            progress.revision = revision;
            new
        });
    }
}

impl Inner {
    fn remember(&mut self, batch: Arc<Batch>) {
        self.bytes += batch.weight();
        self.history.push_back(batch);
        while self.bytes > self.max_bytes {
            let Some(oldest) = self.history.pop_front() else { break };
            self.bytes -= oldest.weight();
            self.floor = (oldest.revision, oldest.chain);
        }
    }

    fn chain_at(&self, revision: Revision) -> Option<ChainHash> {
        let (floor, chain) = self.floor;
        if revision == floor {
            return Some(chain);
        }
        let index = usize::try_from(revision.checked_sub(floor)?.checked_sub(1)?).ok()?;
        self.history.get(index).map(|batch| batch.chain)
    }
}
