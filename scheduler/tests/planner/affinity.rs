//! Functions that are to be near each other, or apart: what is chosen, and what goes before it.

use swarmer_model::NodeId;
use swarmer_scheduler::{
    Affinity, CopyState, DEFAULT_DEAD_GRACE_MS, FunctionNeed, Nearest, Pull, Reason, Verdict,
};

use crate::world::{World, lines, need, node};

fn near(key: &str, replicas: u32, others: &[&str]) -> FunctionNeed {
    let near = others.iter().map(|other| (*other).to_owned()).collect();
    FunctionNeed { near, ..need(key, replicas) }
}

fn apart(key: &str, replicas: u32, others: &[&str]) -> FunctionNeed {
    let apart = others.iter().map(|other| (*other).to_owned()).collect();
    FunctionNeed { apart, ..need(key, replicas) }
}

/// Nodes a to h: zones one and two of us, one and two of eu, two nodes in each.
fn eight() -> World {
    let mut world = World::four();
    for (id, name, zone) in [(5, "e", "one"), (6, "f", "one"), (7, "g", "two"), (8, "h", "two")] {
        world.observed.nodes.push(node(id, name, "eu", zone));
    }
    world
}

/// A copy that answers.
fn put(world: &mut World, key: &str, name: &str) {
    let copy = CopyState { node: world.node(name).id, ready: true };
    world.observed.placements.entry(key.to_owned()).or_default().push(copy);
}

/// Where the first copy of a function goes whose affinity is to `demo/db`, which is on `g`.
fn beside_db(change: impl FnOnce(&mut World)) -> String {
    let mut world = eight().with(need("demo/db", 1));
    put(&mut world, "demo/db", "g");
    change(&mut world);
    world.desired.functions.push(near("demo/api", 1, &["demo/db"]));
    world.settle();
    assert_eq!(world.on("demo/db"), ["g"]);
    world.on("demo/api")[0].clone()
}

#[test]
fn it_goes_to_the_node_else_the_zone_else_the_region() {
    assert_eq!(beside_db(|_| ()), "g");
    let full = |world: &mut World, names: &[&str]| {
        for name in names {
            world.node(name).capacity.functions = u32::from(*name == "g");
        }
    };
    assert_eq!(beside_db(|world| full(world, &["g"])), "h");
    let region = beside_db(|world| full(world, &["g", "h"]));
    assert!(["e", "f"].contains(&&*region), "{region}");
    let elsewhere = beside_db(|world| full(world, &["e", "f", "g", "h"]));
    assert!(["a", "b", "c", "d"].contains(&&*elsewhere), "{elsewhere}");
}

#[test]
fn a_load_does_not_keep_it_away_and_a_node_in_trouble_does() {
    let busy = beside_db(|world| {
        for i in 0..7 {
            let key = format!("demo/other-{i}");
            world.desired.functions.push(need(&key, 1));
            put(world, &key, "g");
        }
    });
    assert_eq!(busy, "g");
    assert_eq!(beside_db(|world| world.node("g").trouble = Some("disk".into())), "h");
}

#[test]
fn spread_goes_before_it() {
    let mut world = eight().with(need("demo/db", 2));
    // Both in one zone.
    put(&mut world, "demo/db", "g");
    put(&mut world, "demo/db", "h");
    world.desired.functions.push(near("demo/api", 3, &["demo/db"]));
    world.settle();
    let on = world.on("demo/api");
    let beside = on.iter().filter(|name| ["g", "h"].contains(&name.as_str())).count();
    assert_eq!(beside, 1, "{on:?}");
    // The next zone is that of the same region.
    assert!(on.iter().any(|name| ["e", "f"].contains(&name.as_str())), "{on:?}");
    assert!(on.iter().any(|name| ["a", "b", "c", "d"].contains(&name.as_str())), "{on:?}");
}

#[test]
fn a_constraint_goes_before_it() {
    let mut world = eight().with(need("demo/db", 1));
    put(&mut world, "demo/db", "g");
    let us = FunctionNeed { regions: vec!["us".into()], ..near("demo/api", 1, &["demo/db"]) };
    world.desired.functions.push(us);
    world.settle();
    assert!(["a", "b", "c", "d"].contains(&&*world.on("demo/api")[0]));
}

#[test]
fn of_several_it_goes_where_most_are_nearest() {
    let mut world = eight();
    for (key, name) in [("demo/x", "a"), ("demo/y", "g"), ("demo/z", "g")] {
        world.desired.functions.push(need(key, 1));
        put(&mut world, key, name);
    }
    world.desired.functions.push(near("demo/api", 1, &["demo/x", "demo/y", "demo/z"]));
    world.settle();
    assert_eq!(world.on("demo/api"), ["g"]);
}

#[test]
fn in_one_plan_those_are_placed_first_that_others_are_near_to() {
    // A chain against the order of names, so long that no stack holds it.
    let mut world = eight();
    for node in &mut world.observed.nodes {
        node.capacity.functions = 100_000;
        node.capacity.memory_bytes = u64::MAX;
    }
    let key = |i: u32| format!("demo/f{i:05}");
    for i in 0..20_000 {
        world.desired.functions.push(near(&key(i), 1, &[&key(i + 1)]));
    }
    world.desired.functions.push(need(&key(20_000), 1));
    let plan = world.step();
    let last = world.on(&key(20_000));
    assert!((0..20_000).all(|i| world.on(&key(i)) == last));
    assert_eq!(plan.commands.len(), 20_001);
    assert!(world.plan().is_empty());
}

#[test]
fn the_more_important_is_placed_first_all_the_same() {
    let mut world = World::default();
    let mut only = node(1, "a", "us", "one");
    only.capacity.functions = 1;
    world.observed.nodes.push(only);
    let important = FunctionNeed { priority: 1, ..near("demo/api", 1, &["demo/db"]) };
    let mut world = world.with(important).with(need("demo/db", 1));
    world.settle();
    assert_eq!((world.on("demo/api").len(), world.on("demo/db").len()), (1, 0));
}

#[test]
fn nothing_moves_for_it() {
    let mut world = eight().with(need("demo/db", 1)).with(need("demo/api", 1));
    put(&mut world, "demo/db", "g");
    put(&mut world, "demo/api", "a");
    world.desired.functions[1].near = vec!["demo/db".into()];
    assert_eq!(lines(&world.plan()), [""; 0]);
    world.desired.functions[1] = apart("demo/api", 1, &["demo/db"]);
    world.observed.placements.get_mut("demo/api").unwrap()[0].node = NodeId(7);
    assert_eq!(lines(&world.plan()), [""; 0], "on one node, and only told");
}

#[test]
fn what_moves_follows_it_and_what_is_too_much_goes_from_afar() {
    let mut world = eight().with(need("demo/db", 1)).with(near("demo/api", 2, &["demo/db"]));
    for (key, name) in [("demo/db", "g"), ("demo/api", "h"), ("demo/api", "a")] {
        put(&mut world, key, name);
    }
    // Of two in two zones the one that is far.
    world.desired.functions[1].replicas = 1;
    let mut fewer = world.clone();
    fewer.settle();
    assert_eq!(fewer.on("demo/api"), ["h"]);
    // What it is near to has moved since: the copy that takes a place goes there.
    fewer.observed.placements.get_mut("demo/db").unwrap()[0].node = NodeId(3);
    fewer.node("h").draining = true;
    fewer.settle();
    assert_eq!((fewer.on("demo/db"), fewer.on("demo/api")), (vec!["c".into()], vec!["c".into()]));
}

#[test]
fn copies_that_are_not_there_to_stay_draw_nobody() {
    let mut world = eight().with(need("demo/db", 2));
    put(&mut world, "demo/db", "g");
    put(&mut world, "demo/db", "b");
    world.node("g").dead_since_ms = Some(0);
    world.now_ms = DEFAULT_DEAD_GRACE_MS / 2;
    world.desired.functions.push(near("demo/api", 1, &["demo/db"]));
    world.step();
    assert_eq!(world.on("demo/api"), ["b"]);
}

#[test]
fn apart_is_another_node_and_another_zone_whoever_was_first() {
    for (db, api) in [
        (need("demo/db", 1), apart("demo/api", 1, &["demo/db"])),
        // The rule is that of the one that stands already.
        (apart("demo/db", 1, &["demo/api"]), need("demo/api", 1)),
    ] {
        let mut world = World::four().with(db);
        put(&mut world, "demo/db", "a");
        world.desired.functions.push(api);
        // The other zone is full of work.
        for i in 0..6 {
            let key = format!("demo/other-{i}");
            world.desired.functions.push(need(&key, 2));
            put(&mut world, &key, "c");
            put(&mut world, &key, "d");
        }
        let mut one_zone = world.clone();
        world.settle();
        assert!(["c", "d"].contains(&&*world.on("demo/api")[0]));
        one_zone.observed.nodes.retain(|node| node.zone == "one");
        for key in (0..6).map(|i| format!("demo/other-{i}")) {
            one_zone.observed.placements.remove(&key);
            one_zone.desired.functions.retain(|need| need.key != key);
        }
        one_zone.settle();
        assert_eq!(one_zone.on("demo/api"), ["b"]);
    }
}

#[test]
fn apart_where_there_is_one_node_is_together() {
    let mut world = World::default().with(need("demo/db", 1));
    world.observed.nodes.push(node(1, "a", "us", "one"));
    world.desired.functions.push(apart("demo/api", 1, &["demo/db"]));
    let plan = world.step();
    assert_eq!((world.on("demo/api").len(), plan.conflicts.len()), (1, 0));
    let text = plan.of("demo/db")[0].to_string();
    assert!(text.contains("apart from demo/api (on this node)"), "{text}");
    world.settle();
}

#[test]
fn a_circle_comes_to_rest() {
    let mut world = eight()
        .with(near("demo/a", 2, &["demo/b"]))
        .with(near("demo/b", 2, &["demo/c", "demo/b"]))
        .with(near("demo/c", 2, &["demo/a"]));
    world.step();
    assert!(world.plan().is_empty());
    for _ in 0..8 {
        world.ready();
        assert!(world.step().is_empty());
    }
    assert_eq!(world.on("demo/b"), world.on("demo/c"));
    assert_eq!(world.on("demo/a"), world.on("demo/b"));
}

#[test]
fn every_node_says_how_it_stands_to_the_others() {
    let mut world = eight()
        .with(near("demo/api", 1, &["demo/db", "demo/new"]))
        .with(need("demo/db", 1))
        .with(apart("demo/log", 0, &["demo/api"]));
    put(&mut world, "demo/db", "g");
    let plan = world.plan();
    let chosen = plan.of("demo/api")[0].reason.clone();
    let Reason::Chosen { affinity, .. } = &chosen else { panic!("{chosen}") };
    let one = |pull, to: &str, nearest| Affinity { pull, to: to.into(), nearest };
    let expected = [
        one(Pull::Near, "demo/db", Nearest::Node),
        one(Pull::Near, "demo/new", Nearest::Unknown),
        one(Pull::Apart, "demo/log", Nearest::Nowhere),
    ];
    assert_eq!(affinity[..], expected);
    assert_eq!(
        chosen.to_string(),
        "copy 1 of 1: region holds 0, zone 0, load 20.0 %, near demo/db (on this node), near demo/new (no such \
         function), apart from demo/log (no copy to stay), best of 8"
    );
    let told = world.explain("demo/api");
    for (name, nearest) in
        [("h", "in this zone"), ("e", "in this region"), ("a", "in another region")]
    {
        let of = told.iter().find(|decision| decision.node.name == name).unwrap();
        assert_eq!(of.verdict, Verdict::Refused);
        let text = of.reason.to_string();
        let begins = format!("fits, not needed, near demo/db ({nearest}), near demo/new");
        assert!(text.starts_with(&begins), "{text}");
    }
    world.settle();
    let kept = world.explain("demo/api");
    let kept = kept.iter().find(|decision| decision.verdict == Verdict::Kept).unwrap();
    assert!(kept.reason.to_string().starts_with("fits, near demo/db (on this node)"), "{kept}");
}
