//! How faults are drawn.

use super::{
    change::Change,
    fault::{Fault, Loss, Who},
    field::Field,
    kind::Kind,
    topology::Shape,
};
use crate::{
    cluster::{Calls, Ill, Quality},
    seed::Seeded,
};

/// How wrong a clock is, in milliseconds, one way or the other.
const WRONG_MS: [i64; 5] = [3_600_000, 3_600_000, 60_000, 5_000, 300];

/// How far the clocks of regions are apart, in milliseconds; in turn.
const APART_MS: [i64; 3] = [0, 3_600_000, -3_600_000];

/// How long a link that flaps is cut, and how long it is not, in milliseconds: from less than a heartbeat
/// to more than elections take.
const CUT_MS: (u64, u64) = (100, 9_000);
const MENDED_MS: (u64, u64) = (100, 5_000);

/// The next fault; `rest_ms` are left for it.
pub(super) fn draw(random: &mut Seeded, kinds: &[Kind], field: &Field, rest_ms: u64) -> Fault {
    let nodes = field.nodes();
    match kinds[random.index(kinds.len())] {
        Kind::Kill => {
            Fault::Kill { who: who(random, nodes, 20), down_ms: short(random, 100, 6_000) }
        }
        Kind::Pause => {
            Fault::Pause { who: who(random, nodes, 10), for_ms: short(random, 100, 30_000) }
        }
        Kind::Storm => Fault::Storm {
            who: who(random, nodes, 15),
            times: random.between(3, 6),
            each_ms: random.between(400, 2_000),
        },
        Kind::Partition => {
            Fault::Partition { shape: shape(random, nodes), for_ms: short(random, 500, 12_000) }
        }
        Kind::Flapping => Fault::Flapping {
            shape: shape(random, nodes),
            times: random.between(3, 8),
            each_ms: random.between(300, 2_000),
        },
        Kind::Outage => Fault::Kill { who: Who::All, down_ms: short(random, 10, 800) },
        Kind::Loss => Fault::Loss {
            percent: u8::try_from(random.between(5, 40)).unwrap_or(5),
            for_ms: random.between(2_000, 8_000),
        },
        Kind::Power => {
            Fault::Power { who: who(random, nodes, 50), down_ms: short(random, 10, 1_500) }
        }
        Kind::Brownout => Fault::Brownout {
            who: who(random, nodes, 50),
            times: random.between(2, 5),
            each_ms: random.between(200, 2_000),
        },
        Kind::Relapse => Fault::Relapse {
            who: who(random, nodes, 50),
            up_ms: short(random, 50, 2_000),
            down_ms: short(random, 10, 500),
        },
        Kind::Amnesia => amnesia(random, Loss::Power),
        Kind::Wipe => amnesia(random, Loss::Log),
        Kind::Reopen => amnesia(random, Loss::Reopen),
        Kind::Revote => Fault::Revote {
            first: random.chance(50),
            // Long enough for clients to find the first leader again.
            alone_ms: random.between(3_000, 5_000),
        },
        Kind::Full => {
            Fault::Full { who: who(random, nodes, 15), for_ms: random.between(2_000, 15_000) }
        }
        Kind::Pull => {
            Fault::Pull { who: who(random, nodes, 10), for_ms: short(random, 200, 4_000) }
        }
        Kind::Eio => Fault::Ill {
            who: who(random, nodes, 10),
            ill: Ill {
                calls: match random.below(10) {
                    0..5 => Calls::Sync,
                    5..8 => Calls::Write,
                    _ => Calls::Read,
                },
                percent: percent(random, 5, 60),
                fails: true,
                delay_ms: 0,
                seed: word(random),
            },
            for_ms: random.between(500, 6_000),
        },
        Kind::SlowDisk => Fault::Ill {
            who: who(random, nodes, 15),
            ill: Ill {
                calls: if random.chance(70) { Calls::Sync } else { Calls::Write },
                percent: percent(random, 5, 60),
                fails: false,
                delay_ms: small(random, 10, 1_500),
                seed: word(random),
            },
            for_ms: random.between(1_000, 8_000),
        },
        Kind::Delay => degrade(random, nodes, |random| Quality {
            delay_ms: small(random, 2, 400),
            jitter_ms: small(random, 0, 200),
            ..Quality::default()
        }),
        Kind::Jumble => degrade(random, nodes, |random| Quality {
            delay_ms: small(random, 0, 10),
            jitter_ms: small(random, 0, 20),
            reorder: share(random, 5, 40),
            duplicate: share(random, 0, 40),
            ..Quality::default()
        }),
        Kind::Throttle => degrade(random, nodes, |random| Quality {
            delay_ms: small(random, 0, 50),
            kbit: small(random, 64, 4_096),
            ..Quality::default()
        }),
        Kind::Clock => Fault::Clock {
            who: who(random, nodes, 10),
            by_ms: wrong(random),
            for_ms: random.between(500, 8_000),
        },
        Kind::Strobe => Fault::Strobe {
            who: who(random, nodes, 10),
            by_ms: wrong(random),
            times: random.between(4, 20),
            each_ms: random.between(60, 600),
        },
        Kind::Rolling => {
            Fault::Rolling { order: order(random, nodes), calm_ms: random.between(300, 2_500) }
        }
        // Long enough for something to be said while the cluster is mixed.
        Kind::Upgrade => {
            Fault::Upgrade { order: order(random, nodes), calm_ms: random.between(1_000, 3_000) }
        }
        Kind::Membership => Fault::Membership {
            changes: Change::draw(random, nodes),
            calm_ms: random.between(100, 800),
        },
        Kind::Blackout => Fault::Blackout {
            nodes: field.groups()[random.index(field.groups().len())].clone(),
            down_ms: random.between(1_500, 6_000),
        },
        // Long enough for a version to come and go that they never hear of.
        Kind::Return => Fault::Return {
            nodes: field.groups()[random.index(field.groups().len())].clone(),
            cut: random.chance(30),
            for_ms: random.between(9_000, 14_000),
        },
        Kind::Pairs => {
            let mut shapes = pairs(field);
            random.shuffle(&mut shapes);
            // Long enough for each side to give the other one up, and to elect.
            let (for_ms, calm_ms) = (random.between(2_000, 3_500), random.between(500, 1_500));
            Fault::Pairs { shapes, for_ms, calm_ms }
        }
        Kind::Flap => {
            let shapes = pairs(field);
            Fault::Flapping {
                shape: shapes[random.index(shapes.len())].clone(),
                times: random.between(3, 8),
                each_ms: random.between(300, 2_000),
            }
        }
        Kind::Flaps => flaps(random, field, rest_ms),
        Kind::Apart => {
            let first = random.index(APART_MS.len());
            let mut by_ms = vec![0; nodes];
            for (region, group) in field.groups().iter().enumerate() {
                group.iter().for_each(|node| {
                    by_ms[*node] = APART_MS[(first + region) % APART_MS.len()];
                });
            }
            Fault::Apart { by_ms, for_ms: random.between(6_000, 12_000) }
        }
        Kind::Turns => turns(random, field),
        // Round trips of 320 to 360 ms: more than a heartbeat that is twice as slow for silence's sake
        // bears, and less than the slowest one that follows them.
        Kind::Stretch => Fault::Stretch {
            delay_ms: 160 + small(random, 0, 20),
            for_ms: random.between(28_000, 30_000),
        },
    }
}

/// Who leaves stands where another node is left that can have its vote.
fn turns(random: &mut Seeded, field: &Field) -> Fault {
    let mut regions = field.groups().to_vec();
    let leaves = regions.iter_mut().rfind(|nodes| nodes.len() > 1).map(|nodes| nodes.remove(0));
    random.shuffle(&mut regions);
    let (down_ms, calm_ms) = (random.between(24_000, 25_000), random.between(5_000, 6_000));
    Fault::Turns { leaves, regions, down_ms, calm_ms }
}

/// One pair of regions for all the time that is left; once at least.
fn flaps(random: &mut Seeded, field: &Field, rest_ms: u64) -> Fault {
    let shapes = pairs(field);
    let shape = shapes[random.index(shapes.len())].clone();
    let (mut beats, mut lasts) = (Vec::new(), 0);
    loop {
        let beat = (short(random, CUT_MS.0, CUT_MS.1), short(random, MENDED_MS.0, MENDED_MS.1));
        lasts += beat.0 + beat.1;
        if lasts > rest_ms && !beats.is_empty() {
            return Fault::Flaps { shape, beats };
        }
        beats.push(beat);
    }
}

/// Every pair of regions, cut off from each other.
fn pairs(field: &Field) -> Vec<Shape> {
    let groups = field.groups();
    let pairs = (0..groups.len()).flat_map(|a| (a + 1..groups.len()).map(move |b| (a, b)));
    pairs.map(|(a, b)| Shape::Between(groups[a].clone(), groups[b].clone())).collect()
}

fn degrade(random: &mut Seeded, nodes: usize, quality: impl Fn(&mut Seeded) -> Quality) -> Fault {
    Fault::Degrade {
        shape: (!random.chance(40)).then(|| shape(random, nodes)),
        quality: quality(random),
        for_ms: random.between(1_000, 10_000),
    }
}

/// All of them in half of the cases.
fn percent(random: &mut Seeded, low: u64, high: u64) -> u32 {
    if random.chance(50) { 100 } else { small(random, low, high) }
}

fn small(random: &mut Seeded, low: u64, high: u64) -> u32 {
    u32::try_from(short(random, low, high)).unwrap_or(u32::MAX)
}

fn share(random: &mut Seeded, low: u64, high: u64) -> u8 {
    u8::try_from(random.between(low, high)).unwrap_or(u8::MAX)
}

fn word(random: &mut Seeded) -> u32 {
    u32::try_from(random.below(1 << 32)).unwrap_or(0)
}

fn wrong(random: &mut Seeded) -> i64 {
    let by_ms = WRONG_MS[random.index(WRONG_MS.len())];
    if random.chance(50) { by_ms } else { -by_ms }
}

fn amnesia(random: &mut Seeded, loss: Loss) -> Fault {
    Fault::Amnesia {
        loss,
        first: random.chance(50),
        missing_ms: random.between(1_000, 2_500),
        // Long enough to elect another leader, and for clients to find it.
        alone_ms: random.between(4_000, 6_000),
    }
}

/// Between the two, short ones more often.
fn short(random: &mut Seeded, low: u64, high: u64) -> u64 {
    let high = random.between(low, high);
    random.between(low, high)
}

fn who(random: &mut Seeded, nodes: usize, all_percent: u64) -> Who {
    if random.chance(all_percent) {
        Who::All
    } else if random.chance(50) {
        Who::Leader
    } else {
        Who::One(random.index(nodes))
    }
}

fn order(random: &mut Seeded, nodes: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..nodes).collect();
    random.shuffle(&mut order);
    order
}

fn shape(random: &mut Seeded, nodes: usize) -> Shape {
    let order = order(random, nodes);
    // A ring of three is no partition.
    match random.below(if nodes > 3 { 6 } else { 5 }) {
        0 | 1 => Shape::Leader,
        2 => Shape::Halves(order[..nodes / 2].to_vec()),
        3 => Shape::OneWay(order[0], order[1]),
        4 => Shape::Bridge(nodes / 2),
        _ => Shape::Ring(order),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Regions;

    const THREE: Regions = Regions {
        names: &["eu", "us", "ap"],
        of: &[0, 0, 1, 1, 2],
        between: &[],
        within: Quality::PERFECT,
    };

    #[test]
    fn regions_are_lost_whole_cut_off_in_pairs_and_an_hour_apart() {
        let field = Field::new(5, Some(&THREE));
        for seed in 0..50 {
            let of = |kind| draw(&mut Seeded::new(seed, "x"), &[kind], &field, 60_000);
            let Fault::Blackout { nodes, .. } = of(Kind::Blackout) else { panic!("another") };
            assert!(THREE.groups().contains(&nodes), "{nodes:?} is no region");
            let Fault::Return { nodes, .. } = of(Kind::Return) else { panic!("another") };
            assert!(THREE.groups().contains(&nodes), "{nodes:?} is no region");
            let Fault::Pairs { shapes, .. } = of(Kind::Pairs) else { panic!("another") };
            let cuts: Vec<usize> = shapes.iter().map(|shape| shape.cuts(5, 0).len()).collect();
            assert_eq!((cuts.len(), cuts.iter().sum::<usize>()), (3, 16), "{shapes:?}");
            let Fault::Flaps { shape, beats } = of(Kind::Flaps) else { panic!("another") };
            assert!(matches!(shape, Shape::Between(..)), "{shape}");
            let lasts: u64 = beats.iter().map(|(cut, calm)| cut + calm).sum();
            assert!((45_000..=60_000).contains(&lasts), "{lasts} ms of what is left");
            let Fault::Turns { leaves, mut regions, .. } = of(Kind::Turns) else {
                panic!("another")
            };
            regions.sort();
            assert_eq!((leaves, regions), (Some(2), vec![vec![0, 1], vec![3], vec![4]]));
            let Fault::Apart { by_ms, .. } = of(Kind::Apart) else { panic!("another") };
            assert!(by_ms[0] == by_ms[1] && by_ms[2] == by_ms[3], "{by_ms:?}");
            let mut each = [by_ms[0], by_ms[2], by_ms[4]];
            each.sort_unstable();
            assert_eq!(each, [-3_600_000, 0, 3_600_000]);
        }
    }
}
