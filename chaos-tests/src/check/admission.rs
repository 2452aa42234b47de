//! Who does not belong changes nothing: a datagram that is sent again is refused, and nothing is done
//! for a node that was removed.

use std::collections::BTreeMap;

use super::Verdict;
use crate::history::{Action, Answer, Operation};

/// A removed node is cut off within this, from the answer to its removal on.
pub const CUT_OFF_MS: u64 = 2_000;

const INVARIANT: &str = "replays and removed nodes change nothing";

/// Every datagram that was sent again, and everything that was asked of a node after its removal.
pub fn check(history: &[Operation]) -> Verdict {
    // By node: its removals, and when it was let in again under its name, as another member.
    let mut removed: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    let mut admitted: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for operation in history {
        if operation.action == Action::Expel && operation.is_ok() {
            removed.entry(&operation.node).or_default().push(operation);
        } else if operation.action == Action::Admit && operation.may_have_happened() {
            admitted.entry(&operation.node).or_default().push(operation.invoked_ns);
        }
    }
    let out = |operation: &Operation| {
        let removals = removed.get(operation.node.as_str())?;
        let cut_off = |removal: &Operation| removal.completed_ns + CUT_OFF_MS * 1_000_000;
        let last = removals.iter().rfind(|removal| cut_off(removal) <= operation.invoked_ns)?;
        let since = last.completed_ns..=operation.completed_ns;
        let again = admitted.get(operation.node.as_str());
        let again = again.is_some_and(|times| times.iter().any(|at| since.contains(at)));
        (!again).then_some(*last)
    };
    let (mut checked, mut came_at_all, mut violations) = (0, false, Vec::new());
    let mut replays = 0;
    for operation in history {
        if let Action::Replay { .. } = operation.action {
            (checked, replays) = (checked + 1, replays + 1);
            if let Some(Answer::Refused { came, refused }) = operation.answer() {
                came_at_all |= *came > 0;
                if refused < came {
                    violations.push(format!("{} were taken: {operation}", came - refused));
                }
            }
            continue;
        }
        if !asks_the_cluster(&operation.action) {
            continue;
        }
        let Some(removal) = out(operation) else { continue };
        checked += 1;
        if operation.is_ok() {
            violations.push(format!("done for a removed node: {operation}\n  after {removal}"));
        }
    }
    if violations.is_empty() && replays > 0 && !came_at_all {
        let why = "no datagram that was sent again came to a node".to_owned();
        return Verdict::unknown(INVARIANT, checked, why);
    }
    Verdict::of(INVARIANT, checked, violations)
}

/// Whether an answer to it needs other nodes: a removed node may tell what it knew.
fn asks_the_cluster(action: &Action) -> bool {
    matches!(
        action,
        Action::Read { .. } | Action::Write { .. } | Action::Cas { .. } | Action::Txn { .. }
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::sample::{done, failed, ok};

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_replay_that_was_taken_is_found() {
        let replay = |came, refused| {
            let action = Action::Replay { datagrams: 5 };
            ok(1, (0, 10), action, Answer::Refused { came, refused })
        };
        assert!(check(&[replay(5, 5)]).is_valid());
        assert!(check(&[replay(4, 4)]).is_valid(), "one was lost on the way");
        assert!(check(&[replay(5, 4)]).is_invalid());
        let nothing = check(&[replay(0, 0)]);
        assert!(!nothing.is_valid() && !nothing.is_invalid(), "nothing was tried");
    }

    #[test]
    fn what_is_done_for_a_removed_node_is_found() {
        let write = || Action::Write { key: "k".into(), value: 7, request: None };
        let removal = ok(1, (0, SECOND), Action::Expel, done(3));
        let judged = |operation: Operation| check(&[removal.clone(), operation]);
        assert!(judged(ok(2, (2 * SECOND, 9 * SECOND), write(), done(4))).is_valid(), "not yet");
        assert!(judged(failed(2, (4 * SECOND, 5 * SECOND), write())).is_valid());
        assert!(judged(ok(2, (4 * SECOND, 5 * SECOND), write(), done(4))).is_invalid());
        let other = ok(2, (4 * SECOND, 5 * SECOND), write(), done(4));
        assert!(judged(Operation { node: "n2".into(), ..other }).is_valid(), "another node");
    }

    #[test]
    fn a_node_that_is_let_in_again_is_served_and_removed_again_it_is_not() {
        let write = || Action::Write { key: "k".into(), value: 7, request: None };
        let at = |seconds: u64| (seconds * SECOND, seconds * SECOND + 1);
        let removal = |seconds| ok(seconds, at(seconds), Action::Expel, done(3));
        let again = ok(5, (5 * SECOND, 6 * SECOND), Action::Admit, done(0));
        let judged = |last: Operation| check(&[removal(1), again.clone(), removal(20), last]);
        assert!(judged(ok(9, at(4), write(), done(4))).is_invalid(), "not yet again");
        assert!(judged(ok(9, at(8), write(), done(4))).is_valid(), "it is another member");
        assert!(judged(ok(9, at(23), write(), done(4))).is_invalid(), "and is none any more");
    }
}
