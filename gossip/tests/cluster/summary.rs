//! That members compare what they know in a few bytes, and still find what one of them lacks; and that
//! what a receiver knows is left out of what it is sent.

use swarmer_gossip::*;
use swarmer_model::wire;

use crate::{secs, sim::*};

fn push_pulls(sim: &Sim) -> u64 {
    sim.nodes.iter().map(|node| node.core.stats().push_pulls).sum()
}

fn bytes(sim: &Sim) -> u64 {
    sim.nodes.iter().map(|node| node.core.stats().bytes_out).sum()
}

#[test]
fn members_at_rest_send_less_than_a_kilobyte_a_second_each() {
    for members in [32, 100] {
        let mut sim = Sim::cluster(40, members);
        sim.loss = 0.01;
        // Until distances are known and told.
        sim.run(secs(300));
        let before = (bytes(&sim), push_pulls(&sim));
        sim.run(secs(300));
        let each = (bytes(&sim) - before.0) / 300 / members as u64;
        println!("{members} members at rest, 1 % loss: {each} bytes/s each");
        assert!(each < 1000, "{each}");
        // All know the same members nearly always, and exchange nothing; without summaries each
        // begins an exchange in half a minute, and both count it.
        let (exchanged, blindly) = (push_pulls(&sim) - before.1, 20 * members as u64);
        println!("{exchanged} exchanges counted; {blindly} without summaries");
        assert!(exchanged * 10 <= blindly, "{exchanged} of {blindly}");
    }
}

/// A cluster in which some have a record of which the others never heard.
fn with_untold_records(sim: &mut Sim) {
    sim.streams = false;
    sim.loss = 1.0;
    for by in [3, 50, 51, 90] {
        let update = RecordUpdate::Endpoint(endpoint("untold", EndpointState::Ready));
        sim.with(by, |core, now| core.publish(now, update)).unwrap();
    }
    // Nobody passes them on any longer, and no suspicion has ended yet.
    sim.run(secs(1));
    sim.loss = 0.0;
}

fn all_are_told(sim: &mut Sim) -> bool {
    let knows = |node: &Node, of| {
        node.core.catalog().get(id(of)).is_some_and(|record| !record.facts.endpoints.is_empty())
    };
    sim.nodes.iter().all(|node| [3, 50, 51, 90].into_iter().all(|of| knows(node, of)))
}

#[test]
fn what_one_lacks_is_found_among_many_that_it_has() {
    let find = |digest_interval| {
        let mut sim = Sim::new(41);
        for index in 0..120 {
            let mut config = config(index, 1);
            config.timing.digest_interval = digest_interval;
            sim.start(config, Vec::new());
        }
        sim.until(secs(60), Sim::whole).expect("it forms");
        // Nobody has a new record because it knows how far the others are.
        sim.run(secs(240));
        with_untold_records(&mut sim);
        sim.until(secs(20), all_are_told)
    };
    let took = find(Timing::default().digest_interval);
    println!("four untold records known by all 120 after {took:?}");
    assert!(took.is_some());
    assert_eq!(find(secs(3600)), None, "without summaries nobody hears of them");
}

#[test]
fn members_of_the_version_before_are_asked_nothing_new_and_lack_nothing() {
    let mut sim = Sim::new(42);
    for index in 0..100 {
        let mut config = config(index, 1);
        if index % 2 == 0 {
            config.facts.wire_max = u16::from(wire::SUMMARIES) - 1;
        }
        sim.start(config, Vec::new());
    }
    sim.until(secs(60), Sim::whole).expect("it forms");
    sim.run(secs(60));
    let exchanged = push_pulls(&sim);
    sim.run(secs(60));
    assert!(push_pulls(&sim) > exchanged, "the old ones go on with exchanges");
    with_untold_records(&mut sim);
    let took = sim.until(secs(120), all_are_told);
    println!("half of 100 are of the version before: known by all after {took:?}");
    assert!(took.is_some());
    // An old core takes for garbage what it does not know.
    for node in &sim.nodes {
        assert_eq!(node.core.stats().refused(Refusal::Malformed), 0);
    }
}

/// Of what was sent: by or to one of the old ones, and between two others; briefly each, and all.
fn brief(sim: &Sim) -> [(usize, usize); 2] {
    let old = |addr| sim.nodes.iter().position(|node| node.addr == addr).unwrap() % 4 == 0;
    let mut counts = [(0, 0); 2];
    for (from, to, bytes) in &sim.tape {
        let (brief, all) = &mut counts[usize::from(!old(*from) && !old(*to))];
        *brief += usize::from(bytes[0] == 2);
        *all += 1;
    }
    counts
}

#[test]
fn what_the_receiver_knows_is_left_out_where_it_understands_that() {
    let mut sim = Sim::new(43);
    for index in 0..16 {
        let mut config = config(index, 1);
        if index % 4 == 0 {
            config.facts.wire_max = u16::from(wire::BRIEF) - 1;
        }
        sim.start(config, Vec::new());
    }
    sim.until(secs(60), Sim::whole).expect("it forms");
    sim.run(secs(30));
    sim.taping = true;
    sim.run(secs(60));
    let [with_old, others] = brief(&sim);
    println!("brief of all: by or to old ones {with_old:?}, between others {others:?}");
    assert!(with_old.0 == 0 && with_old.1 > 500 && others.0 == others.1 && others.1 > 1_000);
    // An old core takes them for a version that it does not know.
    for node in &sim.nodes {
        assert_eq!(node.core.stats().refused(Refusal::Version), 0);
        assert_eq!(node.core.stats().refused(Refusal::Malformed), 0);
    }
    let (tape, from) = (std::mem::take(&mut sim.tape), sim.nodes[1].addr);
    let brief = tape.iter().find(|(by, _, bytes)| *by == from && bytes[0] == 2).unwrap();
    sim.inject(0, from, &brief.2);
    assert_eq!(sim.nodes[0].core.stats().refused(Refusal::Version), 1);
    // A member that starts again is not taken for the one before, nor the other way round.
    sim.kill(5);
    sim.run(secs(1));
    sim.start(config(5, 2), Vec::new());
    assert!(sim.until(secs(30), Sim::whole).is_some(), "{}", sim.describe());
    sim.run(secs(10));
    for node in &sim.nodes {
        assert_eq!(node.core.stats().refused(Refusal::Forged), 0);
    }
}
