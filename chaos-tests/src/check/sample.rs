//! Small histories for the checkers' tests.

use crate::history::{Action, Answer, Operation, Outcome};

/// An operation that was answered.
pub(super) fn ok(id: u64, (from, to): (u64, u64), action: Action, answer: Answer) -> Operation {
    with(id, (from, to), action, Outcome::Ok { answer })
}

/// An operation of which nobody knows.
pub(super) fn unknown(id: u64, (from, to): (u64, u64), action: Action) -> Operation {
    with(id, (from, to), action, Outcome::Unknown { why: "reset".into() })
}

/// An operation that did not happen.
pub(super) fn failed(id: u64, (from, to): (u64, u64), action: Action) -> Operation {
    with(id, (from, to), action, Outcome::Failed { why: "SW-RAFT-NO-LEADER".into() })
}

fn with(id: u64, (from, to): (u64, u64), action: Action, outcome: Outcome) -> Operation {
    // A client each: their times may overlap as they like.
    let client = u32::try_from(id).unwrap();
    Operation { id, client, node: "n1".into(), invoked_ns: from, completed_ns: to, action, outcome }
}

/// The same at another node.
pub(super) fn at(node: &str, operation: Operation) -> Operation {
    Operation { node: node.into(), ..operation }
}

/// Done at a revision.
pub(super) fn done(revision: u64) -> Answer {
    Answer::Done { revision: Some(revision) }
}
