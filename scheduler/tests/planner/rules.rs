//! One test for each rule: the input, and the commands that must come out.

use swarmer_model::{Coded, NodeId, RegionState};
use swarmer_scheduler::{
    Capacity, Command, Conflict, CopyState, DEFAULT_DEAD_GRACE_MS, FunctionNeed, Reason, Record,
    Trouble, Verdict, codes,
};

use crate::world::{MIB, World, lines, need, node};

fn adds(commands: &[Command]) -> usize {
    commands.iter().filter(|command| matches!(command, Command::Add { .. })).count()
}

#[test]
fn two_copies_go_to_two_zones_and_say_why() {
    let world = World::four().with(need("demo/hello", 2));
    let plan = world.plan();
    assert_eq!(plan.commands.len(), 2);
    let zones: std::collections::BTreeSet<&str> = plan
        .commands
        .iter()
        .map(|c| world.observed.nodes.iter().find(|n| n.id == c.node()).unwrap().zone.as_str())
        .collect();
    assert_eq!(zones.len(), 2);
    for command in &plan.commands {
        assert!(matches!(command.reason(), Reason::Chosen { wanted: 2, replaces: None, .. }));
        assert!(matches!(command, Command::Add { revision: 7, .. }));
    }
    assert!(plan.decisions.iter().all(|decision| decision.verdict == Verdict::Placed));
    assert!(plan.conflicts.is_empty());
}

#[test]
fn copies_go_to_all_regions_before_a_second_zone_of_one() {
    // By zones alone the second copy would go to any of three, and the first region has two of them.
    let mut world = World::default().with(need("demo/hello", 2)).with(need("demo/wide", 3));
    for (id, region, zone) in
        [(1, "eu", "a"), (2, "eu", "b"), (3, "eu", "c"), (4, "us", "a"), (5, "us", "a")]
    {
        world.observed.nodes.push(node(id, &format!("{region}{id}"), region, zone));
    }
    world.settle();
    let us = |world: &World, key: &str| {
        world.on(key).iter().filter(|name| name.starts_with("us")).count()
    };
    assert_eq!(us(&world, "demo/hello"), 1, "{:?}", world.on("demo/hello"));
    // Of three, one region has two, and that the one where they stand in two zones.
    assert_eq!(us(&world, "demo/wide"), 1, "{:?}", world.on("demo/wide"));
    // A region with two zones gives one back to one that takes work again.
    say(&mut world, "us", RegionState::Drained);
    world.settle();
    assert_eq!(us(&world, "demo/hello"), 0);
    say(&mut world, "us", RegionState::Resumed);
    world.settle();
    assert_eq!(us(&world, "demo/hello"), 1, "{:?}", world.on("demo/hello"));
}

#[test]
fn nothing_moves_without_need() {
    let mut world = World::four().with(need("demo/hello", 2));
    world.settle();
    let before = world.on("demo/hello");
    for id in 5..9 {
        world.observed.nodes.push(node(id, &format!("n{id}"), "us", "three"));
    }
    world.desired.functions[0].memory_bytes *= 2;
    assert_eq!(lines(&world.plan()), Vec::<String>::new());
    assert_eq!(world.on("demo/hello"), before);
}

#[test]
fn a_drained_node_is_emptied_replacement_first() {
    let mut world = World::four().with(need("demo/hello", 2));
    world.settle();
    let victim = world.on("demo/hello")[0].clone();
    world.node(&victim).draining = true;
    let plan = world.step();
    assert_eq!((plan.commands.len(), adds(&plan.commands)), (1, 1), "{:?}", lines(&plan));
    assert!(matches!(
        plan.commands[0].reason(),
        Reason::Chosen { replaces: Some((node, Trouble::Draining)), .. } if node.name == victim
    ));
    assert!(world.step().is_empty(), "waits for the replacement to be ready");
    assert!(world.on("demo/hello").contains(&victim));
    world.ready();
    let plan = world.step();
    assert_eq!(lines(&plan), [format!("remove demo/hello from {victim}: draining")]);
    assert!(world.step().is_empty());
}

#[test]
fn a_drain_with_nowhere_to_go_keeps_the_copy_and_names_the_conflict() {
    let mut world = World::default().with(need("demo/hello", 1));
    world.observed.nodes.push(node(1, "a", "us", "one"));
    world.settle();
    world.node("a").draining = true;
    let plan = world.step();
    assert!(plan.is_empty());
    assert_eq!(
        plan.conflicts[0].to_string(),
        "demo/hello: 0 of 1 copies placed; node a: draining; nothing else fits"
    );
    assert_eq!(plan.conflicts[0].code(), codes::SHORT);
}

#[test]
fn a_dead_nodes_work_moves_after_the_grace_time_and_not_before() {
    let mut world = World::four().with(need("demo/hello", 2));
    world.settle();
    let victim = world.on("demo/hello")[0].clone();
    world.now_ms = 1_000;
    world.node(&victim).dead_since_ms = Some(1_000);
    world.ready();
    let plan = world.step();
    assert!(plan.is_empty());
    assert_eq!(plan.replan_at_ms, Some(1_000 + DEFAULT_DEAD_GRACE_MS));
    assert_eq!(plan.decisions[0].reason, Reason::Grace { until_ms: 1_000 + DEFAULT_DEAD_GRACE_MS });
    world.now_ms = 1_000 + DEFAULT_DEAD_GRACE_MS - 1;
    assert!(world.step().is_empty());
    world.now_ms += 1;
    let plan = world.step();
    assert_eq!((plan.commands.len(), adds(&plan.commands)), (2, 1), "{:?}", lines(&plan));
    assert!(!world.on("demo/hello").contains(&victim));
    // It comes back: nothing moves again.
    world.ready();
    world.node(&victim).dead_since_ms = None;
    assert!(world.step().is_empty());
}

#[test]
fn a_dead_node_keeps_its_copy_where_nothing_else_fits() {
    let mut world = World::default().with(need("demo/hello", 1));
    world.observed.nodes.push(node(1, "a", "us", "one"));
    world.settle();
    world.node("a").dead_since_ms = Some(0);
    world.now_ms = 10 * DEFAULT_DEAD_GRACE_MS;
    let plan = world.step();
    assert!(plan.is_empty());
    assert!(matches!(plan.conflicts[..], [Conflict::Short { placed: 0, .. }]));
}

#[test]
fn a_copy_on_a_stranger_goes_at_once() {
    let mut world = World::four().with(need("demo/hello", 1));
    let stranger = CopyState { node: NodeId(99), ready: true };
    world.observed.placements.insert("demo/hello".into(), vec![stranger]);
    let plan = world.step();
    assert_eq!(adds(&plan.commands), 1);
    assert_eq!(lines(&plan)[1], "remove demo/hello from 0000000000000063: the node is no member");
}

#[test]
fn scaling_down_and_deleting_take_copies_away() {
    let mut world = World::four().with(need("demo/hello", 4));
    world.settle();
    world.desired.functions[0].replicas = 2;
    let plan = world.step();
    assert_eq!((plan.commands.len(), adds(&plan.commands)), (2, 0));
    let mut zones: Vec<String> =
        world.on("demo/hello").iter().map(|name| world.node(name).zone.clone()).collect();
    zones.dedup();
    assert_eq!(zones.len(), 2, "the spread stays");
    world.desired.functions.clear();
    let plan = world.step();
    assert_eq!(plan.commands.len(), 2);
    assert!(plan.commands.iter().all(|c| *c.reason() == Reason::Deleted));
    assert!(world.observed.placements.is_empty());
}

#[test]
fn refusals_name_the_rule_and_what_was_meant() {
    let mut wish = need("demo/hello", 1);
    wish.regions = vec!["us-1".into()];
    wish.labels.insert("gpu".into(), "true".into());
    let mut world = World::default().with(wish);
    world.observed.nodes.push(node(1, "a", "us-1", "one"));
    world.observed.nodes.push(node(2, "b", "eu-1", "one"));
    world.node("a").labels.insert("gpu".into(), "ture".into());
    let plan = world.step();
    assert_eq!(
        plan.conflicts[0].to_string(),
        "demo/hello: 0 of 1 copies placed; node a: label gpu=ture, needs gpu=true; \
         node b: region eu-1 not in [us-1]; no node has label gpu=true; nearest: gpu=ture"
    );
}

#[test]
fn a_broken_constraint_moves_the_copy_and_one_that_none_can_meet_ends_nothing() {
    let mut world = World::four().with(need("demo/hello", 1));
    world.observed.nodes.push(node(5, "e", "eu", "one"));
    world.settle();
    let old = world.on("demo/hello")[0].clone();
    let other = if old == "e" { "us" } else { "eu" };
    world.desired.functions[0].regions = vec![other.into()];
    let plan = world.step();
    assert_eq!((plan.commands.len(), adds(&plan.commands)), (1, 1), "{:?}", lines(&plan));
    world.ready();
    assert_eq!(world.step().commands.len(), 1);
    assert!(!world.on("demo/hello").contains(&old));
    world.desired.functions[0].regions = vec!["mars".into()];
    let before = world.on("demo/hello");
    let plan = world.step();
    assert_eq!(lines(&plan), Vec::<String>::new());
    assert!(
        plan.conflicts[0].leaves_none("demo/hello") && plan.conflicts[0].is_about("demo/hello")
    );
    assert_eq!(world.on("demo/hello"), before);
    assert!(matches!(plan.decisions[0].reason, Reason::NoReplacement(Trouble::Misplaced(_))));
    // Its node may come back, too.
    world.node(&before[0]).dead_since_ms = Some(0);
    world.now_ms = 2 * DEFAULT_DEAD_GRACE_MS;
    assert!(world.step().is_empty());
    // One that can be met again: the copy moves as ever.
    world.node(&before[0]).dead_since_ms = None;
    world.desired.functions[0].regions = vec![world.node(&old).region.clone()];
    world.settle();
    assert!(world.on("demo/hello").iter().all(|name| !before.contains(name)));
}

#[test]
fn an_overfull_node_sheds_the_least_important() {
    let mut important = need("demo/important", 1);
    important.priority = 10;
    let mut world = World::default().with(need("demo/a", 1)).with(important);
    world.observed.nodes.push(node(1, "a", "us", "one"));
    world.settle();
    world.node("a").capacity =
        Capacity { functions: 1, memory_bytes: 1024 * MIB, ..Capacity::default() };
    let plan = world.step();
    assert!(plan.is_empty(), "nowhere to go: it stays");
    assert!(plan.conflicts.iter().any(|c| matches!(c, Conflict::Overfull { functions: 2, .. })));
    world.observed.nodes.push(node(2, "b", "us", "one"));
    world.settle();
    assert_eq!(world.on("demo/a"), ["b"]);
    assert_eq!(world.on("demo/important"), ["a"]);
    assert!(world.plan().conflicts.is_empty());
}

#[test]
fn scarce_room_goes_to_the_important_function() {
    let mut important = need("demo/z", 1);
    important.priority = 1;
    let mut world = World::default().with(need("demo/a", 1)).with(important);
    world.observed.nodes.push(node(1, "a", "us", "one"));
    world.node("a").capacity.functions = 1;
    let plan = world.step();
    assert_eq!(world.on("demo/z"), ["a"]);
    assert_eq!(
        plan.conflicts[0].to_string(),
        "demo/a: 0 of 1 copies placed; node a: full: holds its 1 functions"
    );
}

/// Two nodes for one function each, held by `demo/low`, which keeps `least` copies that serve.
fn taken(least: u32) -> World {
    let mut low = need("demo/low", 2);
    low.min_available = least;
    let mut world = World::default().with(low);
    for (id, name) in [(1, "a"), (2, "b")] {
        world.observed.nodes.push(node(id, name, "us", "one"));
        world.node(name).capacity.functions = 1;
    }
    world.settle();
    world.ready();
    world
}

fn high(priority: i32) -> FunctionNeed {
    FunctionNeed { priority, ..need("demo/high", 2) }
}

#[test]
fn the_important_takes_room_from_the_less_important_but_not_all_that_serves() {
    let mut world = taken(1).with(high(5));
    let plan = world.step();
    let node = world.on("demo/high").remove(0);
    assert_eq!(
        lines(&plan),
        [
            format!("add demo/high on {node}: copy 1 of 2, room made by demo/low"),
            format!("remove demo/low from {node}: makes room for demo/high of priority 5"),
        ]
    );
    let conflicts: Vec<String> = plan.conflicts.iter().map(ToString::to_string).collect();
    assert_eq!(conflicts.len(), 2, "{conflicts:?}");
    assert!(conflicts[0].starts_with("demo/high: 1 of 2 copies placed"), "{conflicts:?}");
    assert!(conflicts[1].starts_with("demo/low: 1 of 2 copies placed"), "{conflicts:?}");
    world.ready();
    let plan = world.step();
    assert!(plan.is_empty(), "the last copy that serves stays");
    let conflicts: Vec<String> = plan.conflicts.iter().map(ToString::to_string).collect();
    let kept = "full, and demo/low may serve no fewer copies than now (min-available)";
    assert!(conflicts[0].contains(kept), "{conflicts:?}");
}

#[test]
fn a_copy_where_it_may_not_be_is_no_stand_in_for_one_that_makes_room() {
    let mut low = need("demo/low", 2);
    low.min_available = 1;
    let mut world = World::default().with(low);
    for (id, name, region) in [(1, "a", "us"), (2, "b", "eu")] {
        world.observed.nodes.push(node(id, name, region, "one"));
        world.node(name).capacity.functions = 1;
    }
    world.settle();
    world.ready();
    // From now on it may be in us alone, where the important one wants to be.
    world.desired.functions[0].regions = vec!["us".to_owned()];
    let mut important = FunctionNeed { replicas: 1, ..high(5) };
    important.regions = vec!["us".to_owned()];
    world = world.with(important);
    world.step();
    assert!(world.on("demo/low").contains(&"a".to_owned()), "{:?}", world.on("demo/low"));
    assert!(world.on("demo/high").is_empty());
}

#[test]
fn room_is_made_in_two_zones() {
    let mut world = World::four();
    for node in &mut world.observed.nodes {
        node.capacity.functions = 1;
    }
    for key in ["demo/a", "demo/b", "demo/c", "demo/d"] {
        world = world.with(need(key, 1));
    }
    world.settle();
    let mut world = world.with(high(5));
    world.step();
    let zones: std::collections::BTreeSet<String> =
        world.on("demo/high").iter().map(|name| world.node(name).zone.clone()).collect();
    assert_eq!(zones.len(), 2, "{:?}", world.on("demo/high"));
}

#[test]
fn what_may_be_lost_altogether_is_and_comes_back_with_room() {
    let mut world = taken(0).with(high(5));
    world.settle();
    assert_eq!((world.on("demo/high").len(), world.on("demo/low").len()), (2, 0));
    world.observed.nodes.push(node(3, "c", "us", "one"));
    world.settle();
    assert_eq!(world.on("demo/low"), ["c"]);
}

#[test]
fn nobody_is_moved_for_an_equal_or_while_there_is_room_elsewhere() {
    let mut world = taken(0).with(high(0));
    assert!(world.step().is_empty());
    let mut world = taken(0).with(FunctionNeed { replicas: 1, ..high(5) });
    world.observed.nodes.push(node(3, "c", "us", "two"));
    assert_eq!(adds(&world.step().commands), 1);
    assert_eq!((world.on("demo/high"), world.on("demo/low").len()), (vec!["c".to_owned()], 2));
}

#[test]
fn a_large_one_makes_room_alone_where_a_small_one_need_not() {
    let small = FunctionNeed { memory_bytes: 64 * MIB, ..need("demo/small", 1) };
    let large = FunctionNeed { memory_bytes: 640 * MIB, ..need("demo/large", 1) };
    let mut world = World::default().with(small).with(large);
    world.observed.nodes.push(node(1, "a", "us", "one"));
    world.settle();
    let important = FunctionNeed { memory_bytes: 512 * MIB, replicas: 1, ..high(1) };
    world = world.with(important);
    world.step();
    assert_eq!(world.on("demo/high"), ["a"]);
    assert_eq!((world.on("demo/small"), world.on("demo/large").len()), (vec!["a".to_owned()], 0));
}

#[test]
fn absurd_numbers_do_no_harm() {
    let mut huge = need("demo/huge", u32::MAX);
    huge.memory_bytes = u64::MAX;
    let mut world = World::four().with(huge);
    world.node("a").capacity = Capacity { functions: 0, memory_bytes: 0, ..Capacity::default() };
    world.node("b").capacity =
        Capacity { functions: u32::MAX, memory_bytes: u64::MAX, ..Capacity::default() };
    world.node("c").dead_since_ms = Some(u64::MAX);
    world.now_ms = 5;
    world.settle();
    assert_eq!(world.on("demo/huge"), ["b"]);
}

#[test]
fn a_recorded_decision_replays_and_a_changed_one_is_found_out() {
    let world = World::four().with(need("demo/hello", 2));
    let record = Record::new(world.desired, world.observed, 42);
    let text = serde_json::to_string(&record).unwrap();
    let mut read: Record = serde_json::from_str(&text).unwrap();
    assert_eq!(read, record);
    assert_eq!(read.replay().unwrap(), record.plan);
    read.plan.commands.pop();
    assert_eq!(read.replay().unwrap_err().code(), codes::REPLAY);
}

#[test]
fn explain_has_a_line_for_every_node() {
    let mut world = World::four().with(need("demo/hello", 1));
    world.node("d").draining = true;
    let all = world.explain("demo/hello");
    assert_eq!(all.len(), 4);
    assert_eq!(all.iter().filter(|d| d.verdict == Verdict::Placed).count(), 1);
    assert_eq!(all[3].reason, Reason::Draining);
    assert!(world.explain("demo/none").is_empty());
}

#[test]
fn order_of_the_input_does_not_matter() {
    let mut world = World::four();
    for i in 0..20 {
        world.desired.functions.push(need(&format!("demo/f{i}"), 1 + i % 3));
    }
    let plan = world.plan();
    world.desired.functions.reverse();
    world.observed.nodes.reverse();
    assert_eq!(world.plan(), plan);
}

#[test]
fn functions_alike_are_balanced() {
    let mut world = World::four();
    for i in 0..20 {
        world.desired.functions.push(need(&format!("demo/f{i}"), 1));
    }
    world.settle();
    for node in &world.observed.nodes {
        let on = world.observed.placements.values().flatten().filter(|c| c.node == node.id).count();
        assert_eq!(on, 5, "{}", node.name);
    }
}

/// The node where the function stands says why it does not come up there.
fn fails(world: &mut World, name: &str, why: &str) {
    let node = world.node(name).id;
    let nodes = world.observed.failing.entry("demo/hello".to_owned()).or_default();
    nodes.insert(node, why.to_owned());
    for copy in world.observed.placements.values_mut().flatten().filter(|copy| copy.node == node) {
        copy.ready = false;
    }
}

#[test]
fn a_copy_that_does_not_come_up_is_tried_elsewhere_and_says_why() {
    let mut world = World::four().with(need("demo/hello", 2));
    world.step();
    world.ready();
    let victim = world.on("demo/hello")[0].clone();
    fails(&mut world, &victim, "SW-NODE-STORAGE: no space");
    let plan = world.step();
    assert_eq!((plan.commands.len(), adds(&plan.commands)), (1, 1), "{:?}", lines(&plan));
    let text = lines(&plan)[0].clone();
    assert!(
        text.contains(&format!("in place of {victim} (does not come up there: SW-NODE-STORAGE"))
    );
    // It stays until the other one answers, and goes for its reason.
    assert!(world.step().is_empty());
    for copy in world.observed.placements.values_mut().flatten() {
        copy.ready = world.observed.nodes.iter().any(|n| n.id == copy.node && n.name != victim);
    }
    let plan = world.step();
    let gone = format!(
        "remove demo/hello from {victim}: does not come up there: SW-NODE-STORAGE: no space"
    );
    assert_eq!(lines(&plan), [gone]);
    // Nothing moves back, and `explain` says why not there.
    world.settle();
    let told = world.explain("demo/hello");
    let refused = told.iter().find(|decision| decision.node.name == victim).unwrap();
    assert!(matches!(refused.reason, Reason::Failing { .. }), "{refused:?}");
}

#[test]
fn what_fails_everywhere_stays_where_it_is() {
    let mut world = World::four().with(need("demo/hello", 2));
    world.step();
    let before = world.on("demo/hello");
    for name in ["a", "b", "c", "d"] {
        fails(&mut world, name, "SW-NODE-STORAGE: no space");
    }
    assert_eq!(lines(&world.plan()), Vec::<String>::new());
    assert_eq!(world.on("demo/hello"), before);
}

#[test]
fn a_node_in_trouble_gets_nothing_new_and_keeps_what_answers() {
    let mut world = World::four().with(need("demo/hello", 2));
    world.settle();
    let before = world.on("demo/hello");
    for name in &before {
        world.node(name).trouble = Some("SW-NODE-STORAGE: no space".to_owned());
    }
    assert_eq!(lines(&world.plan()), Vec::<String>::new());
    world.desired.functions.push(need("demo/next", 2));
    world.settle();
    let next = world.on("demo/next");
    assert!(next.iter().all(|name| !before.contains(name)), "{next:?}");
}

fn say(world: &mut World, region: &str, state: RegionState) {
    for node in world.observed.nodes.iter_mut().filter(|node| node.region == region) {
        node.region_state = state;
    }
}

/// Two nodes in each of two regions of one zone.
fn two_regions() -> World {
    let mut world = World::default().with(need("demo/hello", 2));
    for (id, name, region) in [(1, "e1", "eu"), (2, "e2", "eu"), (3, "u1", "us"), (4, "u2", "us")] {
        world.observed.nodes.push(node(id, name, region, "z"));
    }
    world.settle();
    world
}

fn in_us(world: &World) -> usize {
    world.on("demo/hello").iter().filter(|name| name.starts_with('u')).count()
}

#[test]
fn a_drained_region_is_emptied_replacement_first_and_its_copies_come_back() {
    let mut world = two_regions();
    assert_eq!(in_us(&world), 1);
    say(&mut world, "us", RegionState::Drained);
    let plan = world.step();
    assert_eq!((plan.commands.len(), adds(&plan.commands)), (1, 1), "{:?}", lines(&plan));
    assert!(matches!(
        plan.commands[0].reason(),
        Reason::Chosen { replaces: Some((_, Trouble::RegionDrained { region })), .. }
            if region == "us"
    ));
    // A node that joins it is drained too.
    world.observed.nodes.push(node(5, "u3", "us", "new"));
    say(&mut world, "us", RegionState::Drained);
    assert!(world.step().is_empty(), "waits for the replacement to be ready");
    assert_eq!(in_us(&world), 1);
    world.ready();
    let told = lines(&world.step());
    assert!(told.len() == 1 && told[0].ends_with(": region us is drained"), "{told:?}");
    assert_eq!(in_us(&world), 0);
    say(&mut world, "us", RegionState::Resumed);
    let plan = world.step();
    assert_eq!((plan.commands.len(), adds(&plan.commands)), (1, 1), "{:?}", lines(&plan));
    assert!(lines(&plan)[0].contains("(region us takes work again)"), "{:?}", lines(&plan));
    assert!(world.step().is_empty(), "waits for it to be ready");
    assert_eq!(world.on("demo/hello").len(), 3);
    world.ready();
    assert_eq!(adds(&world.step().commands), 0);
    assert_eq!((in_us(&world), world.on("demo/hello").len()), (1, 2));
    assert!(world.step().is_empty());
    // One that was never drained gets nothing back.
    let mut world = two_regions();
    say(&mut world, "us", RegionState::Drained);
    world.settle();
    say(&mut world, "us", RegionState::Open);
    assert!(world.step().is_empty());
}

#[test]
fn the_last_region_that_may_hold_a_function_keeps_it_and_names_the_conflict() {
    let mut world = two_regions();
    world.desired.functions[0].regions = vec!["us".into()];
    world.settle();
    say(&mut world, "us", RegionState::Drained);
    let plan = world.step();
    assert!(plan.is_empty(), "{:?}", lines(&plan));
    assert_eq!(
        plan.conflicts[0].to_string(),
        "demo/hello: 0 of 2 copies placed; node e1: region eu not in [us]; node e2: region eu not \
         in [us]; node u1: region us is drained; nothing else fits; node u2: region us is drained; \
         nothing else fits"
    );
    let record = Record::new(world.desired.clone(), world.observed.clone(), 0);
    let told = record.explain("demo/hello");
    assert!(told.iter().any(|made| made.reason.to_string().contains("region us is drained")));
}
