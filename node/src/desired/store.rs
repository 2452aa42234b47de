//! Keeps the typed state up to date with the keyspace.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::FutureExt as _;
use swarmer_model::planted::{self, Bug};
use swarmer_raft::{Entry, Update, View};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::draft::Draft;
use crate::desired::{Change, Desired};

/// Updates that are shown together at most, if they are there at once: a few tens of milliseconds of
/// work.
const MAX_AT_ONCE: usize = 1024;

/// For so long after a start [`Bug::KeepOldState`] leaves things out: until all of what happened while
/// the node was away has come.
const PLANTED: Duration = Duration::from_secs(15);

/// An entry of a listing, as a change.
fn whole((key, entry): &(String, Entry)) -> Change<'_> {
    (key, entry.revision, Some(&entry.value[..]))
}

/// Follows the keyspace; everyone else reads and waits here.
#[derive(Debug, Clone)]
pub(crate) struct DesiredStore {
    current: watch::Receiver<Arc<Desired>>,
    /// As `current` at the last change of something typed. Whoever acts on it is not woken for
    /// the rest: leases are renewed thousands of times a second.
    typed: watch::Receiver<Arc<Desired>>,
}

impl DesiredStore {
    /// Starts following `view` on the current runtime, until `shutdown`. The first state is
    /// there when this returns.
    pub(crate) fn follow(view: &View, shutdown: CancellationToken) -> Self {
        let (revision, entries) = view.list("");
        let mut first = Desired::default().apply(revision, entries.iter().map(whole));
        first.stand(&Desired::default(), Instant::now());
        let first = Arc::new(first);
        let (sender, current) = watch::channel(Arc::clone(&first));
        let (typed_sender, typed) = watch::channel(first);
        let mut updates = view.list_and_watch("");
        let mut draft = Draft::new(Desired::clone(&current.borrow()));
        let began = Instant::now();
        let had = planted::is_on(Bug::KeepOldState).then(|| Arc::clone(&current.borrow()));
        let keeps = move |key: &str, now: Instant| {
            had.as_ref().is_some_and(|had| {
                let id = key.split_once('/').map_or(key, |(_, id)| id);
                now.duration_since(began) < PLANTED && had.functions.contains_key(id)
            })
        };
        tokio::spawn(async move {
            loop {
                let mut update = tokio::select! {
                    () = shutdown.cancelled() => return,
                    update = updates.next() => update,
                };
                let now = Instant::now();
                for taken in 1.. {
                    match update {
                        None => return,
                        Some(Update::Snapshot { revision, entries }) => {
                            draft.replace(revision, entries.iter().map(whole), now);
                        }
                        Some(Update::Changes(item)) => {
                            let (events, at) = (item.events.iter(), item.revision);
                            let changes = events.map(|e| (e.key.as_str(), at, e.value.as_deref()));
                            let changes = changes.filter(|(key, ..)| !keeps(key, now));
                            draft.change(at, changes, now);
                        }
                    }
                    if taken == MAX_AT_ONCE {
                        break;
                    }
                    // What is there already.
                    let Some(next) = updates.next().now_or_never() else { break };
                    update = next;
                }
                match draft.show(now) {
                    Some(next) => {
                        sender.send_replace(Arc::clone(&next));
                        typed_sender.send_replace(next);
                    }
                    // In place, unless somebody looks at it just now.
                    None => {
                        sender.send_modify(|state| {
                            Arc::make_mut(state).revision = draft.revision();
                        });
                    }
                }
            }
        });
        Self { current, typed }
    }

    /// The state now.
    pub(crate) fn current(&self) -> Arc<Desired> {
        Arc::clone(&self.current.borrow())
    }

    /// The state at its last change of a function, placement or node, and every later one (the
    /// newest, not each). Its revision is that of this change, or of what came just behind it.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<Desired>> {
        self.typed.clone()
    }

    /// Waits until `ready` holds for the state; the caller puts a deadline around it. `None`
    /// when the node is stopping.
    pub(crate) async fn wait_until(
        &self,
        ready: impl FnMut(&Arc<Desired>) -> bool,
    ) -> Option<Arc<Desired>> {
        let mut current = self.current.clone();
        current.wait_for(ready).await.ok().map(|state| Arc::clone(&state))
    }
}
