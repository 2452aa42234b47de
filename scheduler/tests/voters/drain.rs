//! A leader that is being emptied lets another one lead; votes leave a region that is, and come back.

use swarmer_model::{NodeId, RegionState};
use swarmer_scheduler::VoterNode;

use crate::world::{World, node};

/// Voters a, b and c in zones of their own; a leads.
fn three() -> World {
    let mut world = World::default();
    for (id, name) in [(1, "a"), (2, "b"), (3, "c")] {
        world.input.nodes.push(node(id, name, "us", name));
    }
    world.input.membership.configs = vec![(1..=3).map(NodeId).collect()];
    world.input.membership.leader = NodeId(1);
    world
}

#[test]
fn the_leadership_goes_to_one_that_stays_and_the_vote_does_not_go() {
    let mut world = three();
    assert_eq!(world.step(), None);
    world.input.nodes[0].draining = true;
    let step = world.step().unwrap();
    assert_eq!(step.to_string(), "let b lead: a is being emptied");
    world.carry_out(&step.command);
    assert_eq!(world.step(), None, "once");
    // One that does not take it is not asked for ever.
    let mut world = three();
    world.input.nodes[0].draining = true;
    world.now_ms = 10_000;
    assert_eq!(world.step().unwrap().to_string(), "let c lead: a is being emptied");
    // Not to another one that is emptied, that leaves or that is dead.
    let mut world = three();
    world.input.nodes[0].draining = true;
    world.input.nodes[1].draining = true;
    assert_eq!(world.step().unwrap().to_string(), "let c lead: a is being emptied");
    world.input.nodes[2].dead_since_ms = Some(0);
    assert_eq!(world.step(), None, "somebody must lead");
}

/// Does what the planner says until it says nothing.
fn settled(world: &mut World) -> Vec<String> {
    let mut told = Vec::new();
    while let Some(step) = world.step() {
        world.carry_out(&step.command);
        told.push(step.to_string());
        assert!(told.len() < 20, "no end: {told:?}");
    }
    told
}

fn say(world: &mut World, region: &str, state: RegionState) {
    for node in world.input.nodes.iter_mut().filter(|node| node.region == region) {
        node.region_state = state;
    }
}

#[test]
fn votes_and_leadership_leave_a_drained_region_and_come_back() {
    let mut world = World::default();
    for (id, name, region) in
        [(1, "u1", "us"), (2, "u2", "us"), (3, "e1", "eu"), (4, "e2", "eu"), (5, "e3", "eu")]
    {
        world.input.nodes.push(node(id, name, region, "z"));
    }
    world.input.membership.configs = vec![(1..=3).map(NodeId).collect()];
    world.input.membership.leader = NodeId(1);
    assert_eq!(settled(&mut world), Vec::<String>::new());
    say(&mut world, "us", RegionState::Drained);
    assert_eq!(
        settled(&mut world),
        [
            "add learner e2: region us of voter u1 is drained",
            "let e1 lead: region us of voter u1 is drained",
            "give the vote of u1 to e2: 3 voters: region us of voter u1 is drained",
            "add learner e3: region us of voter u2 is drained",
            "give the vote of u2 to e3: 3 voters: region us of voter u2 is drained",
        ]
    );
    say(&mut world, "us", RegionState::Resumed);
    assert_eq!(
        settled(&mut world),
        [
            "add learner u1: region us takes work again",
            "give the vote of e3 to u1: 3 voters: region us takes work again",
        ]
    );
}

#[test]
fn the_votes_of_a_drained_region_stay_where_nobody_else_could_have_them() {
    let mut world = three();
    world.input.nodes[1].region = "eu".into();
    say(&mut world, "us", RegionState::Drained);
    assert_eq!(settled(&mut world), ["let b lead: a is being emptied"]);
    assert_eq!(world.voters().len(), 3, "below a majority of three nobody could decide anything");
    // All of it: nothing changes at all.
    let mut world = three();
    say(&mut world, "us", RegionState::Drained);
    assert_eq!(settled(&mut world), Vec::<String>::new());
    // Of two that live one alone is not better.
    let mut world = three();
    world.input.nodes.pop();
    world.input.membership.configs = vec![(1..=2).map(NodeId).collect()];
    world.input.nodes[1].region = "eu".into();
    say(&mut world, "us", RegionState::Drained);
    settled(&mut world);
    assert_eq!(world.voters().len(), 2);
}

/// Three founders in one region, which all lived for a minute.
fn founded() -> World {
    let mut world = three();
    world.now_ms = 60_000;
    world.input.nodes.iter_mut().for_each(|node| node.alive_since_ms = Some(0));
    world
}

fn join(world: &mut World, nodes: &[(u64, &str, &str, &str)]) {
    for (id, name, region, zone) in nodes {
        let alive_since_ms = Some(world.now_ms);
        world.input.nodes.push(VoterNode { alive_since_ms, ..node(*id, name, region, zone) });
    }
}

#[test]
fn votes_move_to_regions_that_came_later_once_any_one_may_be_lost_then() {
    let mut world = founded();
    for node in &mut world.input.nodes {
        node.zone = "z".into();
    }
    // With two regions one of them has the majority whatever is done.
    join(&mut world, &[(4, "e1", "eu", "z"), (5, "e2", "eu", "z")]);
    world.now_ms += 60_000;
    assert_eq!(settled(&mut world), Vec::<String>::new());
    join(&mut world, &[(6, "p1", "ap", "z")]);
    world.now_ms += 59_999;
    assert_eq!(settled(&mut world), Vec::<String>::new(), "it may be gone in a moment");
    world.now_ms += 1;
    let mut away = world.clone();
    assert_eq!(
        settled(&mut world),
        [
            "add learner e1: region us has a majority of the votes, and need not",
            "give the vote of c to e1: 3 voters: region us has a majority of the votes, and need not",
            "add learner p1: region us has a majority of the votes, and need not",
            "give the vote of b to p1: 3 voters: region us has a majority of the votes, and need not",
        ]
    );
    // While a voter is dead nothing moves for this.
    away.input.nodes[1].dead_since_ms = Some(away.now_ms);
    assert_eq!(settled(&mut away), Vec::<String>::new());
}

#[test]
fn votes_move_to_other_zones_of_their_region_and_not_over_an_ocean_for_a_zone() {
    let mut world = founded();
    for node in &mut world.input.nodes {
        node.zone = "z1".into();
    }
    join(&mut world, &[(4, "e1", "eu", "z1"), (5, "d", "us", "z2"), (7, "e2", "eu", "z2")]);
    world.now_ms += 60_000;
    assert_eq!(settled(&mut world), Vec::<String>::new(), "three zones, of two regions");
    join(&mut world, &[(6, "e", "us", "z3")]);
    world.now_ms += 60_000;
    assert_eq!(
        settled(&mut world),
        [
            "add learner d: zone z1 of region us has a majority of the votes, and need not",
            "give the vote of c to d: 3 voters: zone z1 of region us has a majority of the votes, and need not",
            "add learner e: zone z1 of region us has a majority of the votes, and need not",
            "give the vote of b to e: 3 voters: zone z1 of region us has a majority of the votes, and need not",
        ]
    );
}

/// What one leader began for the spread's sake the next one does not undo while it knows nobody for long
/// enough; nor is a learner that nobody needs kept for ever.
#[test]
fn a_new_leader_keeps_the_learner_that_the_last_one_prepared() {
    let mut world = founded();
    join(&mut world, &[(4, "e1", "eu", "z"), (5, "p1", "ap", "z")]);
    world.now_ms += 60_000;
    let step = world.step().unwrap();
    assert_eq!(
        step.to_string(),
        "add learner e1: region us has a majority of the votes, and need not"
    );
    world.carry_out(&step.command);
    world.input.membership.learners.insert(NodeId(4), false);
    // Another one leads from here on, on a clock of its own.
    world.input.membership.leader = NodeId(2);
    world.now_ms = 500;
    world.input.nodes.iter_mut().for_each(|node| node.alive_since_ms = Some(500));
    assert_eq!(world.step(), None);
    world.now_ms += 59_999;
    assert_eq!(world.step(), None);
    world.input.membership.learners.insert(NodeId(4), true);
    world.now_ms += 1;
    let told = settled(&mut world);
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(told[0].starts_with("give the vote of c to e1"), "{told:?}");
    let mut alone = founded();
    join(&mut alone, &[(4, "d", "us", "a")]);
    alone.input.membership.learners.insert(NodeId(4), true);
    assert_eq!(alone.step(), None);
    alone.now_ms += 60_000;
    assert_eq!(settled(&mut alone), ["drop learner d: it is not needed"]);
}

/// A hand-over stops writes for a moment, and for the time of an election if it fails.
#[test]
fn the_chosen_region_gets_the_leadership_once_its_voter_has_lived_a_while_and_has_the_log() {
    let mut world = founded();
    world.input.nodes[2].region = "eu".into();
    world.input.lead_region = Some("eu".into());
    let since = world.now_ms;
    world.input.nodes[2].alive_since_ms = Some(since);
    assert_eq!(world.step(), None, "it may be gone in a moment");
    world.now_ms += 5_000;
    world.input.nodes[2].behind = true;
    assert_eq!(world.step(), None, "it would refuse");
    world.input.nodes[2].behind = false;
    assert_eq!(settled(&mut world), ["let c lead: region eu was chosen to lead"]);
}

#[test]
fn who_should_not_vote_gets_no_vote_and_gives_its_own_away_where_somebody_can_have_it() {
    let mut world = three();
    // Nobody else is there: all go on, and the leader need not go for its own sake.
    world.input.nodes[0].abstains = true;
    assert_eq!(settled(&mut world), Vec::<String>::new());
    // One that should not either gets nothing, even where a voter is dead for good.
    world.input.nodes.push(VoterNode { abstains: true, ..node(4, "d", "us", "d") });
    world.input.nodes[1].dead_since_ms = Some(0);
    world.now_ms = 100_000;
    assert_eq!(settled(&mut world), Vec::<String>::new());
    world.input.nodes[1].dead_since_ms = None;
    world.input.nodes.push(node(5, "e", "us", "e"));
    assert_eq!(
        settled(&mut world),
        [
            "add learner e: voter a is labelled not to vote",
            "let b lead: voter a is labelled not to vote",
            "give the vote of a to e: 3 voters: voter a is labelled not to vote",
        ]
    );
}

/// Founder a, labelled not to vote, and others that joined.
fn of_a_labelled_founder(voters: &[u64], others: &[(u64, &str)]) -> World {
    let mut world = World::default();
    world.input.nodes.push(VoterNode { abstains: true, ..node(1, "a", "us", "a") });
    for (id, name) in others {
        world.input.nodes.push(node(*id, name, "us", name));
    }
    world.input.membership.configs = vec![voters.iter().copied().map(NodeId).collect()];
    world.input.membership.leader = NodeId(1);
    world
}

#[test]
fn two_voters_do_not_stay_for_the_sake_of_one_that_should_not_vote() {
    let votes = |world: &World| world.voters().iter().map(|id| id.0).collect::<Vec<_>>();
    let mut world = of_a_labelled_founder(&[1], &[(2, "b")]);
    let told = settled(&mut world);
    assert_eq!((votes(&world), world.input.membership.leader), (vec![2], NodeId(2)), "{told:?}");
    // Where c leaves the only log does not stay with a.
    let mut world = of_a_labelled_founder(&[1, 2, 3], &[(2, "b"), (3, "c")]);
    assert_eq!(settled(&mut world), Vec::<String>::new());
    world.input.nodes[2].leaving = true;
    let told = settled(&mut world);
    assert_eq!((votes(&world), world.input.membership.leader), (vec![2], NodeId(2)), "{told:?}");
}

#[test]
fn one_that_should_not_vote_leads_where_the_others_are_emptied_and_waits_for_the_dead() {
    let mut world = of_a_labelled_founder(&[1, 2, 3], &[(2, "b"), (3, "c")]);
    world.input.membership.leader = NodeId(2);
    (world.input.nodes[1].draining, world.input.nodes[2].draining) = (true, true);
    assert_eq!(settled(&mut world), ["let a lead: b is being emptied"]);
    // Somebody comes while b is dead for a moment: he gets its vote, if it is gone for good.
    let mut world = of_a_labelled_founder(&[1, 2, 3], &[(2, "b"), (3, "c"), (4, "d")]);
    world.input.nodes[1].dead_since_ms = Some(0);
    world.now_ms = 1_000;
    assert_eq!(settled(&mut world), Vec::<String>::new());
    world.now_ms = 60_000;
    assert_eq!(
        settled(&mut world),
        [
            "add learner d: voter b is dead for longer than the grace of 60000 ms",
            "give the vote of b to d: 3 voters: voter b is dead for longer than the grace of 60000 ms",
        ]
    );
}
