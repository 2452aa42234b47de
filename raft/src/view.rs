//! The read side: the same for a voter, a learner and a follower.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use swarmer_model::Revision;
use tokio::{sync::watch, time::Instant};

use crate::{
    error::RaftError,
    keyspace::{Batch, ChainHash, Found, Progress, Shared},
};

/// The value of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The value.
    pub value: Bytes,
    /// The revision of its last change.
    pub revision: Revision,
    /// The revision at which the key came to be.
    pub created: Revision,
}

/// A change of one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The key.
    pub key: String,
    /// Its new value; none if it was deleted.
    pub value: Option<Bytes>,
}

/// The desired state as far as this node knows it. Cheap to clone; reads never wait for I/O and
/// may be older than the newest acknowledged write: use [`crate::Handle::read_index`] or
/// [`View::wait_for`] first where that matters.
#[derive(Debug, Clone)]
pub struct View {
    shared: Arc<Shared>,
}

impl View {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The entry of a key.
    pub fn get(&self, key: &str) -> Option<Entry> {
        self.shared.read(|state| state.get(key).cloned())
    }

    /// All entries whose keys start with `prefix` (empty: all), in the order of keys, and the
    /// revision at which they were read together.
    pub fn list(&self, prefix: &str) -> (Revision, Vec<(String, Entry)>) {
        self.shared.read(|state| {
            let entries = state.list(prefix).map(|(key, e)| (key.to_string(), e.clone()));
            (state.revision(), entries.collect())
        })
    }

    /// How many keys start with `prefix`, counted up to `max`.
    pub fn count(&self, prefix: &str, max: usize) -> usize {
        self.shared.read(|state| state.list(prefix).take(max).count())
    }

    /// Several keys at one revision.
    pub fn get_many(&self, keys: &[&str]) -> (Revision, Vec<Option<Entry>>) {
        self.shared.read(|state| {
            (state.revision(), keys.iter().map(|key| state.get(key).cloned()).collect())
        })
    }

    /// The revision of the state.
    pub fn revision(&self) -> Revision {
        self.shared.read(|state| state.revision())
    }

    /// The hash chain at [`View::revision`].
    pub fn chain_hash(&self) -> ChainHash {
        self.shared.read(|state| state.chain())
    }

    /// Revision and hash chain, read together.
    pub fn position(&self) -> (Revision, ChainHash) {
        self.shared.read(|state| (state.revision(), state.chain()))
    }

    /// Waits until the state has at least this revision.
    ///
    /// # Errors
    /// [`RaftError::Timeout`] after `deadline`; [`RaftError::ShutDown`] if the state was closed.
    pub async fn wait_for(&self, revision: Revision, deadline: Duration) -> Result<(), RaftError> {
        let start = Instant::now();
        let mut progress = self.shared.progress();
        let reached = progress.wait_for(|p| p.revision >= revision || p.closed);
        match tokio::time::timeout(deadline, reached).await {
            Ok(Ok(p)) if p.revision >= revision => Ok(()),
            Ok(_) => Err(RaftError::ShutDown),
            Err(_) => Err(RaftError::Timeout {
                what: format!("revision {revision} (this node is at {})", self.revision()),
                waited_ms: millis(start.elapsed()),
            }),
        }
    }

    /// Watches keys that start with `prefix`, after the revision `from`: the first item is the
    /// first change later than it. None: from now on. `from` may lie in the future.
    ///
    /// # Errors
    /// [`RaftError::Compacted`] if the history does not reach back so far.
    pub fn watch(&self, from: Option<Revision>, prefix: &str) -> Result<Watch, RaftError> {
        let progress = self.shared.progress();
        let (revision, oldest) = self.shared.reach();
        let seen = from.unwrap_or(revision);
        if seen < oldest {
            return Err(RaftError::Compacted { asked: seen, oldest });
        }
        Ok(Watch { shared: self.shared.clone(), progress, prefix: prefix.to_owned(), seen })
    }

    /// A full listing first, then every change; lists again by itself when it fell behind.
    pub fn list_and_watch(&self, prefix: &str) -> ListAndWatch {
        ListAndWatch { view: self.clone(), prefix: prefix.to_owned(), watch: None }
    }
}

/// The changes of one revision that a watch is interested in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchItem {
    /// The revision of all of them.
    pub revision: Revision,
    /// The changes; never empty.
    pub events: Vec<Event>,
}

/// Why a watch brings nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WatchEnd {
    /// The watcher fell behind the history, or the state jumped over a snapshot: list again.
    #[error("the history starts at revision {oldest}: list again")]
    Compacted {
        /// The oldest revision that a watch can start from.
        oldest: Revision,
    },
    /// The node is stopping.
    #[error("the node is stopping")]
    Closed,
}

/// An ordered, complete stream of changes without duplicates. Holds nothing but its position, so
/// that a slow watcher costs nothing; it is told when the history went on without it.
#[derive(Debug)]
pub struct Watch {
    shared: Arc<Shared>,
    progress: watch::Receiver<Progress>,
    prefix: String,
    seen: Revision,
}

impl Watch {
    /// The next changes. Cancel-safe.
    ///
    /// # Errors
    /// [`WatchEnd`]; the same again if called again.
    pub async fn next(&mut self) -> Result<WatchItem, WatchEnd> {
        loop {
            let Progress { closed, .. } = *self.progress.borrow_and_update();
            let of_prefix = |event: &&Event| event.key.starts_with(&self.prefix);
            let wanted = |batch: &Batch| batch.events.iter().any(|event| of_prefix(&event));
            match self.shared.first_after(self.seen, wanted) {
                Found::Batch(batch) => {
                    let events = batch.events.iter().filter(of_prefix).cloned().collect();
                    self.seen = batch.revision;
                    return Ok(WatchItem { revision: batch.revision, events });
                }
                Found::NoneUpTo(revision) if revision > self.seen => {
                    self.seen = revision;
                    continue;
                }
                Found::NoneUpTo(_) => {}
                Found::Compacted { oldest } => return Err(WatchEnd::Compacted { oldest }),
            }
            if closed || self.progress.changed().await.is_err() {
                return Err(WatchEnd::Closed);
            }
        }
    }

    /// The last revision that it is past: everything up to it was brought or is not under the
    /// prefix. A new watch from here misses nothing.
    pub fn seen(&self) -> Revision {
        self.seen
    }
}

/// What [`ListAndWatch`] brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update {
    /// The whole of it: replaces all that was known before.
    Snapshot {
        /// The revision of the listing.
        revision: Revision,
        /// All entries, in the order of keys.
        entries: Vec<(String, Entry)>,
    },
    /// Changes since.
    Changes(WatchItem),
}

/// See [`View::list_and_watch`].
#[derive(Debug)]
pub struct ListAndWatch {
    view: View,
    prefix: String,
    watch: Option<Watch>,
}

impl ListAndWatch {
    /// The next update; none when the node is stopping. Cancel-safe.
    pub async fn next(&mut self) -> Option<Update> {
        loop {
            let Some(watch) = &mut self.watch else {
                let (revision, entries) = self.view.list(&self.prefix);
                // The history cannot be compacted past a revision that is being read, except by
                // a flood of changes in between: then the listing is made anew.
                let Ok(watch) = self.view.watch(Some(revision), &self.prefix) else { continue };
                self.watch = Some(watch);
                return Some(Update::Snapshot { revision, entries });
            };
            match watch.next().await {
                Ok(item) => return Some(Update::Changes(item)),
                Err(WatchEnd::Compacted { .. }) => self.watch = None,
                Err(WatchEnd::Closed) => return None,
            }
        }
    }
}

/// Whole milliseconds, saturating.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
