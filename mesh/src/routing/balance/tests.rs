use proptest::prelude::*;
use rand::{SeedableRng as _, rngs::StdRng};
use swarmer_model::{Distribute, Failover};

use super::*;
use crate::routing::{OutlierConfig, RegionRules};

const OWN: NodeId = NodeId(1);

fn endpoint(node: u64, region: &str, zone: &str, load: u32) -> Endpoint {
    Endpoint {
        node: NodeId(node),
        region: region.into(),
        zone: zone.into(),
        way: None,
        load,
        has_room: true,
        health: EndpointHealth::Good,
    }
}

fn far(node: u64, region: &str, ms: u64) -> Endpoint {
    let way = Some(Duration::from_millis(ms));
    Endpoint { way, ..endpoint(node, region, "z", 0) }
}

#[test]
fn of_other_regions_the_nearest_takes_the_call() {
    let now = Instant::now();
    let none = Outlier::new(OutlierConfig::default());
    let drawn = |ready: &[Endpoint]| {
        let mut nodes: Vec<u64> = (0..200)
            .map(|seed| {
                let mut rng = StdRng::seed_from_u64(seed);
                let choice = choice(ready, &[], &[]);
                Balancer::new().choose(&choice, &none, &mut rng, now).unwrap().node.0
            })
            .collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    };
    let mut all = vec![
        far(2, "east", 250),
        far(3, "west", 80),
        far(4, "west", 80),
        far(5, "south", 98),
        endpoint(6, "unknown", "z", 0),
    ];
    assert_eq!(drawn(&all), [3, 4, 5], "as near as makes no difference");
    all[3].way = Some(Duration::from_millis(120));
    assert_eq!(drawn(&all), [3, 4]);
    // One without room gives way, however near it is.
    all[1].has_room = false;
    all[2].has_room = false;
    assert_eq!(drawn(&all), [5]);
    all.drain(1..4);
    assert_eq!(drawn(&all), [2], "a way that is known before one that is not");
    assert_eq!(drawn(&all[1..]), [6]);
    // In the own region no way is looked at.
    let near = [endpoint(7, "r", "z", 0), far(8, "r", 1), far(9, "west", 0)];
    assert_eq!(drawn(&near), [7, 8]);
}

fn choice<'a>(
    ready: &'a [Endpoint],
    candidates: &'a [NodeId],
    exclude: &'a [NodeId],
) -> Choice<'a> {
    let prefer = Preference::default();
    Choice { own: OWN, region: "r", zone: "z", ready, candidates, exclude, prefer }
}

fn pick(choice: &Choice<'_>, outlier: &Outlier, now: Instant) -> Option<(NodeId, Why)> {
    let mut rng = StdRng::seed_from_u64(7);
    let picked = Balancer::new().choose(choice, outlier, &mut rng, now).ok()?;
    Some((picked.node, picked.why))
}

#[test]
fn near_before_far_and_here_before_all() {
    let now = Instant::now();
    let none = Outlier::new(OutlierConfig::default());
    let mut all = vec![
        endpoint(4, "other", "z", 0),
        endpoint(3, "r", "y", 0),
        endpoint(2, "r", "z", 90),
        endpoint(1, "r", "z", 100),
    ];
    let mut order = Vec::new();
    while let Some((node, why)) = pick(&choice(&all, &[NodeId(9)], &[]), &none, now) {
        order.push((node.0, why));
        if all.is_empty() {
            break;
        }
        all.retain(|endpoint| endpoint.node != node);
    }
    assert_eq!(
        order,
        [
            (1, Why::Local),
            (2, Why::OnlyReady(Locality::Zone)),
            (3, Why::OnlyReady(Locality::Region)),
            (4, Why::OnlyReady(Locality::Any)),
            (9, Why::Candidate(0)),
        ]
    );
}

#[test]
fn a_full_node_gives_way_and_a_failed_one_too() {
    let now = Instant::now();
    let mut outlier = Outlier::new(OutlierConfig::default());
    let mut here = endpoint(1, "r", "z", 0);
    here.has_room = false;
    let ready = [here, endpoint(2, "far", "z", 0)];
    assert_eq!(
        pick(&choice(&ready, &[], &[]), &outlier, now),
        Some((NodeId(2), Why::OnlyReady(Locality::Any)))
    );
    outlier.failed(NodeId(2), now);
    outlier.failed(NodeId(2), now);
    assert_eq!(
        pick(&choice(&ready, &[], &[]), &outlier, now),
        Some((OWN, Why::OnlyReady(Locality::Here)))
    );
    assert_eq!(
        pick(&choice(&ready, &[], &[OWN]), &outlier, now),
        Some((NodeId(2), Why::AllEjected(Locality::Any)))
    );
    assert_eq!(
        pick(&choice(&[], &[NodeId(2), NodeId(3)], &[]), &outlier, now),
        Some((NodeId(3), Why::Candidate(1)))
    );
    assert_eq!(pick(&choice(&ready, &[], &[OWN, NodeId(2)]), &outlier, now), None);
}

#[test]
fn one_that_fails_gives_way_and_one_on_trial_gets_a_few() {
    let (now, mut rng) = (Instant::now(), StdRng::seed_from_u64(3));
    let none = Outlier::new(OutlierConfig::default());
    let does = |node, health| Endpoint { health, ..endpoint(node, "r", "z", 0) };
    let mut counts = |ready: &[Endpoint]| {
        let balancer = Balancer::new();
        let mut nodes = [0; 4];
        for _ in 0..10_000 {
            let picked = balancer.choose(&choice(ready, &[], &[]), &none, &mut rng, now);
            nodes[picked.unwrap().node.0 as usize] += 1;
        }
        nodes
    };
    let (bad, good) = (does(1, EndpointHealth::Failing), endpoint(2, "far", "z", 0));
    assert_eq!(counts(&[bad.clone(), good.clone()]), [0, 0, 10_000, 0], "also this node itself");
    let full = without_room(good.clone());
    assert_eq!(counts(&[bad.clone(), full]), [0, 0, 10_000, 0], "busy is better than bad");
    let other = does(3, EndpointHealth::Failing);
    let near = [bad.clone(), other.clone()];
    assert_eq!(counts(&near), [0, 10_000, 0, 0], "where all fail it is as if none did");
    let nodes = counts(&[does(1, EndpointHealth::Trial), good.clone()]);
    assert!(about(nodes[1], 1.0 / 20.0), "this node on trial: {nodes:?}");
    let nodes = counts(&[does(2, EndpointHealth::Trial), endpoint(3, "r", "z", 0)]);
    assert!(about(nodes[2], 1.0 / 40.0), "another one: {nodes:?}");
    let nodes = counts(&[does(2, EndpointHealth::Trial), other]);
    assert!(about(nodes[2], 0.5 + 1.0 / 40.0), "on trial is no better than failing: {nodes:?}");
}

/// The rules of a route for what enters in `r`.
fn rules(failover: &[&str], shares: &[(&str, u32)]) -> RegionRules {
    let to = failover.iter().map(|region| (*region).to_owned()).collect();
    let failover = [Failover { from: "r".into(), to }];
    let to = shares.iter().map(|(region, share)| ((*region).to_owned(), *share)).collect();
    let distribute = [Distribute { from: "r".into(), to }];
    let distribute = if shares.is_empty() { &[][..] } else { &distribute };
    RegionRules::new(&failover, distribute).unwrap()
}

/// How many of 10,000 calls go to each of the nodes 1 to 7, by a seeded source.
fn spread(rules: &RegionRules, ready: &[Endpoint], outlier: &Outlier) -> [u32; 8] {
    let (balancer, now) = (Balancer::new(), Instant::now());
    let mut rng = StdRng::seed_from_u64(11);
    let mut nodes = [0; 8];
    for _ in 0..10_000 {
        let choice = Choice { prefer: rules.of("r"), ..choice(ready, &[], &[]) };
        let picked = balancer.choose(&choice, outlier, &mut rng, now).unwrap();
        nodes[picked.node.0 as usize] += 1;
    }
    nodes
}

/// Whether a count of 10,000 is that of a share: within five standard deviations.
fn about(count: u32, share: f64) -> bool {
    let bound = 5.0 * (10_000.0 * share * (1.0 - share)).sqrt();
    (f64::from(count) - 10_000.0 * share).abs() <= bound
}

fn without_room(endpoint: Endpoint) -> Endpoint {
    Endpoint { has_room: false, ..endpoint }
}

#[test]
fn calls_are_spread_over_regions_by_their_shares() {
    let none = Outlier::new(OutlierConfig::default());
    let rules = rules(&[], &[("r", 50), ("west", 30), ("south", 20)]);
    let ready = [
        endpoint(1, "r", "z", 0),
        endpoint(2, "r", "z", 0),
        far(3, "west", 250),
        far(4, "west", 250),
        far(5, "south", 80),
        far(6, "near", 1),
    ];
    let nodes = spread(&rules, &ready, &none);
    assert!(about(nodes[1], 0.5), "this node for its region: {nodes:?}");
    assert!(about(nodes[3] + nodes[4], 0.3) && about(nodes[5], 0.2), "{nodes:?}");
    assert!(about(nodes[3], 0.15) && about(nodes[4], 0.15), "all of a region: {nodes:?}");
    assert_eq!(nodes[6], 0, "it is not named");
    // In the own region by zones, in the others the less loaded.
    let ready = [
        endpoint(1, "s", "z", 0),
        endpoint(2, "r", "y", 0),
        endpoint(3, "r", "z", 90),
        endpoint(4, "west", "z", 7),
        endpoint(5, "west", "y", 0),
    ];
    let nodes = spread(&rules, &ready, &none);
    assert_eq!((nodes[1], nodes[2], nodes[4]), (0, 0, 0), "{nodes:?}");
    assert!(about(nodes[3], 5.0 / 8.0) && about(nodes[5], 3.0 / 8.0), "{nodes:?}");
}

#[test]
fn the_share_of_a_region_that_has_nobody_goes_to_the_others_by_their_shares() {
    let none = Outlier::new(OutlierConfig::default());
    let rules = rules(&["far"], &[("r", 50), ("west", 30), ("south", 20)]);
    let ready = |west: bool, others: bool| {
        let full = |endpoint, room: bool| match room {
            true => endpoint,
            false => without_room(endpoint),
        };
        [
            full(endpoint(2, "r", "z", 0), others),
            full(far(3, "west", 10), west),
            full(far(4, "south", 10), others),
            far(5, "near", 10),
            far(6, "far", 100),
        ]
    };
    let shared = |nodes: [u32; 8]| {
        let [_, _, own, west, south, ..] = nodes;
        assert_eq!((west, nodes[5], nodes[6]), (0, 0, 0), "{nodes:?}");
        assert!(about(own, 5.0 / 7.0) && about(south, 2.0 / 7.0), "{nodes:?}");
    };
    let mut all = ready(true, true).to_vec();
    assert!(about(spread(&rules, &all, &none)[3], 0.3), "it has somebody");
    // Nobody is there, or has room, or did well of late.
    all.remove(1);
    shared(spread(&rules, &all, &none));
    shared(spread(&rules, &ready(false, true), &none));
    let mut failed = Outlier::new(OutlierConfig { failures: 1, ..OutlierConfig::default() });
    failed.failed(NodeId(3), Instant::now());
    shared(spread(&rules, &ready(true, true), &failed));
    // None of them: the usual order, with who takes over; and all alike again where nobody
    // anywhere is better.
    let nodes = spread(&rules, &ready(false, false), &none);
    assert_eq!(nodes[6], 10_000, "{nodes:?}");
    let nodes = spread(&rules, &ready(false, true)[3..], &none);
    assert_eq!(nodes[6], 10_000, "{nodes:?}");
    let full = ready(true, true).map(without_room);
    assert!(about(spread(&rules, &full, &none)[3], 0.3));
}

#[test]
fn who_takes_over_does_so_in_the_order_that_the_route_says() {
    let now = Instant::now();
    let none = Outlier::new(OutlierConfig::default());
    let rules = rules(&["east", "west"], &[]);
    let order = |mut all: Vec<Endpoint>| {
        let mut order = Vec::new();
        while !all.is_empty() {
            let choice = Choice { prefer: rules.of("r"), ..choice(&all, &[], &[]) };
            let (node, why) = pick(&choice, &none, now).unwrap();
            order.push((node.0, why));
            all.retain(|endpoint| endpoint.node != node);
        }
        order
    };
    let all = vec![
        far(6, "north", 20),
        far(5, "south", 2),
        far(4, "west", 80),
        endpoint(3, "east", "z", 0),
        endpoint(2, "r", "y", 90),
        endpoint(1, "r", "z", 100),
    ];
    let only = |node, locality| (node, Why::OnlyReady(locality));
    assert_eq!(
        order(all.clone()),
        [
            (1, Why::Local),
            only(2, Locality::Region),
            only(3, Locality::Named),
            only(4, Locality::Named),
            only(5, Locality::Any),
            only(6, Locality::Any),
        ]
    );
    // Whoever has no room, or failed lately, gives way all the same.
    let mut full = all;
    full[2].has_room = false;
    full[3].has_room = false;
    let nodes: Vec<u64> = order(full.clone()).iter().map(|(node, _)| *node).collect();
    assert_eq!(nodes, [1, 2, 5, 6, 3, 4]);
    full.truncate(4);
    let choice = Choice { prefer: rules.of("r"), ..choice(&full, &[], &[NodeId(5)]) };
    assert_eq!(pick(&choice, &none, now).unwrap().0, NodeId(6));
    // It is said of what enters in `r` alone.
    let elsewhere = Choice { region: "s", prefer: rules.of("s"), ..choice };
    assert_eq!(pick(&elsewhere, &none, now).unwrap().0, NodeId(6));
    let ready = [far(3, "east", 80), far(5, "south", 2)];
    let there = Choice { ready: &ready, exclude: &[], ..elsewhere };
    assert_eq!(pick(&there, &none, now).unwrap().0, NodeId(5));
}

#[test]
fn calls_spread_over_equals_and_counts_return_to_zero() {
    let now = Instant::now();
    let outlier = Outlier::new(OutlierConfig::default());
    let ready: Vec<Endpoint> = (2..7).map(|node| endpoint(node, "r", "z", 0)).collect();
    let balancer = Balancer::new();
    let mut rng = StdRng::seed_from_u64(1);
    let picked: Vec<Picked> = (0..500)
        .map(|_| balancer.choose(&choice(&ready, &[], &[]), &outlier, &mut rng, now).unwrap())
        .collect();
    for endpoint in &ready {
        let count = balancer.in_flight(endpoint.node);
        assert!((95..=105).contains(&count), "{:?}: {count}", endpoint.node);
    }
    drop(picked);
    assert!(ready.iter().all(|endpoint| balancer.in_flight(endpoint.node) == 0));
}

proptest! {
    #[test]
    fn what_is_chosen_is_allowed_and_something_is_chosen_if_anything_can_be(
        ready in prop::collection::vec(
            (1u64..8, 0usize..3, 0usize..3, any::<bool>(), any::<bool>()), 0..8),
        candidates in prop::collection::vec(1u64..8, 0..6),
        exclude in prop::collection::vec(1u64..8, 0..6),
        failed in prop::collection::vec(1u64..8, 0..6),
        seed in any::<u64>(),
    ) {
        let now = Instant::now();
        let places = ["r", "z", "q"];
        let ready: Vec<Endpoint> = ready
            .into_iter()
            .map(|(node, region, zone, has_room, good)| Endpoint {
                has_room,
                health: if good { EndpointHealth::Good } else { EndpointHealth::Failing },
                ..endpoint(node, places[region], places[zone], 0)
            })
            .collect();
        let candidates: Vec<NodeId> = candidates.into_iter().map(NodeId).collect();
        let exclude: Vec<NodeId> = exclude.into_iter().map(NodeId).collect();
        let mut outlier = Outlier::new(OutlierConfig { failures: 1, ..OutlierConfig::default() });
        failed.into_iter().for_each(|node| outlier.failed(NodeId(node), now));
        let mut rng = StdRng::seed_from_u64(seed);
        let balancer = Balancer::new();
        let picked = balancer.choose(&choice(&ready, &candidates, &exclude), &outlier, &mut rng, now);
        let free = |node: &NodeId| !exclude.contains(node);
        let any_ready = ready.iter().any(|endpoint| free(&endpoint.node));
        match picked {
            Err(_) => prop_assert!(!any_ready && !candidates.iter().any(free)),
            Ok(picked) => {
                prop_assert!(free(&picked.node));
                match picked.why {
                    Why::Candidate(position) => {
                        prop_assert!(!any_ready);
                        prop_assert_eq!(candidates[position], picked.node);
                    }
                    Why::Local => prop_assert_eq!(picked.node, OWN),
                    _ => prop_assert!(ready.iter().any(|e| e.node == picked.node)),
                }
                let healthy = |e: &Endpoint| {
                    e.health == EndpointHealth::Good && !outlier.is_ejected(e.node, now)
                };
                if ready.iter().any(|e| free(&e.node) && healthy(e)) {
                    // One node may stand there twice here.
                    prop_assert!(ready.iter().any(|e| e.node == picked.node && healthy(e)));
                }
            }
        }
    }

    /// Whatever a route says: the state of a node goes before it, a region that is named
    /// before one that is not, and what is said of other regions changes nothing.
    #[test]
    fn what_a_route_says_orders_regions_and_nothing_else(
        ready in prop::collection::vec((2u64..8, 0usize..5, any::<bool>()), 1..8),
        exclude in prop::collection::vec(2u64..8, 0..4),
        failed in prop::collection::vec(2u64..8, 0..4),
        failover in prop::collection::vec(1usize..5, 0..4),
        shares in prop::collection::vec((0usize..5, 1u32..100), 0..4),
        seed in any::<u64>(),
    ) {
        let now = Instant::now();
        let regions = ["r", "east", "west", "south", "north"];
        let ready: Vec<Endpoint> = ready
            .into_iter()
            .map(|(node, region, has_room)| Endpoint {
                has_room,
                ..far(node, regions[region], node * 10)
            })
            .collect();
        let failover: Vec<&str> = failover.into_iter().map(|region| regions[region]).collect();
        let shares: Vec<(&str, u32)> =
            shares.into_iter().map(|(region, share)| (regions[region], share)).collect();
        let exclude: Vec<NodeId> = exclude.into_iter().map(NodeId).collect();
        let mut outlier = Outlier::new(OutlierConfig { failures: 1, ..OutlierConfig::default() });
        failed.into_iter().for_each(|node| outlier.failed(NodeId(node), now));
        let rules = rules(&failover, &shares);
        let chosen = |prefer| {
            let choice = Choice { prefer, ..choice(&ready, &[], &exclude) };
            let mut rng = StdRng::seed_from_u64(seed);
            let picked = Balancer::new().choose(&choice, &outlier, &mut rng, now).ok()?;
            Some((picked.node, picked.why))
        };
        prop_assert_eq!(chosen(rules.of("elsewhere")), chosen(Preference::default()));
        let state = |e: &Endpoint| (outlier.is_ejected(e.node, now), !e.has_room);
        let usable = || ready.iter().filter(|e| !exclude.contains(&e.node));
        let best = usable().map(state).min();
        let has = |region: &str| usable().any(|e| e.region == region && Some(state(e)) == best);
        let named: Vec<&str> =
            shares.iter().map(|(region, _)| *region).filter(|region| has(region)).collect();
        match chosen(rules.of("r")) {
            None => prop_assert!(best.is_none()),
            Some((node, _)) => {
                // One node may stand there twice here: that it is so somewhere is enough.
                let mut there = usable().filter(|e| e.node == node && Some(state(e)) == best);
                let first = failover.iter().copied().find(|region| has(region));
                let right = there.any(|e| match (named.is_empty(), has("r"), first) {
                    (false, ..) => named.contains(&&*e.region),
                    (true, true, _) => e.region == "r",
                    (true, false, Some(first)) => e.region == first,
                    (true, false, None) => true,
                });
                prop_assert!(right);
            }
        }
    }
}
