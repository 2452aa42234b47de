//! The promises of membership, held against a whole cluster in memory. Each test prints the
//! seeds with which it failed; the same seed runs the same way again.
#![expect(clippy::unwrap_used, reason = "a failed step of a test is a failed test")]

mod distance;
mod inquiry;
mod plain;
mod probe;
mod sim;
mod starved;
mod summary;

use std::time::Duration;

use rand::RngExt;
use sim::*;
use swarmer_gossip::*;
use swarmer_model::NodeId;

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[test]
fn a_killed_member_is_known_by_all_within_three_seconds_at_the_median() {
    let mut times = Vec::new();
    for seed in 0..20 {
        let mut sim = Sim::cluster(seed, 32);
        let more = Duration::from_millis(sim.rng.random_range(0..3000));
        sim.run(more);
        let victim = sim.rng.random_range(0..32);
        sim.kill(victim);
        let took = sim.until(secs(20), |sim| {
            (0..32).all(|by| by == victim || sim.state(by, id(victim)) == Some(MemberState::Down))
        });
        times.push(took.unwrap_or_else(|| panic!("seed {seed}: not known by all")));
    }
    let (p50, p95) = (percentile(&mut times, 50), percentile(&mut times, 95));
    println!("kill known by all 32: p50 {p50:?}, p95 {p95:?}, worst {:?}", times.last());
    assert!(p50 <= secs(3), "p50 {p50:?} of {times:?}");
    assert!(p95 <= secs(6), "p95 {p95:?} of {times:?}");
}

/// With a hundred each pair of those whose probes fail seldom told each other by themselves, and what
/// is known of the ways, by which suspicion lasts, changes while it does.
#[test]
fn accusers_among_many_hear_of_each_other() {
    let mut times = Vec::new();
    for seed in 0..6 {
        let mut sim = Sim::cluster(seed, 100);
        sim.kill(50);
        let took = sim.until(secs(20), |sim| {
            (0..100).all(|by| by == 50 || sim.state(by, id(50)) == Some(MemberState::Down))
        });
        times.push(took.unwrap_or_else(|| panic!("seed {seed}: not known by all")));
    }
    let p50 = percentile(&mut times, 50);
    println!("kill known by all 100: p50 {p50:?}, worst {:?}", times.last());
    assert!(p50 <= Duration::from_millis(3500), "p50 {p50:?} of {times:?}");
}

/// Who misses the gossip of a death learns of it by an exchange: its own probe finds the dead one among
/// so many members after minutes.
#[test]
fn a_death_that_somebody_missed_is_told_again() {
    for seed in 0..3 {
        let mut sim = Sim::new(seed);
        for index in 0..60 {
            let mut config = config(index, 1);
            // Five minutes for a round of all.
            config.timing.probe_period = secs(5);
            config.timing.suspicion_min = secs(5);
            // Nobody waits for that.
            config.timing.push_pull_interval = secs(600);
            sim.start(config, Vec::new());
        }
        assert!(sim.until(secs(30), Sim::whole).is_some(), "seed {seed}: {}", sim.describe());
        // One takes no datagrams for a while; its connections say that it lives.
        for index in (0..60).filter(|index| ![7, 50].contains(index)) {
            sim.nodes[index].connections.0.lock().insert(id(7));
            sim.nodes[7].connections.0.lock().insert(id(index));
        }
        sim.kill(50);
        sim.group[7] = 1;
        let known = |sim: &mut Sim, by| sim.state(by, id(50)) == Some(MemberState::Down);
        let by_all = |sim: &mut Sim| (0..60).all(|by| [7, 50].contains(&by) || known(sim, by));
        assert!(sim.until(secs(90), by_all).is_some(), "seed {seed}: not known by all others");
        // Gossip of it is over within this.
        sim.run(secs(3));
        sim.group[7] = 0;
        assert!(!known(&mut sim, 7), "seed {seed}: it missed nothing");
        let told = sim.until(secs(30), |sim| known(sim, 7));
        assert!(told.is_some(), "seed {seed}: {:?}", sim.seen(7, id(50)));
        assert!(sim.until(secs(30), Sim::whole).is_some(), "seed {seed}: {}", sim.describe());
    }
}

/// A list of half the cluster as dead is of one that was cut off, and says nothing of those that live
/// beside its reader.
#[test]
fn nobody_doubts_its_own_half_by_the_word_of_the_other() {
    let mut sim = Sim::new(21);
    for index in 0..32 {
        let mut config = config(index, 1);
        // Without summaries each exchanges everything every half a minute.
        config.facts.wire_max = u16::from(swarmer_model::wire::SUMMARIES) - 1;
        sim.start(config, Vec::new());
    }
    assert!(sim.until(secs(30), Sim::whole).is_some(), "{}", sim.describe());
    sim.group[16..].fill(1);
    let dead = |sim: &mut Sim| (16..32).all(|of| sim.state(0, id(of)) == Some(MemberState::Down));
    assert!(sim.until(secs(60), dead).is_some(), "the halves did not part");
    sim.run(secs(40));
    let list = sim.nodes[0].exchanged.clone().unwrap();
    sim.with(31, |core, now| core.serve_push_pull(now, id(0), &list)).unwrap();
    for of in 16..31 {
        assert_eq!(sim.state(31, id(of)), Some(MemberState::Alive), "{of}");
    }
}

/// No member may have been seen down by anyone.
fn assert_nobody_died(sim: &Sim) {
    for node in &sim.nodes {
        for (at, who, _, after, why) in &node.changes {
            assert!(
                *after != MemberState::Down,
                "seed {}: {} saw {who} down at {at:?}: {why}",
                sim.seed,
                node.id
            );
        }
    }
}

/// Simulated minutes of the loss tests; 60 is the promise.
fn minutes() -> u64 {
    std::env::var("SWARMER_SIM_MINUTES").ok().and_then(|text| text.parse().ok()).unwrap_or(60)
}

/// A cluster that lived for a while with this loss.
fn lossy(seed: u64, loss: f64, minutes: u64) -> Sim {
    let mut sim = Sim::cluster(seed, 32);
    sim.loss = loss;
    sim.run(secs(60 * minutes));
    let probes: u64 = sim.nodes.iter().map(|node| node.core.stats().probes_failed).sum();
    let bytes: u64 = sim.nodes.iter().map(|node| node.core.stats().bytes_out).sum();
    println!(
        "{minutes} simulated minutes at {loss} of loss: {probes} probes failed; {} bytes/s a node",
        bytes / 32 / (60 * minutes)
    );
    sim
}

#[test]
fn one_percent_of_loss_kills_nobody() {
    assert_nobody_died(&lossy(77, 0.01, minutes()));
}

/// More than is promised; false deaths begin between 10 and 20 percent.
#[test]
fn five_percent_of_loss_kills_nobody_either() {
    assert_nobody_died(&lossy(78, 0.05, minutes()));
}

/// That the two above can fail: at this loss some are called dead, and come back.
#[test]
fn too_much_loss_kills_a_few_and_heals() {
    let mut sim = lossy(78, 0.5, 5);
    let mut deaths: Vec<(Duration, NodeId)> = Vec::new();
    for node in &sim.nodes {
        for (at, who, _, after, _) in &node.changes {
            // One false death is seen by many, within seconds.
            let known =
                deaths.iter().any(|(first, dead)| dead == who && at.abs_diff(*first) < secs(10));
            if *after == MemberState::Down && !known {
                deaths.push((*at, *who));
            }
        }
    }
    assert!((1..=15).contains(&deaths.len()), "{deaths:?}");
    sim.loss = 0.0;
    sim.until(secs(10), Sim::whole).expect("without loss all are seen alive again");
}

#[test]
fn halves_that_meet_again_are_whole_within_ten_seconds() {
    let mut times = Vec::new();
    for seed in 0..4 {
        let mut sim = Sim::cluster(seed, 32);
        for index in 16..32 {
            sim.group[index] = 1;
        }
        let apart = sim.until(secs(60), |sim| {
            sim.state(0, id(31)) == Some(MemberState::Down)
                && sim.state(31, id(0)) == Some(MemberState::Down)
        });
        assert!(apart.is_some(), "seed {seed}: the halves did not part");
        sim.run(secs(20));
        sim.group.fill(0);
        let healed = sim.until(secs(60), |sim| sim.whole());
        times.push(healed.unwrap_or_else(|| panic!("seed {seed}: {}", sim.describe())));
    }
    println!("healed after {times:?}");
    assert!(percentile(&mut times, 100) <= secs(10), "{times:?}");
}

#[test]
fn a_node_that_starts_again_is_the_same_member() {
    // Before its death was noticed, and after.
    for wait in [Duration::from_millis(300), secs(15)] {
        let mut sim = Sim::cluster(5, 8);
        let known = sim.nodes[3].core.known_members();
        assert_eq!(known.len(), 7);
        sim.kill(3);
        sim.run(wait);
        // Without its seeds, and at another address: the members of the last run are enough.
        let mut again = moved(3, 2, 100);
        again.seeds.clear();
        sim.start(again, known);
        let back = sim.until(secs(10), |sim| sim.whole());
        assert!(back.is_some(), "{}", sim.describe());
        for by in (0..8).filter(|by| *by != 3) {
            let members = sim.nodes[by].core.members();
            assert_eq!(members.len(), 8, "one member, not two");
            let member = sim.seen(by, id(3)).unwrap();
            assert_eq!((member.boot, member.addr), (2, addr(100)));
        }
    }
}

/// A copied data directory: the later start takes the member's place. The other process is deaf
/// from then on, and hears why over a stream.
#[test]
fn a_node_hears_of_another_process_with_its_key() {
    for seed in 0..10 {
        let mut sim = Sim::cluster(seed, 5);
        sim.nodes[3].connections.0.lock().extend((0..5).map(id));
        let copy = sim.start_copy(moved(3, 2, 100));
        assert_eq!(copy, 5);
        let told = sim.until(secs(10), |sim| !sim.nodes[3].twins.is_empty());
        assert!(told.is_some(), "seed {seed}");
        assert_eq!(sim.nodes[3].twins[0], Twin { boot: 2, addr: Some(addr(100)) });
        sim.run(secs(30));
        for node in sim.nodes.iter().filter(|node| node.id != id(3)) {
            assert_eq!(node.twins, [], "seed {seed}: {} has no twin", node.id);
        }
    }
}

#[test]
fn a_node_that_moved_and_started_again_is_no_twin_of_itself() {
    let mut sim = Sim::cluster(5, 5);
    sim.kill(3);
    sim.start(moved(3, 2, 100), Vec::new());
    sim.run(secs(60));
    assert!(sim.nodes.iter().all(|node| node.twins.is_empty()));
}

#[test]
fn a_node_hears_that_a_copy_of_it_ran_with_the_number_of_its_start() {
    // The copy is gone, and had the address that the node has now.
    let mut sim = Sim::cluster(7, 5);
    sim.kill(3);
    sim.start(config(3, 2), Vec::new());
    sim.run(secs(10));
    for n in 0..5 {
        let update =
            RecordUpdate::Endpoints(vec![endpoint(&format!("f{n}"), EndpointState::Ready)]);
        sim.with(3, |core, now| core.publish(now, update)).unwrap();
        sim.run(secs(3));
    }
    sim.kill(3);
    sim.start(config(3, 2), Vec::new());
    let told = sim.until(secs(60), |sim| !sim.nodes[3].twins.is_empty());
    assert!(told.is_some());
    assert_eq!(sim.nodes[3].twins[0], Twin { boot: 2, addr: Some(addr(3)) });
}

#[test]
fn who_leaves_is_seen_as_left_and_never_as_down() {
    let mut sim = Sim::cluster(6, 32);
    sim.loss = 0.01;
    sim.with(9, |core, now| core.leave(now)).unwrap();
    sim.run(LEAVE_LINGER);
    assert!(sim.nodes[9].core.has_left());
    sim.kill(9);
    let seen = sim.until(secs(5), |sim| {
        (0..32).all(|by| by == 9 || sim.state(by, id(9)) == Some(MemberState::Left))
    });
    assert!(seen.is_some());
    sim.run(secs(20));
    for by in (0..32).filter(|by| *by != 9) {
        assert_eq!(sim.state(by, id(9)), Some(MemberState::Left));
    }
    assert_nobody_died(&sim);
    // And it may come back.
    sim.start(config(9, 2), Vec::new());
    assert!(sim.until(secs(10), |sim| sim.whole()).is_some(), "{}", sim.describe());
}

#[test]
fn a_late_joiner_sees_all_records_with_and_without_streams() {
    for streams in [true, false] {
        let mut sim = Sim::cluster(7, 32);
        sim.streams = streams;
        sim.run(secs(10));
        sim.start(config(32, 1), Vec::new());
        let most = if streams { secs(2) } else { secs(15) };
        let whole = sim.until(most, |sim| sim.whole());
        assert!(whole.is_some(), "streams {streams}: {}", sim.describe());
        println!("late joiner, streams {streams}: whole after {whole:?}");
    }
}

/// How long until all see the endpoint of `by` in this state.
fn spread(sim: &mut Sim, by: usize, state: EndpointState) -> Duration {
    let update = RecordUpdate::Endpoint(endpoint("hello", state));
    sim.with(by, |core, now| core.publish(now, update)).unwrap();
    let n = sim.nodes.len();
    let took = sim.until(secs(30), |sim| {
        (0..n).all(|other| {
            sim.nodes[other].core.catalog().get(id(by)).is_some_and(|record| {
                record
                    .facts
                    .endpoints
                    .iter()
                    .any(|e| e.function == "default/hello" && e.state == state)
            })
        })
    });
    took.unwrap_or_else(|| panic!("seed {}: the record did not spread", sim.seed))
}

#[test]
fn a_changed_record_reaches_all_within_a_second() {
    let mut sim = Sim::cluster(8, 32);
    sim.loss = 0.01;
    let mut times = Vec::new();
    for round in 0..100 {
        let state = if round % 2 == 0 { EndpointState::Ready } else { EndpointState::Draining };
        times.push(spread(&mut sim, round / 2 % 32, state));
    }
    let (p50, p99) = (percentile(&mut times, 50), percentile(&mut times, 99));
    println!("record known by all 32 at 1 % loss: p50 {p50:?}, p99 {p99:?}");
    assert!(p99 <= secs(1), "{p99:?}");
}

#[test]
fn a_record_too_large_for_a_datagram_reaches_all_within_a_second() {
    let mut sim = Sim::cluster(9, 32);
    let many = (0..200).map(|n| endpoint(&format!("function-{n}"), EndpointState::Ready)).collect();
    sim.with(4, |core, now| core.publish(now, RecordUpdate::Endpoints(many))).unwrap();
    sim.run(secs(3));
    let mut times = Vec::new();
    for round in 0..20 {
        let state = if round % 2 == 0 { EndpointState::Ready } else { EndpointState::Draining };
        times.push(spread(&mut sim, 4, state));
    }
    let p99 = percentile(&mut times, 99);
    println!("large record known by all 32: p99 {p99:?}");
    assert!(p99 <= secs(1), "{p99:?}");
}

/// All that could have been changed by a packet.
fn picture(sim: &mut Sim, of: usize) -> Vec<(Member, Option<(u64, u64)>)> {
    let members = sim.nodes[of].core.members();
    members.iter().map(|m| (m.clone(), m.record.as_ref().map(|r| r.stamp()))).collect()
}

#[test]
fn forged_replayed_foreign_and_garbage_packets_change_nothing() {
    let mut sim = Sim::cluster(10, 4);
    sim.taping = true;
    sim.run(secs(5));
    spread(&mut sim, 1, EndpointState::Ready);
    sim.taping = false;
    let tape = std::mem::take(&mut sim.tape);
    // What was on its way between these has arrived.
    sim.run(Duration::from_millis(5));
    let before = picture(&mut sim, 0);
    sim.nodes[0].refused.clear();
    let mut expected = 0;
    // All that was ever sent, to whomever; the last packets to node 0 too.
    for (from, _, bytes) in tape.iter().filter(|(from, _, _)| *from != addr(0)) {
        sim.inject(0, *from, bytes);
        expected += 1;
        // Every byte of it counts.
        let mut damaged = bytes.to_vec();
        let at = sim.rng.random_range(0..damaged.len());
        damaged[at] ^= 1 << sim.rng.random_range(0..8);
        sim.inject(0, *from, &damaged);
        let cut = sim.rng.random_range(0..bytes.len());
        sim.inject(0, *from, &bytes[..cut]);
        expected += 2;
    }
    // Good seals: of a foreign cluster, of a node that is not admitted, with another key, in an
    // earlier start's name, to an earlier start of ours.
    let mut seal = |cluster, node, boot, ring: Keyring, to: (NodeId, u64)| {
        let mut envelope = Envelope::new(cluster, node, boot, ring, [3; 32]);
        let mut last = bytes::Bytes::new();
        for _ in 0..1_000 {
            last = envelope.seal(Some(to), b"anything", false).unwrap();
        }
        sim.inject(0, addr(1), &last);
        let (_, reason) = sim.nodes[0].refused.last().copied().unwrap();
        expected += 1;
        reason
    };
    let ring = || Keyring::new(1, Key([1; 32]));
    let us = (id(0), 1);
    assert_eq!(seal(swarmer_model::ClusterId(9), id(1), 1, ring(), us), Refusal::ForeignCluster);
    assert_eq!(seal(CLUSTER, id(99), 1, ring(), us), Refusal::NotAdmitted);
    assert_eq!(seal(CLUSTER, id(1), 1, Keyring::new(2, Key([1; 32])), us), Refusal::UnknownKey);
    assert_eq!(seal(CLUSTER, id(1), 1, Keyring::new(1, Key([2; 32])), us), Refusal::Forged);
    assert_eq!(seal(CLUSTER, id(1), 0, ring(), us), Refusal::OldBoot);
    assert_eq!(seal(CLUSTER, id(1), 1, ring(), (id(0), 0)), Refusal::NotForUs);
    assert_eq!(seal(CLUSTER, id(0), 1, ring(), us), Refusal::FromOurselves);
    // The seal is good, the content is not.
    assert_eq!(seal(CLUSTER, id(1), 1, ring(), us), Refusal::Malformed);
    let refused = sim.nodes[0].refused.len();
    assert_eq!(refused, expected, "each is refused with a reason");
    let stats = sim.nodes[0].core.stats();
    assert!(stats.refused(Refusal::Replayed) > 0 && stats.refused(Refusal::Forged) > 0);
    assert_eq!(picture(&mut sim, 0), before);
}

#[test]
fn a_forged_or_old_record_changes_nothing() {
    let cluster = CLUSTER;
    let record = |version| Record {
        node: id(1),
        boot: 1,
        version,
        left: false,
        facts: Facts { name: format!("v{version}"), ..Facts::default() },
    };
    let admitted = Admitted::default();
    admitted.0.lock().extend([id(1), id(2)]);
    let mut catalog = Catalog::new(cluster);
    let good = record(2).sign(cluster, &Hashes(id(1))).unwrap();
    assert!(catalog.merge(good.clone(), &admitted, &Verifies).unwrap().is_some());
    // The same again is no news.
    assert_eq!(catalog.merge(good.clone(), &admitted, &Verifies), Ok(None));
    let mut refuse = |signed, reason| {
        assert_eq!(catalog.merge(signed, &admitted, &Verifies), Err((reason, Some(id(1)))));
        assert_eq!(catalog.get(id(1)).unwrap().version, 2);
    };
    // Another member, and another cluster.
    refuse(record(3).sign(cluster, &Hashes(id(2))).unwrap(), Refusal::ForgedRecord);
    let foreign = record(3).sign(swarmer_model::ClusterId(9), &Hashes(id(1))).unwrap();
    refuse(foreign, Refusal::ForgedRecord);
    refuse(record(1).sign(cluster, &Hashes(id(1))).unwrap(), Refusal::StaleRecord);
    let mut twin = record(2);
    twin.facts.name = "another".into();
    refuse(twin.sign(cluster, &Hashes(id(1))).unwrap(), Refusal::StaleRecord);
    let mut removed = good;
    removed.bytes.clear();
    assert_eq!(catalog.merge(removed, &admitted, &Verifies), Err((Refusal::Malformed, None)));
    let stranger = Record { node: id(7), ..record(1) }.sign(cluster, &Hashes(id(7))).unwrap();
    let refused = catalog.merge(stranger, &admitted, &Verifies);
    assert_eq!(refused, Err((Refusal::NotAdmitted, Some(id(7)))));
}

#[test]
fn keys_rotate_without_a_lost_member() {
    let mut sim = Sim::cluster(11, 8);
    let all = |sim: &mut Sim, ring: &Keyring| {
        for index in 0..8 {
            sim.with(index, |core, now| core.set_keyring(now, ring.clone())).unwrap();
            // No two nodes change at the same time.
            sim.run(Duration::from_millis(700));
        }
        // Everybody hears of everybody which keys it has.
        sim.run(secs(5));
        for (by, of) in (0..8).flat_map(|by| (0..8).map(move |of| (by, of))) {
            let record = sim.seen(by, id(of)).unwrap().record.unwrap();
            assert_eq!(record.facts.keys, ring.held(), "{of} as {by} sees it");
        }
    };
    let mut ring = Keyring::new(1, Key([1; 32]));
    ring.add(2, Key([2; 32])).unwrap();
    all(&mut sim, &ring);
    ring.set_primary(2).unwrap();
    all(&mut sim, &ring);
    all(&mut sim, &Keyring::new(2, Key([2; 32])));
    sim.run(secs(20));
    assert!(sim.whole());
    assert_nobody_died(&sim);
    for node in &sim.nodes {
        assert_eq!(node.core.stats().refused(Refusal::UnknownKey), 0);
    }
    // And one that only has the old key is out.
    sim.start(config(8, 1), Vec::new());
    sim.run(secs(10));
    assert_eq!(sim.state(0, id(8)), None);
    assert!(sim.nodes[0].core.stats().refused(Refusal::UnknownKey) > 0);
}

#[test]
fn a_node_that_stood_still_blames_nobody_and_comes_back() {
    let mut sim = Sim::cluster(12, 8);
    sim.nodes[2].paused = true;
    sim.run(secs(20));
    assert_eq!(sim.state(0, id(2)), Some(MemberState::Down));
    sim.resume(2);
    let back = sim.until(secs(10), |sim| sim.whole());
    assert!(back.is_some(), "{}", sim.describe());
    assert!(sim.nodes[2].core.stats().stalls > 0);
    for (at, who, _, after, why) in &sim.nodes[2].changes {
        assert!(*after != MemberState::Down, "it saw {who} down at {at:?}: {why}");
    }
}

#[test]
fn who_stopped_in_good_order_is_not_told_as_one_who_fell_silent() {
    for stops in [true, false] {
        let mut sim = Sim::cluster(21, 8);
        sim.run(secs(3));
        if stops {
            sim.with(5, |core, now| core.publish(now, RecordUpdate::Draining(true))).unwrap();
            sim.run(secs(1));
        }
        sim.kill(5);
        let gone = sim.until(secs(20), |sim| {
            (0..8).all(|by| by == 5 || sim.state(by, id(5)) == Some(MemberState::Down))
        });
        assert!(gone.is_some(), "{}", sim.describe());
        for by in (0..8).filter(|by| *by != 5) {
            let reason = sim.seen(by, id(5)).unwrap().reason;
            assert_eq!(reason.contains("stopped in good order"), stops, "{by}: {reason}");
            for (_, who, _, after, why) in &sim.nodes[by].changes {
                let silent = *after != MemberState::Alive && *who == id(5);
                assert!(!silent || why.contains("stopped in good order") == stops, "{by}: {why}");
            }
        }
    }
}

#[test]
fn a_live_connection_vetoes_down() {
    let mut sim = Sim::cluster(13, 8);
    sim.nodes[0].connections.0.lock().insert(id(5));
    sim.kill(5);
    sim.run(secs(15));
    assert_eq!(sim.state(1, id(5)), Some(MemberState::Down));
    let held = sim.seen(0, id(5)).unwrap();
    assert_eq!(held.state, MemberState::Suspect, "{}", held.reason);
    sim.nodes[0].connections.0.lock().clear();
    // It is looked at each second, not only when all members are.
    let gone = sim.until(secs(2), |sim| sim.state(0, id(5)) == Some(MemberState::Down));
    assert!(gone.is_some());
    let reason = sim.seen(1, id(5)).unwrap().reason;
    assert!(reason.contains("reported") || reason.contains("unanswered"), "{reason}");
}

#[test]
fn a_suspect_that_nobody_told_is_told_when_it_is_probed() {
    // Datagrams are cut, connections are not: all suspect it, none declares it dead, and what
    // they told it about that is lost.
    let mut sim = Sim::cluster(16, 5);
    for node in &sim.nodes[..4] {
        node.connections.0.lock().insert(id(4));
    }
    sim.group[4] = 1;
    sim.run(secs(10));
    for index in 0..4 {
        assert_eq!(sim.state(index, id(4)), Some(MemberState::Suspect), "{index}");
    }
    sim.group[4] = 0;
    // Two rounds of probes.
    let whole = sim.until(secs(5), |sim| sim.whole());
    assert!(whole.is_some(), "{}", sim.describe());
}

#[test]
fn seeds_are_tried_for_ever_and_resolved_again() {
    let mut sim = Sim::new(14);
    let mut first = config(0, 1);
    first.seeds.clear();
    sim.start(first, Vec::new());
    let mut second = config(1, 1);
    second.seeds = vec!["seed.test:7400".into()];
    sim.start(second, Vec::new());
    // The name leads nowhere at first, then to somewhere else, then to the seed.
    sim.run(secs(120));
    sim.names.insert("seed.test:7400".into(), vec![addr(77)]);
    sim.run(secs(120));
    assert!(!sim.whole());
    sim.names.insert("seed.test:7400".into(), vec![addr(77), addr(0)]);
    assert!(sim.until(secs(15), |sim| sim.whole()).is_some(), "{}", sim.describe());
    // Not a flood: the wait grows to ten seconds.
    let sent = sim.nodes[1].sent;
    assert!(sent < 60, "{sent} datagrams in four minutes alone");
}

#[test]
fn who_is_not_admitted_any_more_is_gone() {
    let mut sim = Sim::cluster(15, 8);
    sim.admitted.0.lock().remove(&id(6));
    // Who is told at once, and who is not when it next looks at all.
    for by in 0..6 {
        sim.with(by, |core, now| core.admission_changed(now));
        assert_eq!(sim.state(by, id(6)), None);
    }
    sim.run(secs(11));
    for by in (0..8).filter(|by| *by != 6) {
        assert_eq!(sim.state(by, id(6)), None);
        assert!(sim.nodes[by].core.catalog().get(id(6)).is_none());
    }
    let answer = sim.with(0, |core, now| core.serve_push_pull(now, id(6), b""));
    assert!(matches!(answer, Err(GossipError::NotAdmitted(_))));
    sim.run(secs(30));
    for by in (0..8).filter(|by| *by != 6) {
        assert_eq!(sim.state(by, id(6)), None);
    }
}

#[test]
fn malformed_exchanges_are_errors() {
    let mut sim = Sim::cluster(16, 3);
    let before = picture(&mut sim, 0);
    for bytes in [&b""[..], b"\0", &[0xff; 300]] {
        let answer = sim.with(0, |core, now| core.serve_push_pull(now, id(1), bytes));
        assert!(matches!(answer, Err(GossipError::Malformed { .. })), "{answer:?}");
    }
    assert_eq!(picture(&mut sim, 0), before);
}
