//! A region that was away comes back with old state: it takes the new one, and answers nothing by the old
//! one once it has.

use std::collections::BTreeMap;

use super::Verdict;
use crate::history::{Action, Answer, Operation};

/// A node acts on its copy a moment after it has it, as everywhere.
const SETTLES_NS: u64 = 1_000_000_000;

const INVARIANT: &str =
    "a region that was away takes what became of all, and serves no version of before";

/// What is known of returns.
struct Known<'a> {
    returns: Vec<&'a Operation>,
    /// By version: who took it out of service, and the nodes that were away then.
    missed: BTreeMap<u64, (&'a Operation, &'a [String])>,
}

impl<'a> Known<'a> {
    fn of(history: &'a [Operation]) -> Self {
        let returns = history.iter().filter(|op| op.action == Action::Back).collect();
        let missed = history.iter().filter(|op| op.is_ok()).filter_map(|op| match &op.action {
            Action::Retire { version, without } if !without.is_empty() => {
                Some((*version, (op, without.as_slice())))
            }
            _ => None,
        });
        Self { returns, missed: missed.collect() }
    }

    /// The return by which the ingress of a call had to know of a removal that it had missed.
    fn knew(
        &self,
        call: &Operation,
        (retire, without): (&Operation, &[String]),
    ) -> Option<&'a Operation> {
        let missed = without.contains(&call.node);
        self.returns.iter().copied().filter(|_| missed).find(|back| {
            back.is_ok()
                && back.node == call.node
                // What it read began when every other node had known of it.
                && back.invoked_ns >= retire.completed_ns
                && back.completed_ns + SETTLES_NS < call.invoked_ns
        })
    }

    /// Calls that were answered at a node that was back and had missed a removal, with the version.
    fn judged(&self, history: &'a [Operation]) -> impl Iterator<Item = (&'a Operation, u64)> {
        history.iter().filter_map(|call| match (&call.action, call.answer()?) {
            (Action::Call { .. }, Answer::Served { version, .. }) => {
                let knew = self.missed.values().any(|missed| self.knew(call, *missed).is_some());
                knew.then_some((call, *version))
            }
            _ => None,
        })
    }
}

/// Every return, and every call at a node that was back.
pub fn check(history: &[Operation]) -> Verdict {
    let known = Known::of(history);
    let late = known.returns.iter().filter(|back| !back.is_ok());
    let mut violations: Vec<String> = late.map(|back| format!("it is not back: {back}")).collect();
    let mut checked = known.returns.len();
    for (call, version) in known.judged(history) {
        checked += 1;
        let Some(missed) = known.missed.get(&version).copied() else { continue };
        if let Some(back) = known.knew(call, missed) {
            let retire = missed.0;
            violations
                .push(format!("by a version of before: {call}\n  after {back}\n  and {retire}"));
        }
    }
    Verdict::of(INVARIANT, checked, violations)
}

/// How many calls were answered at a node that was back and had missed a change of the version.
pub fn seen(history: &[Operation]) -> u64 {
    Known::of(history).judged(history).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::sample::{at, done, ok, unknown};

    const SECOND: u64 = 1_000_000_000;

    fn call(id: u64, second: u64, node: &str, version: u64) -> Operation {
        let action = Action::Call { call: format!("c{id}"), deadline_ms: 10_000 };
        let answer =
            Answer::Served { echo: format!("c{id}"), version, answers: 1, by: "n1".into() };
        at(node, ok(id, (second * SECOND, second * SECOND + 1), action, answer))
    }

    fn back(node: &str, from: u64, to: u64) -> Operation {
        at(node, ok(90, (from * SECOND, to * SECOND), Action::Back, done(0)))
    }

    /// Version 1 goes at 10 s, while n1 is away.
    fn judged(more: &[Operation]) -> Verdict {
        let action = Action::Retire { version: 1, without: vec!["n1".into()] };
        let retire = ok(80, (10 * SECOND, 10 * SECOND), action, done(0));
        check(&[&[retire], more].concat())
    }

    #[test]
    fn a_version_of_before_is_found_at_a_node_that_is_back() {
        let here = back("n1", 12, 14);
        assert!(judged(&[here.clone(), call(1, 16, "n1", 2)]).is_valid());
        assert_eq!(judged(&[here.clone(), call(1, 16, "n1", 2)]).checked, 2);
        assert!(judged(&[here.clone(), call(1, 16, "n1", 1)]).is_invalid());
        assert!(judged(&[here.clone(), call(1, 15, "n1", 1)]).is_valid(), "just now");
        assert!(judged(&[here.clone(), call(1, 13, "n1", 1)]).is_valid(), "it is not back");
        assert!(judged(&[call(1, 16, "n1", 1)]).is_valid(), "it never came back");
        assert!(judged(&[here, call(1, 16, "n2", 1)]).is_valid(), "it was not away");
        // What it read may be of before.
        assert!(judged(&[back("n1", 9, 14), call(1, 16, "n1", 1)]).is_valid());
    }

    #[test]
    fn a_node_that_does_not_take_the_new_state_is_found() {
        let never = at("n1", unknown(91, (12 * SECOND, 42 * SECOND), Action::Back));
        assert!(judged(&[never]).is_invalid());
        assert_eq!(judged(&[]).checked, 0);
    }
}
