//! Which fault strikes when: a pure function of the seed.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use super::topology::Shape;
use crate::seed::Seeded;

/// No fault begins so early: clients need something to lose.
const FIRST_MS: u64 = 3_000;
/// Between the end of one fault and the beginning of the next.
const CALM_MS: (u64, u64) = (500, 5_000);
/// In percent: how often the next fault begins while the one before goes on.
const OVERLAP: u64 = 25;

/// The kinds that a scenario may allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// kill -9, and a start some time later.
    Kill,
    /// SIGSTOP, and SIGCONT 0.1 to 30 s later.
    Pause,
    /// Killed and started again and again.
    Storm,
    /// A partition.
    Partition,
    /// A partition that comes and goes.
    Flapping,
    /// Packets are lost at random.
    Loss,
    /// Every node killed at once, and started again before anybody would be missed.
    Outage,
}

/// Whom it strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Who {
    /// This node.
    One(usize),
    /// The leader, as it is then.
    Leader,
    /// Every node at once.
    All,
}

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Killed, and started after this time.
    Kill {
        /// Whom.
        who: Who,
        /// Milliseconds until the start.
        down_ms: u64,
    },
    /// Stopped, and continued after this time.
    Pause {
        /// Whom.
        who: Who,
        /// Milliseconds.
        for_ms: u64,
    },
    /// Killed and started so many times.
    Storm {
        /// Whom.
        who: Who,
        /// How often.
        times: u64,
        /// Milliseconds from kill to kill; it is down for half of it.
        each_ms: u64,
    },
    /// Cut, and mended after this time.
    Partition {
        /// How.
        shape: Shape,
        /// Milliseconds.
        for_ms: u64,
    },
    /// Cut and mended so many times.
    Flapping {
        /// How.
        shape: Shape,
        /// How often.
        times: u64,
        /// Milliseconds from cut to cut; it is cut for half of it.
        each_ms: u64,
    },
    /// So many packets of a hundred are dropped.
    Loss {
        /// Percent.
        percent: u8,
        /// Milliseconds.
        for_ms: u64,
    },
}

impl Fault {
    /// How long it lasts.
    pub fn lasts_ms(&self) -> u64 {
        match self {
            Self::Kill { down_ms: ms, .. }
            | Self::Pause { for_ms: ms, .. }
            | Self::Partition { for_ms: ms, .. }
            | Self::Loss { for_ms: ms, .. } => *ms,
            Self::Storm { times, each_ms, .. } | Self::Flapping { times, each_ms, .. } => {
                times * each_ms
            }
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(node) => write!(f, "n{}", node + 1),
            Self::Leader => f.write_str("the leader"),
            Self::All => f.write_str("all"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill { who, down_ms } => write!(f, "kill {who}, start after {down_ms} ms"),
            Self::Pause { who, for_ms } => write!(f, "pause {who} for {for_ms} ms"),
            Self::Storm { who, times, each_ms } => {
                write!(f, "kill {who} {times} times, every {each_ms} ms")
            }
            Self::Partition { shape, for_ms } => write!(f, "cut {shape} for {for_ms} ms"),
            Self::Flapping { shape, times, each_ms } => {
                write!(f, "cut {shape} {times} times, every {each_ms} ms")
            }
            Self::Loss { percent, for_ms } => write!(f, "lose {percent} % for {for_ms} ms"),
        }
    }
}

/// A fault and when it strikes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timed {
    /// Milliseconds after the clients began.
    pub at_ms: u64,
    /// What.
    pub fault: Fault,
}

/// All faults of a run, by time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule(pub Vec<Timed>);

impl Schedule {
    /// The schedule of a seed for `nodes` nodes: the same for the same arguments.
    pub fn of(seed: u64, kinds: &[Kind], nodes: usize, lasts: Duration) -> Self {
        let mut random = Seeded::new(seed, "nemesis");
        let end = u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX);
        let mut at_ms = FIRST_MS + random.below(1_000);
        let mut faults = Vec::new();
        while !kinds.is_empty() && at_ms < end {
            let fault = draw(&mut random, kinds, nodes);
            let lasts = fault.lasts_ms();
            // What does not fit is left out, not cut short: a fault means the same in every run.
            if at_ms + lasts <= end {
                faults.push(Timed { at_ms, fault });
            } else if end - at_ms < CALM_MS.1 {
                break;
            } else {
                continue;
            }
            at_ms += if random.chance(OVERLAP) { random.below(lasts + 1) } else { lasts };
            at_ms += random.between(CALM_MS.0, CALM_MS.1);
        }
        Self(faults)
    }
}

fn draw(random: &mut Seeded, kinds: &[Kind], nodes: usize) -> Fault {
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

fn shape(random: &mut Seeded, nodes: usize) -> Shape {
    let mut order: Vec<usize> = (0..nodes).collect();
    random.shuffle(&mut order);
    // A ring of three is no partition.
    match random.below(if nodes > 3 { 6 } else { 5 }) {
        0 | 1 => Shape::Leader,
        2 => Shape::Halves(order[..nodes / 2].to_vec()),
        3 => Shape::OneWay(order[0], order[1]),
        4 => Shape::Bridge(nodes / 2),
        _ => Shape::Ring(order),
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|Timed { at_ms, fault }| {
            writeln!(f, "  {:>6}.{:03} s  {fault}", at_ms / 1_000, at_ms % 1_000)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Kind; 7] = [
        Kind::Kill,
        Kind::Pause,
        Kind::Storm,
        Kind::Partition,
        Kind::Flapping,
        Kind::Loss,
        Kind::Outage,
    ];

    #[test]
    fn a_seed_gives_the_same_faults_and_another_seed_others() {
        let minute = Duration::from_secs(60);
        let of = |seed| Schedule::of(seed, &ALL, 3, minute);
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
        assert_eq!(Schedule::of(1, &[], 3, minute), Schedule(vec![]));
    }

    #[test]
    fn faults_end_before_the_run_does_and_every_kind_comes() {
        let end = 60_000;
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let schedule = Schedule::of(seed, &ALL, 5, Duration::from_millis(end));
            assert!(schedule.0.len() >= 2, "seed {seed}:\n{schedule}");
            for timed in &schedule.0 {
                assert!(timed.at_ms >= FIRST_MS && timed.at_ms + timed.fault.lasts_ms() <= end);
                seen.insert(timed.fault.to_string().split(' ').next().unwrap().to_owned());
                if let Fault::Partition { shape, .. } = &timed.fault {
                    assert!(!shape.cuts(5, 0).is_empty(), "{shape}");
                }
            }
        }
        assert_eq!(seen.len(), 4, "kill, pause, cut, lose: {seen:?}");
    }
}
