//! Candidates agree everywhere and change as little as can be.

use proptest::prelude::*;
use swarmer_model::NodeId;
use swarmer_scheduler::{
    CANDIDATES, CandidateNode, DEFAULT_DEAD_GRACE_MS, MAX_CANDIDATES, NodeFacts, REGION_CANDIDATES,
    candidate_misfit, candidates, candidates_by_region, score,
};

use crate::world::{World, config, need};

fn nodes(ids: &[u64], regions: u64) -> Vec<CandidateNode<'static>> {
    const REGIONS: [&str; 20] = [
        "r0", "r1", "r2", "r3", "r4", "r5", "r6", "r7", "r8", "r9", "ra", "rb", "rc", "rd", "re",
        "rf", "rg", "rh", "ri", "rj",
    ];
    let region = |id: u64| REGIONS[usize::try_from(id % regions).unwrap()];
    ids.iter().map(|id| CandidateNode { id: NodeId(*id), region: region(*id) }).collect()
}

#[test]
fn the_score_never_changes_between_versions() {
    // Nodes of two versions must agree: a change here is a change of the wire format.
    assert_eq!(score("demo/hello", NodeId(1)), SCORES[0]);
    assert_eq!(score("demo/hello", NodeId(2)), SCORES[1]);
    assert_eq!(score("", NodeId(0)), SCORES[2]);
}

const SCORES: [u64; 3] =
    [2_125_758_359_700_083_858, 4_246_063_219_010_726_702, 15_586_148_582_901_884_014];

#[test]
fn own_regions_come_first_in_their_order() {
    let all = nodes(&(1..=20).collect::<Vec<_>>(), 4);
    let own = ["r2".to_owned(), "r1".to_owned()];
    let chosen = candidates("demo/hello", &own, &all);
    let regions: Vec<u64> = chosen.iter().map(|id| id.0 % 4).collect();
    assert_eq!(regions, [2, 2, 1, 1, 0, 0, 3, 3]);
    let by_region = candidates_by_region("demo/hello", &own, &all, 2);
    let order: Vec<&str> = by_region.iter().map(|region| region.region.as_str()).collect();
    assert_eq!(order, ["r2", "r1", "r0", "r3"]);
    assert!(by_region.iter().all(|region| region.nodes.len() == 2));
}

#[test]
fn every_region_has_candidates_and_all_together_are_bounded() {
    let ids: Vec<u64> = (1..=60).collect();
    let of_each = |regions: u64| -> Vec<usize> {
        let all = nodes(&ids, regions);
        let chosen = candidates("demo/hello", &[], &all);
        let in_region = |region: u64| chosen.iter().filter(|id| id.0 % regions == region).count();
        (0..regions).map(in_region).collect()
    };
    assert_eq!(of_each(1), [CANDIDATES]);
    assert_eq!(of_each(2), [3, 3]);
    assert_eq!(of_each(4), [REGION_CANDIDATES; 4]);
    assert_eq!(of_each(20).iter().sum::<usize>(), MAX_CANDIDATES);
}

#[test]
fn functions_share_the_nodes_evenly() {
    let all = nodes(&(1..=10).collect::<Vec<_>>(), 1);
    let mut first = [0_u32; 11];
    for i in 0..5_000 {
        let chosen = candidates(&format!("demo/f{i}"), &[], &all);
        assert_eq!(chosen.len(), CANDIDATES);
        first[usize::try_from(chosen[0].0).unwrap()] += 1;
    }
    assert!(first[1..].iter().all(|n| (400..600).contains(n)), "{first:?}");
}

proptest! {
    #![proptest_config(config(256))]

    #[test]
    fn a_node_that_goes_changes_only_its_own_slot(
        ids in prop::collection::btree_set(any::<u64>(), 1..40),
        regions in 1_u64..4,
        gone in any::<prop::sample::Index>(),
        key in "[a-z]{1,8}/[a-z]{1,8}",
    ) {
        let ids: Vec<u64> = ids.into_iter().collect();
        let gone = ids[gone.index(ids.len())];
        let own = ["r0".to_owned()];
        let before = candidates(&key, &own, &nodes(&ids, regions));
        let rest: Vec<u64> = ids.iter().copied().filter(|id| *id != gone).collect();
        let mut shuffled = nodes(&rest, regions);
        shuffled.reverse();
        let after = candidates(&key, &own, &shuffled);
        let kept: Vec<NodeId> = before.iter().copied().filter(|id| id.0 != gone).collect();
        // No two others change their order.
        let stayed: Vec<NodeId> = after.iter().copied().filter(|id| kept.contains(id)).collect();
        prop_assert_eq!(&stayed, &kept);
        let count = |ids: &[u64]| {
            ids.iter().map(|id| id % regions).collect::<std::collections::BTreeSet<_>>().len()
        };
        prop_assert!(after.len() <= kept.len() + 1 || count(&rest) < count(&ids));
        if kept.len() == before.len() && count(&rest) == count(&ids) {
            prop_assert_eq!(after, before);
        }
    }
}

#[test]
fn who_is_long_dead_or_drained_or_fails_is_no_candidate() {
    let mut world = World::four().with(need("demo/hello", 1));
    let all: Vec<NodeId> = (1..=4).map(NodeId).collect();
    let eligible = |world: &World, before: &[NodeId]| -> Vec<String> {
        let need = &world.desired.functions[0];
        let fits = |node: &&NodeFacts| {
            let asked = (need, *node);
            candidate_misfit(&world.desired, &world.observed, world.now_ms, asked, before).is_none()
        };
        world.observed.nodes.iter().filter(fits).map(|node| node.name.clone()).collect()
    };
    assert_eq!(eligible(&world, &[]), ["a", "b", "c", "d"]);
    world.node("a").dead_since_ms = Some(0);
    world.now_ms = DEFAULT_DEAD_GRACE_MS - 1;
    assert_eq!(eligible(&world, &all), ["a", "b", "c", "d"], "it may come back");
    assert_eq!(eligible(&world, &[]), ["b", "c", "d"], "one that was none does not become one");
    world.now_ms = DEFAULT_DEAD_GRACE_MS;
    assert_eq!(eligible(&world, &all), ["b", "c", "d"]);
    world.node("b").draining = true;
    world.node("c").trouble = Some("its disk".to_owned());
    assert_eq!(eligible(&world, &all), ["d"]);
    // With no sound one left, one that may recover is better than none.
    world.node("d").draining = true;
    assert_eq!(eligible(&world, &all), ["c"]);
}
