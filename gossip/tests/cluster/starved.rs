//! Members that get too little CPU: what they say of others, and what others say of them. Plain
//! foca under the same schedule says whether a test means anything.

use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::StdRng};
use swarmer_gossip::{MemberState, Timing};

use crate::{plain::Plain, secs, sim::*};

const MEMBERS: usize = 32;
/// Such busy machines lose some, too.
const LOSS: f64 = 0.01;
const SEED: u64 = 31;
/// With fewer false deaths by plain foca a test is void.
const MEANINGFUL: usize = 100;
/// At most one of so many is left.
const SHARE: usize = 20;

/// Who is starved for how long.
#[derive(Clone, Copy)]
struct Famine {
    /// The first so many members.
    starved: usize,
    time: Duration,
}

/// One turn of the schedule: when, who, and whether it stands still from then on.
type Turn = (Duration, usize, bool);
/// One false death: when, who says so, of whom.
type Death = (Duration, usize, usize);

impl Famine {
    /// Each of the starved stands still for 0.3 to 3 s and runs for 1 to 10 ms, again and again.
    fn schedule(&self) -> Vec<Turn> {
        let mut rng = StdRng::seed_from_u64(SEED);
        let mut turns = Vec::new();
        for index in 0..self.starved {
            let mut at = Duration::from_millis(rng.random_range(0..3000));
            while at < self.time {
                turns.push((at, index, true));
                at += Duration::from_micros(rng.random_range(300_000..3_000_000));
                turns.push((at, index, false));
                at += Duration::from_micros(rng.random_range(1_000..10_000));
            }
        }
        turns.sort_unstable();
        turns
    }

    fn with_plain_foca(&self) -> Vec<Death> {
        let mut plain = Plain::cluster(SEED, MEMBERS, LOSS);
        let (began, mut order) = (plain.now, StdRng::seed_from_u64(SEED));
        for (at, index, stops) in self.schedule() {
            plain.run((began + at).saturating_sub(plain.now));
            match stops {
                true => plain.pause(index),
                false => plain.resume(index, &mut order),
            }
        }
        plain.deaths
    }

    fn with_ours(&self, timing: &Timing) -> (Vec<Death>, Sim) {
        let mut sim = Sim::new(SEED);
        for index in 0..MEMBERS {
            let mut config = config(index, 1);
            config.timing = timing.clone();
            sim.start(config, Vec::new());
        }
        sim.until(secs(60), Sim::whole).expect("it forms");
        sim.loss = LOSS;
        let (began, mut order) = (sim.now, StdRng::seed_from_u64(SEED));
        for (at, index, stops) in self.schedule() {
            sim.run((began + at).saturating_sub(sim.now));
            match stops {
                true => sim.nodes[index].paused = true,
                false => sim.resume_anyhow(index, &mut order),
            }
        }
        let mut deaths = Vec::new();
        for (by, node) in sim.nodes.iter().enumerate() {
            for (at, whom, ..) in node.changes.iter().filter(|c| c.3 == MemberState::Down) {
                let whom = sim.nodes.iter().position(|node| node.id == *whom);
                deaths.push((*at, by, whom.unwrap()));
            }
        }
        (deaths, sim)
    }

    /// (those of members that always run, those of the starved)
    fn parted(&self, deaths: &[Death]) -> (Vec<Death>, Vec<Death>) {
        deaths.iter().partition(|(.., whom)| *whom >= self.starved)
    }
}

/// How many there are if of one member within ten seconds they are one, whoever says it.
fn apart(deaths: &[Death]) -> usize {
    let mut sorted = deaths.to_vec();
    sorted.sort_unstable();
    let mut last = [None; MEMBERS];
    let mut count = 0;
    for (at, _, whom) in sorted {
        if last[whom].is_none_or(|last: Duration| at - last >= secs(10)) {
            last[whom] = Some(at);
            count += 1;
        }
    }
    count
}

fn compare(what: &str, plain: &[Death], ours: &[Death]) {
    println!(
        "seed {SEED}, {what}: called dead by an observer {} times with plain foca, {} with ours; \
         {} and {} false deaths, however many see one",
        plain.len(),
        ours.len(),
        apart(plain),
        apart(ours)
    );
    assert!(plain.len() >= MEANINGFUL, "void: plain foca has only {}", plain.len());
    assert!(ours.len() * SHARE <= plain.len(), "{} of {}", ours.len(), plain.len());
}

/// Three quarters of the members hardly run; what they say of the others counts, who always run.
#[test]
fn starved_observers_kill_a_twentieth_of_what_they_kill_with_plain_foca() {
    let famine = Famine { starved: MEMBERS * 3 / 4, time: secs(60 * 60) };
    let (plain, _) = famine.parted(&famine.with_plain_foca());
    let (ours, mut sim) = famine.with_ours(&Timing::default());
    compare("of those that run", &plain, &famine.parted(&ours).0);
    // Nor is it that nobody is called dead any more. Some of the starved stand still for good.
    sim.kill(MEMBERS - 1);
    let gone = |sim: &mut Sim, by| sim.state(by, id(MEMBERS - 1)) == Some(MemberState::Down);
    let took = sim.until(secs(30), |sim| (famine.starved..MEMBERS - 1).all(|by| gone(sim, by)));
    println!("who really dies then is dead for all that run after {took:?}");
    assert!(took.is_some());
}

/// A quarter of the members hardly run, and are called dead for it.
#[test]
fn starved_members_are_called_dead_a_twentieth_as_often_as_with_plain_foca() {
    let famine = Famine { starved: MEMBERS / 4, time: secs(30 * 60) };
    let (_, plain) = famine.parted(&famine.with_plain_foca());
    let (ours, _) = famine.with_ours(&Timing::default());
    compare("of the starved", &plain, &famine.parted(&ours).1);
}

/// That the first can fail: a node that takes its own silence for others', and does not wait for
/// others to suspect too, kills as plain foca does.
#[test]
fn starved_observers_kill_without_what_keeps_them_from_it() {
    let famine = Famine { starved: MEMBERS / 4, time: secs(10 * 60) };
    let timing = Timing { suspicion_max_factor: 1, stall_limit: secs(3600), ..Timing::default() };
    let (plain, _) = famine.parted(&famine.with_plain_foca());
    let (ours, _) = famine.parted(&famine.with_ours(&timing).0);
    println!("{} with plain foca, {} with ours of which that is taken", plain.len(), ours.len());
    assert!(ours.len() * SHARE > plain.len(), "{} of {}", ours.len(), plain.len());
}
