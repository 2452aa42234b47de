//! A request with an `Idempotency-Key` is applied once, however often it is sent: its value, which
//! nobody else writes, is written at one revision at most.

use std::collections::{BTreeMap, BTreeSet};

use super::Verdict;
use crate::history::{Action, Answer, Operation};

const INVARIANT: &str = "a request under one key is applied once";

/// Each value written under a key stands at one revision, in all that watches, reads and answers
/// told.
pub fn check(history: &[Operation]) -> Verdict {
    let mut requests: BTreeMap<(&str, u64), Vec<&Operation>> = BTreeMap::new();
    let mut others: BTreeSet<(&str, u64)> = BTreeSet::new();
    for operation in history {
        match &operation.action {
            Action::Write { key, value, request: Some(_) } => {
                requests.entry((key, *value)).or_default().push(operation);
            }
            Action::Write { key, value, request: None } | Action::Cas { key, value, .. } => {
                others.insert((key, *value));
            }
            _ => {}
        }
    }
    // What somebody else wrote too, or one under two keys, may well be written twice.
    requests.retain(|written, operations| !others.contains(written) && operations.len() == 1);
    let mut revisions: BTreeMap<(&str, u64), BTreeSet<u64>> = BTreeMap::new();
    let mut note = |key, value, revision| {
        revisions.entry((key, value)).or_default().insert(revision);
    };
    for operation in history {
        match (&operation.action, operation.answer()) {
            (Action::Write { key, value, .. }, Some(Answer::Done { revision: Some(revision) }))
            | (
                Action::Read { key },
                Some(Answer::Value { value: Some(value), revision: Some(revision) }),
            ) => note(key.as_str(), *value, *revision),
            (Action::Watch { .. }, Some(Answer::Events { events, .. })) => {
                for event in events {
                    if let Some(value) = event.value {
                        note(&event.key, value, event.revision);
                    }
                }
            }
            _ => {}
        }
    }
    let violations = requests
        .iter()
        .filter_map(|(written, operations)| {
            let at = revisions.get(written).filter(|at| at.len() > 1)?;
            Some(format!("{}\n  was applied at the revisions {at:?}", operations[0]))
        })
        .collect();
    Verdict::of(INVARIANT, requests.len(), violations)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        check::sample::{done, ok, unknown},
        history::Event,
    };

    fn write(value: u64, request: Option<&str>) -> Action {
        Action::Write { key: "a".into(), value, request: request.map(str::to_owned) }
    }

    fn watch(seen: &[(u64, u64)]) -> Operation {
        let event = |(revision, value): &(u64, u64)| Event {
            revision: *revision,
            key: "a".into(),
            value: Some(*value),
        };
        let events = seen.iter().map(event).collect();
        let action = Action::Watch { prefix: String::new(), from: 0 };
        ok(90, (0, 100), action, Answer::Events { events, compacted: false })
    }

    #[test]
    fn once_is_right_and_twice_is_found() {
        for request in [
            ok(1, (0, 10), write(7, Some("k")), Answer::Done { revision: None }),
            unknown(1, (0, 10), write(7, Some("k"))),
        ] {
            assert!(check(&[request.clone(), watch(&[(3, 7), (4, 8)])]).is_valid());
            let twice = check(&[request.clone(), watch(&[(3, 7), (4, 8), (5, 7)])]);
            assert!(twice.is_invalid(), "{twice}");
        }
        // Told by an answer and by a read alone.
        let read = ok(
            2,
            (20, 30),
            Action::Read { key: "a".into() },
            Answer::Value { value: Some(7), revision: Some(9) },
        );
        let answered = ok(1, (0, 10), write(7, Some("k")), done(3));
        assert!(check(&[answered, read]).is_invalid());
    }

    #[test]
    fn a_value_that_somebody_else_writes_says_nothing() {
        let request = ok(1, (0, 10), write(7, Some("k")), done(3));
        let other = ok(2, (20, 30), write(7, None), done(5));
        let verdict = check(&[request, other, watch(&[(3, 7), (5, 7)])]);
        assert_eq!(verdict.checked, 0);
    }
}
