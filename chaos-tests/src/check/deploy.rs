//! Artifacts: what was acknowledged can be read, whole, on every node that was asked.

use std::collections::BTreeMap;

use super::Verdict;
use crate::history::{Action, Answer, Operation, Outcome};

const INVARIANT: &str = "acknowledged artifacts are whole wherever they are read";

/// Bytes have the digest that they were asked by, and an acknowledged artifact is never missing.
/// A fetch that did not come through (unknown) says nothing; "there is none" is a failure.
pub fn check(history: &[Operation]) -> Verdict {
    let mut deployed: BTreeMap<&str, &Operation> = BTreeMap::new();
    for operation in history.iter().filter(|operation| operation.is_ok()) {
        if let Action::Deploy { artifact } = &operation.action {
            let first = deployed.entry(artifact).or_insert(operation);
            if operation.completed_ns < first.completed_ns {
                *first = operation;
            }
        }
    }
    let (mut checked, mut violations) = (0, Vec::new());
    for operation in history {
        let Action::Fetch { artifact } = &operation.action else { continue };
        checked += 1;
        let before = deployed
            .get(artifact.as_str())
            .filter(|deploy| deploy.completed_ns < operation.invoked_ns);
        match (&operation.outcome, before) {
            (Outcome::Ok { answer: Answer::Bytes { digest } }, _) if digest != artifact => {
                violations.push(format!("other bytes than asked for: {operation}"));
            }
            (Outcome::Failed { .. }, Some(deploy)) => {
                violations.push(format!("missing: {operation}\n  after {deploy}"));
            }
            _ => {}
        }
    }
    Verdict::of(INVARIANT, checked, violations)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::sample::{failed, ok, unknown};

    #[test]
    fn artifacts_are_whole_and_there_once_acknowledged() {
        let deploy = Action::Deploy { artifact: "aa".into() };
        let fetch = Action::Fetch { artifact: "aa".into() };
        let deployed = ok(1, (0, 10), deploy.clone(), Answer::Done { revision: None });
        let bytes = |digest: &str| Answer::Bytes { digest: digest.into() };
        let judged = |second: Operation| check(&[deployed.clone(), second]).is_valid();
        assert!(judged(ok(2, (20, 30), fetch.clone(), bytes("aa"))));
        assert!(!judged(ok(2, (20, 30), fetch.clone(), bytes("ab"))), "damaged");
        assert!(!judged(failed(2, (20, 30), fetch.clone())), "missing");
        assert!(judged(failed(2, (5, 30), fetch.clone())), "not yet acknowledged");
        assert!(judged(unknown(2, (20, 30), fetch.clone())));
        let maybe = unknown(1, (0, 10), deploy);
        assert!(check(&[maybe, failed(2, (20, 30), fetch)]).is_valid());
    }
}
