//! Snapshot and tail: what a node has when it opens its disk, and at the end, is what a replay of
//! the whole history gives.

use crate::oracle::{Opened, Oracle};

pub(crate) fn check(oracle: &Oracle) -> Vec<String> {
    let mut opened: Vec<&Opened> = oracle.opened.iter().collect();
    opened.sort_by_key(|opened| opened.revision);
    let mut wrong = Vec::new();
    let mut replay = oracle.history.replay();
    for Opened { node, at, revision, chain, entries } in opened {
        let Some((state, of_replay)) = replay.at(*revision) else {
            wrong.push(format!(
                "node {} had revision {revision} at {at:?}, which nobody was seen to apply",
                node.0
            ));
            break;
        };
        if state != entries || of_replay != *chain {
            let differs = entries
                .iter()
                .find(|(key, entry)| state.get(*key) != Some(entry))
                .map(|(key, _)| key)
                .or_else(|| state.keys().find(|key| !entries.contains_key(*key)));
            wrong.push(format!(
                "node {} at {at:?}: the state at revision {revision} is not what a replay gives \
                 ({differs:?}, chains {chain:?} and {of_replay:?})",
                node.0
            ));
        }
    }
    wrong
}
