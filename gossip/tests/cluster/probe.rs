//! What a probe costs at rest, and how soon its verdict is known.

use std::time::Duration;

use rand::RngExt;
use swarmer_gossip::{Config, MemberState};
use swarmer_model::wire;

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

/// Members that say nothing but what probes need, so that the first word to one is a ping.
fn quiet(seed: u64, members: usize, change: impl Fn(&mut Config)) -> Sim {
    let mut sim = Sim::new(seed);
    for index in 0..members {
        let mut config = config(index, 1);
        let timing = &mut config.timing;
        (timing.echo_interval, timing.echo_interval_settled) = (secs(600), secs(600));
        (timing.digest_interval, timing.push_pull_interval) = (secs(600), secs(600));
        change(&mut config);
        sim.start(config, Vec::new());
    }
    assert!(sim.until(secs(30), Sim::whole).is_some(), "seed {seed}: {}", sim.describe());
    let more = Duration::from_millis(sim.rng.random_range(8_000..11_000));
    sim.run(more);
    sim
}

/// Looks every five milliseconds, also where nothing happens for long.
fn soon(sim: &mut Sim, holds: impl Fn(&mut Sim) -> bool) -> Duration {
    let began = sim.now;
    while !holds(sim) {
        assert!(sim.now - began < secs(60), "seed {}", sim.seed);
        sim.run(Duration::from_millis(5));
    }
    sim.now - began
}

/// Who probes it next, and has just begun to.
fn next_probe_of(sim: &mut Sim, probed: usize) -> usize {
    let ping = |sim: &Sim| sim.tape.iter().find(|said| said.1 == addr(probed)).map(|said| said.0);
    sim.tape.clear();
    sim.taping = true;
    soon(sim, |sim| ping(sim).is_some());
    sim.taping = false;
    let by = ping(sim).unwrap();
    sim.nodes.iter().position(|node| node.addr == by).unwrap()
}

/// Members of every version of the wire do it alike: nothing of it is said. Of two there is nobody else to
/// ask, and the time that others would have had is the same.
#[test]
fn a_probe_that_nobody_answers_makes_suspect_before_its_period_ends() {
    let (soonest, latest) = (Duration::from_millis(490), Duration::from_millis(510));
    for version in [wire::OLDEST, wire::DISTANCES, wire::NEWEST] {
        for (members, seed) in [2, 3, 8].into_iter().flat_map(|n| (0..5).map(move |s| (n, s))) {
            let mut sim = quiet(seed, members, |config| config.facts.wire_max = u16::from(version));
            let victim = sim.rng.random_range(0..members);
            sim.kill(victim);
            let by = next_probe_of(&mut sim, victim);
            let doubts = |sim: &mut Sim| sim.state(by, id(victim)) != Some(MemberState::Alive);
            let took = soon(&mut sim, doubts);
            let what = format!("{members} members of version {version}, seed {seed}: {took:?}");
            assert!((soonest..latest).contains(&took), "{what}");
            sim.run(secs(1));
            assert_eq!(sim.nodes[by].core.stats().inquiries_failed, 0, "{what}");
        }
    }
}

/// Its answers came, and what was to be done without them only begins late.
#[test]
fn one_of_two_that_is_a_little_late_itself_suspects_nobody() {
    let mut sim = quiet(1, 2, |_| {});
    for _ in 0..200 {
        sim.nodes[0].paused = true;
        sim.run(Duration::from_millis(60));
        sim.resume(0);
        sim.run(Duration::from_millis(107));
    }
    let node = &sim.nodes[0];
    assert!(node.changes.iter().all(|change| change.3 == MemberState::Alive), "{:?}", node.changes);
    assert_eq!(node.core.stats().stalls, 0);
}

/// SWIM finds at the end of its period what was known before: that is one failed probe, and no new reason
/// to ask or accuse one that has objected since.
#[test]
fn who_has_objected_when_the_period_ends_is_not_accused_again() {
    for seed in 0..10 {
        let mut sim = quiet(seed, 8, |_| {});
        let victim = sim.rng.random_range(0..8);
        sim.group[victim] = 1;
        let by = next_probe_of(&mut sim, victim);
        let doubts = |sim: &mut Sim| sim.state(by, id(victim)) == Some(MemberState::Suspect);
        soon(&mut sim, doubts);
        sim.group[victim] = 0;
        soon(&mut sim, |sim| !doubts(sim));
        let asked = sim.nodes[by].confirms.len();
        sim.run(secs(2));
        let again = sim.nodes[by].confirms.len() - asked;
        let failed = sim.nodes[by].core.stats().probes_failed;
        assert_eq!((again, failed), (0, 1), "seed {seed}");
    }
}

/// One of which nothing is heard is asked out of turn, also while others probe it: what ends first counts.
#[test]
fn a_question_out_of_turn_holds_no_probe_up() {
    for seed in 0..5 {
        let mut sim = quiet(seed, 8, |config| {
            config.timing.indirect_timeout = config.timing.probe_timeout;
        });
        sim.kill(5);
        let by = next_probe_of(&mut sim, 5);
        sim.run(Duration::from_millis(180));
        sim.with(by, |core, now| core.look_into(now, id(5)));
        sim.run(Duration::from_millis(225));
        assert_eq!(sim.state(by, id(5)), Some(MemberState::Suspect), "seed {seed}");
        let stats = sim.nodes[by].core.stats();
        assert_eq!((stats.probes_failed, stats.inquiries_failed), (1, 0), "seed {seed}");
    }
}

/// Neither hears the other's answer, and both hear from others that it lives.
#[test]
fn two_whose_way_to_each_other_is_cut_suspect_nobody() {
    for version in [wire::OLDEST, wire::NEWEST] {
        let mut sim = Sim::new(3);
        for index in 0..8 {
            let mut config = config(index, 1);
            config.facts.wire_max = u16::from(version);
            sim.start(config, Vec::new());
        }
        assert!(sim.until(secs(30), Sim::whole).is_some(), "{}", sim.describe());
        sim.run(secs(5));
        (sim.group[2], sim.group[5]) = (1, 2);
        sim.apart = |one, other| one.min(other) == 1 && one.max(other) == 2;
        sim.run(secs(200));
        for node in &sim.nodes {
            let suspected = |change: &&Change| change.3 != MemberState::Alive;
            let called: Vec<_> = node.changes.iter().filter(suspected).collect();
            assert!(called.is_empty(), "version {version}, {:?}: {called:?}", node.id);
        }
    }
}

/// Its answers come after those of all others, and before the next probe.
#[test]
fn one_that_is_far_from_all_others_is_not_suspected_for_it() {
    let mut sim = Sim::new(11);
    sim.way = Some(|from, to| {
        let far = [from, to].contains(&addr(7));
        Duration::from_millis(if far { 200 } else { 1 })
    });
    for index in 0..32 {
        sim.start(config(index, 1), Vec::new());
    }
    assert!(sim.until(secs(60), Sim::whole).is_some(), "{}", sim.describe());
    // Until all know how far it is.
    sim.run(secs(120));
    sim.nodes.iter_mut().for_each(|node| node.changes.clear());
    sim.run(secs(120));
    for node in &sim.nodes {
        assert!(node.changes.is_empty(), "{:?}: {:?}", node.id, node.changes);
    }
}
