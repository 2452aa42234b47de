//! Requests that may not run twice: each is started once at most, whatever its client was told, and
//! answered by its own start.

use std::collections::BTreeMap;

use super::Verdict;
use crate::history::{Action, Answer, Operation};

const INVARIANT: &str = "a POST runs once at most";

/// Every request, whatever it was told, against every start that its function wrote down.
pub fn check(history: &[Operation]) -> Verdict {
    let mut starts: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for operation in history {
        if let Action::Started { job } = &operation.action {
            starts.entry(job).or_default().push(operation);
        }
    }
    let (mut checked, mut violations) = (0, Vec::new());
    for operation in history {
        let Action::Post { job } = &operation.action else { continue };
        checked += 1;
        let started = starts.get(job.as_str()).map_or(&[][..], Vec::as_slice);
        if started.len() > 1 {
            let nodes: Vec<&str> = started.iter().map(|start| start.node.as_str()).collect();
            violations.push(format!("started on {}: {operation}", nodes.join(" and on ")));
        }
        if let Some(Answer::Served { echo, answers, .. }) = operation.answer()
            && (echo != job || *answers != 1)
        {
            violations.push(format!("another's answer: {operation}"));
        }
    }
    Verdict::of(INVARIANT, checked, violations)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::sample::{done, failed, ok, unknown};

    #[test]
    fn a_second_start_is_found_whatever_the_client_was_told() {
        let post = || Action::Post { job: "a".into() };
        let start = |id, node: &str| Operation {
            node: node.into(),
            ..ok(id, (20, 20), Action::Started { job: "a".into() }, done(0))
        };
        let served = |echo: &str| Answer::Served {
            echo: echo.into(),
            version: 1,
            answers: 1,
            by: "n1".into(),
        };
        for request in [
            ok(1, (0, 50), post(), served("a")),
            failed(1, (0, 50), post()),
            unknown(1, (0, 50), post()),
        ] {
            assert!(check(std::slice::from_ref(&request)).is_valid(), "its line may be lost");
            assert!(check(&[request.clone(), start(2, "n1")]).is_valid());
            let twice = check(&[request, start(2, "n1"), start(3, "n2")]);
            assert!(twice.to_string().contains("n1 and on n2"), "{twice}");
        }
        let other = Operation { action: Action::Started { job: "b".into() }, ..start(3, "n2") };
        let request = ok(1, (0, 50), post(), served("a"));
        assert!(check(&[request, start(2, "n1"), other]).is_valid(), "another's start");
        assert!(check(&[ok(1, (0, 50), post(), served("b"))]).is_invalid());
    }
}
