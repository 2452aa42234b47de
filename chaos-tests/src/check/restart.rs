//! A drained restart fails no request.

use super::Verdict;
use crate::history::{Action, Operation};

const INVARIANT: &str = "a drained restart fails no request";

/// Every call of a history in which nodes were restarted by SIGTERM and nothing else struck. A call
/// that began at an ingress while that very node was on its way down and up again is left out: it says
/// so at `/readyz`, and whoever balances goes elsewhere.
pub fn check(history: &[Operation]) -> Verdict {
    let restarts: Vec<&Operation> =
        history.iter().filter(|operation| operation.action == Action::Restart).collect();
    let struck = history.iter().any(|op| matches!(op.action, Action::Strike { .. }));
    if restarts.is_empty() || struck {
        return Verdict::of(INVARIANT, 0, Vec::new());
    }
    let away = |call: &Operation| {
        restarts.iter().any(|restart| {
            restart.node == call.node
                && (restart.invoked_ns..=restart.completed_ns).contains(&call.invoked_ns)
        })
    };
    let calls = history.iter().filter(|op| matches!(op.action, Action::Call { .. }));
    let calls: Vec<&Operation> = calls.filter(|call| !away(call)).collect();
    let failed = calls.iter().filter(|call| !call.is_ok()).map(|call| call.to_string());
    Verdict::of(INVARIANT, calls.len(), failed.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        check::sample::{done, failed, ok, unknown},
        history::Answer,
    };

    fn call(number: u64) -> Action {
        Action::Call { call: format!("c{number}"), deadline_ms: 5_000 }
    }

    #[test]
    fn planted_violations_are_found() {
        let restart = ok(1, (100, 200), Action::Restart, done(0));
        let judged = |calls: &[Operation]| check(&[std::slice::from_ref(&restart), calls].concat());
        let answer = Answer::Served { echo: "c2".into(), version: 1, answers: 1, by: "n1".into() };
        let good = ok(2, (50, 60), call(2), answer);
        assert!(judged(std::slice::from_ref(&good)).is_valid());
        assert_eq!(judged(std::slice::from_ref(&good)).checked, 1);
        assert!(judged(&[failed(3, (99, 150), call(3))]).is_invalid(), "it was on its way");
        assert!(judged(&[unknown(3, (201, 250), call(3))]).is_invalid(), "it is back");
        let during = failed(3, (100, 101), call(3));
        assert_eq!(judged(std::slice::from_ref(&during)).checked, 0, "it said so");
        let elsewhere = Operation { node: "n2".into(), ..during };
        assert!(judged(std::slice::from_ref(&elsewhere)).is_invalid(), "another one restarted");
        let strike = ok(9, (0, 10), Action::Strike { what: "kill n1".into() }, done(0));
        assert_eq!(judged(&[elsewhere.clone(), strike]).checked, 0, "something else struck");
        assert_eq!(check(&[elsewhere]).checked, 0, "nothing was restarted");
    }
}
