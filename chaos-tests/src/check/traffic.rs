//! Requests to functions: answered before the deadline, once, to whom they belong, and never by a
//! version that was out of service before they began.

use std::collections::BTreeMap;

use super::Verdict;
use crate::history::{Action, Answer, Operation};

/// What a busy machine may add to a deadline before a client sees the answer.
pub const GRACE_MS: u64 = 1_000;

const INVARIANT: &str = "requests end in time, once, and not by removed versions";

/// Every call, whatever it was told.
pub fn check(history: &[Operation]) -> Verdict {
    let mut retired: BTreeMap<u64, (&Operation, &[String])> = BTreeMap::new();
    for operation in history.iter().filter(|operation| operation.is_ok()) {
        if let Action::Retire { version, without } = &operation.action {
            retired.insert(*version, (operation, without));
        }
    }
    let pauses: Vec<&Operation> =
        history.iter().filter(|operation| operation.action == Action::Pause).collect();
    let (mut checked, mut violations) = (0, Vec::new());
    let mut seen: BTreeMap<&str, &Operation> = BTreeMap::new();
    for operation in history {
        let Action::Call { call, deadline_ms } = &operation.action else { continue };
        checked += 1;
        let took_ns = operation.completed_ns - operation.invoked_ns;
        let took_ms = took_ns.saturating_sub(stood_still_ns(&pauses, operation)) / 1_000_000;
        if took_ms > deadline_ms + GRACE_MS {
            violations.push(format!("no end after {took_ms} ms: {operation}"));
        }
        let Some(Answer::Served { echo, version, answers, .. }) = operation.answer() else {
            continue;
        };
        if echo != call {
            violations.push(format!("somebody else's answer: {operation}"));
        }
        if *answers != 1 {
            violations.push(format!("{answers} answers to one request: {operation}"));
        }
        if let Some(first) = seen.insert(echo, operation) {
            violations.push(format!("answered twice: {first}\n  and {operation}"));
        }
        // What those have to know that were away is another question.
        if let Some((retire, without)) = retired.get(version)
            && retire.completed_ns < operation.invoked_ns
            && !without.contains(&operation.node)
        {
            violations.push(format!("by a removed version: {operation}\n  after {retire}"));
        }
    }
    Verdict::of(INVARIANT, checked, violations)
}

/// For how long the ingress could not answer because it was stopped.
fn stood_still_ns(pauses: &[&Operation], call: &Operation) -> u64 {
    let here = pauses.iter().filter(|pause| pause.node == call.node);
    here.map(|pause| {
        let (from, to) =
            (pause.invoked_ns.max(call.invoked_ns), pause.completed_ns.min(call.completed_ns));
        to.saturating_sub(from)
    })
    .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::sample::{done, ok, unknown};

    const SECOND: u64 = 1_000_000_000;

    fn call(id: u64, from: u64, to: u64, echo: &str, version: u64, answers: u32) -> Operation {
        let action = Action::Call { call: format!("c{id}"), deadline_ms: 5_000 };
        ok(
            id,
            (from, to),
            action,
            Answer::Served { echo: echo.into(), version, answers, by: "n1".into() },
        )
    }

    #[test]
    fn planted_violations_are_found() {
        let retire =
            ok(9, (0, SECOND), Action::Retire { version: 1, without: Vec::new() }, done(3));
        let judged = |calls: &[Operation]| {
            check(&[std::slice::from_ref(&retire), calls].concat()).is_valid()
        };
        assert!(judged(&[call(1, 2 * SECOND, 3 * SECOND, "c1", 2, 1)]));
        assert!(judged(&[call(1, SECOND / 2, 3 * SECOND, "c1", 1, 1)]), "began before");
        assert!(!judged(&[call(1, 2 * SECOND, 3 * SECOND, "c1", 1, 1)]), "removed");
        let mut away = retire.clone();
        away.action = Action::Retire { version: 1, without: vec!["n1".into()] };
        let late = call(1, 2 * SECOND, 3 * SECOND, "c1", 1, 1);
        assert!(check(&[away.clone(), late.clone()]).is_valid(), "it was away");
        away.node = "n2".into();
        assert!(check(&[away, Operation { node: "n3".into(), ..late }]).is_invalid());
        assert!(!judged(&[call(1, 0, 7 * SECOND, "c1", 2, 1)]), "late");
        assert!(!judged(&[call(1, 0, SECOND, "c2", 2, 1)]), "another's");
        assert!(!judged(&[call(1, 0, SECOND, "c1", 2, 2)]), "two answers");
        let action = Action::Call { call: "c1".into(), deadline_ms: 5_000 };
        assert!(!judged(&[unknown(1, (0, 7 * SECOND), action)]), "hangs");
        let mut stopped = ok(8, (SECOND, 4 * SECOND), Action::Pause, done(0));
        assert!(judged(&[call(1, 0, 7 * SECOND, "c1", 2, 1), stopped.clone()]), "it was stopped");
        stopped.node = "n2".into();
        assert!(!judged(&[call(1, 0, 7 * SECOND, "c1", 2, 1), stopped]), "another was stopped");
        let again = call(2, 0, SECOND, "c1", 2, 1);
        assert!(!judged(&[call(1, 0, SECOND, "c1", 2, 1), again]), "twice");
    }
}
