//! A request is made once, however often it was sent, and answered the same each time.

use std::collections::BTreeMap;

use crate::{client::op_of, oracle::Oracle};

pub(crate) fn check(oracle: &Oracle) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut made = BTreeMap::new();
    for (revision, events) in oracle.history.range(0, u64::MAX - 1) {
        if let Some(op) = op_of(events)
            && let Some(before) = made.insert(op, revision)
        {
            wrong.push(format!("operation {op} was made at revisions {before} and {revision}"));
        }
    }
    for (id, op) in oracle.ops.iter().enumerate() {
        if op.answers.windows(2).any(|pair| pair[0] != pair[1]) {
            wrong.push(format!("operation {id} was answered with revisions {:?}", op.answers));
        }
    }
    wrong
}
