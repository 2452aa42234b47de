//! Votes are spread so that no lost region takes the majority with it, where the map allows that.

use std::collections::BTreeMap;

use super::{Verdict, map::Map};
use crate::history::{Action, Answer, Operation};

/// A node is taken for dead, and its vote given to whoever lives, after a minute: a region that is away
/// for so long is no part of the map any more.
const GRACE_NS: u64 = 60_000_000_000;

const INVARIANT: &str = "no region holds votes without which the others have no majority";

/// Every look at who votes, in a history that says where nodes stand.
pub fn check(history: &[Operation]) -> Verdict {
    let map = Map::of(history);
    let (mut checked, mut violations) = (0, Vec::new());
    for operation in history.iter().filter(|operation| operation.action == Action::Voters) {
        let Some(Answer::Names { names }) = operation.answer() else { continue };
        // Who was removed by then can have no vote, and who is being removed need not.
        let nodes = map.members(operation.invoked_ns);
        if map.was_anybody_away(GRACE_NS, operation.invoked_ns) {
            continue;
        }
        let votes = tally(names.iter().filter_map(|name| map.region(name)));
        let room = tally(nodes.iter().filter_map(|name| map.region(name)));
        // So many can be lost.
        let most = names.len().saturating_sub(names.len() / 2 + 1);
        let allowed = room.values().map(|nodes| *nodes.min(&most)).sum::<usize>() >= names.len();
        if !allowed {
            continue;
        }
        checked += 1;
        if let Some((region, count)) = votes.iter().find(|(_, count)| **count > most) {
            let told = format!("{region} has {count} of {} votes", names.len());
            violations.push(format!("{told}: {operation}"));
        }
    }
    Verdict::of(INVARIANT, checked, violations)
}

fn tally<'a>(regions: impl Iterator<Item = &'a str>) -> BTreeMap<&'a str, usize> {
    regions.fold(BTreeMap::new(), |mut tally, region| {
        *tally.entry(region).or_default() += 1;
        tally
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::sample::{at, done, ok};

    const SECOND: u64 = 1_000_000_000;

    fn stand(nodes: &[(&str, &str)]) -> Vec<Operation> {
        let note = |(i, (node, region)): (usize, &(&str, &str))| {
            let action = Action::Stands { region: (*region).to_owned() };
            at(node, ok(100 + i as u64, (0, 0), action, done(0)))
        };
        nodes.iter().enumerate().map(note).collect()
    }

    fn look(from: u64, voters: &[&str]) -> Operation {
        let names = voters.iter().map(|name| (*name).to_owned()).collect();
        ok(1, (from, from + 1), Action::Voters, Answer::Names { names })
    }

    const FIVE: &[(&str, &str)] =
        &[("n1", "eu"), ("n2", "us"), ("n3", "ap"), ("n4", "eu"), ("n5", "us")];

    #[test]
    fn a_region_with_a_majority_is_found_where_votes_could_stand_otherwise() {
        let judged =
            |nodes: &[(&str, &str)], look: Operation| check(&[stand(nodes), vec![look]].concat());
        assert!(judged(FIVE, look(5, &["n1", "n5", "n3"])).is_valid());
        assert_eq!(judged(FIVE, look(5, &["n1", "n5", "n3"])).checked, 1);
        assert!(judged(FIVE, look(5, &["n1", "n4", "n3"])).is_invalid());
        assert!(judged(FIVE, look(5, &["n1", "n2", "n3", "n4", "n5"])).is_valid());
        // Two regions: one of them always has two of three.
        assert_eq!(judged(&FIVE[..2], look(5, &["n1", "n2", "n4"])).checked, 0);
        // An even number is on its way to an odd one.
        assert_eq!(judged(FIVE, look(5, &["n1", "n2", "n3", "n4"])).checked, 0);
        assert_eq!(judged(FIVE, look(5, &["n1"])).checked, 0, "one is one");
        assert_eq!(check(&[look(5, &["n1", "n4", "n3"])]).checked, 0, "nobody says where");
    }

    #[test]
    fn who_was_removed_or_is_away_for_a_minute_is_no_choice() {
        let expel = at("n3", ok(7, (2, 3), Action::Expel, done(0)));
        let eu = look(5, &["n1", "n4", "n5"]);
        let judged = |more: &Operation, look: &Operation| {
            check(&[stand(FIVE), vec![more.clone(), look.clone()]].concat())
        };
        assert_eq!(judged(&expel, &eu).checked, 0, "nobody is left in ap");
        let lost = |to| ok(8, (2, to), Action::Lost { nodes: vec!["n3".into()] }, done(0));
        assert!(judged(&lost(3), &eu).is_invalid());
        assert!(judged(&lost(50 * SECOND), &eu).is_invalid(), "it may be back any moment");
        let late = look(80 * SECOND, &["n1", "n4", "n5"]);
        assert_eq!(judged(&lost(90 * SECOND), &late).checked, 0);
        assert_eq!(judged(&lost(70 * SECOND), &late).checked, 0, "votes stay where they went");
    }
}
