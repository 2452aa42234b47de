//! Linearizable: what an operation was told fits the state at its revision, and that revision is
//! not before anything that had been told to anybody when it began. Revisions order all writes,
//! and a read stands behind the write of its revision; so nothing has to be searched.

use crate::oracle::{Op, Oracle, Told, What};

pub(crate) fn check(oracle: &Oracle) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut looks: Vec<(u64, usize, &Op)> = Vec::new();
    for (id, op) in oracle.ops.iter().enumerate() {
        let (revision, least) = match &op.told {
            // A write makes a revision of its own.
            Told::Done(revision) => (*revision, op.floor + 1),
            Told::Conflict { revision, .. } | Told::Read(revision, _) => (*revision, op.floor),
            Told::Unknown | Told::Refused(_) => continue,
        };
        if revision < least {
            wrong.push(format!(
                "operation {id} was answered with revision {revision}, and before it began ({:?}) \
                 somebody had been told {}",
                op.start, op.floor
            ));
        }
        if !matches!(op.told, Told::Done(_)) {
            looks.push((revision, id, op));
        }
    }
    looks.sort_by_key(|(revision, id, _)| (*revision, *id));
    let mut replay = oracle.history.replay();
    for (revision, id, op) in looks {
        let Some((state, _)) = replay.at(revision) else {
            wrong.push(format!("operation {id} saw revision {revision}, which is not there"));
            break;
        };
        let fits = match (&op.told, &op.what) {
            (Told::Conflict { key, found, .. }, _) => {
                state.get(key).map(|(revision, _)| *revision) == *found
            }
            (Told::Read(_, values), What::Read(keys)) => {
                keys.iter().map(|key| state.get(key)).eq(values.iter().map(Option::as_ref))
            }
            _ => true,
        };
        if !fits {
            wrong.push(format!("operation {id} was told {:?}, which was never so", op.told));
        }
    }
    wrong
}
