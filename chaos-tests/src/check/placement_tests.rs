use super::*;
use crate::check::sample::{done, ok};

/// n1 in eu with a disk of kind ssd, n2 and n3 in us; each holds two functions of 100 bytes together.
fn cluster() -> Vec<(u64, &'static str, Fact)> {
    let member = |name: &str, region: &str, disk: &str| {
        Fact::Node(Some(Member {
            name: name.into(),
            region: region.into(),
            zone: "a".into(),
            labels: BTreeMap::from([("disk".into(), disk.into())]),
            draining: false,
        }))
    };
    vec![
        (1, "n1", member("n1", "eu", "ssd")),
        (1, "n2", member("n2", "us", "hdd")),
        (1, "n3", member("n3", "us", "hdd")),
    ]
}

fn drained(node: &str) -> Fact {
    let (_, _, fact) = cluster().into_iter().find(|(_, id, _)| *id == node).unwrap();
    let Fact::Node(Some(member)) = fact else { unreachable!() };
    Fact::Node(Some(Member { draining: true, ..member }))
}

fn drain(drained: bool) -> Fact {
    Fact::Region(Some(drained))
}

fn rule(replicas: u32, memory: u64) -> Rule {
    Rule { replicas, memory, ..Rule::default() }
}

fn wish(replicas: u32, memory: u64) -> Fact {
    Fact::Function(Some(rule(replicas, memory)))
}

fn in_us(replicas: u32) -> Fact {
    Fact::Function(Some(Rule { regions: vec!["us".into()], ..rule(replicas, 0) }))
}

fn placed(planned: u64, nodes: &[&str]) -> Fact {
    let nodes = nodes.iter().map(|node| (*node).to_owned()).collect();
    Fact::Placement(Some(Placed { planned, nodes }))
}

/// The cluster, then these changes, followed over two connections; and the rest at the end.
fn history(changes: &[(u64, &str, Fact)]) -> Vec<Operation> {
    let all: Vec<Commit> = cluster()
        .into_iter()
        .chain(changes.iter().cloned())
        .map(|(revision, of, fact)| Commit { revision, of: of.to_owned(), fact })
        .collect();
    let trace = |id, from, commits: &[Commit]| {
        let answer = Answer::Commits { commits: commits.to_vec(), compacted: false };
        ok(id, (id, id + 1), Action::Trace { from }, answer)
    };
    let capacity = |id, node: &str| Operation {
        node: node.into(),
        ..ok(id, (0, 0), Action::Capacity { functions: 2, memory: 100 }, done(0))
    };
    let mut history: Vec<Operation> = (1..=3).map(|i| capacity(i, &format!("n{i}"))).collect();
    let (first, second) = all.split_at(3);
    history.push(trace(10, 0, first));
    history.push(trace(20, 1, second));
    history.push(ok(30, (30, 40), Action::Rest, done(0)));
    history
}

fn judged(changes: &[(u64, &str, Fact)]) -> Verdict {
    check(&history(changes))
}

#[test]
fn what_fits_is_valid_and_counted() {
    let changes = [
        (2, "d/a", wish(2, 60)),
        (3, "d/b", wish(2, 40)),
        (4, "d/a", placed(2, &["n1", "n2"])),
        (4, "d/b", placed(3, &["n1", "n3"])),
        (5, "d/c", wish(3, 50)),
        // Room on n3 alone.
        (6, "d/c", placed(5, &["n3"])),
    ];
    let verdict = judged(&changes);
    assert!(verdict.is_valid(), "{verdict}");
    assert!(rest(&history(&changes)).is_valid(), "{}", rest(&history(&changes)));
    assert_eq!(seen(&history(&changes)), (5, 1));
    assert_eq!(check(&[]).checked + rest(&[]).checked, 0, "other histories say nothing of it");
}

#[test]
fn a_copy_that_is_added_against_its_rule_is_found() {
    let labels = BTreeMap::from([("disk".to_owned(), "ssd".to_owned())]);
    let ssd = Fact::Function(Some(Rule { labels, ..rule(1, 0) }));
    let zone = Fact::Function(Some(Rule { zones: vec!["b".into()], ..rule(1, 0) }));
    let bad: [&[(u64, &str, Fact)]; 9] = [
        &[(2, "d/a", in_us(1)), (3, "d/a", placed(2, &["n1"]))],
        &[(2, "d/a", ssd), (3, "d/a", placed(2, &["n2"]))],
        &[(2, "d/a", zone), (3, "d/a", placed(2, &["n1"]))],
        // The rule that counts is the newest one before the copy was added.
        &[(2, "d/a", wish(1, 0)), (3, "d/a", in_us(1)), (4, "d/a", placed(2, &["n1"]))],
        &[(2, "d/a", wish(1, 0)), (3, "n1", drained("n1")), (4, "d/a", placed(2, &["n1"]))],
        &[(2, "d/a", wish(1, 0)), (3, "n1", Fact::Node(None)), (4, "d/a", placed(2, &["n1"]))],
        &[(2, "d/a", placed(0, &["n1"]))],
        &[(2, "d/a", wish(1, 0)), (3, "eu", drain(true)), (4, "d/a", placed(2, &["n1"]))],
        // In the same revision it is drained, too.
        &[(2, "d/a", wish(1, 0)), (3, "eu", drain(true)), (3, "d/a", placed(2, &["n1"]))],
    ];
    for changes in bad {
        assert!(judged(changes).is_invalid(), "{changes:#?}");
    }
}

#[test]
fn a_region_that_takes_work_again_gets_copies_and_one_that_is_drained_loses_them() {
    let stood = [(2, "d/a", wish(1, 0)), (3, "d/a", placed(2, &["n1"])), (4, "eu", drain(true))];
    assert!(judged(&stood).is_valid(), "it was there before");
    assert!(rest(&history(&stood)).is_invalid(), "but not for ever: n2 could take it");
    let moved = [&stood[..], &[(5, "d/a", placed(2, &["n2"]))]].concat();
    assert!(judged(&moved).is_valid() && rest(&history(&moved)).is_valid());
    let back = (7, "d/a", placed(2, &["n1"]));
    for open in [drain(false), Fact::Region(None)] {
        let resumed = [&moved[..], &[(6, "eu", open), back.clone()]].concat();
        assert!(judged(&resumed).is_valid());
    }
    let other = [&moved[..], &[(6, "us", drain(false)), back]].concat();
    assert!(judged(&other).is_invalid(), "another region");
}

#[test]
fn a_copy_that_stood_well_before_may_wait_for_its_replacement() {
    let changes = [
        (2, "d/a", wish(1, 0)),
        (3, "d/a", placed(2, &["n1"])),
        (4, "d/a", in_us(1)),
        (5, "d/a", placed(4, &["n1", "n2"])),
        (6, "d/a", placed(4, &["n2"])),
    ];
    assert!(judged(&changes).is_valid());
    assert!(rest(&history(&changes)).is_valid());
    let verdict = rest(&history(&changes[..4]));
    assert!(verdict.is_invalid(), "but not for ever: {verdict}");
    // It comes back to where it may no longer be.
    let back = [&changes[..], &[(7, "d/a", placed(4, &["n1"]))]].concat();
    assert!(judged(&back).is_invalid());
}

#[test]
fn a_node_that_is_filled_beyond_its_capacity_is_found() {
    let two = |memory| vec![(2, "d/a", wish(1, 60)), (3, "d/b", wish(1, memory))];
    let placed_at =
        |first, second| [(first, "d/a", placed(2, &["n1"])), (second, "d/b", placed(3, &["n1"]))];
    assert!(judged(&[two(40), placed_at(4, 4).to_vec()].concat()).is_valid());
    assert!(judged(&[two(41), placed_at(4, 4).to_vec()].concat()).is_invalid(), "at once");
    assert!(judged(&[two(41), placed_at(4, 5).to_vec()].concat()).is_invalid(), "one by one");
    let third = vec![(6, "d/c", wish(1, 0)), (7, "d/c", placed(6, &["n1"]))];
    let many = [two(0), placed_at(4, 5).to_vec(), third].concat();
    assert!(judged(&many).is_invalid(), "three functions, of which it can hold two");
    // One goes in the revision in which the other comes, or before.
    let moved = [(5, "d/a", placed(2, &["n2"])), (5, "d/b", placed(3, &["n1"]))];
    let changes = [two(41), vec![(4, "d/a", placed(2, &["n1"]))], moved.to_vec()].concat();
    assert!(judged(&changes).is_valid());
    let deleted = [(5, "d/a", Fact::Function(None)), (5, "d/a", Fact::Placement(None))];
    let after = [(6, "d/b", placed(3, &["n1"]))];
    let first = vec![(4, "d/a", placed(2, &["n1"]))];
    assert!(judged(&[two(41), first, deleted.to_vec(), after.to_vec()].concat()).is_valid());
}

#[test]
fn a_wish_that_is_not_planned_yet_counts_with_the_least_that_it_may_be() {
    // It grows where it stands: nothing was added.
    let grown = vec![
        (2, "d/a", wish(1, 60)),
        (3, "d/a", placed(2, &["n1"])),
        (4, "d/a", wish(1, 90)),
        (5, "d/b", wish(1, 40)),
    ];
    // The plan may not have seen it; once it was planned for, it counts.
    let beside = vec![(6, "d/b", placed(5, &["n1"]))];
    assert!(judged(&[grown.clone(), beside.clone()].concat()).is_valid());
    let known = vec![(5, "d/a", placed(4, &["n1"]))];
    assert!(judged(&[grown.clone(), known.clone()].concat()).is_valid());
    assert!(judged(&[grown, known, beside].concat()).is_invalid());
}

#[test]
fn at_rest_what_can_be_placed_is_placed() {
    let one = (2, "d/a", wish(1, 60));
    let rests = |changes: &[(u64, &str, Fact)]| rest(&history(changes)).is_valid();
    assert!(!rests(std::slice::from_ref(&one)), "never planned");
    assert!(!rests(&[one.clone(), (3, "d/a", placed(2, &[]))]), "n1 could take it");
    assert!(rests(&[one.clone(), (3, "d/a", placed(2, &["n1"]))]));
    let older = [one.clone(), (3, "d/a", placed(2, &["n1"])), (4, "d/a", wish(1, 50))];
    assert!(!rests(&older), "planned for what was before");
    assert!(rests(&[(2, "d/a", wish(1, 101)), (3, "d/a", placed(2, &[]))]), "no node is so large");
    let emptied = (4, "n1", drained("n1"));
    let stays = [one, (3, "d/a", placed(2, &["n1"])), emptied];
    assert!(!rests(&stays), "n2 could take it");
    let full = [
        (2, "d/b", wish(2, 100)),
        (3, "d/b", placed(2, &["n2", "n3"])),
        (4, "d/a", wish(2, 0)),
        (5, "d/a", placed(4, &["n1", "n2"])),
        (6, "n1", drained("n1")),
        (7, "d/c", wish(1, 0)),
        (8, "d/c", placed(7, &["n3"])),
    ];
    assert!(rests(&full), "a copy stays where it served as long as there is no room elsewhere");
    assert!(!rests(&full[..5]), "n3 could take it");
    let mars = Fact::Function(Some(Rule { regions: vec!["mars".into()], ..rule(1, 0) }));
    let only = [(2, "d/a", wish(1, 0)), (3, "d/a", placed(2, &["n1"])), (4, "d/a", mars)];
    let served = [&only[..], &[(5, "d/a", placed(4, &["n1"]))]].concat();
    assert!(rests(&served), "what cannot be had ends nothing");
    // Who never came to rest claims nothing.
    let mut restless = history(&[(2, "d/a", wish(1, 60))]);
    restless.pop();
    assert_eq!(rest(&restless).checked, 0);
}

#[test]
fn a_trace_with_a_hole_proves_nothing() {
    let whole = history(&[(3, "d/a", wish(1, 0)), (4, "d/a", placed(3, &["n1"]))]);
    let gave_up = |history: &[Operation]| {
        let unknown = |verdict: &Verdict| !verdict.is_valid() && !verdict.is_invalid();
        unknown(&check(history)) && unknown(&rest(history)) && seen(history) == (0, 0)
    };
    assert!(!gave_up(&whole));
    let mut hole = whole.clone();
    hole[4].action = Action::Trace { from: 2 };
    assert!(gave_up(&hole), "what revision 2 was nobody asked");
    assert!(gave_up(&history(&[(1, "d/a", wish(1, 0))])), "told again");
    let write = Action::Write { key: "last".into(), value: 1, request: None };
    let late = |revision| [whole.clone(), vec![ok(50, (50, 51), write.clone(), done(revision))]];
    assert!(!gave_up(&late(4).concat()));
    assert!(gave_up(&late(5).concat()), "it ended before the end");
}
