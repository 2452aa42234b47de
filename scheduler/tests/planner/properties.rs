//! Promises that hold for every input.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use swarmer_model::{NodeId, RegionState};
use swarmer_scheduler::{
    Capacity, Command, Conflict, CopyState, Decision, Desired, FunctionNeed, NodeFacts, Observed,
    Plan, Policy, Reason, Spread, Verdict,
};

use crate::world::{World, config};

fn label() -> impl Strategy<Value = BTreeMap<String, String>> {
    prop::collection::btree_map("[ab]", "[xy]", 0..2)
}

/// Functions that another one is to be near to, or apart from: itself, ones that do not exist and
/// circles among them.
fn some_keys() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec("t/f[0-7]", 0..3)
}

fn any_need() -> impl Strategy<Value = FunctionNeed> {
    (
        (0_u32..5, 0_u64..6, 0_u32..6, -1_i32..2, any::<bool>(), 0_u32..3),
        prop::collection::vec("r[0-2]", 0..3),
        prop::collection::vec("z[0-2]", 0..2),
        label(),
        (some_keys(), some_keys()),
    )
        .prop_map(|(numbers, regions, zones, labels, (near, apart))| {
            let (replicas, memory_bytes, concurrency, priority, zone, min_available) = numbers;
            FunctionNeed {
                replicas,
                memory_bytes,
                concurrency,
                priority,
                min_available,
                regions,
                zones,
                labels,
                spread: if zone { Spread::Zone } else { Spread::Node },
                near,
                apart,
                ..FunctionNeed::default()
            }
        })
}

fn any_node() -> impl Strategy<Value = NodeFacts> {
    (
        ("r[0-2]", "z[0-2]"),
        label(),
        (prop::bool::weighted(0.2), prop::option::weighted(0.1, "disk")),
        prop::option::weighted(0.25, 0_u64..200),
        (0_u32..5, 0_u64..16, prop::option::weighted(0.5, 0_u64..16)),
    )
        .prop_map(
            |(
                (region, zone),
                labels,
                (draining, trouble),
                dead_since_ms,
                (functions, memory_bytes, concurrency),
            )| {
                NodeFacts {
                    region,
                    zone,
                    labels,
                    draining,
                    dead_since_ms,
                    trouble,
                    capacity: Capacity { functions, memory_bytes, concurrency },
                    ..NodeFacts::default()
                }
            },
        )
}

/// What was said of each region.
fn any_regions() -> impl Strategy<Value = [RegionState; 3]> {
    let one = || {
        prop_oneof![
            4 => Just(RegionState::Open),
            1 => Just(RegionState::Drained),
            1 => Just(RegionState::Resumed),
        ]
    };
    [one(), one(), one()]
}

fn say(world: &mut World, regions: &[RegionState; 3]) {
    for node in &mut world.observed.nodes {
        let number = node.region.strip_prefix('r').and_then(|number| number.parse::<usize>().ok());
        let said = number.and_then(|number| regions.get(number));
        node.region_state = said.copied().unwrap_or_default();
    }
}

/// Anything: copies on strangers, of deleted functions, on overfull and dead nodes.
fn any_world() -> impl Strategy<Value = World> {
    let copies = prop::collection::btree_map(1_u64..10, any::<bool>(), 0..5);
    (
        prop::collection::vec(any_need(), 0..7),
        prop::collection::vec(any_node(), 0..8),
        prop::collection::vec(copies, 0..9),
        prop::collection::btree_map(0_u32..9, 1_u64..10, 0..4),
        (100_u64..300, any_regions()),
    )
        .prop_map(|(needs, nodes, placed, failing, (now_ms, regions))| {
            let failing = failing
                .into_iter()
                .map(|(i, node)| {
                    (format!("t/f{i}"), BTreeMap::from([(NodeId(node), "x".to_owned())]))
                })
                .collect();
            let functions = needs
                .into_iter()
                .enumerate()
                .map(|(i, need)| FunctionNeed { key: format!("t/f{i}"), ..need })
                .collect();
            let nodes = (1..)
                .zip(nodes)
                .map(|(i, node)| NodeFacts { id: NodeId(i), name: format!("n{i}"), ..node })
                .collect();
            let placements = placed
                .into_iter()
                .enumerate()
                .map(|(i, copies)| {
                    let copies = copies
                        .into_iter()
                        .map(|(node, ready)| CopyState { node: NodeId(node), ready })
                        .collect();
                    (format!("t/f{i}"), copies)
                })
                .collect();
            let mut world = World {
                desired: Desired { functions, policy: Policy { dead_grace_ms: 100 } },
                observed: Observed { nodes, placements, failing },
                now_ms,
            };
            say(&mut world, &regions);
            world
        })
}

/// A cluster in good health with room for everything.
fn roomy_world() -> impl Strategy<Value = World> {
    any_world().prop_map(|mut world| {
        for node in &mut world.observed.nodes {
            node.draining = false;
            node.region_state = RegionState::Open;
            node.dead_since_ms = None;
            node.trouble = None;
            node.capacity =
                Capacity { functions: 100, memory_bytes: 10_000, concurrency: Some(10_000) };
        }
        world.observed.placements.clear();
        world.observed.failing.clear();
        world.settle();
        world
    })
}

/// Functions, their memory and their requests at once on each node.
fn used(world: &World) -> BTreeMap<NodeId, (u32, u64, u64)> {
    let mut used: BTreeMap<NodeId, (u32, u64, u64)> = BTreeMap::new();
    for need in &world.desired.functions {
        for copy in world.observed.placements.get(&need.key).into_iter().flatten() {
            let used = used.entry(copy.node).or_default();
            used.0 += 1;
            used.1 += need.memory_bytes;
            used.2 += u64::from(need.concurrency);
        }
    }
    used
}

fn fact(world: &World, id: NodeId) -> Option<&NodeFacts> {
    world.observed.nodes.iter().find(|node| node.id == id)
}

fn wish<'a>(world: &'a World, key: &str) -> Option<&'a FunctionNeed> {
    world.desired.functions.iter().find(|need| need.key == key)
}

/// The functions of which the plan takes copies for others of higher priority.
fn preempted(plan: &Plan) -> BTreeSet<&str> {
    let preempted = plan.commands.iter().filter(|c| matches!(c.reason(), Reason::Preempted { .. }));
    preempted.map(Command::function).collect()
}

/// The constraints once more, in other words than the planner's: it is not asked about itself.
fn lawful(need: &FunctionNeed, node: &NodeFacts) -> bool {
    let one_of =
        |allowed: &[String], is: &str| allowed.is_empty() || allowed.iter().any(|a| a == is);
    one_of(&need.regions, &node.region)
        && one_of(&need.zones, &node.zone)
        && need.labels.iter().all(|label| node.labels.iter().any(|has| has == label))
}

proptest! {
    #![proptest_config(config(1_000))]

    #[test]
    fn a_fixpoint_or_a_named_conflict(world in any_world()) {
        let mut world = world;
        let first = world.step();
        let unsettled = first.conflicts.contains(&Conflict::Unsettled { rounds: 64 });
        prop_assert!(!unsettled);
        prop_assert!(world.plan().is_empty(), "planned again: {:?}", world.plan().commands);
        // With every copy ready and every grace time over, what is then missing has a name.
        world.now_ms = 1_000;
        world.settle();
        let last = world.plan();
        for need in &world.desired.functions {
            let named = last.conflicts.iter().any(
                |c| matches!(c, Conflict::Short { function, .. } if *function == need.key));
            let count = world.observed.placements.get(&need.key).map_or(0, Vec::len);
            prop_assert!(named || count == need.replicas as usize,
                "{}: {count} of {} and no conflict", need.key, need.replicas);
        }
        for (node, (functions, memory, concurrency)) in used(&world) {
            let Some(facts) = fact(&world, node) else { continue };
            let over = functions > facts.capacity.functions
                || memory > facts.capacity.memory_bytes
                || concurrency > facts.capacity.concurrency.unwrap_or(u64::MAX);
            let dead_or_drained = facts.is_emptied() || facts.dead_since_ms.is_some();
            prop_assert!(!over || dead_or_drained || !last.conflicts.is_empty());
        }
    }

    #[test]
    fn no_command_without_what_it_changes(world in any_world()) {
        let plan = world.plan();
        let mut seen = BTreeSet::new();
        for command in &plan.commands {
            prop_assert!(seen.insert((command.function(), command.node())), "twice: {command}");
            let there = world.observed.placements.get(command.function())
                .is_some_and(|copies| copies.iter().any(|copy| copy.node == command.node()));
            prop_assert_eq!(there, matches!(command, Command::Remove { .. }), "{}", command);
        }
        let mut after = world.clone();
        plan.apply(&mut after.observed);
        let sets: BTreeMap<String, BTreeSet<NodeId>> = after.observed.placements.iter()
            .map(|(key, copies)| (key.clone(), copies.iter().map(|copy| copy.node).collect()))
            .collect();
        prop_assert_eq!(sets, plan.placements);
    }

    #[test]
    fn never_over_capacity(world in any_world()) {
        let mut world = world;
        let before = used(&world);
        world.step();
        for (node, (functions, memory, concurrency)) in used(&world) {
            let Some(facts) = fact(&world, node) else { continue };
            let (functions_before, memory_before, concurrency_before) =
                before.get(&node).copied().unwrap_or_default();
            prop_assert!(functions <= facts.capacity.functions.max(functions_before));
            prop_assert!(memory <= facts.capacity.memory_bytes.max(memory_before));
            let bound = facts.capacity.concurrency.unwrap_or(u64::MAX);
            prop_assert!(concurrency <= bound.max(concurrency_before));
        }
    }

    #[test]
    fn constraints_are_never_violated(world in any_world()) {
        let mut world = world;
        for command in &world.plan().commands {
            if let Command::Add { function, node, .. } = command {
                let facts = fact(&world, node.id).unwrap();
                prop_assert!(lawful(wish(&world, function).unwrap(), facts));
                prop_assert!(!facts.is_emptied() && facts.dead_since_ms.is_none());
            }
        }
        world.settle();
        let Plan { conflicts, decisions, .. } = world.plan();
        for (key, copies) in &world.observed.placements {
            let need = wish(&world, key).unwrap();
            let bound = |copy: &&CopyState| lawful(need, fact(&world, copy.node).unwrap());
            let kept: Vec<_> = copies.iter().filter(bound).collect();
            let living = |copy: &&CopyState| {
                fact(&world, copy.node).unwrap().dead_since_ms.is_none()
            };
            // A copy that breaks one is the last that lives, and is told; as a conflict only once
            // the node of no good one may come back in its grace time.
            if kept.len() < copies.len() {
                let in_grace = kept.iter().any(|copy| {
                    let since = fact(&world, copy.node).unwrap().dead_since_ms;
                    since.is_some_and(|since| world.now_ms.saturating_sub(since) < 100)
                });
                prop_assert!(!kept.into_iter().any(|copy| living(&copy)));
                prop_assert!(in_grace || conflicts.iter().any(|conflict| conflict.is_about(key)));
                let stays = |made: &Decision| made.function == *key && made.verdict == Verdict::Kept;
                prop_assert!(decisions.iter().any(stays));
            }
        }
    }

    #[test]
    fn a_wish_that_cannot_be_met_ends_nothing(world in any_world()) {
        let mut after = world.clone();
        let plan = after.step();
        let preempted = preempted(&plan);
        let asked = |need: &&FunctionNeed| need.replicas > 0 && !preempted.contains(&*need.key);
        for need in world.desired.functions.iter().filter(asked) {
            let lives = |world: &World| {
                world.observed.placements.get(&need.key).into_iter().flatten()
                    .any(|copy| fact(world, copy.node).is_some_and(|n| n.dead_since_ms.is_none()))
            };
            prop_assert!(!lives(&world) || lives(&after), "{} serves no more", need.key);
        }
    }

    #[test]
    fn a_serving_copy_goes_only_when_enough_others_serve(world in any_world()) {
        let serving = |world: &World, key: &str| {
            world.observed.placements.get(key).into_iter().flatten().filter(|copy| {
                copy.ready && fact(world, copy.node).is_some_and(|node| {
                    node.dead_since_ms.is_none() && lawful(wish(world, key).unwrap(), node)
                })
            }).count()
        };
        let mut after = world.clone();
        let plan = after.step();
        let preempted = preempted(&plan);
        for need in &world.desired.functions {
            let (was, is) = (serving(&world, &need.key), serving(&after, &need.key));
            let least = if preempted.contains(&*need.key) { need.min_available } else { u32::MAX };
            let least = least.min(need.replicas) as usize;
            prop_assert!(is >= was.min(least), "{}: {was} -> {is}", need.key);
        }
    }

    #[test]
    fn only_the_less_important_makes_room_and_for_what_takes_it(world in any_world()) {
        let plan = world.plan();
        let priority = |key: &str| wish(&world, key).unwrap().priority;
        for command in &plan.commands {
            let Reason::Preempted { by, priority: of } = command.reason() else { continue };
            prop_assert_eq!(priority(by), *of);
            prop_assert!(priority(command.function()) < *of, "{}", command);
            let made_for = |other: &Command| match other.reason() {
                Reason::Preempting { evicted, .. } => {
                    let there = (other.function(), other.node()) == (by, command.node());
                    there && evicted.iter().any(|key| key == command.function())
                }
                _ => false,
            };
            prop_assert!(plan.commands.iter().any(made_for), "room for nothing: {}", command);
        }
    }

    #[test]
    fn losing_a_zone_moves_only_that_zones_work(world in roomy_world(), zone in "z[0-2]") {
        let mut world = world;
        let lost: BTreeSet<NodeId> = world.observed.nodes.iter()
            .filter(|node| node.zone == zone).map(|node| node.id).collect();
        let now_ms = world.now_ms;
        for node in world.observed.nodes.iter_mut().filter(|node| node.zone == zone) {
            node.dead_since_ms = Some(now_ms);
        }
        prop_assert!(world.step().is_empty(), "in the grace time");
        world.now_ms += 100;
        let before = world.observed.placements.clone();
        for command in &world.step().commands {
            match command {
                Command::Remove { node, .. } => prop_assert!(lost.contains(&node.id)),
                Command::Add { function, node, .. } => {
                    prop_assert!(!lost.contains(&node.id));
                    prop_assert!(before[function].iter().any(|copy| lost.contains(&copy.node)));
                }
            }
        }
    }

    #[test]
    fn a_new_node_moves_nothing_needlessly(world in roomy_world(), node in any_node()) {
        let mut world = world;
        let short: BTreeSet<String> = world.plan().conflicts.iter().filter_map(|c| match c {
            Conflict::Short { function, .. } => Some(function.clone()),
            _ => None,
        }).collect();
        world.observed.nodes.push(NodeFacts { id: NodeId(77), name: "new".into(), ..node });
        for command in &world.plan().commands {
            let Command::Add { function, node, .. } = command else {
                return Err(TestCaseError::fail(format!("{command}")));
            };
            prop_assert_eq!(node.id, NodeId(77));
            prop_assert!(short.contains(function), "{}", command);
        }
    }

    #[test]
    fn a_drained_region_is_emptied_as_far_as_others_have_room_and_nothing_is_lost(
        world in roomy_world(), region in 0_usize..3,
    ) {
        let mut world = world;
        let before = world.observed.placements.clone();
        let mut said = [RegionState::Open; 3];
        said[region] = RegionState::Drained;
        say(&mut world, &said);
        for _ in 0..4 {
            // As many serve as before, at each step.
            world.step();
            for (key, copies) in &before {
                let now = world.observed.placements.get(key).into_iter().flatten();
                let ready = now.filter(|copy| copy.ready).count();
                prop_assert!(ready >= copies.len(), "{}: {} of {}", key, ready, copies.len());
            }
            world.ready();
        }
        prop_assert!(world.plan().is_empty());
        for (key, copies) in &world.observed.placements {
            let (need, held) = (wish(&world, key).unwrap(), copies.iter().filter(|copy| {
                fact(&world, copy.node).unwrap().is_emptied()
            }).count());
            let room = world.observed.nodes.iter().filter(|node| {
                lawful(need, node) && !node.is_emptied()
                    && copies.iter().all(|copy| copy.node != node.id)
            }).count();
            prop_assert!(held == 0 || room == 0, "{}: {} left, room on {}", key, held, room);
        }
    }

    #[test]
    fn what_comes_back_to_a_region_comes_to_rest_and_lowers_nothing(
        world in roomy_world(), region in 0_usize..3,
    ) {
        let mut world = world;
        let mut said = [RegionState::Open; 3];
        said[region] = RegionState::Drained;
        say(&mut world, &said);
        world.settle();
        let before = world.observed.placements.clone();
        said[region] = RegionState::Resumed;
        say(&mut world, &said);
        for _ in 0..6 {
            let plan = world.step();
            let unsettled = plan.conflicts.contains(&Conflict::Unsettled { rounds: 64 });
            prop_assert!(!unsettled);
            prop_assert!(world.plan().is_empty());
            for (key, copies) in &before {
                let now = world.observed.placements.get(key).into_iter().flatten();
                let ready = now.filter(|copy| copy.ready).count();
                let wanted = wish(&world, key).unwrap().replicas as usize;
                prop_assert!(ready >= copies.len().min(wanted), "{}: {}", key, ready);
            }
            world.ready();
        }
        prop_assert!(world.plan().is_empty());
        // No region has two more than one that takes work again and could have one of them, and in
        // such a region no zone than another one.
        for need in world.desired.functions.iter().filter(|need| need.spread == Spread::Zone) {
            let copies = world.observed.placements.get(&need.key).cloned().unwrap_or_default();
            let facts = |copy: &CopyState| fact(&world, copy.node).unwrap();
            let count = |like: &dyn Fn(&NodeFacts) -> bool| {
                copies.iter().filter(|copy| like(facts(copy))).count()
            };
            let in_region = |of: &NodeFacts| count(&|node| node.region == of.region);
            let in_zone = |of: &NodeFacts| {
                count(&|node| (&node.region, &node.zone) == (&of.region, &of.zone))
            };
            let most = copies.iter().map(|copy| in_region(facts(copy))).max().unwrap_or(0);
            for node in world.observed.nodes.iter().filter(|node| {
                node.region_state == RegionState::Resumed && lawful(need, node)
                    && copies.iter().all(|copy| copy.node != node.id)
            }) {
                prop_assert!(in_region(node) + 2 > most, "{}: {:?}", need.key, copies);
                let here = copies.iter().filter(|copy| facts(copy).region == node.region);
                let fullest = here.map(|copy| in_zone(facts(copy))).max().unwrap_or(0);
                let region_is_fullest = in_region(node) == most;
                let fuller = in_zone(node) + 2 > fullest;
                prop_assert!(!region_is_fullest || fuller, "{}: {:?}", need.key, copies);
            }
        }
    }

    #[test]
    fn affinity_costs_no_copy_and_no_spread(world in roomy_world()) {
        let from_nothing = |mut world: World| {
            world.observed.placements.clear();
            world.settle();
            world
        };
        let mut without = world.clone();
        for need in &mut without.desired.functions {
            need.near.clear();
            need.apart.clear();
        }
        let (world, without) = (from_nothing(world), from_nothing(without));
        for need in world.desired.functions.iter().filter(|need| need.spread == Spread::Zone) {
            // How many copies each region has, and each of its zones, whichever it is.
            let crowds = |world: &World| {
                let mut regions: BTreeMap<&str, BTreeMap<&str, u32>> = BTreeMap::new();
                for copy in world.observed.placements.get(&need.key).into_iter().flatten() {
                    let node = fact(world, copy.node).unwrap();
                    *regions.entry(&node.region).or_default().entry(&node.zone).or_default() += 1;
                }
                let mut crowds: Vec<(u32, Vec<u32>)> = regions
                    .into_values()
                    .map(|zones| {
                        let mut zones: Vec<u32> = zones.into_values().collect();
                        zones.sort_unstable();
                        (zones.iter().sum(), zones)
                    })
                    .collect();
                crowds.sort_unstable();
                crowds
            };
            prop_assert_eq!(crowds(&world), crowds(&without), "{}", need.key);
        }
    }

    #[test]
    fn what_comes_later_stands_with_those_that_it_is_near_to(
        world in roomy_world(), of in 0_usize..7,
    ) {
        let mut world = world;
        let key = format!("t/f{of}");
        let there: Vec<NodeId> = world.observed.placements.get(&key).into_iter().flatten()
            .map(|copy| copy.node).collect();
        // None of the others keeps it away.
        world.desired.functions.iter_mut().for_each(|need| need.apart.clear());
        let near = vec![key];
        let late = FunctionNeed { key: "t/late".into(), replicas: 1, near, ..Default::default() };
        world.desired.functions.push(late);
        let before = world.observed.placements.clone();
        world.settle();
        let late = world.observed.placements.remove("t/late").unwrap_or_default();
        prop_assert_eq!(&world.observed.placements, &before, "nothing moves for it");
        if !there.is_empty() {
            prop_assert!(there.contains(&late[0].node), "{:?} not on one of {:?}", late, there);
        }
    }

    #[test]
    fn it_survives_the_way_through_text(world in any_world()) {
        let record = swarmer_scheduler::Record::new(world.desired, world.observed, world.now_ms);
        let read: swarmer_scheduler::Record =
            serde_json::from_str(&serde_json::to_string(&record).unwrap()).unwrap();
        prop_assert_eq!(read.replay().unwrap(), record.plan);
    }
}
