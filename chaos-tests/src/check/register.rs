//! Registers with compare-and-set, each key by itself: linearizability is local (Herlihy and Wing,
//! 1990), so a history is linearizable if that of every key is.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Verdict,
    wgl::{Call, Model, Search, search},
};
use crate::history::{Action, Answer, Operation};

/// Configurations tried for one key, before the checker gives up: some hundred megabytes.
pub const BUDGET: usize = 2_000_000;
/// How many operations around the one that does not fit an explanation shows.
const MAX_SHOWN: usize = 12;

const INVARIANT: &str = "registers are linearizable";

/// What a register is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cell {
    /// What it holds; none before the first write.
    pub value: Option<u64>,
    /// The last revision known.
    pub floor: u64,
    /// Whether `floor` is the revision of `value`; false after a write whose answer nobody got.
    pub exact: bool,
}

impl Cell {
    /// A register that was never written.
    pub const ABSENT: Self = Self { value: None, floor: 0, exact: true };

    fn may_be_at(&self, revision: u64) -> bool {
        if self.exact { revision == self.floor } else { revision > self.floor }
    }

    /// After a write of `value`, which was told this revision.
    fn written(&self, value: u64, revision: Option<u64>) -> Option<Self> {
        let Some(revision) = revision else {
            return Some(Self { value: Some(value), exact: false, ..*self });
        };
        // A write of what is there already may leave the revision as it is.
        let same = self.value == Some(value) && self.may_be_at(revision);
        let next = Self { value: Some(value), floor: revision, exact: true };
        (same || revision > self.floor).then_some(next)
    }
}

/// An operation on one register, with its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    /// It held this value, at this revision.
    Read(Option<(u64, u64)>),
    /// It holds this value since this revision, if that is known.
    Write(u64, Option<u64>),
    /// It held this value at this revision, and holds that since that one, if known.
    Cas((u64, u64), u64, Option<u64>),
}

/// The sequential register.
#[derive(Debug, Clone, Copy)]
pub struct Register;

impl Model for Register {
    type State = Cell;
    type Op = Op;

    fn step(&self, cell: &Cell, op: &Op) -> Option<Cell> {
        match *op {
            Op::Read(None) => cell.value.is_none().then_some(*cell),
            Op::Read(Some((value, revision))) => {
                let fits = cell.value == Some(value) && cell.may_be_at(revision);
                fits.then_some(Cell { value: Some(value), floor: revision, exact: true })
            }
            Op::Write(value, revision) => cell.written(value, revision),
            Op::Cas((seen, at), value, revision) => {
                let fits = cell.value == Some(seen) && cell.may_be_at(at);
                let cell = Cell { value: Some(seen), floor: at, exact: true };
                fits.then(|| cell.written(value, revision)).flatten()
            }
        }
    }
}

/// Reads of registers, writes and compare-and-sets fit into one order for each key.
pub fn check(history: &[Operation]) -> Verdict {
    check_within(history, BUDGET)
}

/// The same, with a budget of configurations for each key.
pub fn check_within(history: &[Operation], budget: usize) -> Verdict {
    let mut keys: BTreeMap<&str, Vec<(&Operation, Call<Op>)>> = BTreeMap::new();
    for operation in history {
        if let Some((key, call)) = call(operation) {
            keys.entry(key).or_default().push((operation, call));
        }
    }
    let checked = keys.values().map(Vec::len).sum();
    let (mut violations, mut tired) = (Vec::new(), Vec::new());
    for (key, all) in keys {
        let all = useful(all);
        let calls: Vec<Call<Op>> = all.iter().map(|(_, call)| call.clone()).collect();
        match search(&Register, Cell::ABSENT, &calls, budget) {
            Search::Linearizable => {}
            Search::GaveUp => tired.push(key),
            Search::Not { stuck, states } => violations.push(explain(key, &all, stuck, &states)),
        }
    }
    if violations.is_empty() && !tired.is_empty() {
        let why = format!("gave up on {} after {budget} configurations each", tired.join(", "));
        return Verdict::unknown(INVARIANT, checked, why);
    }
    Verdict::of(INVARIANT, checked, violations)
}

fn call(operation: &Operation) -> Option<(&str, Call<Op>)> {
    if !operation.may_have_happened() {
        return None;
    }
    let (key, op) = match (&operation.action, operation.answer()) {
        (Action::Read { key }, Some(Answer::Value { value, revision })) => {
            (key, Op::Read(value.zip(*revision)))
        }
        (Action::Write { key, value, .. }, _) => (key, Op::Write(*value, operation.revision())),
        (Action::Cas { key, seen_value, seen_revision, value }, _) => {
            (key, Op::Cas((*seen_value, *seen_revision), *value, operation.revision()))
        }
        // A read that nobody heard the answer of says nothing.
        _ => return None,
    };
    let completed = operation.is_ok().then_some(operation.completed_ns);
    Some((key, Call { op, invoked: operation.invoked_ns, completed }))
}

/// Without the unknown writes whose value nobody saw: leaving such a write out of an order that
/// holds it leaves an order, so they only cost time.
fn useful(all: Vec<(&Operation, Call<Op>)>) -> Vec<(&Operation, Call<Op>)> {
    let seen: BTreeSet<u64> = all
        .iter()
        .filter_map(|(_, call)| match call.op {
            Op::Read(seen) => seen.map(|(value, _)| value),
            Op::Cas((value, _), ..) => Some(value),
            Op::Write(..) => None,
        })
        .collect();
    let keep = |call: &Call<Op>| match call.op {
        Op::Write(value, _) | Op::Cas(_, value, _) => {
            call.completed.is_some() || seen.contains(&value)
        }
        Op::Read(_) => true,
    };
    all.into_iter().filter(|(_, call)| keep(call)).collect()
}

fn explain(key: &str, all: &[(&Operation, Call<Op>)], stuck: usize, states: &[Cell]) -> String {
    let (odd, _) = &all[stuck];
    let could: Vec<String> = states
        .iter()
        .map(|cell| match cell.value {
            None => "absent".to_owned(),
            Some(value) if cell.exact => format!("{value}@{}", cell.floor),
            Some(value) => format!("{value}@>{}", cell.floor),
        })
        .collect();
    let mut around: Vec<&Operation> = all
        .iter()
        .map(|(operation, _)| *operation)
        .filter(|operation| operation.id != odd.id && operation.invoked_ns <= odd.completed_ns)
        .collect();
    // Those that ended last before it, and those that overlap it.
    around.sort_by_key(|operation| std::cmp::Reverse(operation.completed_ns));
    around.truncate(MAX_SHOWN);
    around.sort_by_key(|operation| operation.invoked_ns);
    let mut text = format!(
        "{key}: no order explains\n  {odd}\nwhen it ended the register could be: {}\nbefore and beside it:",
        could.join(", ")
    );
    for operation in around {
        text.push_str(&format!("\n  {operation}"));
    }
    text
}

#[cfg(test)]
#[path = "register_tests.rs"]
mod tests;
