//! Watches: ordered, complete, without duplicates, over all the connections that a follower made.

use std::collections::BTreeMap;

use super::Verdict;
use crate::history::{Action, Answer, Event, Operation, Outcome};

const INVARIANT: &str = "watches are ordered, complete and without duplicates";

/// A write that was acknowledged with its revision.
type Written<'a> = BTreeMap<u64, (&'a str, u64, &'a Operation)>;

/// All connections of one follower, in order. A follower is known by the node it watches and the
/// prefix: clients change after an unknown outcome, followers do not.
type Follower<'a> = Vec<(&'a Operation, u64, &'a [Event], bool)>;

/// What followers saw agrees with what was acknowledged, and with what other followers saw.
pub fn check(history: &[Operation]) -> Verdict {
    let mut written = Written::new();
    let mut refused: BTreeMap<(&str, u64), &Operation> = BTreeMap::new();
    let mut followers: BTreeMap<(&str, &str), Follower<'_>> = BTreeMap::new();
    for operation in history {
        match (&operation.action, &operation.outcome) {
            (
                Action::Write { key, value, .. } | Action::Cas { key, value, .. },
                Outcome::Ok { answer: Answer::Done { revision: Some(revision) } },
            ) => {
                written.insert(*revision, (key, *value, operation));
            }
            (
                Action::Write { key, value, .. } | Action::Cas { key, value, .. },
                Outcome::Failed { .. },
            ) => {
                refused.insert((key, *value), operation);
            }
            (
                Action::Watch { prefix, from },
                Outcome::Ok { answer: Answer::Events { events, compacted } },
            ) => {
                let follower = followers.entry((&operation.node, prefix)).or_default();
                follower.push((operation, *from, events, *compacted));
            }
            _ => {}
        }
    }
    // A value that another operation wrote too says nothing about the one that was refused.
    for operation in history {
        if let Action::Write { key, value, .. } | Action::Cas { key, value, .. } = &operation.action
            && operation.may_have_happened()
        {
            refused.remove(&(key.as_str(), *value));
        }
    }
    let checked = followers.values().flatten().map(|(_, _, events, _)| events.len() + 1).sum();
    let mut violations = Vec::new();
    // What one follower saw at a revision, all must see.
    let mut agreed: BTreeMap<(u64, &str), (Option<u64>, &str)> = BTreeMap::new();
    for ((node, prefix), mut connections) in followers {
        connections.sort_by_key(|(operation, ..)| operation.invoked_ns);
        let who = format!("the follower of {prefix:?} at {node}");
        violations.extend(order(&who, &connections));
        violations.extend(complete(&who, prefix, &connections, &written));
        for event in connections.iter().flat_map(|(_, _, events, _)| events.iter()) {
            if let Some(value) = event.value
                && let Some(operation) = refused.get(&(event.key.as_str(), value))
            {
                violations.push(format!("{who} saw {event:?}, which was refused: {operation}"));
            }
            let seen = agreed.entry((event.revision, &event.key)).or_insert((event.value, node));
            if seen.0 != event.value {
                let (value, other) = seen;
                violations.push(format!("{who} saw {event:?}, that at {other} {value:?}"));
            }
        }
    }
    Verdict::of(INVARIANT, checked, violations)
}

/// Revisions go up, within a connection and from one to the next; nothing is told twice, nothing
/// from before the beginning.
fn order(who: &str, connections: &Follower<'_>) -> Vec<String> {
    let mut violations = Vec::new();
    let mut last = 0;
    let mut keys: Vec<&str> = Vec::new();
    for (operation, from, events, _) in connections {
        for event in *events {
            if event.revision <= *from {
                let id = operation.id;
                violations
                    .push(format!("{who} asked in #{id} for changes after {from}: {event:?}"));
            }
            if event.revision < last {
                violations.push(format!("{who} saw {event:?} after revision {last}: out of order"));
                continue;
            }
            if event.revision > last {
                (last, keys) = (event.revision, Vec::new());
            }
            if keys.contains(&event.key.as_str()) {
                violations.push(format!("{who} saw {event:?} twice"));
            }
            keys.push(&event.key);
        }
    }
    violations
}

/// Every acknowledged write between the first revision asked for and the last one seen was told,
/// with its value. What a compaction took away is left out.
fn complete(
    who: &str,
    prefix: &str,
    connections: &Follower<'_>,
    written: &Written<'_>,
) -> Vec<String> {
    let mut violations = Vec::new();
    let mut told: BTreeMap<(u64, &str), Option<u64>> = BTreeMap::new();
    let mut spans: Vec<(u64, u64)> = Vec::new();
    for (_, from, events, compacted) in connections {
        if let (Some(last), false) = (events.last(), *compacted) {
            spans.push((*from, last.revision));
        }
        told.extend(events.iter().map(|e| ((e.revision, e.key.as_str()), e.value)));
    }
    for (revision, (key, value, operation)) in written {
        let due = spans.iter().any(|(from, to)| from < revision && revision <= to);
        if !due || !key.starts_with(prefix) {
            continue;
        }
        match told.get(&(*revision, *key)) {
            Some(seen) if *seen == Some(*value) => {}
            Some(seen) => {
                violations.push(format!("{who} saw {seen:?} at revision {revision}: {operation}"));
            }
            None => violations.push(format!("{who} missed {operation}")),
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::sample::{done, failed, ok};

    fn write(id: u64, value: u64, revision: u64) -> Operation {
        let action = Action::Write { key: "r/a".into(), value, request: None };
        ok(id, (id, id + 1), action, done(revision))
    }

    fn watch(id: u64, node: &str, from: u64, seen: &[(u64, u64)]) -> Operation {
        let event = |(revision, value): &(u64, u64)| Event {
            revision: *revision,
            key: "r/a".into(),
            value: Some(*value),
        };
        let events = seen.iter().map(event).collect();
        let action = Action::Watch { prefix: "r/".into(), from };
        let answer = Answer::Events { events, compacted: false };
        let mut operation = ok(id, (id, id + 1), action, answer);
        operation.node = node.into();
        operation
    }

    fn judged(watches: &[Operation]) -> bool {
        let writes = [write(1, 10, 5), write(2, 20, 7), write(3, 30, 8)];
        check(&[&writes[..], watches].concat()).is_valid()
    }

    #[test]
    fn what_was_written_is_told_once_in_order() {
        assert!(judged(&[watch(9, "n1", 4, &[(5, 10), (7, 20), (8, 30)])]));
        let reconnected = [watch(9, "n1", 4, &[(5, 10)]), watch(10, "n1", 5, &[(7, 20), (8, 30)])];
        assert!(judged(&reconnected));
        assert!(judged(&[watch(9, "n1", 4, &[(5, 10)])]), "what comes later is not due yet");
    }

    #[test]
    fn planted_violations_are_found() {
        let bad: [&[Operation]; 7] = [
            &[watch(9, "n1", 4, &[(5, 10), (8, 30)])],
            &[watch(9, "n1", 4, &[(5, 10), (8, 30), (7, 20)])],
            &[watch(9, "n1", 4, &[(5, 10), (5, 10), (7, 20), (8, 30)])],
            &[watch(9, "n1", 4, &[(5, 10), (7, 21), (8, 30)])],
            // A change is dropped between two connections.
            &[watch(9, "n1", 4, &[(5, 10)]), watch(10, "n1", 5, &[(8, 30)])],
            // It is told again after a reconnect, though that asked for what came later.
            &[watch(9, "n1", 4, &[(5, 10)]), watch(10, "n1", 5, &[(5, 10), (7, 20), (8, 30)])],
            // Two followers see different things at a revision that nobody was told of.
            &[watch(9, "n1", 8, &[(9, 40)]), watch(10, "n2", 8, &[(9, 41)])],
        ];
        for watches in bad {
            assert!(!judged(watches), "{watches:#?}");
        }
    }

    #[test]
    fn what_was_refused_is_never_told() {
        let action = Action::Write { key: "r/a".into(), value: 40, request: None };
        let refused = failed(5, (5, 6), action.clone());
        let seen = watch(9, "n1", 8, &[(9, 40)]);
        assert!(!check(&[refused.clone(), seen.clone()]).is_valid());
        let again = ok(6, (7, 8), action, done(9));
        assert!(check(&[refused, again, seen]).is_valid(), "another wrote the same value");
    }
}
