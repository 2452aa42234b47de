//! A leader that is being emptied lets another one lead.

use swarmer_model::NodeId;

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
