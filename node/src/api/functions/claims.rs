//! Route claims: each host and path has one owner, decided by the transaction itself.

use std::collections::{BTreeMap, BTreeSet};

use swarmer_model::{Function, Invalid, Key, Revision};
use swarmer_raft::{Expect, Txn, View};

use crate::{
    codes,
    problem::{Outcome, Problem},
};

/// The most host and path pairs of one function: the old and the new ones must fit into the
/// checks of one transaction (128).
const MAX_CLAIMS: usize = 60;

/// The owner of a claim and the revision at which it got it.
type Claim = (String, Revision);

/// The claims of one function: what it has, what it is to have.
pub(super) struct Move {
    pub(super) owner: String,
    pub(super) before: BTreeSet<String>,
    pub(super) after: BTreeSet<String>,
}

/// What a change of routes does to claims.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    checks: Vec<(String, Expect)>,
    /// With the new owner.
    puts: Vec<(String, String)>,
    deletes: Vec<String>,
}

/// The claims of all routes of a function.
pub(super) fn keys(function: &Function) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    for route in &function.spec.routes {
        if route.hosts.is_empty() {
            keys.insert(Key::route_claim(None, &route.path).into());
        }
        for host in &route.hosts {
            keys.insert(Key::route_claim(Some(host), &route.path).into());
        }
    }
    keys
}

/// The claim that stands in the state.
pub(super) fn look(view: &View, key: &str) -> Option<Claim> {
    let entry = view.get(key)?;
    Some((String::from_utf8_lossy(&entry.value).into_owned(), entry.revision))
}

/// Plans the moves of one transaction. What one function gives up another may take in the same.
pub(super) fn plan(moves: &[Move], look: impl Fn(&str) -> Option<Claim>) -> Outcome<Plan> {
    let mut given_up = BTreeMap::new();
    for Move { owner, before, after } in moves {
        if after.len() > MAX_CLAIMS {
            let rule = format!("at most {MAX_CLAIMS} pairs of host and path");
            return Err(Invalid::one("spec.routes", after.len(), rule).into());
        }
        for key in before.difference(after) {
            if let Some((holder, revision)) = look(key)
                && holder == *owner
            {
                given_up.insert(key, revision);
            }
        }
    }
    let mut plan = Plan::default();
    let mut taken = BTreeMap::new();
    for Move { owner, after, .. } in moves {
        for key in after {
            if let Some(other) = taken.insert(key, owner) {
                return Err(is_taken(key, other, owner));
            }
            match look(key) {
                None => {
                    plan.checks.push((key.clone(), Expect::Absent));
                    plan.puts.push((key.clone(), owner.clone()));
                }
                Some((holder, revision)) if holder == *owner => {
                    plan.checks.push((key.clone(), Expect::At(revision)));
                }
                Some((holder, _)) => match given_up.remove(key) {
                    Some(revision) => {
                        plan.checks.push((key.clone(), Expect::At(revision)));
                        plan.puts.push((key.clone(), owner.clone()));
                    }
                    None => return Err(is_taken(key, &holder, owner)),
                },
            }
        }
    }
    for (key, revision) in given_up {
        plan.checks.push((key.clone(), Expect::At(revision)));
        plan.deletes.push(key.clone());
    }
    Ok(plan)
}

/// Who holds it is told within a namespace only: functions of others are none of its business.
fn is_taken(key: &str, holder: &str, wanted_by: &str) -> Problem {
    let namespace = |id: &str| id.split_once('/').map(|(namespace, _)| namespace.to_owned());
    let holder = if namespace(holder) == namespace(wanted_by) {
        holder
    } else {
        "a function of another namespace"
    };
    let route = key.split_once('/').map_or(key, |(_, route)| route);
    let (host, path) = route.split_at(route.find('/').unwrap_or(route.len()));
    let host = if host == "*" { "every host".to_owned() } else { format!("host {host}") };
    Problem::new(codes::ROUTE_TAKEN, format!("{path} on {host} belongs to {holder}"))
}

impl Plan {
    /// Adds checks and changes to a transaction.
    pub(super) fn add_to(self, mut txn: Txn) -> Txn {
        for (key, expect) in self.checks {
            txn = txn.check(key, expect);
        }
        for (key, owner) in self.puts {
            txn = txn.put(key, owner);
        }
        for key in self.deletes {
            txn = txn.delete(key);
        }
        txn
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use swarmer_model::{Digest, Metadata, Route};

    fn set(keys: &[&str]) -> BTreeSet<String> {
        keys.iter().map(|key| (*key).to_owned()).collect()
    }

    fn moved(owner: &str, before: BTreeSet<String>, after: BTreeSet<String>) -> Move {
        Move { owner: owner.to_owned(), before, after }
    }

    #[test]
    fn every_host_and_path_is_claimed() {
        let mut function = Function::new(Metadata::named("shop"), Digest::of(b"1"));
        function.spec.routes = vec![
            Route { path: "/shop".into(), ..Route::default() },
            Route {
                path: "/".into(),
                hosts: vec!["a.example".into(), "b.example".into()],
                ..Route::default()
            },
        ];
        let expected = ["claims/*/shop", "claims/a.example/", "claims/b.example/"];
        assert_eq!(keys(&function), set(&expected));
    }

    #[test]
    fn new_claims_are_made_kept_ones_checked_and_old_ones_given_back() {
        let held = BTreeMap::from([
            ("claims/*/a", ("default/f".to_owned(), 3)),
            ("claims/*/b", ("default/f".to_owned(), 4)),
            ("claims/*/x", ("default/g".to_owned(), 5)),
        ]);
        let look = |key: &str| held.get(key).cloned();
        let before = set(&["claims/*/a", "claims/*/b", "claims/*/x"]);
        let after = set(&["claims/*/b", "claims/*/c"]);
        let plan = plan(&[moved("default/f", before, after)], look).unwrap();
        assert_eq!(plan.puts, [("claims/*/c".to_owned(), "default/f".to_owned())]);
        // What another function holds by now is not ours to give back.
        assert_eq!(plan.deletes, ["claims/*/a"]);
        assert_eq!(
            plan.checks,
            [
                ("claims/*/b".to_owned(), Expect::At(4)),
                ("claims/*/c".to_owned(), Expect::Absent),
                ("claims/*/a".to_owned(), Expect::At(3)),
            ]
        );
    }

    #[test]
    fn a_taken_route_names_its_owner() {
        let look = |_: &str| Some(("default/shop".to_owned(), 1));
        let after = set(&["claims/*/shop"]);
        let problem = plan(&[moved("default/f", set(&[]), after)], look).unwrap_err();
        assert_eq!(problem.code, codes::ROUTE_TAKEN);
        assert_eq!(problem.detail, "/shop on every host belongs to default/shop");
        let after = set(&["claims/*/shop"]);
        let problem = plan(&[moved("bank/f", set(&[]), after)], look).unwrap_err();
        assert_eq!(
            problem.detail,
            "/shop on every host belongs to a function of another namespace"
        );
    }

    #[test]
    fn the_largest_change_of_routes_fits_a_transaction() {
        let many = |host: &str| {
            (0..MAX_CLAIMS).map(|i| format!("claims/{host}/{i}")).collect::<BTreeSet<_>>()
        };
        let look = |key: &str| key.starts_with("claims/old/").then(|| ("f".to_owned(), 1));
        let plan = plan(&[moved("f", many("old"), many("new"))], look).unwrap();
        let txn = Txn::new().check("functions/default/f", Expect::Absent);
        let txn = plan.add_to(txn.put("functions/default/f", "x"));
        txn.validate().unwrap();
        let mut over = many("new");
        over.insert("claims/one/more".into());
        assert!(super::plan(&[moved("f", set(&[]), over)], |_| None).is_err());
    }

    #[test]
    fn a_route_goes_from_one_function_to_another_in_one_transaction() {
        let held = BTreeMap::from([("claims/*/a", ("f".to_owned(), 3))]);
        let look = |key: &str| held.get(key).cloned();
        let a = || set(&["claims/*/a"]);
        let from = || moved("f", a(), set(&["claims/*/b"]));
        let plan = plan(&[from(), moved("g", set(&[]), a())], look).unwrap();
        assert_eq!(plan.puts.len() + plan.deletes.len(), 2, "{plan:?}");
        assert!(plan.puts.contains(&("claims/*/a".to_owned(), "g".to_owned())));
        assert!(plan.checks.contains(&("claims/*/a".to_owned(), Expect::At(3))));
        plan.add_to(Txn::new()).validate().unwrap();
        // Not to two at once.
        let twice = [from(), moved("g", set(&[]), a()), moved("h", set(&[]), a())];
        let problem = super::plan(&twice, look).unwrap_err();
        assert_eq!(problem.detail, "/a on every host belongs to g");
    }
}
