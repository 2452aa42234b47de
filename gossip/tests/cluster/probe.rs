//! What a probe costs at rest, and how soon its verdict is known.

use std::time::Duration;

use rand::RngExt;
use swarmer_gossip::MemberState;

use crate::{secs, sim::*};

/// A ping a second and the answer to another one's are nearly all that a member says.
#[test]
fn at_rest_a_member_probes_once_a_second() {
    let mut sim = Sim::cluster(1, 8);
    // Until all know where they stand.
    sim.run(secs(400));
    let sent = |sim: &Sim| sim.nodes.iter().map(|node| node.sent).sum::<u64>();
    let before = sent(&sim);
    sim.run(secs(100));
    let each = (sent(&sim) - before) as f64 / 8.0 / 100.0;
    println!("{each} datagrams a second and member");
    assert!((2.0..3.2).contains(&each), "{each} datagrams a second and member");
}

/// The next probe waits for its turn, the verdict on one that is not answered does not.
#[test]
fn who_does_not_answer_is_suspect_before_the_next_probe() {
    let mut times = Vec::new();
    for seed in 0..30 {
        let mut sim = Sim::cluster(seed, 32);
        let more = Duration::from_millis(sim.rng.random_range(5_000..8_000));
        sim.run(more);
        let victim = sim.rng.random_range(0..32);
        sim.kill(victim);
        let took = sim.until(secs(20), |sim| {
            (0..32).any(|by| by != victim && sim.state(by, id(victim)) != Some(MemberState::Alive))
        });
        times.push(took.unwrap_or_else(|| panic!("seed {seed}: nobody suspects it")));
    }
    let [p10, p50] = [10, 50].map(|percent| percentile(&mut times, percent));
    println!("suspected by somebody: p10 {p10:?}, p50 {p50:?}, worst {:?}", times.last());
    // 0.7 s until somebody probes it at the median, and the verdict; at the end of the period it were a
    // whole second.
    assert!(p10 <= Duration::from_millis(750), "p10 {p10:?} of {times:?}");
    assert!(p50 <= Duration::from_millis(1_400), "p50 {p50:?} of {times:?}");
}

/// Neither hears the other's answer, and both hear from others that it lives.
#[test]
fn two_whose_way_to_each_other_is_cut_suspect_nobody() {
    let mut sim = Sim::cluster(3, 8);
    sim.run(secs(5));
    (sim.group[2], sim.group[5]) = (1, 2);
    sim.apart = |one, other| one.min(other) == 1 && one.max(other) == 2;
    sim.run(secs(200));
    for node in &sim.nodes {
        let suspected = |change: &&Change| change.3 != MemberState::Alive;
        let called: Vec<_> = node.changes.iter().filter(suspected).collect();
        assert!(called.is_empty(), "{:?}: {called:?}", node.id);
    }
}
