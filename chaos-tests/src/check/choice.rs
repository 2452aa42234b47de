//! Which of the nodes that fit gets a copy: one in the region with the fewest copies of the function, in
//! it in the zone with the fewest, and among these one that is apart from those that it should be apart
//! from, and near to those that it should be near to.
//!
//! Judged only where nothing strikes: who is dead or does not bring a function up is no choice, and
//! nobody can tell from outside. And only against nodes with room for it.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Verdict,
    placement::{State, Trace, Wish},
};
use crate::history::{Action, Fact, Member, Operation, Rule};

/// For so many revisions a wish of another function counts as new: the plan may not have seen it.
const NEW: u64 = 8;

const INVARIANT: &str = "a copy stands in the emptiest region and zone, apart from some and near to others as it is asked for";

/// How well a node suits: how many of those to be apart from stand on it and in its zone, and how far
/// those to be near to are, in sum.
type Closeness = (usize, usize, usize);

/// Every copy that was added.
pub fn check(history: &[Operation]) -> Verdict {
    match judge(history) {
        Ok((checked, violations)) => Verdict::of(INVARIANT, checked, violations),
        Err(why) => Verdict::unknown(INVARIANT, 1, why),
    }
}

/// How many copies could be judged.
pub fn seen(history: &[Operation]) -> u64 {
    judge(history).map_or(0, |(checked, _)| checked as u64)
}

fn judge(history: &[Operation]) -> Result<(usize, Vec<String>), String> {
    let struck = |op: &Operation| {
        matches!(op.action, Action::Strike { .. } | Action::Restart | Action::Pause)
    };
    let trace = Trace::of(history)?;
    let (mut checked, mut violations) = (0, Vec::new());
    if history.iter().any(struck) {
        return Ok((checked, violations));
    }
    let mut state = State::new(history);
    // When a function's wish or placement changed last.
    let (mut wished, mut placed) = (BTreeMap::new(), BTreeMap::new());
    for (revision, commits) in &trace.revisions {
        let before: BTreeMap<String, BTreeSet<String>> = commits
            .iter()
            .filter_map(|commit| {
                Some((commit.of.clone(), copies(state.functions.get(&commit.of)?)))
            })
            .collect();
        let added = state.apply(*revision, commits);
        for commit in commits {
            match commit.fact {
                Fact::Function(_) => drop(wished.insert(commit.of.clone(), *revision)),
                Fact::Placement(_) => drop(placed.insert(commit.of.clone(), *revision)),
                _ => {}
            }
        }
        let functions: BTreeSet<&str> = added.iter().map(|(function, _)| *function).collect();
        for function in functions {
            let Some(wish) = state.functions.get(function) else { continue };
            let Some(rule) = wish.rule() else { continue };
            // It was planned for another rule.
            if wish.rules.last().is_some_and(|(at, _)| *at != wish.placed.planned) {
                continue;
            }
            let new: Vec<&str> =
                added.iter().filter(|(of, _)| *of == function).map(|(_, node)| *node).collect();
            let old = before.get(function).cloned().unwrap_or_default();
            let look = Look { state: &state, function, rule, wish, old: &old };
            checked += new.len();
            violations.extend(new.iter().filter_map(|node| look.crowded(*revision, node)));
            let settled = |other: &String| {
                let long = |at: Option<&u64>, by: u64| at.is_none_or(|at| at + by < *revision);
                long(wished.get(other), NEW) && long(placed.get(other), 0)
            };
            let ties = look.ties();
            if let [node] = new[..]
                && !ties.is_empty()
                && ties.iter().all(settled)
                && look.is_short()
            {
                checked += 1;
                violations.extend(look.far(*revision, node));
            }
        }
    }
    Ok((checked, violations))
}

fn copies(wish: &Wish) -> BTreeSet<String> {
    wish.placed.nodes.iter().cloned().collect()
}

/// A function that got copies.
struct Look<'a> {
    state: &'a State,
    function: &'a str,
    rule: &'a Rule,
    wish: &'a Wish,
    /// Where it stood before.
    old: &'a BTreeSet<String>,
}

impl Look<'_> {
    /// The nodes that could have got a copy instead.
    fn others(&self) -> impl Iterator<Item = (&String, &Member)> {
        let free = |(node, _): &(&String, &Member)| {
            !self.old.contains(*node) && self.state.could_take(self.function, self.rule, node)
        };
        self.state.members.iter().filter(free)
    }

    fn member(&self, node: &str) -> Option<&Member> {
        self.state.members.get(node)
    }

    /// Good copies in the node's region and in its zone, among these.
    fn crowd<'n>(
        &self,
        member: &Member,
        nodes: impl Iterator<Item = &'n String>,
    ) -> (usize, usize) {
        let good = nodes.filter(|node| self.state.against(self.function, node).is_none());
        let others = good.filter_map(|node| self.member(node));
        others.fold((0, 0), |(region, zone), other| {
            let in_region = usize::from(other.region == member.region);
            let in_zone = usize::from(zone_of(other) == zone_of(member));
            (region + in_region, zone + in_zone)
        })
    }

    /// Why the copy stands where too many do: whatever order they were placed in, the last one in its
    /// region came where there were no more than in any other, and the last one in its zone where there
    /// were no more than in any other of the region.
    fn crowded(&self, revision: u64, node: &str) -> Option<String> {
        let here = self.member(node)?;
        let crowd = |member| self.crowd(member, self.wish.placed.nodes.iter());
        let (in_region, in_zone) = crowd(here);
        // Where none was missing it takes the place of one that is still counted in its region.
        let short = self.is_short();
        let emptier = self.others().find(|(_, other)| {
            let there = crowd(other);
            let other_region = other.region != here.region;
            short && there.0 + 1 < in_region || !other_region && there.1 + 1 < in_zone
        });
        let (other, _) = emptier?;
        let (name, other) = (self.state.name(node), self.state.name(other));
        let (function, Member { region, zone, .. }) = (self.function, here);
        Some(format!(
            "revision {revision} put {function} on {name}, the copy number {in_region} in region \
             {region} and number {in_zone} in its zone {zone:?}, though {other} could have it"
        ))
    }

    /// Whether good copies were missing before: else one came for another reason.
    fn is_short(&self) -> bool {
        let good = |node: &&String| self.state.against(self.function, node).is_none();
        self.old.iter().filter(good).count() < self.rule.replicas as usize
    }

    /// All functions on which its place depends, whether they exist or not.
    fn ties(&self) -> Vec<String> {
        let mut ties: Vec<String> = self.rule.near.iter().map(|name| self.sibling(name)).collect();
        ties.extend(self.apart());
        ties
    }

    /// Both ways: it does not matter whose rule it is.
    fn apart(&self) -> BTreeSet<String> {
        let mut apart: BTreeSet<String> =
            self.rule.apart.iter().map(|name| self.sibling(name)).collect();
        let own = self.function.split_once('/').map_or(self.function, |(_, name)| name);
        apart.extend(self.state.functions.iter().filter_map(|(other, wish)| {
            let names = &wish.rule()?.apart;
            names.iter().any(|name| name == own).then(|| other.clone())
        }));
        apart.remove(self.function);
        apart
    }

    fn sibling(&self, name: &str) -> String {
        let namespace = self.function.split_once('/').map_or("", |(namespace, _)| namespace);
        format!("{namespace}/{name}")
    }

    /// Where another function stands for good.
    fn stands(&self, other: &str) -> Vec<(&String, &Member)> {
        let Some(wish) = self.state.functions.get(other) else { return Vec::new() };
        let nodes = wish.placed.nodes.iter();
        let members = nodes.filter_map(|node| Some((node, self.member(node)?)));
        members.filter(|(_, member)| !self.state.is_emptied(member)).collect()
    }

    fn closeness(&self, node: &str, member: &Member) -> Closeness {
        let (mut on_node, mut in_zone, mut away) = (0, 0, 0);
        for other in self.apart() {
            let stands = self.stands(&other);
            on_node += usize::from(stands.iter().any(|(at, _)| *at == node));
            in_zone += usize::from(stands.iter().any(|(_, m)| zone_of(m) == zone_of(member)));
        }
        for name in &self.rule.near {
            let each = self.stands(&self.sibling(name)).into_iter().map(|(at, there)| {
                if at == node {
                    0
                } else if zone_of(there) == zone_of(member) {
                    1
                } else if there.region == member.region {
                    2
                } else {
                    3
                }
            });
            away += each.min().unwrap_or(3);
        }
        (on_node, in_zone, away)
    }

    /// Why another node in a place no fuller would have been better.
    fn far(&self, revision: u64, node: &str) -> Option<String> {
        let member = self.member(node)?;
        let crowd = |member: &Member| self.crowd(member, self.old.iter());
        let (own, full) = (self.closeness(node, member), crowd(member));
        let (other, better) = self.others().find_map(|(at, other)| {
            let close = self.closeness(at, other);
            (crowd(other) <= full && close < own).then_some((at, close))
        })?;
        let (name, other, function) =
            (self.state.name(node), self.state.name(other), self.function);
        Some(format!(
            "revision {revision} put {function} on {name}, of {own:?} by {:?} and {:?}, though \
             {other}, of {better:?}, could have it",
            self.rule.near, self.rule.apart
        ))
    }
}

/// Zones of two regions are never the same.
fn zone_of(member: &Member) -> (&str, &str) {
    (&member.region, &member.zone)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        check::sample::{done, ok},
        history::{Answer, Commit, Placed},
    };

    /// n1 and n2 in eu/a, n3 in eu/b, n4 and n5 in us/a.
    fn history(changes: &[(u64, &str, Fact)]) -> Vec<Operation> {
        let places = [
            ("n1", "eu", "a"),
            ("n2", "eu", "a"),
            ("n3", "eu", "b"),
            ("n4", "us", "a"),
            ("n5", "us", "a"),
        ];
        let cluster = places.map(|(node, region, zone)| {
            let member = Member {
                name: node.into(),
                region: region.into(),
                zone: zone.into(),
                ..Member::default()
            };
            (1, node, Fact::Node(Some(member)))
        });
        let commits = cluster.into_iter().chain(changes.iter().cloned());
        let commits = commits
            .map(|(revision, of, fact)| Commit { revision, of: of.to_owned(), fact })
            .collect();
        let answer = Answer::Commits { commits, compacted: false };
        vec![ok(1, (0, 1), Action::Trace { from: 0 }, answer)]
    }

    fn wish(replicas: u32, near: &[&str], apart: &[&str]) -> Fact {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let (near, apart) = (names(near), names(apart));
        Fact::Function(Some(Rule { replicas, near, apart, ..Rule::default() }))
    }

    fn placed(planned: u64, nodes: &[&str]) -> Fact {
        let nodes = nodes.iter().map(|node| (*node).to_owned()).collect();
        Fact::Placement(Some(Placed { planned, nodes }))
    }

    fn judged(changes: &[(u64, &str, Fact)]) -> Verdict {
        check(&history(changes))
    }

    #[test]
    fn two_copies_in_a_place_while_another_one_has_none_are_found() {
        let two =
            |nodes: &[&str]| judged(&[(2, "d/a", wish(2, &[], &[])), (3, "d/a", placed(2, nodes))]);
        assert!(two(&["n1", "n4"]).is_valid() && two(&["n3", "n5"]).is_valid());
        assert_eq!(two(&["n1", "n4"]).checked, 2);
        assert!(two(&["n1", "n2"]).is_invalid() && two(&["n4", "n5"]).is_invalid());
        // Two zones, and another region has none.
        assert!(two(&["n1", "n3"]).is_invalid());
        let many = |count, nodes: &[&str]| {
            judged(&[(2, "d/a", wish(count, &[], &[])), (3, "d/a", placed(2, nodes))])
        };
        // Of four copies each region has two, eu in two zones.
        assert!(many(4, &["n1", "n3", "n4", "n5"]).is_valid());
        assert!(many(4, &["n1", "n2", "n4", "n5"]).is_invalid());
        assert!(many(4, &["n1", "n2", "n3", "n4"]).is_invalid());
        assert!(
            many(3, &["n1", "n3", "n4"]).is_valid() && many(3, &["n1", "n2", "n3"]).is_invalid()
        );
        // One more later on.
        let later = |node: &str| {
            judged(&[
                (2, "d/a", wish(1, &[], &[])),
                (3, "d/a", placed(2, &["n1"])),
                (4, "d/a", wish(2, &[], &[])),
                (5, "d/a", placed(4, &["n1", node])),
            ])
        };
        assert!(later("n4").is_valid() && later("n2").is_invalid() && later("n3").is_invalid());
    }

    #[test]
    fn zones_that_could_not_have_it_are_no_choice() {
        let rule = Rule { replicas: 2, regions: vec!["eu".into()], ..Rule::default() };
        let eu = |rule: &Rule| Fact::Function(Some(rule.clone()));
        let judged = |rule: &Rule, more: &[(u64, &str, Fact)]| {
            let own = [(2, "d/a", eu(rule)), (9, "d/a", placed(2, &["n1", "n2"]))];
            let mut all = [&own[..1], more, &own[1..]].concat();
            all.sort_by_key(|(revision, ..)| *revision);
            check(&history(&all))
        };
        assert!(judged(&rule, &[]).is_invalid(), "eu/b could");
        assert!(judged(&Rule { zones: vec!["a".into()], ..rule.clone() }, &[]).is_valid());
        let Fact::Node(Some(member)) = Fact::Node(Some(Member {
            name: "n3".into(),
            region: "eu".into(),
            zone: "b".into(),
            draining: true,
            ..Member::default()
        })) else {
            unreachable!()
        };
        assert!(judged(&rule, &[(3, "n3", Fact::Node(Some(member)))]).is_valid());
        let us = Rule { regions: Vec::new(), zones: vec!["a".into()], ..rule };
        assert!(judged(&us, &[]).is_invalid(), "us/a could");
        assert!(judged(&us, &[(3, "us", Fact::Region(Some(true)))]).is_valid());
    }

    #[test]
    fn one_that_takes_the_place_of_another_is_not_counted_beside_it() {
        let n3 = |draining| {
            Fact::Node(Some(Member {
                name: "n3".into(),
                region: "eu".into(),
                zone: "b".into(),
                draining,
                ..Member::default()
            }))
        };
        let verdict = judged(&[
            (2, "n3", n3(true)),
            (3, "d/a", wish(3, &[], &[])),
            (4, "d/a", placed(3, &["n1", "n2", "n4"])),
            (5, "n3", n3(false)),
            (6, "d/a", placed(3, &["n1", "n2", "n3", "n4"])),
        ]);
        assert!(verdict.is_valid(), "{verdict:?}");
    }

    #[test]
    fn a_copy_far_from_what_it_is_to_be_near_to_is_found() {
        let near = |node: &str| {
            judged(&[
                (2, "d/b", wish(1, &[], &[])),
                (3, "d/b", placed(2, &["n4"])),
                (20, "d/a", wish(1, &["b"], &[])),
                (21, "d/a", placed(20, &[node])),
            ])
        };
        assert!(near("n4").is_valid());
        assert_eq!(near("n4").checked, 3);
        assert!(near("n5").is_invalid() && near("n1").is_invalid());
        // What it is to be near to is as new as it is.
        let fresh = [
            (2, "d/b", wish(1, &[], &[])),
            (3, "d/b", placed(2, &["n4"])),
            (4, "d/a", wish(1, &["b"], &[])),
            (5, "d/a", placed(4, &["n1"])),
        ];
        assert!(judged(&fresh).is_valid());
        let moved = [
            (2, "d/b", wish(1, &[], &[])),
            (20, "d/a", wish(1, &["b"], &[])),
            (21, "d/b", placed(2, &["n4"])),
            (21, "d/a", placed(20, &["n1"])),
        ];
        assert!(judged(&moved).is_valid());
    }

    #[test]
    fn a_copy_beside_what_it_is_to_be_apart_from_is_found_whosever_rule_it_is() {
        let apart = |first: Fact, second: Fact, node: &str| {
            judged(&[
                (2, "d/b", first),
                (3, "d/b", placed(2, &["n1"])),
                (20, "d/a", second),
                (21, "d/a", placed(20, &[node])),
            ])
        };
        let plain = || wish(1, &[], &[]);
        for node in ["n3", "n4"] {
            assert!(apart(plain(), wish(1, &[], &["b"]), node).is_valid());
            assert!(apart(wish(1, &[], &["a"]), plain(), node).is_valid());
        }
        for node in ["n1", "n2"] {
            assert!(apart(plain(), wish(1, &[], &["b"]), node).is_invalid(), "{node}");
            assert!(apart(wish(1, &[], &["a"]), plain(), node).is_invalid(), "{node}");
        }
        assert!(apart(plain(), plain(), "n1").is_valid());
    }

    #[test]
    fn where_something_struck_nothing_is_claimed() {
        let mut bad =
            history(&[(2, "d/a", wish(2, &[], &[])), (3, "d/a", placed(2, &["n1", "n2"]))]);
        assert!(check(&bad).is_invalid() && seen(&bad) == 2);
        bad.push(ok(9, (5, 6), Action::Strike { what: "kill".into() }, done(0)));
        assert_eq!((check(&bad).checked, seen(&bad)), (0, 0));
    }
}
