//! What a stranger sends changes nothing: it is refused, nothing is served for it, nobody becomes a
//! member by it, and no state moves.

use std::collections::BTreeSet;

use super::Verdict;
use crate::history::{Action, Answer, Operation};

const INVARIANT: &str = "a stranger's packets change nothing";

/// Every burst of a stranger, every list of members, and every two looks at the state between which
/// nobody changed anything.
pub fn check(history: &[Operation]) -> Verdict {
    let (mut checked, mut violations) = (0, Vec::new());
    let mut looks: Vec<(&Operation, (u64, &str))> = Vec::new();
    for operation in history {
        match (&operation.action, operation.answer()) {
            (Action::Strange { .. }, Some(Answer::Heard { came, refused, served, .. })) => {
                checked += 1;
                if refused < came {
                    violations.push(format!("{} were taken: {operation}", came - refused));
                }
                if *served > 0 {
                    violations.push(format!("a stranger was served: {operation}"));
                }
            }
            (Action::Members { admitted }, Some(Answer::Names { names })) => {
                checked += 1;
                let admitted: BTreeSet<&String> = admitted.iter().collect();
                if names.iter().collect::<BTreeSet<_>>() != admitted {
                    violations.push(format!("others than who was let in: {operation}"));
                }
            }
            (Action::Look, Some(Answer::State { revision, hash })) => {
                looks.push((operation, (*revision, hash)));
            }
            _ => {}
        }
    }
    let changes: Vec<&Operation> =
        history.iter().filter(|operation| may_change(operation)).collect();
    for pair in looks.windows(2) {
        let ((first, before), (second, after)) = (pair[0], pair[1]);
        // What nobody knows of may still take effect.
        let under_way = |change: &&Operation| {
            change.invoked_ns <= second.completed_ns
                && (!change.is_ok() || change.completed_ns >= first.invoked_ns)
        };
        if changes.iter().any(under_way) {
            continue;
        }
        checked += 1;
        if before != after {
            violations.push(format!("the state moved by itself: {first}\n  then {second}"));
        }
    }
    Verdict::of(INVARIANT, checked, violations)
}

/// Whether the cluster was asked to change something, and may have. A call of a function that is
/// there changes no state.
fn may_change(operation: &Operation) -> bool {
    operation.may_have_happened()
        && !operation.is_strange()
        && !matches!(
            operation.action,
            Action::Read { .. }
                | Action::List
                | Action::Watch { .. }
                | Action::Fetch { .. }
                | Action::Call { .. }
                | Action::Post { .. }
                | Action::Started { .. }
                | Action::Replay { .. }
                | Action::Pause
                | Action::Settle
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        check::sample::{done, ok, unknown},
        history::Strange,
    };

    fn heard(came: u64, refused: u64, served: u64) -> Operation {
        let answer = Answer::Heard { packets: 9, came, refused, served };
        ok(1, (0, 10), Action::Strange { what: Strange::Flipped }, answer)
    }

    #[test]
    fn what_was_taken_or_served_is_found() {
        assert!(check(&[heard(9, 9, 0)]).is_valid());
        assert!(check(&[heard(0, 3, 0)]).is_valid(), "nobody counted what came");
        assert!(check(&[heard(9, 8, 0)]).is_invalid());
        assert!(check(&[heard(9, 9, 2)]).is_invalid(), "two bytes of a welcome are too many");
        assert_eq!(check(&[]).checked, 0);
    }

    #[test]
    fn a_member_that_nobody_let_in_is_found_and_so_is_one_that_is_gone() {
        let members = |names: &[&str]| {
            let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
            let action = Action::Members { admitted: list(&["n1", "n2"]) };
            check(&[ok(1, (0, 10), action, Answer::Names { names: list(names) })])
        };
        assert!(members(&["n2", "n1"]).is_valid());
        assert!(members(&["n1", "n2", "foreign"]).is_invalid());
        assert!(members(&["n1"]).is_invalid());
    }

    #[test]
    fn a_state_that_moves_though_nobody_asked_for_it_is_found() {
        let look = |id: u64, at, revision, hash: &str| {
            let answer = Answer::State { revision, hash: hash.to_owned() };
            ok(id, (at, at + 1), Action::Look, answer)
        };
        let write = || Action::Write { key: "k".into(), value: 7, request: None };
        let quiet = check(&[look(1, 10, 4, "a"), heard(9, 9, 0), look(2, 90, 4, "a")]);
        assert!(quiet.is_valid() && quiet.checked == 2);
        assert!(check(&[look(1, 10, 4, "a"), look(2, 90, 5, "b")]).is_invalid());
        assert!(check(&[look(1, 10, 4, "a"), look(2, 90, 4, "b")]).is_invalid());
        let written = ok(3, (20, 30), write(), done(5));
        let busy = check(&[look(1, 10, 4, "a"), written.clone(), look(2, 90, 5, "b")]);
        assert!(busy.is_valid() && busy.checked == 0, "somebody wrote meanwhile");
        let before = ok(3, (1, 5), write(), done(4));
        assert!(check(&[before, look(1, 10, 4, "a"), look(2, 90, 5, "b")]).is_invalid());
        let pending = unknown(3, (1, 5), write());
        let late = check(&[pending, look(1, 10, 4, "a"), look(2, 90, 5, "b")]);
        assert!(late.is_valid(), "it may take effect at any later time");
    }
}
