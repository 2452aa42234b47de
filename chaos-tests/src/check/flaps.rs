//! A link between two regions that comes and goes: whoever leads still reaches a majority, so nobody else
//! has to lead, writes go on, and every ingress reaches a copy of a function one way or another.

use std::collections::BTreeMap;

use super::{
    Verdict,
    silence::{changes, longest},
};
use crate::history::{Action, Operation};

/// One change of the leader in so long is borne: a busy machine may cost one.
const A_CHANGE_NS: u64 = 240_000_000_000;
/// The longest time without a write, and without an answer at an ingress.
const SILENT_NS: u64 = 12_000_000_000;
/// Of so many calls at an ingress one may fail. All of them may be tried again elsewhere; what fails has
/// used up its tries, or the budget for them.
const ONE_IN: usize = 50;

const LEADERS: &str = "a link between two regions that comes and goes makes nobody else lead";
const WRITES: &str = "while a link between two regions comes and goes, writes go on";
const ANSWERS: &str =
    "while a link between two regions comes and goes, every ingress has answers, but for one in 50";

/// Who leads.
pub fn leaders(history: &[Operation]) -> Verdict {
    let leads = |op: &&Operation| matches!(op.action, Action::Leads { .. });
    let (mut checked, mut violations) = (0, Vec::new());
    for flaps in history.iter().filter(lasts) {
        checked += 1;
        let most = 1 + (flaps.completed_ns - flaps.invoked_ns) / A_CHANGE_NS;
        let seen = history.iter().filter(leads).filter(|op| began_in(op, flaps)).count() as u64;
        if seen > most {
            violations.push(format!("{seen} leaders, where {most} are borne: {flaps}"));
        }
    }
    Verdict::of(LEADERS, checked, violations)
}

/// Changes of the control state.
pub fn writes(history: &[Operation]) -> Verdict {
    let all: Vec<&Operation> = history.iter().filter(|op| changes(&op.action)).collect();
    let (mut checked, mut violations) = (0, Vec::new());
    for flaps in history.iter().filter(lasts) {
        // Who asked nothing was refused nothing.
        if !all.iter().any(|op| began_in(op, flaps)) {
            continue;
        }
        checked += 1;
        let ms = longest(&all, (flaps.invoked_ns, flaps.completed_ns)) / 1_000_000;
        if ms > SILENT_NS / 1_000_000 {
            violations.push(format!("no write for {ms} ms: {flaps}"));
        }
    }
    Verdict::of(WRITES, checked, violations)
}

/// Calls at each ingress.
pub fn answers(history: &[Operation]) -> Verdict {
    let (mut checked, mut violations) = (0, Vec::new());
    for flaps in history.iter().filter(lasts) {
        let mut calls: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
        for call in history.iter().filter(|op| matches!(op.action, Action::Call { .. })) {
            if began_in(call, flaps) {
                calls.entry(&call.node).or_default().push(call);
            }
        }
        for (ingress, calls) in calls {
            checked += calls.len();
            let failed: Vec<&&Operation> = calls.iter().filter(|call| !call.is_ok()).collect();
            let last = failed.last().map(|call| call.to_string()).unwrap_or_default();
            if failed.len() * ONE_IN > calls.len() {
                let (failed, calls) = (failed.len(), calls.len());
                violations.push(format!("{failed} of {calls} calls failed at {ingress}: {last}"));
            }
            let ms = longest(&calls, (flaps.invoked_ns, flaps.completed_ns)) / 1_000_000;
            if ms > SILENT_NS / 1_000_000 {
                violations.push(format!("no answer at {ingress} for {ms} ms: {last}"));
            }
        }
    }
    Verdict::of(ANSWERS, checked, violations)
}

/// Long enough to tell.
fn lasts(operation: &&Operation) -> bool {
    matches!(operation.action, Action::Flapped { .. })
        && operation.completed_ns - operation.invoked_ns > SILENT_NS
}

fn began_in(operation: &Operation, flaps: &Operation) -> bool {
    flaps.invoked_ns <= operation.invoked_ns && operation.invoked_ns <= flaps.completed_ns
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        check::sample::{at, done, failed, ok},
        history::Answer,
    };

    const SECOND: u64 = 1_000_000_000;

    fn flaps(from: u64, to: u64) -> Operation {
        ok(900_000, (from * SECOND, to * SECOND), Action::Flapped { cuts: 100 }, done(0))
    }

    fn leads(term: u64, second: u64) -> Operation {
        ok(term, (second * SECOND, second * SECOND), Action::Leads { term }, done(0))
    }

    fn write(second: u64) -> Operation {
        let action = Action::Write { key: "a".into(), value: second, request: None };
        ok(second, (second * SECOND, second * SECOND + 1), action, done(second))
    }

    fn call(id: u64, second: u64) -> Operation {
        let action = Action::Call { call: format!("c{id}"), deadline_ms: 10_000 };
        let answer =
            Answer::Served { echo: format!("c{id}"), version: 1, answers: 1, by: "n1".into() };
        at("n2", ok(id, (second * SECOND, second * SECOND + 1), action, answer))
    }

    #[test]
    fn leaders_that_come_and_go_are_found() {
        let judged = |more: &[Operation]| leaders(&[&[flaps(10, 610)], more].concat());
        let terms =
            |count: u64| (1..=count).map(|term| leads(term, 100 * term)).collect::<Vec<_>>();
        assert!(judged(&terms(3)).is_valid(), "ten minutes on a busy machine");
        assert!(judged(&terms(4)).is_invalid());
        assert!(judged(&[terms(3), vec![leads(9, 620)]].concat()).is_valid(), "it is over");
        let minute = |count| leaders(&[&[flaps(1, 61)], terms(count).as_slice()].concat());
        assert!(minute(1).is_valid(), "the first of these alone was in it");
        let quick: Vec<Operation> = (1..=2).map(|term| leads(term, 10 * term)).collect();
        assert!(leaders(&[&[flaps(1, 61)], quick.as_slice()].concat()).is_invalid());
        assert_eq!(leaders(&terms(9)).checked + leaders(&[flaps(10, 20)]).checked, 0);
    }

    #[test]
    fn a_time_without_writes_is_found() {
        let judged = |seconds: &[u64]| {
            let all: Vec<Operation> = seconds.iter().copied().map(write).collect();
            writes(&[all.as_slice(), &[flaps(10, 40)]].concat())
        };
        assert!(judged(&[15, 25, 35]).is_valid());
        assert!(judged(&[11, 24, 35]).is_invalid());
        assert!(judged(&[15, 25]).is_invalid(), "not any more");
        assert_eq!(judged(&[5, 45]).checked, 0, "nobody tried");
    }

    #[test]
    fn an_ingress_that_fails_or_is_silent_is_found() {
        let good: Vec<Operation> =
            (10..=40).flat_map(|s| [call(2 * s, s), call(2 * s + 1, s)]).collect();
        let judged = |calls: &[Operation]| answers(&[calls, &[flaps(10, 40)]].concat());
        assert!(judged(&good).is_valid());
        assert_eq!(judged(&good).checked, 62);
        let fails = |id: u64| at("n2", failed(id, (20 * SECOND, 21 * SECOND), call(id, 20).action));
        assert!(judged(&[good.clone(), vec![fails(500)]].concat()).is_valid(), "one in 63");
        let two = judged(&[good.clone(), vec![fails(500), fails(501)]].concat());
        assert!(two.is_invalid() && two.to_string().contains("2 of 64"), "{two}");
        let silent: Vec<Operation> = good
            .into_iter()
            .filter(|call| !(15..29).contains(&(call.invoked_ns / SECOND)))
            .collect();
        assert!(judged(&silent).is_invalid());
        assert_eq!(answers(&silent).checked, 0, "no link flapped");
    }
}
