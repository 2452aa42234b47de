//! An acknowledged write is in the history, at the revision that was told and as it was asked
//! for; one that was refused is not in it.

use std::collections::BTreeMap;

use crate::{
    client::op_of,
    history::shown,
    oracle::{OpId, Oracle, Told, What},
};

pub(crate) fn check(oracle: &Oracle) -> Vec<String> {
    let mut made: BTreeMap<OpId, u64> = BTreeMap::new();
    for (revision, events) in oracle.history.range(0, u64::MAX - 1) {
        if let Some(op) = op_of(events) {
            made.insert(op, revision);
        }
    }
    let mut wrong = Vec::new();
    for (id, op) in oracle.ops.iter().enumerate() {
        let What::Write(wanted) = &op.what else { continue };
        match &op.told {
            Told::Done(revision) => match oracle.history.events(*revision) {
                Some(events) if events == wanted => {}
                Some(events) => wrong.push(format!(
                    "operation {id} was acknowledged at revision {revision}, which is {}",
                    shown(events)
                )),
                None => wrong.push(format!(
                    "operation {id} was acknowledged at revision {revision}, which is not there"
                )),
            },
            Told::Conflict { .. } | Told::Refused(_) => {
                if let Some(revision) = made.get(&id) {
                    wrong.push(format!(
                        "operation {id} was refused ({:?}) and was made at revision {revision}",
                        op.told
                    ));
                }
            }
            Told::Unknown | Told::Read(..) => {}
        }
    }
    wrong
}
