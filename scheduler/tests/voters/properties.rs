//! Promises that hold for every input.

use std::collections::{BTreeMap, BTreeSet};

use proptest::{
    prelude::*,
    test_runner::{Config, RngSeed},
};
use swarmer_model::{NodeId, RegionState};
use swarmer_scheduler::{
    Membership, VoterCommand, VoterInput, VoterNode, VoterPolicy, VoterReason, odd_size,
};

use crate::world::World;

/// The most steps that any membership of these few nodes needs.
const MANY: usize = 40;
const GRACE_MS: u64 = 100;

/// The same cases in every run; others with `PROPTEST_RNG_SEED=n`, more with `PROPTEST_CASES=n`.
fn config(cases: u32) -> Config {
    let given = Config::default();
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { given.cases } else { cases };
    let rng_seed = match given.rng_seed {
        RngSeed::Random => RngSeed::Fixed(1),
        fixed => fixed,
    };
    Config { cases, rng_seed, failure_persistence: None, ..given }
}

fn any_node() -> impl Strategy<Value = VoterNode> {
    (
        ("r[0-2]", "z[0-1]"),
        (prop::bool::weighted(0.1), prop::bool::weighted(0.1), prop::bool::weighted(0.1)),
        (prop::option::weighted(0.25, 0_u64..200), prop::option::weighted(0.7, 0_u64..200)),
        prop::option::weighted(0.1, Just("no log".to_owned())),
    )
        .prop_map(|((region, zone), (draining, leaving, abstains), (dead, alive), barred)| {
            VoterNode {
                region,
                zone,
                draining,
                leaving,
                abstains,
                dead_since_ms: dead,
                alive_since_ms: alive.filter(|_| dead.is_none()),
                barred,
                ..VoterNode::default()
            }
        })
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

fn state_of(regions: &[RegionState; 3], region: &str) -> RegionState {
    let number = region.strip_prefix('r').and_then(|number| number.parse::<usize>().ok());
    number.and_then(|number| regions.get(number)).copied().unwrap_or_default()
}

/// It gets no vote.
fn emptied(node: &VoterNode) -> bool {
    node.draining || node.abstains || node.region_state == RegionState::Drained
}

/// How many votes the nodes of a region have.
fn votes(world: &World, region: &str) -> usize {
    let nodes = world.input.nodes.iter().filter(|node| node.region == region);
    nodes.filter(|node| world.voters().contains(&node.id)).count()
}

/// Anything: voters that are no nodes, halves of changes, learners that nobody wants.
fn any_world() -> impl Strategy<Value = World> {
    let set = || prop::collection::btree_set(1_u64..11, 1..8);
    (
        prop::collection::vec(any_node(), 1..10),
        (set(), prop::option::weighted(0.2, set())),
        prop::collection::btree_map(1_u64..11, any::<bool>(), 0..4),
        (0_usize..9, any::<prop::sample::Index>(), any_regions()),
        (200_u64..350, prop::option::weighted(0.3, "r[0-2]")),
    )
        .prop_map(|(nodes, (first, second), learners, (wanted, leader, regions), at)| {
            let (now_ms, lead_region) = at;
            let mut nodes: Vec<VoterNode> = nodes
                .into_iter()
                .zip(1_u64..)
                .map(|(node, id)| VoterNode {
                    id: NodeId(id),
                    name: format!("n{id}"),
                    region_state: state_of(&regions, &node.region),
                    ..node
                })
                .collect();
            let ids = |set: BTreeSet<u64>| set.into_iter().map(NodeId).collect::<BTreeSet<_>>();
            let configs: Vec<BTreeSet<NodeId>> =
                [Some(first), second].into_iter().flatten().map(ids).collect();
            let last = configs.last().unwrap();
            let leader = *leader.get(&last.iter().copied().collect::<Vec<_>>());
            // It is the one that plans, and none of those that it sees dead.
            for node in nodes.iter_mut().filter(|node| node.id == leader) {
                node.dead_since_ms = None;
            }
            let voter = |id: NodeId| configs.iter().any(|config| config.contains(&id));
            let learners: BTreeMap<NodeId, bool> = learners
                .into_iter()
                .map(|(id, ready)| (NodeId(id), ready))
                .filter(|(id, _)| !voter(*id))
                .collect();
            let membership = Membership { configs, learners, settled: true, leader };
            let policy = VoterPolicy { wanted, grace_ms: GRACE_MS };
            World { input: VoterInput { nodes, membership, policy, lead_region }, now_ms, made: 10 }
        })
}

fn next(command: &VoterCommand) -> Option<&BTreeSet<NodeId>> {
    match command {
        VoterCommand::Promote { voters, .. }
        | VoterCommand::Replace { voters, .. }
        | VoterCommand::Remove { voters, .. } => Some(voters),
        // Half of it is done: it cannot be judged any more, only finished.
        VoterCommand::Finish { .. }
        | VoterCommand::AddLearner { .. }
        | VoterCommand::DropLearner { .. }
        | VoterCommand::HandOver { .. } => None,
    }
}

/// The same until the grace time of everybody that is dead now is over.
fn settle_in_time(world: &mut World) {
    settle(world);
    world.now_ms += GRACE_MS;
    settle(world);
}

/// Does what the planner says until it says nothing. All learners catch up in time.
fn settle(world: &mut World) -> Vec<VoterCommand> {
    let mut done = Vec::new();
    loop {
        for ready in world.input.membership.learners.values_mut() {
            *ready = true;
        }
        let Some(step) = world.step() else { return done };
        world.carry_out(&step.command);
        done.push(step.command);
        assert!(done.len() < MANY, "no fixpoint: {done:?}");
    }
}

proptest! {
    #![proptest_config(config(1000))]

    #[test]
    fn it_ends_and_then_says_nothing(mut world in any_world()) {
        settle(&mut world);
        prop_assert_eq!(world.step(), None);
    }

    #[test]
    fn no_step_leaves_fewer_living_voters_than_a_majority_of_the_new(mut world in any_world()) {
        for _ in 0..MANY {
            let Some(step) = world.step() else { break };
            if let Some(voters) = next(&step.command) {
                let before = world.voters().clone();
                prop_assert!(world.living(voters) > voters.len() / 2, "{}", step);
                prop_assert!(world.living(&before) > before.len() / 2, "{}", step);
                prop_assert!(!voters.is_empty());
                // Who gets a vote is there, has the log, and may have one.
                for new in voters.difference(&before) {
                    let node = world.input.nodes.iter().find(|node| node.id == *new).unwrap();
                    prop_assert!(world.lives(*new) && !emptied(node) && !node.leaving);
                }
                // Nobody loses its vote without a fault of its own, unless there are too many.
                let many = before.len() > voters.len();
                for old in before.difference(voters) {
                    let node = world.input.nodes.iter().find(|node| node.id == *old);
                    let fault = node.is_none_or(|node| {
                        let dead = node.dead_since_ms;
                        node.leaving
                            || node.abstains
                            || node.barred.is_some()
                            || node.region_state == RegionState::Drained
                            || dead.is_some_and(|since| world.now_ms - since >= GRACE_MS)
                    });
                    let spreads = matches!(
                        step.reason,
                        VoterReason::Returning { .. }
                            | VoterReason::Crowded { .. }
                            | VoterReason::Chosen { .. }
                    );
                    prop_assert!(fault || many || spreads, "{} loses its vote: {}", old, step);
                }
            }
            world.carry_out(&step.command);
            for ready in world.input.membership.learners.values_mut() {
                *ready = true;
            }
        }
    }

    /// If a majority lives, what can be replaced is, and the number is odd and as near to the
    /// wish as the nodes allow.
    #[test]
    fn the_dead_are_replaced_while_a_spare_lives(mut world in any_world()) {
        settle_in_time(&mut world);
        let voters = world.voters().clone();
        if world.living(&voters) <= voters.len() / 2 {
            return Ok(());
        }
        let wanted = odd_size(world.input.policy.wanted);
        let spares = world.input.nodes.iter().filter(|node| {
            world.lives(node.id) && !emptied(node) && !node.leaving && !voters.contains(&node.id)
        });
        let spares = spares.count();
        let gone = voters.iter().filter(|id| {
            world.input.nodes.iter().find(|node| node.id == **id).is_none_or(|node| {
                node.leaving
                    || node.barred.is_some()
                    || node.dead_since_ms.is_some_and(|since| world.now_ms - since >= GRACE_MS)
            })
        });
        let gone = gone.count();
        prop_assert!(gone == 0 || spares == 0 || voters.len() > wanted, "{} gone, {} spare", gone, spares);
        // Where all are to go and nobody could come none goes.
        let many = voters.len() > wanted.max(1) && gone < voters.len();
        prop_assert!(!many, "{} voters", voters.len());
        let grows = if voters.len().is_multiple_of(2) { 1 } else { 2 };
        prop_assert!(voters.len() + grows > wanted || spares < grows, "{} spare", spares);
    }

    /// Votes leave a drained region as far as others can have them, and no further.
    #[test]
    fn a_drained_region_keeps_no_vote_that_another_could_have(mut world in any_world()) {
        settle_in_time(&mut world);
        if world.living(world.voters()) <= world.voters().len() / 2 {
            return Ok(());
        }
        let fit = world.input.nodes.iter().filter(|node| {
            world.lives(node.id) && !emptied(node) && !node.leaving
                && !world.voters().contains(&node.id)
        });
        let fit = fit.count();
        let left = world.input.nodes.iter().filter(|node| {
            node.region_state == RegionState::Drained && world.voters().contains(&node.id)
        });
        prop_assert!(fit == 0 || left.count() == 0, "{} could vote", fit);
    }

    /// While all live, a region that takes work again is not two votes poorer than another.
    #[test]
    fn votes_come_back_to_a_region_that_takes_work_again(mut world in any_world()) {
        for node in &mut world.input.nodes {
            (node.dead_since_ms, node.barred) = (None, None);
        }
        settle(&mut world);
        let member = |id: &NodeId| world.input.nodes.iter().any(|node| node.id == *id);
        if !world.voters().iter().all(member) {
            return Ok(());
        }
        let leads = world.input.membership.leader;
        let back = world.input.nodes.iter().filter(|node| {
            node.region_state == RegionState::Resumed && !emptied(node) && !node.leaving
                && !world.voters().contains(&node.id)
        });
        for node in back {
            for other in world.input.nodes.iter().filter(|n| world.voters().contains(&n.id)) {
                let own = usize::from(other.id == leads);
                prop_assert!(
                    votes(&world, &node.region) + 2 + own > votes(&world, &other.region),
                    "{} has {}, {} has {}", node.region, votes(&world, &node.region),
                    other.region, votes(&world, &other.region)
                );
            }
        }
    }

    /// While all live, no region has a majority of the votes where the nodes allow that, and no zone;
    /// and nobody gets a vote for that which has only just come.
    #[test]
    fn no_region_and_no_zone_has_a_majority_that_need_not(mut world in any_world()) {
        for node in &mut world.input.nodes {
            (node.dead_since_ms, node.barred) = (None, None);
        }
        settle(&mut world);
        let voters = world.voters().clone();
        let nodes = &world.input.nodes;
        if !voters.iter().all(|id| nodes.iter().any(|node| node.id == *id)) {
            return Ok(());
        }
        let most = voters.len().saturating_sub(1) / 2;
        let steady = |node: &&VoterNode| {
            node.alive_since_ms.is_some_and(|since| world.now_ms - since >= GRACE_MS)
        };
        let can = |node: &&VoterNode| {
            voters.contains(&node.id) || steady(node) && !emptied(node) && !node.leaving
        };
        let whole = |node: &VoterNode| (node.region.clone(), String::new());
        let zone = |node: &VoterNode| (node.region.clone(), node.zone.clone());
        for (what, place) in [("region", &whole as &dyn Fn(&VoterNode) -> _), ("zone", &zone)] {
            let mut could: BTreeMap<(String, String), usize> = BTreeMap::new();
            let mut votes = BTreeMap::new();
            for node in nodes.iter().filter(can) {
                *could.entry(place(node)).or_default() += 1;
                *votes.entry(place(node)).or_insert(0) += usize::from(voters.contains(&node.id));
            }
            let total = |of: &BTreeMap<(String, String), usize>, region: Option<&str>, most| {
                let in_it = of.iter().filter(|((name, _), _)| region.is_none_or(|r| r == name));
                in_it.map(|(_, n): (_, &usize)| (*n).min(most)).sum::<usize>()
            };
            for ((region, _), n) in &votes {
                let region = (what == "zone").then_some(region.as_str());
                let possible = total(&could, region, most) >= total(&votes, region, usize::MAX);
                prop_assert!(!possible || *n <= most, "{what}: {:?} of {:?}", votes, could);
            }
        }
    }

    /// While all live, a voter of the region that was chosen leads, if any node there can: one that has the
    /// region's vote and is emptied keeps it.
    #[test]
    fn the_chosen_region_leads(mut world in any_world()) {
        for node in &mut world.input.nodes {
            (node.dead_since_ms, node.barred, node.alive_since_ms) = (None, None, Some(0));
        }
        settle(&mut world);
        let voters = world.voters().clone();
        let nodes = &world.input.nodes;
        let Some(region) = &world.input.lead_region else { return Ok(()) };
        let all = voters.iter().all(|id| nodes.iter().any(|node| node.id == *id));
        let of = |node: &&VoterNode| node.region == *region && !emptied(node) && !node.leaving;
        let emptied =
            nodes.iter().any(|n| n.region == *region && voters.contains(&n.id) && !of(&n));
        // One that is alone has nobody to take over from it.
        if !all || voters.len() < 2 || emptied || !nodes.iter().any(|node| of(&node)) {
            return Ok(());
        }
        let leader = nodes.iter().find(|node| node.id == world.input.membership.leader).unwrap();
        prop_assert_eq!(&leader.region, region);
    }

    /// Who blinks gets no vote of one that lives.
    #[test]
    fn a_node_that_was_there_a_moment_only_takes_no_vote(mut world in any_world()) {
        for node in &mut world.input.nodes {
            (node.dead_since_ms, node.barred, node.alive_since_ms) =
                (None, None, Some(world.now_ms - GRACE_MS + 1));
        }
        for _ in 0..MANY {
            let Some(step) = world.step() else { break };
            prop_assert!(!matches!(step.reason, VoterReason::Crowded { .. }), "{}", step);
            world.carry_out(&step.command);
            for ready in world.input.membership.learners.values_mut() {
                *ready = true;
            }
        }
    }

    /// One that dies and comes back, again and again, within the grace time moves nothing.
    #[test]
    fn nothing_flaps(mut world in any_world(), who in any::<prop::sample::Index>()) {
        for since in world.input.nodes.iter_mut().filter_map(|n| n.alive_since_ms.as_mut()) {
            // Nobody becomes steady meanwhile.
            *since = 0;
        }
        settle(&mut world);
        let living: Vec<NodeId> =
            world.voters().iter().copied().filter(|id| world.lives(*id)).collect();
        if living.is_empty() {
            return Ok(());
        }
        let who = *who.get(&living);
        for _ in 0..5 {
            let node = world.input.nodes.iter_mut().find(|node| node.id == who).unwrap();
            (node.dead_since_ms, node.alive_since_ms) = (Some(world.now_ms), None);
            for other in &mut world.input.nodes {
                // The others get no older while this one blinks.
                if other.id != who
                    && let Some(since) = &mut other.dead_since_ms
                {
                    *since += GRACE_MS - 1;
                }
            }
            world.now_ms += GRACE_MS - 1;
            prop_assert_eq!(world.step(), None);
            let node = world.input.nodes.iter_mut().find(|node| node.id == who).unwrap();
            (node.dead_since_ms, node.alive_since_ms) = (None, Some(world.now_ms));
            prop_assert_eq!(world.step(), None);
        }
    }

    /// A change that is not committed yet, or a learner that has not caught up, is waited for.
    #[test]
    fn one_change_at_a_time(mut world in any_world()) {
        world.input.membership.settled = false;
        prop_assert_eq!(world.step(), None);
    }
}
