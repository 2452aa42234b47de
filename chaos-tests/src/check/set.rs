//! A set: what was acknowledged as added is there, what was acknowledged as removed is not, and
//! nothing is there that nobody put in.

use std::collections::{BTreeMap, BTreeSet};

use super::Verdict;
use crate::history::{Action, Answer, Operation, Outcome};

const INVARIANT: &str = "no acknowledged element is lost, none comes back";

#[derive(Default)]
struct Element<'a> {
    adds: Vec<&'a Operation>,
    removes: Vec<&'a Operation>,
}

impl Element<'_> {
    /// It must be there when `list` began: an acknowledged add after which nothing may have
    /// removed it.
    fn lost(&self, list: &Operation) -> Option<String> {
        let add = self.adds.iter().find(|add| {
            let undone = |remove: &&&Operation| {
                // An unknown removal has no end: it counts whenever it began before the list ended.
                let open = !remove.is_ok() || remove.completed_ns > add.invoked_ns;
                remove.may_have_happened() && remove.invoked_ns < list.completed_ns && open
            };
            add.is_ok()
                && add.completed_ns < list.invoked_ns
                && !self.removes.iter().any(|remove| undone(&remove))
        })?;
        Some(format!("lost: {add}\n  is missing in #{} at {}", list.id, list.node))
    }

    /// It must not be there: nobody added it, or it was removed and nothing may have added it since.
    fn present(&self, element: u64, list: &Operation) -> Option<String> {
        let adds: Vec<&&Operation> = self
            .adds
            .iter()
            .filter(|add| add.may_have_happened() && add.invoked_ns < list.completed_ns)
            .collect();
        if adds.is_empty() {
            let why = self.adds.iter().find(|add| matches!(add.outcome, Outcome::Failed { .. }));
            let why = why.map_or("nobody added it".to_owned(), |add| format!("but {add}"));
            return Some(format!("{element} is in #{} at {}: {why}", list.id, list.node));
        }
        let remove = self.removes.iter().find(|remove| {
            let later = |add: &&Operation| !add.is_ok() || add.completed_ns > remove.invoked_ns;
            remove.is_ok()
                && remove.completed_ns < list.invoked_ns
                && !adds.iter().any(|add| later(add))
        })?;
        Some(format!("came back: {remove}\n  but it is in #{} at {}", list.id, list.node))
    }
}

/// Every list has what it must have and nothing else.
pub fn check(history: &[Operation]) -> Verdict {
    let mut elements: BTreeMap<u64, Element<'_>> = BTreeMap::new();
    let mut lists: Vec<(&Operation, BTreeSet<u64>)> = Vec::new();
    let mut checked = 0;
    for operation in history {
        match (&operation.action, operation.answer()) {
            (Action::Add { element }, _) => {
                elements.entry(*element).or_default().adds.push(operation)
            }
            (Action::Remove { element }, _) => {
                elements.entry(*element).or_default().removes.push(operation);
            }
            (Action::List, Some(Answer::Elements { elements })) => {
                lists.push((operation, elements.iter().copied().collect()));
            }
            _ => continue,
        }
        checked += 1;
    }
    let mut violations = Vec::new();
    for (list, there) in &lists {
        for element in there {
            let known = elements.get(element);
            let unknown = Element::default();
            violations.extend(known.unwrap_or(&unknown).present(*element, list));
        }
        let missing = elements.iter().filter(|(element, _)| !there.contains(element));
        violations.extend(missing.filter_map(|(_, element)| element.lost(list)));
    }
    if lists.is_empty() && checked > 0 {
        return Verdict::unknown(INVARIANT, checked, "the set was never read".into());
    }
    Verdict::of(INVARIANT, checked, violations)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{
        Judgement,
        sample::{done, failed, ok, unknown},
    };

    const ADD: Action = Action::Add { element: 1 };
    const REMOVE: Action = Action::Remove { element: 1 };

    fn list(id: u64, time: (u64, u64), elements: &[u64]) -> Operation {
        ok(id, time, Action::List, Answer::Elements { elements: elements.to_vec() })
    }

    fn valid(history: &[Operation]) -> bool {
        check(history).is_valid()
    }

    #[test]
    fn an_acknowledged_element_is_there_and_one_of_which_nobody_knows_may_be() {
        let added = ok(1, (0, 10), ADD, done(1));
        assert!(valid(&[added.clone(), list(2, (20, 30), &[1])]));
        assert!(!valid(&[added.clone(), list(2, (20, 30), &[])]), "lost");
        assert!(valid(&[added, list(2, (5, 30), &[])]), "at the same time");
        for there in [&[1][..], &[]] {
            assert!(valid(&[unknown(1, (0, 10), ADD), list(2, (20, 30), there)]));
        }
    }

    #[test]
    fn what_nobody_added_or_what_failed_is_not_there() {
        assert!(!valid(&[list(2, (20, 30), &[7])]), "nobody");
        assert!(!valid(&[failed(1, (0, 10), ADD), list(2, (20, 30), &[1])]), "failed");
        assert!(valid(&[failed(1, (0, 10), ADD), list(2, (20, 30), &[])]));
    }

    #[test]
    fn what_was_removed_does_not_come_back() {
        let (added, removed) = (ok(1, (0, 10), ADD, done(1)), ok(2, (20, 30), REMOVE, done(2)));
        let both = [added.clone(), removed.clone()];
        let with = |last: Operation| [&both[..], &[last]].concat();
        assert!(valid(&with(list(3, (40, 50), &[]))));
        assert!(!valid(&with(list(3, (40, 50), &[1]))), "came back");
        let late = unknown(4, (0, 10), ADD);
        assert!(valid(&[&both[..], &[late, list(3, (40, 50), &[1])]].concat()), "added late");
        let maybe = [added, unknown(2, (20, 30), REMOVE)];
        for there in [&[1][..], &[]] {
            assert!(valid(&[&maybe[..], &[list(3, (40, 50), there)]].concat()));
        }
    }

    #[test]
    fn a_set_that_nobody_read_proves_nothing() {
        let verdict = check(&[ok(1, (0, 10), ADD, done(1))]);
        assert!(matches!(verdict.judgement, Judgement::Unknown(_)));
    }
}
