//! Watchers: they follow the changes under a prefix from node to node.

use std::{sync::Arc, time::Duration};

use rand::{RngExt as _, rngs::StdRng};
use swarmer_model::Revision;
use swarmer_raft::{RaftError, View, WatchEnd};
use tokio::time::{Instant, sleep, timeout_at};

use crate::{bug::Bug, invariant::watch::Item, world::World};

/// What is watched; the last one is everything.
pub(crate) const PREFIXES: [&str; 4] = ["r/", "s/", "placements/", ""];
/// How long a watcher stays with a node at most, in milliseconds.
const STAY_MS: (u64, u64) = (200, 5000);
const PAUSE: Duration = Duration::from_millis(50);

/// One watcher.
pub(crate) struct Watcher {
    world: Arc<World>,
    number: usize,
    prefix: &'static str,
    dice: StdRng,
    seen: Revision,
}

impl Watcher {
    pub(crate) fn new(world: Arc<World>, number: usize) -> Self {
        let prefix = PREFIXES[number % PREFIXES.len()];
        world.oracle.lock().watched.entry(number).or_default().prefix = prefix.to_owned();
        let dice = world.dice();
        Self { world, number, prefix, dice, seen: 0 }
    }

    /// Watches for as long as the world turns.
    pub(crate) async fn run(mut self) {
        loop {
            sleep(PAUSE).await;
            let nodes = self.world.net.nodes();
            if nodes.is_empty() {
                continue;
            }
            let node = nodes[self.dice.random_range(0..nodes.len())].clone();
            let skip = u64::from(self.world.settings.bug == Some(Bug::WatchSkips));
            let from = if self.seen == 0 { 0 } else { self.seen + skip };
            let mut watch = match node.view().watch(Some(from), self.prefix) {
                Ok(watch) => watch,
                Err(RaftError::Compacted { .. }) => {
                    self.list(&node.view());
                    continue;
                }
                Err(_) => continue,
            };
            let stay = self.dice.random_range(STAY_MS.0..STAY_MS.1);
            let until = Instant::now() + Duration::from_millis(stay);
            loop {
                let item = tokio::select! {
                    biased;
                    () = node.dead.cancelled() => break,
                    item = timeout_at(until, watch.next()) => item,
                };
                match item {
                    Ok(Ok(item)) => {
                        self.world.oracle.lock().counts.watched += 1;
                        self.record(item.revision, Item::Changes(item.revision, item.events));
                    }
                    Ok(Err(WatchEnd::Compacted { .. })) => {
                        self.past(watch.seen());
                        self.list(&node.view());
                        break;
                    }
                    Ok(Err(WatchEnd::Closed)) | Err(_) => break,
                }
            }
            self.past(watch.seen());
        }
    }

    fn record(&mut self, revision: Revision, item: Item) {
        self.seen = revision;
        let mut oracle = self.world.oracle.lock();
        if let Some(watched) = oracle.watched.get_mut(&self.number) {
            watched.items.push(item);
        }
    }

    fn past(&mut self, seen: Revision) {
        if seen > self.seen {
            self.record(seen, Item::Past(seen));
        }
    }

    /// Begins anew, unless this node is behind what was seen elsewhere.
    fn list(&mut self, view: &View) {
        let (revision, list) = view.list(self.prefix);
        if revision >= self.seen {
            let entries = list.into_iter().map(|(key, e)| (key, (e.revision, e.value)));
            self.world.oracle.lock().counts.listings += 1;
            self.record(revision, Item::Listing(revision, entries.collect()));
        }
    }
}
