//! One test for each rule: the input, and the commands that must come out.

use swarmer_model::{Coded, NodeId};
use swarmer_scheduler::{
    Capacity, Command, Conflict, CopyState, DEFAULT_DEAD_GRACE_MS, Reason, Record, Trouble,
    Verdict, codes,
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
    world.node("a").capacity = Capacity { functions: 1, memory_bytes: 1024 * MIB };
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

#[test]
fn absurd_numbers_do_no_harm() {
    let mut huge = need("demo/huge", u32::MAX);
    huge.memory_bytes = u64::MAX;
    let mut world = World::four().with(huge);
    world.node("a").capacity = Capacity { functions: 0, memory_bytes: 0 };
    world.node("b").capacity = Capacity { functions: u32::MAX, memory_bytes: u64::MAX };
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
