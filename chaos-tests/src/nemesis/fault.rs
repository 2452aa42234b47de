//! One fault: what it is, whom it strikes, how long it lasts, and how it is drawn.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{mark::Mark, topology::Shape};
use crate::{cluster::Need, seed::Seeded};

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
    /// The power of a node, or of all at once, is cut.
    Power,
    /// The power is cut again and again, also while a node is starting.
    Brownout,
    /// Killed and started, and the power is cut before long: what the first life read must be on the
    /// medium before it acts on it.
    Relapse,
    /// The power of a follower is cut, just when its memory decides what is kept.
    Amnesia,
    /// The same, by the loss of its log for good.
    Wipe,
}

impl Kind {
    /// What the machine must have for it, beyond what every run needs.
    pub const fn need(self) -> Option<Need> {
        match self {
            Self::Power | Self::Brownout | Self::Relapse | Self::Amnesia => Some(Need::Disk),
            _ => None,
        }
    }
}

/// How a node loses its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// Its power is cut: of what was on the medium it loses nothing.
    Power,
    /// Its log is removed: it must never take part again under its id.
    Log,
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
    /// Its power is cut: killed, and what was not on the medium is gone. Started after this time.
    Power {
        /// Whom.
        who: Who,
        /// Milliseconds until the start.
        down_ms: u64,
    },
    /// The power is cut so many times.
    Brownout {
        /// Whom.
        who: Who,
        /// How often.
        times: u64,
        /// Milliseconds from cut to cut; it is down for half of it.
        each_ms: u64,
    },
    /// Killed and started at once, and then its power is cut.
    Relapse {
        /// Whom.
        who: Who,
        /// Milliseconds from the start to the cut.
        up_ms: u64,
        /// Milliseconds from the cut to the next start.
        down_ms: u64,
    },
    /// Of three nodes one follower is cut off and misses what the two others acknowledge. Then the
    /// other follower loses its memory, and the leader is cut off instead: if that follower forgot
    /// anything, the two that are left do not know it, and yet are a majority.
    Amnesia {
        /// How it is lost.
        loss: Loss,
        /// Whether the follower of the lower number forgets; else the other one.
        first: bool,
        /// Milliseconds for which the one misses what is acknowledged.
        missing_ms: u64,
        /// Milliseconds for which the leader is cut off.
        alone_ms: u64,
    },
}

impl Fault {
    /// How long it lasts.
    pub fn lasts_ms(&self) -> u64 {
        match self {
            Self::Kill { down_ms: ms, .. }
            | Self::Pause { for_ms: ms, .. }
            | Self::Partition { for_ms: ms, .. }
            | Self::Loss { for_ms: ms, .. }
            | Self::Power { down_ms: ms, .. } => *ms,
            Self::Storm { times, each_ms, .. }
            | Self::Flapping { times, each_ms, .. }
            | Self::Brownout { times, each_ms, .. } => times * each_ms,
            Self::Relapse { up_ms, down_ms, .. } => up_ms + down_ms,
            Self::Amnesia { missing_ms, alone_ms, .. } => missing_ms + alone_ms,
        }
    }

    /// How it counts and how it is drawn in the report.
    pub const fn mark(&self) -> Mark {
        match self {
            Self::Kill { .. } | Self::Storm { .. } | Self::Amnesia { loss: Loss::Log, .. } => {
                Mark::Kill
            }
            Self::Pause { .. } => Mark::Pause,
            Self::Partition { .. } | Self::Flapping { .. } => Mark::Cut,
            Self::Loss { .. } => Mark::Loss,
            Self::Power { .. }
            | Self::Brownout { .. }
            | Self::Relapse { .. }
            | Self::Amnesia { loss: Loss::Power, .. } => Mark::Power,
        }
    }

    /// What the machine must have for it, beyond what every run needs.
    pub const fn need(&self) -> Option<Need> {
        match self {
            Self::Power { .. }
            | Self::Brownout { .. }
            | Self::Relapse { .. }
            | Self::Amnesia { loss: Loss::Power, .. } => Some(Need::Disk),
            _ => None,
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
            Self::Power { who, down_ms } => {
                write!(f, "cut the power of {who}, start after {down_ms} ms")
            }
            Self::Brownout { who, times, each_ms } => {
                write!(f, "cut the power of {who} {times} times, every {each_ms} ms")
            }
            Self::Relapse { who, up_ms, down_ms } => write!(
                f,
                "kill and start {who}, cut the power {up_ms} ms later, start after {down_ms} ms"
            ),
            Self::Amnesia { loss, first, missing_ms, alone_ms } => {
                let which = if *first { "first" } else { "second" };
                let how = match loss {
                    Loss::Power => "power",
                    Loss::Log => "log",
                };
                write!(
                    f,
                    "{missing_ms} ms without one follower, then the {which} one loses its {how}, \
                     {alone_ms} ms without the leader"
                )
            }
        }
    }
}

/// The next fault.
pub(super) fn draw(random: &mut Seeded, kinds: &[Kind], nodes: usize) -> Fault {
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
    }
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
