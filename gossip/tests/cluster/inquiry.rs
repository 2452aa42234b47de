//! Members that somebody asks out of turn, as the transport hears nothing of them.

use std::time::Duration;

use rand::RngExt;
use swarmer_gossip::{MemberState, Refusal};

use crate::{secs, sim::*};

const MEMBERS: usize = 32;

/// Who has a connection with the killed one notices its silence a moment later; all others avoid it
/// soon after, long before a probe would have come to it.
#[test]
fn all_suspect_a_killed_member_as_soon_as_somebody_is_told_of_its_silence() {
    let (mut avoided, mut dead) = (Vec::new(), Vec::new());
    for seed in 0..20 {
        let mut sim = Sim::cluster(seed, MEMBERS);
        let more = Duration::from_millis(sim.rng.random_range(0..3000));
        sim.run(more);
        let victim = sim.rng.random_range(0..MEMBERS);
        let killed = sim.now;
        sim.kill(victim);
        for step in 1..=3 {
            sim.run(Duration::from_millis(100));
            let by = (victim + step * 7) % MEMBERS;
            sim.with(by, |core, now| core.look_into(now, id(victim)));
        }
        let all = |sim: &mut Sim, is: fn(MemberState) -> bool| {
            (0..MEMBERS).all(|by| by == victim || sim.state(by, id(victim)).is_some_and(is))
        };
        let took = sim.until(secs(20), |sim| all(sim, |state| state != MemberState::Alive));
        took.unwrap_or_else(|| panic!("seed {seed}: not suspected by all"));
        avoided.push(sim.now - killed);
        let took = sim.until(secs(20), |sim| all(sim, |state| state == MemberState::Down));
        took.unwrap_or_else(|| panic!("seed {seed}: not known by all"));
        dead.push(sim.now - killed);
    }
    let [p50, p95] = [50, 95].map(|percent| percentile(&mut avoided, percent));
    let [dead_p50, dead_p95] = [50, 95].map(|percent| percentile(&mut dead, percent));
    println!(
        "all {MEMBERS} suspect: p50 {p50:?}, p95 {p95:?}; know it dead: p50 {dead_p50:?}, p95 {dead_p95:?}"
    );
    assert!(p95 <= Duration::from_millis(800), "p95 {p95:?} of {avoided:?}");
    assert!(dead_p50 <= secs(2), "p50 {dead_p50:?} of {dead:?}");
}

#[test]
fn who_lives_answers_and_is_not_suspected() {
    for seed in 0..3 {
        let mut sim = Sim::cluster(seed, MEMBERS);
        let asks = |sim: &mut Sim| {
            let (by, of) = (sim.rng.random_range(0..MEMBERS), sim.rng.random_range(0..MEMBERS));
            sim.with(by, |core, now| core.look_into(now, id(of)));
            sim.run(Duration::from_millis(20));
        };
        (0..500).for_each(|_| asks(&mut sim));
        let failed = |sim: &Sim| {
            sim.nodes.iter().map(|node| node.core.stats().inquiries_failed).sum::<u64>()
        };
        let states = |sim: &Sim, state| {
            let changes = sim.nodes.iter().flat_map(|node| &node.changes);
            changes.filter(|change| change.3 == state).count()
        };
        assert_eq!((failed(&sim), states(&sim, MemberState::Suspect)), (0, 0), "seed {seed}");
        // Where much is lost some are suspected, and object.
        sim.loss = 0.1;
        (0..1000).for_each(|_| asks(&mut sim));
        assert!(failed(&sim) > 0, "seed {seed}: nothing was lost");
        assert_eq!(states(&sim, MemberState::Down), 0, "seed {seed}");
        sim.loss = 0.0;
        assert!(sim.until(secs(10), Sim::whole).is_some(), "seed {seed}: {}", sim.describe());
    }
}

/// A node whose own network is gone hears of nobody, and would suspect all others at once: each that it
/// called dead would have to come back under another identity.
#[test]
fn who_hears_nobody_accuses_nobody_by_it() {
    for seed in 0..5 {
        let mut sim = Sim::cluster(seed, MEMBERS);
        sim.group[7] = 1;
        sim.run(Duration::from_millis(300));
        for of in (0..MEMBERS).filter(|of| *of != 7) {
            sim.with(7, |core, now| core.look_into(now, id(of)));
        }
        sim.run(Duration::from_millis(500));
        assert_eq!(sim.nodes[7].core.stats().inquiries_failed, 0, "seed {seed}");
        sim.run(secs(3));
        sim.group[7] = 0;
        assert!(sim.until(secs(10), Sim::whole).is_some(), "seed {seed}: {}", sim.describe());
    }
}

/// A node that was cut off takes the others for dead, and tells nobody so once it is back: each would
/// have to come back under another identity, and all who heard of it would leave it alone till then.
#[test]
fn the_word_of_one_that_was_cut_off_kills_nobody() {
    for (seed, cut) in [(0, 4), (1, 7), (2, 9), (3, 45), (4, 90)] {
        let mut sim = Sim::cluster(seed, MEMBERS);
        sim.run(secs(2));
        sim.group[7] = 1;
        sim.run(secs(cut));
        if cut >= 45 {
            let dead = sim.seen(7, id(3)).unwrap();
            assert_eq!(dead.state, MemberState::Down, "seed {seed}: {dead:?}");
            assert!(dead.reason.contains("may be cut off"), "seed {seed}: {dead:?}");
        }
        sim.nodes.iter_mut().for_each(|node| node.changes.clear());
        sim.group[7] = 0;
        assert!(sim.until(secs(10), Sim::whole).is_some(), "seed {seed}: {}", sim.describe());
        sim.run(secs(20));
        for node in &sim.nodes {
            let down = |c: &&Change| c.3 == MemberState::Down && c.1 != id(7);
            let called: Vec<_> = node.changes.iter().filter(down).collect();
            assert!(called.is_empty(), "seed {seed}: {:?} called dead {called:?}", node.id);
        }
        assert!(sim.whole(), "seed {seed}: {}", sim.describe());
    }
}

/// One that seldom hears anybody, as nearly all others are dead, ends its suspicions all the same.
#[test]
fn two_that_are_left_of_nine_know_the_others_dead() {
    for seed in 0..5 {
        let mut sim = Sim::cluster(seed, 9);
        sim.run(secs(2));
        (2..9).for_each(|index| sim.kill(index));
        let dead = |sim: &mut Sim| {
            (0..2).all(|by| (2..9).all(|of| sim.state(by, id(of)) == Some(MemberState::Down)))
        };
        let took = sim.until(secs(60), dead);
        println!("seed {seed}: seven of nine are dead for both after {took:?}");
        assert!(took.is_some_and(|took| took < secs(30)), "seed {seed}: {}", sim.describe());
        assert_eq!(sim.state(0, id(1)), Some(MemberState::Alive), "seed {seed}");
    }
}

/// Who hears nobody for good goes on alone, and finds whoever comes back.
#[test]
fn the_last_of_three_takes_the_others_for_dead_until_one_is_back() {
    let mut sim = Sim::cluster(6, 3);
    sim.kill(1);
    sim.kill(2);
    let dead = |sim: &mut Sim| (1..3).all(|of| sim.state(0, id(of)) == Some(MemberState::Down));
    assert!(sim.until(secs(10), dead).is_some(), "{}", sim.describe());
    sim.run(secs(60));
    sim.start(config(1, 2), Vec::new());
    let back = |sim: &mut Sim| {
        sim.state(0, id(1)) == Some(MemberState::Alive)
            && sim.state(0, id(2)) == Some(MemberState::Down)
    };
    assert!(sim.until(secs(10), back).is_some(), "{}", sim.describe());
    // Now it is said aloud, and the other one knows of it too.
    let told = |sim: &mut Sim| {
        let of_two = sim.seen(0, id(2)).unwrap();
        back(sim) && !of_two.reason.contains("may be cut off")
    };
    assert!(sim.until(secs(10), told).is_some(), "{}", sim.describe());
}

/// It is asked because it is silent: how long it takes to answer is not how far away it is.
#[test]
fn the_answer_of_one_that_stood_still_measures_no_way() {
    let mut sim = Sim::new(9);
    for index in 0..3 {
        let mut config = config(index, 1);
        config.timing.echo_interval = secs(600);
        sim.start(config, Vec::new());
    }
    assert!(sim.until(secs(30), Sim::whole).is_some(), "{}", sim.describe());
    sim.nodes[1].paused = true;
    sim.with(0, |core, now| core.look_into(now, id(1)));
    sim.run(Duration::from_millis(1200));
    sim.resume(1);
    assert!(sim.until(secs(10), Sim::whole).is_some(), "{}", sim.describe());
    let stats = sim.nodes[0].core.stats();
    assert_eq!((stats.inquiries_failed, stats.round_trips), (1, 0));
    assert_eq!(stats.refused(Refusal::Unasked), 0, "its answers came");
}

/// It lived when it was asked first: what was left to do then must not cut short the time that it has
/// when it is asked again.
#[test]
fn who_is_asked_again_has_its_whole_time() {
    let mut sim = Sim::cluster(5, 3);
    let asks = |sim: &mut Sim| sim.with(0, |core, now| core.look_into(now, id(1)));
    asks(&mut sim);
    sim.run(Duration::from_millis(40));
    sim.kill(1);
    asks(&mut sim);
    let failed = |sim: &Sim| sim.nodes[0].core.stats().inquiries_failed;
    sim.run(Duration::from_millis(240));
    assert_eq!(failed(&sim), 0, "a probe's time and a quarter are not over");
    sim.run(Duration::from_millis(20));
    assert_eq!(failed(&sim), 1);
}

/// An older member does not answer such a question, and is left to its probes.
#[test]
fn a_member_of_an_older_version_is_not_asked() {
    let mut sim = Sim::new(4);
    for index in 0..3 {
        let mut config = config(index, 1);
        if index == 1 {
            config.facts.wire_max = u16::from(swarmer_model::wire::DISTANCES) - 1;
        }
        sim.start(config, Vec::new());
    }
    assert!(sim.until(secs(30), Sim::whole).is_some(), "{}", sim.describe());
    for _ in 0..50 {
        sim.with(0, |core, now| core.look_into(now, id(1)));
        sim.run(Duration::from_millis(20));
    }
    let stats = sim.nodes[0].core.stats();
    assert_eq!(stats.inquiries_failed, 0);
    assert_eq!(sim.state(0, id(1)), Some(MemberState::Alive));
}

/// Far from each other members probe slowly, and with many of them it takes long until two more come to
/// the dead one by themselves: those who are told try at once.
#[test]
fn a_death_among_many_that_are_far_apart_waits_for_no_further_probes() {
    const MANY: usize = 90;
    const LIMIT: Duration = Duration::from_millis(3000);
    let mut dead = Vec::new();
    let mut sim = Sim::new(40);
    sim.way = Some(|_, _| Duration::from_millis(100));
    for index in 0..MANY {
        sim.start(config(index, 1), Vec::new());
    }
    sim.until(secs(60), Sim::whole).expect("it forms");
    sim.run(secs(60));
    for victim in 1..=20 {
        sim.nodes.iter_mut().for_each(|node| node.changes.clear());
        sim.kill(victim);
        let known = |sim: &mut Sim| {
            (victim + 1..MANY).all(|by| sim.state(by, id(victim)) == Some(MemberState::Down))
        };
        sim.until(secs(30), known).unwrap_or_else(|| panic!("{victim} is not known to be dead"));
        // When the first probe comes to it is chance.
        let changes = sim.nodes.iter().flat_map(|node| &node.changes);
        let of = changes.filter(|change| change.1 == id(victim));
        let doubted = of.map(|change| change.0).min().expect("it was suspect before it was dead");
        dead.push(sim.now - doubted);
        sim.run(Duration::from_millis(137));
    }
    let [p50, p95] = [50, 95].map(|percent| percentile(&mut dead, percent));
    println!("all of {MANY} members know a death after the first doubt: p50 {p50:?}, p95 {p95:?}");
    assert!(p95 <= LIMIT, "{dead:?}");
}

/// Two regions that do not reach each other, and a third one that reaches both: probes between the two
/// fail where nobody of the third is asked to probe too, and who is accused objects by way of those. Asking
/// at once fails for each of the two regions always, and must not make more of it.
#[test]
fn a_way_that_is_cut_between_two_regions_makes_no_storm() {
    const EACH: usize = 16;
    for seed in 50..52 {
        let mut sim = Sim::cluster(seed, EACH * 3);
        sim.apart = |a, b| a + b == 3;
        for index in 0..EACH * 3 {
            sim.group[index] = (index % 3) as u8;
        }
        sim.run(secs(30));
        let sums = |sim: &Sim| -> (u64, u64) {
            let stats = sim.nodes.iter().map(|node| node.core.stats());
            stats.fold((0, 0), |(probes, asked), stats| {
                (probes + stats.probes_failed, asked + stats.inquiries_failed)
            })
        };
        let before = sums(&sim);
        let sent = sim.nodes.iter().map(|node| node.sent).sum::<u64>();
        sim.run(secs(60));
        let after = sums(&sim);
        let sent = sim.nodes.iter().map(|node| node.sent).sum::<u64>() - sent;
        let (probes, asked) = (after.0 - before.0, after.1 - before.1);
        let each = sent as f64 / 60.0 / (EACH * 3) as f64;
        println!(
            "seed {seed}: {probes} probes and {asked} questions failed in a minute, {each:.0} \
             datagrams a second and member"
        );
        assert!(probes > 100, "seed {seed}: hardly any probe failed");
        assert!(asked < probes, "seed {seed}: {asked} of {probes}");
    }
}
