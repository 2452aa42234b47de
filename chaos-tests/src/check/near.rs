//! A request stays in the region that it enters in while a copy of the function is ready there.

use std::collections::BTreeMap;

use super::{Verdict, map::Map};
use crate::history::{Action, Answer, Operation};

/// So long after the end of a fault nothing is claimed: copies, and what is known of them, find their
/// place again.
const CALM_NS: u64 = 20_000_000_000;
/// A copy that answered by then is known in its region, and one that answers still so long after was
/// ready before: a copy that leaves answers for 2 s more.
const KNOWN_NS: u64 = 3_000_000_000;
/// Between two answers of a copy that was there all the time: requests come many times a second.
const STEADY_NS: u64 = 3_000_000_000;

const INVARIANT: &str = "a request is answered in its own region while a copy is ready there";

/// Every call at whose ingress a copy in the same region was ready: it answered calls of that version,
/// from wherever they came, before and after this one.
pub fn check(history: &[Operation]) -> Verdict {
    let (checked, violations) = judge(history);
    Verdict::of(INVARIANT, checked, violations)
}

/// How many calls had to stay in their region.
pub fn seen(history: &[Operation]) -> u64 {
    judge(history).0 as u64
}

fn judge(history: &[Operation]) -> (usize, Vec<String>) {
    let map = Map::of(history);
    let faults: Vec<(u64, u64)> = history.iter().filter_map(fault).collect();
    let calm = |call: &Operation| {
        !faults.iter().any(|(from, to)| *from <= call.completed_ns && call.invoked_ns <= *to)
    };
    let mut copies: BTreeMap<(u64, &str), Times> = BTreeMap::new();
    for (call, version, by) in history.iter().filter_map(served) {
        copies.entry((version, by)).or_default().answered(call);
    }
    copies.values_mut().for_each(Times::sort);
    let (mut checked, mut violations) = (0, Vec::new());
    for (call, version, by) in history.iter().filter_map(served).filter(|(call, ..)| calm(call)) {
        let Some(own) = map.region(&call.node) else { continue };
        let near = copies.iter().find(|((of, at), copy)| {
            *of == version && map.region(at) == Some(own) && copy.was_ready(call)
        });
        let Some(((_, near), _)) = near else { continue };
        checked += 1;
        if map.region(by) != Some(own) {
            violations.push(format!("by {by}, though {near} was ready in {own}: {call}"));
        }
    }
    (checked, violations)
}

/// From when to when a fault may tell.
fn fault(operation: &Operation) -> Option<(u64, u64)> {
    let struck = matches!(
        operation.action,
        Action::Strike { .. }
            | Action::Lost { .. }
            | Action::Pause
            | Action::Restart
            | Action::Expel
            | Action::Admit
    );
    struck.then_some((operation.invoked_ns, operation.completed_ns + CALM_NS))
}

/// A call that was answered, with the version and the node that did.
fn served(call: &Operation) -> Option<(&Operation, u64, &str)> {
    match (&call.action, call.answer()?) {
        (Action::Call { .. }, Answer::Served { version, by, .. }) => Some((call, *version, by)),
        _ => None,
    }
}

/// When a version was answered by a node.
#[derive(Default)]
struct Times {
    began: Vec<u64>,
    ended: Vec<u64>,
}

impl Times {
    fn answered(&mut self, call: &Operation) {
        self.began.push(call.invoked_ns);
        self.ended.push(call.completed_ns);
    }

    fn sort(&mut self) {
        self.began.sort_unstable();
        self.ended.sort_unstable();
    }

    fn was_ready(&self, call: &Operation) -> bool {
        let long_before = call.invoked_ns.saturating_sub(KNOWN_NS);
        let long_after = call.completed_ns + KNOWN_NS;
        let before = self.ended.partition_point(|at| *at <= long_before).checked_sub(1);
        let after = self.began.partition_point(|at| *at < long_after);
        let before = before.is_some_and(|i| long_before - self.ended[i] <= STEADY_NS);
        before && self.began.get(after).is_some_and(|at| at - long_after <= STEADY_NS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::sample::{at, done, ok};

    const SECOND: u64 = 1_000_000_000;

    /// A call in the middle of a second, at this ingress.
    fn call(id: u64, second: u64, ingress: &str, version: u64, by: &str) -> Operation {
        let from = second * SECOND + SECOND / 2;
        let action = Action::Call { call: format!("c{id}"), deadline_ms: 5_000 };
        let echo = format!("c{id}");
        let answer = Answer::Served { echo, version, answers: 1, by: by.into() };
        at(ingress, ok(id, (from, from + SECOND / 10), action, answer))
    }

    /// n1 and n2 stand in eu, n3 in us; and n1 answers a call from us every second.
    fn world() -> Vec<Operation> {
        let stand = |id, node: &str, region: &str| {
            at(node, ok(id, (0, 0), Action::Stands { region: region.into() }, done(0)))
        };
        let mut world =
            vec![stand(901, "n1", "eu"), stand(902, "n2", "eu"), stand(903, "n3", "us")];
        world.extend((0..40).map(|second| call(100 + second, second, "n3", 1, "n1")));
        world
    }

    fn judged(more: &[Operation]) -> Verdict {
        check(&[world(), more.to_vec()].concat())
    }

    #[test]
    fn an_answer_from_afar_is_found_while_a_copy_is_near() {
        assert!(judged(&[call(1, 20, "n2", 1, "n1")]).is_valid());
        assert_eq!(judged(&[call(1, 20, "n2", 1, "n1")]).checked, 1, "us has no copy");
        assert!(judged(&[call(1, 20, "n2", 1, "n3")]).is_invalid());
        assert!(judged(&[call(1, 20, "n1", 1, "n3")]).is_invalid(), "past the own one");
        // Which of two in a region answers is another question.
        assert!(judged(&[call(1, 20, "n1", 1, "n2")]).is_valid());
        assert_eq!(seen(&world()), 0);
    }

    #[test]
    fn where_no_copy_was_ready_for_sure_nothing_is_claimed() {
        assert_eq!(judged(&[call(1, 20, "n2", 2, "n3")]).checked, 0, "another version");
        assert_eq!(judged(&[call(1, 1, "n2", 1, "n3")]).checked, 0, "it may be new");
        assert_eq!(judged(&[call(1, 38, "n2", 1, "n3")]).checked, 0, "it may be leaving");
        let mut gap = world();
        let away = 12 * SECOND..28 * SECOND;
        gap.retain(|operation| !away.contains(&operation.invoked_ns));
        gap.push(call(1, 20, "n2", 1, "n3"));
        assert_eq!(check(&gap).checked, 0, "it said nothing for long");
    }

    #[test]
    fn what_a_fault_may_have_done_is_left_out() {
        let far = call(1, 25, "n2", 1, "n3");
        let strike = |from: u64, to: u64| {
            let what = "cut".to_owned();
            ok(9, (from * SECOND, to * SECOND), Action::Strike { what }, done(0))
        };
        assert!(judged(&[far.clone(), strike(1, 2)]).is_invalid(), "long ago");
        assert!(judged(&[far.clone(), strike(27, 28)]).is_invalid(), "later");
        assert_eq!(judged(&[far.clone(), strike(6, 7)]).checked, 0);
        assert_eq!(judged(&[far, strike(24, 28)]).checked, 0);
    }
}
