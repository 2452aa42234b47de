//! That members measure the ways between them, and that nobody else has a say in it.

use std::{net::SocketAddr, time::Duration};

use rand::RngExt;
use swarmer_gossip::*;
use swarmer_model::{NodeId, wire};

use crate::{secs, sim::*};

/// What the payload of a question and of an answer begins with.
const ASKS: u8 = 8;
const ANSWERS: u8 = 9;

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn index(addr: SocketAddr) -> usize {
    let SocketAddr::V4(addr) = addr else { return 0 };
    usize::from(addr.ip().octets()[3]) - 1
}

/// One way between two of three regions, or inside of one.
fn way(from: SocketAddr, to: SocketAddr) -> Duration {
    const MAP: [[u64; 3]; 3] =
        [[500, 20_000, 75_000], [20_000, 500, 60_000], [75_000, 60_000, 500]];
    Duration::from_micros(MAP[index(from) % 3][index(to) % 3])
}

fn real(a: usize, b: usize) -> Duration {
    way(addr(a), addr(b)) * 2
}

impl Sim {
    /// What `by` knows of the way to `node`.
    fn distance(&mut self, by: usize, node: usize) -> Option<Duration> {
        self.known(by).to(self.since_start(by), id(node), self.told(by, node).as_ref())
    }

    fn known(&mut self, by: usize) -> Distances {
        Distances::clone(&self.nodes[by].core.distances())
    }

    fn told(&mut self, by: usize, node: usize) -> Option<Coordinate> {
        self.seen(by, id(node))?.record?.facts.coordinate
    }
}

#[test]
fn members_know_how_far_the_others_are() {
    let mut sim = Sim::new(90);
    sim.way = Some(way);
    for index in 0..12 {
        sim.start(config(index, 1), Vec::new());
    }
    sim.until(secs(60), Sim::whole).expect("it forms");
    sim.run(secs(300));
    for by in 0..12 {
        for of in (0..12).filter(|of| *of != by) {
            let (measured, real) = (sim.distance(by, of).unwrap(), real(by, of));
            assert!(measured.abs_diff(real) <= real / 10, "{by} to {of}: {measured:?} of {real:?}");
            // A node that has not asked it knows it too, by what both tell.
            let (from, to) = (sim.told(of, by).unwrap(), sim.told(by, of).unwrap());
            let estimated = from.distance(&to);
            // Each of both tells anew only what moved by more than a tenth of the usual way.
            let off = real / 3 + ms(24);
            assert!(estimated.abs_diff(real) <= off, "{by} to {of}: {estimated:?} of {real:?}");
        }
    }
}

/// Opens what node 0 sent to node 1, which is not asked, and answers in its name.
struct Liar {
    reads: Envelope,
    number: u64,
    sequence: u64,
}

impl Liar {
    fn new() -> Self {
        let reads = Envelope::new(CLUSTER, id(1), 1, Keyring::new(1, Key([1; 32])), [5; 32]);
        Self { reads, number: 0, sequence: 100_000 }
    }

    /// The last question of node 0 to node 1 on the tape.
    fn listen(&mut self, sim: &mut Sim) -> bool {
        let admitted = sim.admitted.clone();
        for (from, to, bytes) in std::mem::take(&mut sim.tape) {
            if (from, to) == (addr(0), addr(1))
                && let Ok(opened) = self.reads.open(&bytes, &*admitted)
                && let Ok((ASKS, number)) = postcard::from_bytes(&opened.payload)
            {
                self.number = number;
                return true;
            }
        }
        false
    }

    fn says(&mut self, sim: &mut Sim, as_node: NodeId, boot: u64, number: u64, theirs: Coordinate) {
        let ring = Keyring::new(1, Key([1; 32]));
        let mut envelope = Envelope::new(CLUSTER, as_node, boot, ring, sim.rng.random());
        let payload = postcard::to_stdvec(&(ANSWERS, number, theirs)).unwrap();
        self.sequence += 100;
        let mut sealed = envelope.seal(Some((id(0), 1)), &payload, false).unwrap();
        for _ in 0..self.sequence {
            sealed = envelope.seal(Some((id(0), 1)), &payload, false).unwrap();
        }
        sim.nodes[0].refused.clear();
        sim.inject(0, addr(1), &sealed);
    }
}

#[test]
fn an_answer_that_was_not_asked_for_changes_nothing() {
    let mut sim = Sim::cluster(91, 3);
    sim.run(secs(30));
    sim.kill(1);
    sim.tape.clear();
    sim.taping = true;
    let mut liar = Liar::new();
    sim.until(secs(10), |sim| liar.listen(sim)).expect("it is asked before it is given up");
    // An answer that takes no time at all is none.
    sim.run(ms(20));
    let point = Coordinate { position: [9; DIMENSIONS], height: 9, adjustment: 0, error: 9 };
    let number = liar.number;
    let before = sim.known(0);
    let count = sim.nodes[0].core.stats().round_trips;
    let unasked = [
        (id(1), 1, number ^ 1, Refusal::Unasked),
        // The right number, by another member.
        (id(2), 1, number, Refusal::Unasked),
    ];
    for (node, boot, number, reason) in unasked {
        liar.says(&mut sim, node, boot, number, point);
        assert_eq!(sim.nodes[0].refused, [(Some(node), reason)]);
        assert_eq!(sim.known(0), before);
    }
    // That the number is the right one: who knows it is believed, once.
    liar.says(&mut sim, id(1), 1, number, point);
    assert_eq!(sim.nodes[0].refused, []);
    assert_ne!(sim.known(0), before);
    let after = sim.known(0);
    liar.says(&mut sim, id(1), 1, number, point);
    assert_eq!(sim.nodes[0].refused, [(Some(id(1)), Refusal::Unasked)]);
    assert_eq!((sim.known(0), sim.nodes[0].core.stats().round_trips), (after, count + 1));
}

#[test]
fn a_late_answer_and_one_from_nowhere_change_nothing() {
    for (waits, far, reason) in
        [(secs(11), 9, Refusal::Unasked), (ms(100), 10_000_001, Refusal::Malformed)]
    {
        let mut sim = Sim::cluster(92, 3);
        sim.kill(1);
        sim.taping = true;
        let mut liar = Liar::new();
        sim.until(secs(10), |sim| liar.listen(sim)).expect("it is asked before it is given up");
        sim.run(waits);
        let before = sim.known(0).clone();
        let mut point =
            Coordinate { position: [9; DIMENSIONS], height: 9, adjustment: 0, error: 9 };
        point.position[0] = far;
        let number = liar.number;
        liar.says(&mut sim, id(1), 1, number, point);
        assert_eq!(sim.nodes[0].refused, [(Some(id(1)), reason)]);
        assert_eq!(sim.known(0), before);
    }
}

#[test]
fn a_node_of_an_older_version_is_not_asked() {
    let mut sim = Sim::new(93);
    for index in 0..3 {
        let mut config = config(index, 1);
        if index == 2 {
            config.facts.wire_max = u16::from(wire::DISTANCES) - 1;
        }
        sim.start(config, Vec::new());
    }
    sim.until(secs(30), Sim::whole).expect("it forms");
    // It takes such a question for garbage, as its own version would.
    sim.run(secs(60));
    let trips =
        |sim: &Sim| sim.nodes.iter().map(|n| n.core.stats().round_trips).collect::<Vec<_>>();
    let trips = trips(&sim);
    assert!(trips[0] > 40 && trips[1] > 40 && trips[2] == 0, "{trips:?}");
    assert_eq!(sim.nodes[2].core.stats().refused(Refusal::Malformed), 0);
    assert!(sim.distance(0, 1).is_some() && sim.distance(0, 2).is_none());
    assert_eq!(sim.distance(2, 0), None);
}

/// What it costs to know the distances: the same cluster with and without.
#[test]
fn a_node_at_rest_spends_little_on_distances() {
    let rate = |wire_max: u8| {
        let mut sim = Sim::new(94);
        for index in 0..16 {
            let mut config = config(index, 1);
            config.facts.wire_max = wire_max.into();
            sim.start(config, Vec::new());
        }
        sim.until(secs(30), Sim::whole).expect("it forms");
        sim.run(secs(400));
        let bytes = |sim: &Sim| sim.nodes.iter().map(|n| n.core.stats().bytes_out).sum::<u64>();
        let before = bytes(&sim);
        sim.run(secs(600));
        (bytes(&sim) - before) as f64 / 16.0 / 600.0
    };
    let (with, without) = (rate(wire::DISTANCES), rate(wire::DISTANCES - 1));
    println!("a node of 16 at rest sends {with:.0} B/s, {without:.0} B/s without distances");
    assert!(with - without < 100.0, "{with} B/s with and {without} B/s without distances");
}

/// Ways of 300 ms and a twentieth of all datagrams lost: an ocean on a bad day.
fn ocean(from: SocketAddr, to: SocketAddr) -> Duration {
    if index(from) % 2 == index(to) % 2 { ms(1) } else { ms(150) }
}

#[test]
fn probes_keep_to_the_ways_and_nobody_dies_of_an_ocean() {
    let probes = |way: fn(SocketAddr, SocketAddr) -> Duration| {
        let mut sim = Sim::new(95);
        sim.way = Some(way);
        for index in 0..16 {
            sim.start(config(index, 1), Vec::new());
        }
        sim.until(secs(60), Sim::whole).expect("it forms");
        sim.run(secs(300));
        sim.loss = 0.05;
        let failed =
            |sim: &Sim| sim.nodes.iter().map(|node| node.core.stats().probes_failed).sum::<u64>();
        let before = failed(&sim);
        sim.run(secs(1800));
        for node in &sim.nodes {
            let dead = node.changes.iter().find(|change| change.3 == MemberState::Down);
            assert!(dead.is_none(), "{} took one for dead: {dead:?}", node.id);
        }
        let failed = failed(&sim) - before;
        // And one that is dead is found so, on both sides of it.
        sim.loss = 0.0;
        sim.kill(7);
        let known = |sim: &mut Sim| {
            (0..16).all(|by| by == 7 || sim.state(by, id(7)) == Some(MemberState::Down))
        };
        (failed, sim.until(secs(30), known).expect("its death is known"))
    };
    let (near, far) = (probes(|_, _| ms(1)), probes(ocean));
    println!(
        "probes that failed in half an hour at 5 % of loss, time to know a death: on a LAN \
        {near:?}, over 300 ms {far:?}"
    );
    assert!(far.0 <= near.0.max(10) * 3, "{far:?} over an ocean, {near:?} on a LAN");
    assert!(far.1 <= secs(15), "{far:?}");
}

/// A record is passed on to all, so that what all tell again and again is most of what a cluster at rest
/// sends. Were the points not held where the others know them to be, they would all drift.
#[test]
fn members_at_rest_seldom_tell_where_they_stand() {
    const MEMBERS: usize = 48;
    let mut sim = Sim::new(96);
    sim.way = Some(way);
    for index in 0..MEMBERS {
        sim.start(config(index, 1), Vec::new());
    }
    sim.until(secs(60), Sim::whole).expect("it forms");
    sim.run(secs(600));
    let told = |sim: &Sim| -> u64 {
        let own = |node: &Node| node.core.catalog().get(node.id).map_or(0, |record| record.version);
        sim.nodes.iter().map(own).sum()
    };
    let before = told(&sim);
    sim.run(secs(3600));
    let each = (told(&sim) - before) as f64 / MEMBERS as f64;
    println!("each of {MEMBERS} members at rest tells {each:.2} times an hour where it stands");
    assert!(each < 0.2, "{each}");
    // And what was told is still true.
    for of in 1..MEMBERS {
        let (from, to) = (sim.told(of, 0).unwrap(), sim.told(0, of).unwrap());
        let (estimated, real) = (from.distance(&to), real(0, of));
        assert!(estimated.abs_diff(real) <= real / 3 + ms(24), "{of}: {estimated:?} of {real:?}");
    }
}

#[test]
fn what_can_wait_is_passed_on_once_and_what_cannot_three_times() {
    const MEMBERS: usize = 60;
    let mut sim = Sim::cluster(97, MEMBERS);
    // All know where they stand, and nobody has anything to tell.
    sim.run(secs(600));
    let sent = |sim: &Sim| sim.nodes.iter().map(|node| node.sent).sum::<u64>();
    // Of five the middle one: now and then a member tells where it stands, too.
    let mut costs = |update: &dyn Fn(u32) -> Option<RecordUpdate>| {
        let mut costs: Vec<u64> = (1..=5)
            .map(|n| {
                let before = sent(&sim);
                if let Some(update) = update(n) {
                    sim.with(5, |core, now| core.publish(now, update)).unwrap();
                }
                sim.run(secs(20));
                let record = sim.nodes[5].core.catalog().get(id(5)).unwrap().clone();
                for by in &sim.nodes {
                    assert_eq!(by.core.catalog().get(id(5)), Some(&record), "{} knows", by.id);
                }
                sent(&sim) - before
            })
            .collect();
        costs.sort_unstable();
        costs[2] as f64
    };
    let nothing = costs(&|_| None);
    let load = |n| Some(RecordUpdate::Load(Load { in_flight: n, ..Load::default() }));
    let load = costs(&load) - nothing;
    let urgent = costs(&|n| Some(RecordUpdate::Voter(n % 2 == 1))) - nothing;
    println!("{MEMBERS} members send {load} datagrams of a load and {urgent} of what is urgent");
    assert!(load > 100.0 && load < urgent / 2.0, "{load} and {urgent}");
}
