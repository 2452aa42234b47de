//! Route claims: each host and path has one owner, decided by the transaction itself.

use std::collections::BTreeSet;

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

/// What a change of routes does to claims.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    checks: Vec<(String, Expect)>,
    puts: Vec<String>,
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

/// Plans the way from the claims `before` to those `after`, all for `owner`.
pub(super) fn plan(
    owner: &str,
    before: &BTreeSet<String>,
    after: &BTreeSet<String>,
    look: impl Fn(&str) -> Option<Claim>,
) -> Outcome<Plan> {
    if after.len() > MAX_CLAIMS {
        let rule = format!("at most {MAX_CLAIMS} pairs of host and path");
        return Err(Invalid::one("spec.routes", after.len(), rule).into());
    }
    let mut plan = Plan::default();
    for key in after {
        match look(key) {
            None => {
                plan.checks.push((key.clone(), Expect::Absent));
                plan.puts.push(key.clone());
            }
            Some((holder, revision)) if holder == owner => {
                plan.checks.push((key.clone(), Expect::At(revision)));
            }
            Some((holder, _)) => {
                let route = key.split_once('/').map_or(key.as_str(), |(_, route)| route);
                let (host, path) = route.split_at(route.find('/').unwrap_or(route.len()));
                let host =
                    if host == "*" { "every host".to_owned() } else { format!("host {host}") };
                let detail = format!("{path} on {host} belongs to {holder}");
                return Err(Problem::new(codes::ROUTE_TAKEN, detail));
            }
        }
    }
    for key in before.difference(after) {
        if let Some((holder, revision)) = look(key)
            && holder == owner
        {
            plan.checks.push((key.clone(), Expect::At(revision)));
            plan.deletes.push(key.clone());
        }
    }
    Ok(plan)
}

impl Plan {
    /// Adds checks and changes to a transaction.
    pub(super) fn add_to(self, mut txn: Txn, owner: &str) -> Txn {
        for (key, expect) in self.checks {
            txn = txn.check(key, expect);
        }
        for key in self.puts {
            txn = txn.put(key, owner.to_owned());
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
    use std::collections::BTreeMap;
    use swarmer_model::{Digest, Metadata, Route};

    fn set(keys: &[&str]) -> BTreeSet<String> {
        keys.iter().map(|key| (*key).to_owned()).collect()
    }

    #[test]
    fn every_host_and_path_is_claimed() {
        let mut function = Function::new(Metadata::named("shop"), Digest::of(b"1"));
        function.spec.routes = vec![
            Route { path: "/shop".into(), hosts: Vec::new() },
            Route { path: "/".into(), hosts: vec!["a.example".into(), "b.example".into()] },
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
        let plan = plan("default/f", &before, &after, look).unwrap();
        assert_eq!(plan.puts, ["claims/*/c"]);
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
        let problem = plan("default/f", &BTreeSet::new(), &after, look).unwrap_err();
        assert_eq!(problem.code, codes::ROUTE_TAKEN);
        assert_eq!(problem.detail, "/shop on every host belongs to default/shop");
    }

    #[test]
    fn the_largest_change_of_routes_fits_a_transaction() {
        let many = |host: &str| {
            (0..MAX_CLAIMS).map(|i| format!("claims/{host}/{i}")).collect::<BTreeSet<_>>()
        };
        let look = |key: &str| key.starts_with("claims/old/").then(|| ("f".to_owned(), 1));
        let plan = plan("f", &many("old"), &many("new"), look).unwrap();
        let txn = Txn::new().check("functions/default/f", Expect::Absent);
        let txn = plan.add_to(txn.put("functions/default/f", "x"), "f");
        txn.validate().unwrap();
        let mut over = many("new");
        over.insert("claims/one/more".into());
        assert!(super::plan("f", &BTreeSet::new(), &over, |_| None).is_err());
    }
}
