//! No circles of `placement.near`, decided by the transaction itself.
//!
//! The functions that a new wish reaches are checked at the revisions at which they were seen: of
//! two changes that would close a circle together the second finds the first.

use std::collections::{BTreeMap, VecDeque};

use swarmer_model::{Function, Invalid, Key, Revision, nearest};
use swarmer_raft::{Expect, Txn, View};

use super::resource;
use crate::{
    codes,
    desired::Desired,
    problem::{Outcome, Problem},
};

/// The most functions that one reaches by being near to them and they to others: each is a check of
/// the transaction, of which there are at most 128.
const MAX_REACH: usize = 32;

/// What one function of a transaction is near to, and is to be.
pub(super) struct Move {
    pub(super) name: String,
    pub(super) before: Vec<String>,
    pub(super) after: Vec<String>,
}

impl Move {
    pub(super) fn of(name: &str, before: Option<&Function>, after: Option<&Function>) -> Self {
        let near = |function: Option<&Function>| {
            function.map(|function| function.spec.placement.near.clone()).unwrap_or_default()
        };
        Self { name: name.to_owned(), before: near(before), after: near(after) }
    }

    /// It is to be near to one that it was not near to: nothing else can close a circle.
    fn adds(&self) -> bool {
        self.after.iter().any(|name| !self.before.contains(name))
    }
}

/// What a function is near to, and its revision.
type Seen = (Vec<String>, Revision);

/// The function that stands in the state.
pub(super) fn look(view: &View, namespace: &str, name: &str) -> Outcome<Option<Seen>> {
    let key = Key::function(namespace, name);
    let Some(entry) = view.get(key.as_str()) else { return Ok(None) };
    let function = resource::function_of(key.as_str(), &entry)?;
    Ok(Some((function.spec.placement.near, entry.revision)))
}

/// What must still be so of functions that the transaction does not change, by their names.
pub(super) fn plan(
    moves: &[Move],
    look: impl Fn(&str) -> Outcome<Option<Seen>>,
) -> Outcome<BTreeMap<String, Expect>> {
    let moved: BTreeMap<&str, &Move> = moves.iter().map(|one| (one.name.as_str(), one)).collect();
    let mut expected = BTreeMap::new();
    for start in moves.iter().filter(|one| one.adds()) {
        // By whom each was reached. Breadth first: the circle that is told is the shortest.
        let mut by: BTreeMap<String, String> = BTreeMap::new();
        let mut next = VecDeque::from([start.name.clone()]);
        while let Some(name) = next.pop_front() {
            let near = match moved.get(name.as_str()) {
                Some(one) => one.after.clone(),
                None => {
                    let (near, expect) = match look(&name)? {
                        Some((near, revision)) => (near, Expect::At(revision)),
                        None => (Vec::new(), Expect::Absent),
                    };
                    expected.insert(name.clone(), expect);
                    near
                }
            };
            for other in near {
                if other == start.name {
                    return Err(circle(&start.name, &by, name));
                }
                if !by.contains_key(&other) {
                    by.insert(other.clone(), name.clone());
                    next.push_back(other);
                }
            }
            if by.len() > MAX_REACH {
                let reached = format!("{} and what those are near to", start.after.join(", "));
                let rule = format!("at most {MAX_REACH} functions in all");
                return Err(Invalid::one("spec.placement.near", reached, rule).into());
            }
        }
    }
    Ok(expected)
}

/// The way from `start` to `last`, which is to be near to `start`.
fn circle(start: &str, by: &BTreeMap<String, String>, last: String) -> Problem {
    let mut names = vec![start, last.as_str()];
    while let Some(before) = names.last().and_then(|name| by.get(*name)) {
        names.push(before);
    }
    names.reverse();
    let why = format!("{}: each is to be near to the next", names.join(" → "));
    Problem::new(codes::NEAR_CIRCLE, why)
}

/// Adds the checks to a transaction.
pub(super) fn add_to(mut txn: Txn, namespace: &str, expected: BTreeMap<String, Expect>) -> Txn {
    for (name, expect) in expected {
        txn = txn.check(Key::function(namespace, &name), expect);
    }
    txn
}

/// The functions that one is to be near to, or apart from, and that there are not, each with the one
/// that was probably meant: no fault, as they may come, but perhaps a slip.
pub(super) fn unknown(function: &Function, desired: &Desired) -> Vec<String> {
    let (namespace, rule) = (function.metadata.namespace.as_str(), &function.spec.placement);
    let missing = |names: &[String], what: &str| -> Vec<String> {
        let missing = names.iter().filter(|name| desired.function(namespace, name).is_none());
        missing
            .map(|name| {
                let of_namespace =
                    desired.functions.values().filter(|entry| &*entry.namespace == namespace);
                let meant = nearest(name, of_namespace.map(|entry| &*entry.name));
                let meant = meant.map_or(String::new(), |meant| format!("; nearest: {meant}"));
                format!("there is no function {namespace}/{name} to be {what}{meant}")
            })
            .collect()
    };
    [missing(&rule.near, "near to"), missing(&rule.apart, "apart from")].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use swarmer_model::{Digest, Metadata};

    fn moved(name: &str, before: &[&str], after: &[&str]) -> Move {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Move { name: name.to_owned(), before: names(before), after: names(after) }
    }

    /// A state: each function with what it is near to, at the revision of its place.
    fn planned(
        state: &[(&str, &[&str])],
        moves: &[Move],
    ) -> Result<Vec<(String, Expect)>, (swarmer_model::Code, String)> {
        let look = |name: &str| {
            let at = state.iter().position(|(known, _)| *known == name);
            Ok(at.map(|at| {
                let near = state[at].1.iter().map(|name| (*name).to_owned()).collect();
                (near, at as Revision + 1)
            }))
        };
        let planned = plan(moves, look).map_err(|problem| (problem.code, problem.detail))?;
        Ok(planned.into_iter().collect())
    }

    #[test]
    fn what_a_new_wish_reaches_must_stay_as_it_was_seen() {
        let state: [(&str, &[&str]); 4] =
            [("a", &[]), ("b", &["c", "new"]), ("c", &[]), ("x", &["a"])];
        let expected = [("b", Expect::At(2)), ("c", Expect::At(3)), ("new", Expect::Absent)];
        let expected = expected.map(|(name, expect)| (name.to_owned(), expect));
        assert_eq!(planned(&state, &[moved("a", &[], &["b"])]).unwrap(), expected);
        // What is taken away or stays closes nothing, and waits for nobody.
        for kept in [moved("b", &["c", "new"], &["new"]), moved("x", &["a"], &["a"])] {
            assert_eq!(planned(&state, &[kept]).unwrap(), []);
        }
        // What is changed by the same transaction is not looked up: it is checked already.
        let both = [moved("a", &[], &["b"]), moved("b", &["c", "new"], &["c"])];
        assert_eq!(planned(&state, &both).unwrap(), [("c".to_owned(), Expect::At(3))]);
    }

    #[test]
    fn a_circle_is_refused_and_named() {
        let state: [(&str, &[&str]); 5] =
            [("a", &[]), ("b", &["c", "d"]), ("c", &["d"]), ("d", &["a"]), ("e", &["e"])];
        let (code, why) = planned(&state, &[moved("a", &[], &["b"])]).unwrap_err();
        assert_eq!(code, codes::NEAR_CIRCLE);
        assert_eq!(why, "a → b → d → a: each is to be near to the next", "the shortest");
        // Within one transaction, none of them there before.
        let (_, why) =
            planned(&[], &[moved("x", &[], &["y"]), moved("y", &[], &["x"])]).unwrap_err();
        assert!(why.starts_with("x → y → x:"), "{why}");
        // The transaction opens it.
        let opened = [moved("a", &[], &["b"]), moved("d", &["a"], &[])];
        assert!(planned(&state, &opened).is_ok());
        // One of others, which should not be, is not this one's fault, nor an endless way.
        assert!(planned(&state, &[moved("a", &[], &["e"])]).is_ok());
    }

    #[test]
    fn a_wish_reaches_so_many_and_no_more() {
        let names: Vec<String> = (0..=MAX_REACH).map(|i| format!("f{i:02}")).collect();
        let next: Vec<Vec<&str>> = (1..=MAX_REACH + 1)
            .map(|i| names.get(i).map(String::as_str).into_iter().collect())
            .collect();
        let state: Vec<(&str, &[&str])> =
            names.iter().map(String::as_str).zip(next.iter().map(Vec::as_slice)).collect();
        assert_eq!(planned(&state, &[moved("a", &[], &["f01"])]).unwrap().len(), MAX_REACH);
        let (code, why) = planned(&state, &[moved("a", &[], &["f00"])]).unwrap_err();
        assert_eq!(code, swarmer_model::codes::INVALID);
        assert!(why.contains("at most 32 functions"), "{why}");
    }

    #[test]
    fn what_is_not_there_is_noted_with_what_was_meant() {
        let mut function = Function::new(Metadata::named("api"), Digest::of(b"1"));
        function.spec.placement.near = vec!["databse".into(), "api".into()];
        function.spec.placement.apart = vec!["zzz".into()];
        let mut there = Function::new(Metadata::named("database"), Digest::of(b"1"));
        there.succeed(None, &[], 0);
        let json = |function: &Function| serde_json::to_vec(function).unwrap();
        let (database, api) = (json(&there), json(&function));
        let desired = Desired::default().apply(
            2,
            [
                ("functions/default/database", 1, Some(database.as_slice())),
                ("functions/default/api", 2, Some(api.as_slice())),
            ],
        );
        assert_eq!(
            unknown(&function, &desired),
            [
                "there is no function default/databse to be near to; nearest: database",
                "there is no function default/zzz to be apart from",
            ]
        );
    }
}
