//! One history: at equal revision all nodes have the same changes behind them and the same chain
//! hash, and that hash is the one that the changes give.

use crate::oracle::Oracle;

pub(crate) fn check(oracle: &Oracle) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut replay = oracle.history.replay();
    for revision in 1..=oracle.history.last() {
        let Some((_, chain)) = replay.at(revision) else {
            wrong.push(format!("no node was seen to apply revision {revision}"));
            break;
        };
        if let Some(seen) = oracle.history.chain(revision)
            && seen != chain
        {
            wrong.push(format!("revision {revision}: the chain is {seen:?}, must be {chain:?}"));
            break;
        }
    }
    wrong
}
