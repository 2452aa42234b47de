//! Whether the points of nodes say how far these are from each other, on a map that is known.
//! Each failure prints its seed; the same seed runs the same way again.
#![expect(clippy::unwrap_used, reason = "a failed step of a test is a failed test")]

use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::StdRng};
use swarmer_gossip::{Coordinate, Locator};
use swarmer_model::NodeId;

const NODES: usize = 60;
const REGIONS: usize = 3;
const JITTER: f64 = 0.05;
/// Milliseconds between the regions, and inside of them.
const MAP: [[f64; REGIONS]; REGIONS] =
    [[1.0, 80.0, 250.0], [80.0, 1.0, 150.0], [250.0, 150.0, 1.0]];

struct World {
    seed: u64,
    rng: StdRng,
    now: Duration,
    nodes: Vec<Locator>,
}

fn region(node: usize) -> usize {
    node % REGIONS
}

fn way(a: usize, b: usize) -> f64 {
    MAP[region(a)][region(b)]
}

impl World {
    fn new(seed: u64) -> Self {
        let nodes = (0..NODES).map(|_| Locator::default()).collect();
        Self { seed, rng: StdRng::seed_from_u64(seed), now: Duration::ZERO, nodes }
    }

    /// Every node measures one other.
    fn round(&mut self, takes: Duration) {
        self.now += takes;
        for node in 0..NODES {
            let peer = (node + self.rng.random_range(1..NODES)) % NODES;
            let theirs = self.nodes[peer].coordinate();
            let ms = way(node, peer) * self.rng.random_range(1.0 - JITTER..1.0 + JITTER);
            let rtt = Duration::from_secs_f64(ms / 1e3);
            let peer = NodeId(peer as u64 + 1);
            assert!(self.nodes[node].update(self.now, peer, &theirs, rtt, &mut self.rng));
        }
    }

    fn told(&self) -> Vec<Coordinate> {
        self.nodes.iter().map(|node| node.settled().unwrap()).collect()
    }

    fn off(&self) -> Vec<f64> {
        let told = self.told();
        let mut off: Vec<f64> = Vec::new();
        for a in 0..NODES {
            for b in a + 1..NODES {
                let estimated = told[a].distance(&told[b]).as_secs_f64() * 1e3;
                off.push((estimated - way(a, b)).abs() / way(a, b));
            }
        }
        off.sort_by(f64::total_cmp);
        off
    }

    /// Whether to every node each node of a nearer region is nearer than each of a further one.
    fn is_in_order(&self) -> bool {
        let told = self.told();
        (0..NODES).all(|from| {
            let others = || (0..NODES).filter(|node| *node != from);
            others().all(|a| {
                others()
                    .filter(|b| way(from, a) < way(from, *b))
                    .all(|b| told[from].distance(&told[a]) < told[from].distance(&told[b]))
            })
        })
    }
}

#[test]
fn after_two_hundred_round_trips_estimates_are_near_and_in_order() {
    for seed in 0..10 {
        let mut world = World::new(seed);
        for _ in 0..200 {
            world.round(Duration::from_secs(1));
        }
        let off = world.off();
        let (median, most) = (off[off.len() / 2], off[off.len() * 9 / 10]);
        println!(
            "seed {seed}: off by {:.1} % at the median, {:.1} % at p90",
            median * 1e2,
            most * 1e2
        );
        assert!(median < 0.15, "seed {seed}: off by {median}");
        assert!(world.is_in_order(), "seed {}: a further region is nearer", world.seed);
    }
}

/// That the test above can fail: after a few round trips nothing is known.
#[test]
fn after_a_few_round_trips_there_is_no_order_yet() {
    let mut world = World::new(0);
    for _ in 0..16 {
        world.round(Duration::from_secs(1));
    }
    assert!(!world.is_in_order());
}

#[test]
fn nodes_at_rest_have_next_to_nothing_to_tell() {
    let mut world = World::new(1);
    for _ in 0..200 {
        world.round(Duration::from_secs(1));
    }
    let mut told = world.told();
    let mut times = 0;
    // An hour at the slow pace.
    for _ in 0..360 {
        world.round(Duration::from_secs(10));
        for (node, told) in world.nodes.iter().zip(&mut told) {
            if node.has_moved(world.now, Some(told)) {
                *told = node.settled().unwrap();
                times += 1;
            }
        }
    }
    let each = f64::from(times) / NODES as f64;
    println!("each of {NODES} nodes at rest tells {each} times an hour where it stands");
    assert!(each < 1.0, "{each}");
    // What was told is as good as it was.
    let off = world.off();
    assert!(off[off.len() / 2] < 0.15);
}

#[test]
fn a_node_that_moved_says_so() {
    let mut world = World::new(2);
    for _ in 0..200 {
        world.round(Duration::from_secs(1));
    }
    let told = world.told()[0];
    let theirs = world.nodes[1].coordinate();
    let node = &mut world.nodes[0];
    assert!(node.has_moved(world.now, None), "nothing was told yet");
    for n in 0..60 {
        let rtt = Duration::from_millis(400);
        let peer = NodeId(100 + n);
        node.update(world.now, peer, &theirs, rtt, &mut world.rng);
    }
    assert!(node.has_moved(world.now, Some(&told)));
}

#[test]
fn what_cannot_be_changes_nothing() {
    let mut rng = StdRng::seed_from_u64(3);
    let (now, peer) = (Duration::from_secs(1), NodeId(1));
    let mut locator = Locator::default();
    let sound = locator.coordinate();
    let rtt = Duration::from_millis(30);
    assert!(locator.update(now, peer, &sound, rtt, &mut rng));
    let before = (locator.coordinate(), locator.distances(now), locator.updates());
    let mut astray = sound;
    astray.position[3] = i32::MIN;
    let too_sure = Coordinate { error: u16::MAX, ..sound };
    let wrong = [
        (sound, Duration::ZERO),
        (sound, Duration::from_millis(10_001)),
        (astray, rtt),
        (too_sure, rtt),
        (Coordinate { height: u32::MAX, ..sound }, rtt),
    ];
    for (theirs, rtt) in wrong {
        assert!(!locator.update(now, peer, &theirs, rtt, &mut rng));
    }
    assert_eq!((locator.coordinate(), locator.distances(now), locator.updates()), before);
}

#[test]
fn whatever_others_say_the_point_stays_within_its_bounds() {
    for seed in 0..20 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut locator = Locator::default();
        for n in 0..2_000_u64 {
            let limit = 10_000_000;
            let theirs = Coordinate {
                position: std::array::from_fn(|_| rng.random_range(-limit..=limit)),
                height: rng.random_range(0..=limit.unsigned_abs()),
                adjustment: rng.random_range(-limit..=limit),
                error: rng.random_range(0..=1500),
            };
            let rtt = Duration::from_micros(rng.random_range(1..=10_000_000));
            let now = Duration::from_secs(n);
            locator.update(now, NodeId(n % 50 + 1), &theirs, rtt, &mut rng);
            assert!(locator.coordinate().is_sound(), "seed {seed}, round trip {n}");
            assert!(locator.settled().is_none_or(|told| told.is_sound()), "seed {seed}");
        }
    }
}

#[test]
fn a_node_that_is_led_out_of_the_space_begins_anew() {
    let mut rng = StdRng::seed_from_u64(4);
    let mut locator = Locator::default();
    let astray = (1..1_000_u64).any(|n| {
        // Whoever it asks is further in, and yet as far away as can be.
        let position = locator.coordinate().position.map(|at| at / 10 * 7);
        let theirs = Coordinate { position, height: 0, adjustment: 0, error: 0 };
        let before = locator.updates();
        let longest = Duration::from_secs(10);
        locator.update(Duration::from_secs(n), NodeId(1), &theirs, longest, &mut rng);
        locator.updates() < before
    });
    assert!(astray && locator.settled().is_none(), "it says that it stands somewhere");
}
