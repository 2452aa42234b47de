//! A watch brings every change under its prefix once, in order; over restarts, other nodes and
//! compaction. A listing is the state at its revision.

use swarmer_model::Revision;
use swarmer_raft::Event;

use crate::{
    history::{Entries, shown},
    oracle::Oracle,
};

/// What a watcher was brought, in its order.
#[derive(Default)]
pub(crate) struct Watched {
    pub(crate) prefix: String,
    pub(crate) items: Vec<Item>,
}

pub(crate) enum Item {
    Changes(Revision, Vec<Event>),
    /// All up to it was brought or is not under the prefix.
    Past(Revision),
    Listing(Revision, Entries),
}

pub(crate) fn check(oracle: &Oracle) -> Vec<String> {
    oracle
        .watched
        .iter()
        .filter_map(|(watcher, watched)| {
            let wrong = check_one(oracle, watched)?;
            Some(format!("watcher {watcher} of {:?}: {wrong}", watched.prefix))
        })
        .collect()
}

/// The first thing that is wrong.
fn check_one(oracle: &Oracle, watched: &Watched) -> Option<String> {
    let under = |events: &[Event]| -> Vec<Event> {
        events.iter().filter(|event| event.key.starts_with(&watched.prefix)).cloned().collect()
    };
    let mut at = 0;
    let mut replay = oracle.history.replay();
    for item in &watched.items {
        let (next, upto) = match item {
            Item::Changes(revision, _) => (*revision, revision.saturating_sub(1)),
            Item::Past(revision) => (*revision, *revision),
            Item::Listing(revision, _) => (*revision, 0),
        };
        if next < at || (next == at && matches!(item, Item::Changes(..))) {
            return Some(format!("revision {next} came after {at}"));
        }
        let missed = oracle.history.range(at, upto).find(|(_, events)| !under(events).is_empty());
        if let Some((revision, events)) = missed {
            return Some(format!("it went past revision {revision}: {}", shown(events)));
        }
        match item {
            Item::Changes(revision, events) => {
                let there = oracle.history.events(*revision).map(under).unwrap_or_default();
                if there != *events {
                    return Some(format!(
                        "revision {revision} was brought as {}, and is {}",
                        shown(events),
                        shown(&there)
                    ));
                }
            }
            Item::Listing(revision, entries) => {
                let (state, _) = replay.at(*revision)?;
                let under = state.iter().filter(|(key, _)| key.starts_with(&watched.prefix));
                if !under.eq(entries.iter()) {
                    return Some(format!("the listing at revision {revision} was never so"));
                }
            }
            Item::Past(_) => {}
        }
        at = next;
    }
    None
}
