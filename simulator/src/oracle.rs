//! What really happened: every operation of a client with what it was told, and everything that
//! nodes were seen to apply. The invariants judge by it.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use swarmer_model::{NodeId, Revision};
use swarmer_raft::{ChainHash, Event, Leadership, Role};

use crate::{
    history::{Entries, History},
    invariant::{leader::Leaders, watch::Watched},
};

/// Violations that are kept; more of the same help nobody.
const MAX_VIOLATIONS: usize = 20;

/// The number of an operation; part of whatever it writes.
pub(crate) type OpId = usize;

/// What a client did and was told.
#[derive(Debug)]
pub(crate) struct Op {
    pub(crate) what: What,
    pub(crate) start: Duration,
    pub(crate) end: Option<Duration>,
    /// The newest revision that anybody had been told when it began.
    pub(crate) floor: Revision,
    pub(crate) told: Told,
    /// All definite answers, if it was asked more than once.
    pub(crate) answers: Vec<Revision>,
}

#[derive(Debug)]
pub(crate) enum What {
    /// What it puts and deletes.
    Write(Vec<Event>),
    /// The keys.
    Read(Vec<String>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Told {
    /// Nothing, or that it is not known.
    Unknown,
    Done(Revision),
    Conflict {
        key: String,
        found: Option<Revision>,
        revision: Revision,
    },
    /// That it did not happen.
    Refused(String),
    /// What was read, and at which revision.
    Read(Revision, Vec<Option<(Revision, Bytes)>>),
}

/// A state as a node had it when it was opened, or at the end.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) node: NodeId,
    pub(crate) at: Duration,
    pub(crate) revision: Revision,
    pub(crate) chain: ChainHash,
    pub(crate) entries: Entries,
}

/// How much happened: a run in which too little did proves nothing.
#[derive(Debug, Clone, Copy, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct Counts {
    pub(crate) done: u64,
    pub(crate) conflicts: u64,
    pub(crate) refused: u64,
    pub(crate) unknown: u64,
    pub(crate) reads: u64,
    pub(crate) watched: u64,
    pub(crate) listings: u64,
    pub(crate) leaders: u64,
    pub(crate) faults: u64,
    pub(crate) starts: u64,
    pub(crate) power_cuts: u64,
    pub(crate) purges: u64,
    pub(crate) feeds: u64,
    pub(crate) placements: u64,
}

/// Something that must not be.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub(crate) struct Violation {
    pub(crate) invariant: String,
    pub(crate) text: String,
}

#[derive(Default)]
pub(crate) struct Oracle {
    pub(crate) ops: Vec<Op>,
    pub(crate) history: History,
    pub(crate) leaders: Leaders,
    pub(crate) watched: BTreeMap<usize, Watched>,
    pub(crate) opened: Vec<Opened>,
    /// The newest revision that anybody was told.
    pub(crate) floor: Revision,
    pub(crate) counts: Counts,
    pub(crate) violations: Vec<Violation>,
}

impl Oracle {
    pub(crate) fn violate(&mut self, invariant: &str, text: String) {
        // Each has its own bound: one that is broken often does not hide another.
        let told = self.violations.iter().filter(|told| told.invariant == invariant).count();
        if told < MAX_VIOLATIONS {
            self.violations.push(Violation { invariant: invariant.to_owned(), text });
        }
    }

    /// An operation begins; what it will write is told by [`Oracle::writes`].
    pub(crate) fn begin(&mut self, at: Duration, keys: Vec<String>) -> OpId {
        let (what, told) = (What::Read(keys), Told::Unknown);
        let op = Op { what, start: at, end: None, floor: self.floor, told, answers: Vec::new() };
        self.ops.push(op);
        self.ops.len() - 1
    }

    /// What an operation writes.
    pub(crate) fn writes(&mut self, op: OpId, events: Vec<Event>) {
        self.ops[op].what = What::Write(events);
    }

    /// An operation ends with what its client was told.
    pub(crate) fn end(&mut self, op: OpId, at: Duration, told: Told) {
        match &told {
            Told::Unknown => self.counts.unknown += 1,
            Told::Done(revision) => {
                self.counts.done += 1;
                self.floor = self.floor.max(*revision);
            }
            Told::Conflict { revision, .. } => {
                self.counts.conflicts += 1;
                self.floor = self.floor.max(*revision);
            }
            Told::Refused(_) => self.counts.refused += 1,
            Told::Read(revision, _) => {
                self.counts.reads += 1;
                self.floor = self.floor.max(*revision);
            }
        }
        self.ops[op].end = Some(at);
        self.ops[op].told = told;
    }

    /// A node was seen to be at a revision with a chain hash.
    pub(crate) fn seen_at(&mut self, node: NodeId, (revision, chain): (Revision, ChainHash)) {
        if let Err(text) = self.history.seen_at(node, revision, chain) {
            self.violate("one history", text);
        }
    }

    /// A node was seen to apply a batch.
    pub(crate) fn applied(&mut self, node: NodeId, revision: Revision, events: &[Event]) {
        if let Err(text) = self.history.applied(node, revision, events) {
            self.violate("one history", text);
        }
    }

    /// A node says what it is.
    pub(crate) fn stands(&mut self, now: &Leadership) -> bool {
        if now.role != Role::Leader {
            return false;
        }
        match self.leaders.leads(now.node, now.term) {
            Ok(new) => {
                self.counts.leaders += u64::from(new);
                new
            }
            Err(text) => {
                self.violate("one leader", text);
                false
            }
        }
    }
}
