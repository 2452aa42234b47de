//! One fault: what it is, whom it strikes, and how long it lasts.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{mark::Mark, topology::Shape};
use crate::cluster::{Ill, Need, Quality};

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
    /// The disk has no room.
    Full,
    /// The disk is gone below the running node.
    Pull,
    /// fsync, write or read fail with EIO.
    Eio,
    /// fsync or write take long.
    SlowDisk,
    /// Packets come late, some later than others.
    Delay,
    /// Packets come out of order, and twice.
    Jumble,
    /// Wires are slow and lose what does not fit.
    Throttle,
    /// The wall clock is wrong, by up to an hour.
    Clock,
    /// The wall clock jumps to and fro.
    Strobe,
    /// One node after another is stopped by SIGTERM and started again.
    Rolling,
}

impl Kind {
    /// What the machine must have for it, beyond what every run needs.
    pub const fn need(self) -> Option<Need> {
        match self {
            Self::Power
            | Self::Brownout
            | Self::Relapse
            | Self::Full
            | Self::Pull
            | Self::Amnesia => Some(Need::Disk),
            Self::Eio | Self::SlowDisk => Some(Need::Shim),
            Self::Delay | Self::Jumble | Self::Throttle => Some(Need::Switch),
            Self::Clock | Self::Strobe => Some(Need::Clock),
            Self::Kill
            | Self::Pause
            | Self::Storm
            | Self::Partition
            | Self::Flapping
            | Self::Loss
            | Self::Outage
            | Self::Wipe
            | Self::Rolling => None,
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
    /// Its disk has no room, for this time.
    Full {
        /// Whom.
        who: Who,
        /// Milliseconds.
        for_ms: u64,
    },
    /// Its disk is taken away while it runs, and comes back with what was on the medium.
    Pull {
        /// Whom.
        who: Who,
        /// Milliseconds until it is back and the node is started.
        for_ms: u64,
    },
    /// Its disk errs or is slow, for this time.
    Ill {
        /// Whom.
        who: Who,
        /// How.
        ill: Ill,
        /// Milliseconds.
        for_ms: u64,
    },
    /// Wires are worse, for this time.
    Degrade {
        /// Those that this shape would cut; none: all.
        shape: Option<Shape>,
        /// How.
        quality: Quality,
        /// Milliseconds.
        for_ms: u64,
    },
    /// Its wall clock is wrong, for this time.
    Clock {
        /// Whom.
        who: Who,
        /// By so many milliseconds.
        by_ms: i64,
        /// Milliseconds.
        for_ms: u64,
    },
    /// Its wall clock jumps to and fro so many times.
    Strobe {
        /// Whom.
        who: Who,
        /// By so many milliseconds.
        by_ms: i64,
        /// How often.
        times: u64,
        /// Milliseconds from jump to jump; it is wrong for half of it.
        each_ms: u64,
    },
    /// Each node in turn is stopped by SIGTERM, started, and waited for.
    Rolling {
        /// In this order.
        order: Vec<usize>,
        /// Milliseconds between two of them.
        calm_ms: u64,
    },
}

/// What a drained restart of one node takes as a rule, in milliseconds; only to plan with.
const RESTART_MS: u64 = 2_500;

impl Fault {
    /// How long it lasts.
    pub fn lasts_ms(&self) -> u64 {
        match self {
            Self::Kill { down_ms: ms, .. }
            | Self::Pause { for_ms: ms, .. }
            | Self::Partition { for_ms: ms, .. }
            | Self::Loss { for_ms: ms, .. }
            | Self::Power { down_ms: ms, .. }
            | Self::Full { for_ms: ms, .. }
            | Self::Pull { for_ms: ms, .. }
            | Self::Ill { for_ms: ms, .. }
            | Self::Degrade { for_ms: ms, .. }
            | Self::Clock { for_ms: ms, .. } => *ms,
            Self::Storm { times, each_ms, .. }
            | Self::Flapping { times, each_ms, .. }
            | Self::Brownout { times, each_ms, .. }
            | Self::Strobe { times, each_ms, .. } => times * each_ms,
            Self::Relapse { up_ms, down_ms, .. } => up_ms + down_ms,
            Self::Amnesia { missing_ms, alone_ms, .. } => missing_ms + alone_ms,
            Self::Rolling { order, calm_ms } => order.len() as u64 * (RESTART_MS + calm_ms),
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
            Self::Full { .. } => Mark::Full,
            Self::Ill { ill, .. } if !ill.fails => Mark::Slow,
            Self::Pull { .. } | Self::Ill { .. } => Mark::Eio,
            Self::Degrade { .. } => Mark::Wire,
            Self::Clock { .. } | Self::Strobe { .. } => Mark::Clock,
            Self::Rolling { .. } => Mark::Restart,
        }
    }

    /// What the machine must have for it, beyond what every run needs.
    pub const fn need(&self) -> Option<Need> {
        match self {
            Self::Power { .. }
            | Self::Brownout { .. }
            | Self::Relapse { .. }
            | Self::Full { .. }
            | Self::Pull { .. }
            | Self::Amnesia { loss: Loss::Power, .. } => Some(Need::Disk),
            Self::Ill { .. } => Some(Need::Shim),
            Self::Degrade { .. } => Some(Need::Switch),
            Self::Clock { .. } | Self::Strobe { .. } => Some(Need::Clock),
            Self::Kill { .. }
            | Self::Pause { .. }
            | Self::Storm { .. }
            | Self::Partition { .. }
            | Self::Flapping { .. }
            | Self::Loss { .. }
            | Self::Amnesia { loss: Loss::Log, .. }
            | Self::Rolling { .. } => None,
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
            Self::Full { who, for_ms } => write!(f, "fill the disk of {who} for {for_ms} ms"),
            Self::Pull { who, for_ms } => {
                write!(f, "take the disk of {who} away for {for_ms} ms")
            }
            Self::Ill { who, ill, for_ms } => write!(f, "{ill} on {who} for {for_ms} ms"),
            Self::Degrade { shape: Some(shape), quality, for_ms } => {
                write!(f, "packets {quality} between {shape} for {for_ms} ms")
            }
            Self::Degrade { shape: None, quality, for_ms } => {
                write!(f, "all packets {quality} for {for_ms} ms")
            }
            Self::Clock { who, by_ms, for_ms } => {
                write!(f, "set the clock of {who} {by_ms:+} ms for {for_ms} ms")
            }
            Self::Strobe { who, by_ms, times, each_ms } => {
                write!(f, "set the clock of {who} {by_ms:+} ms {times} times, every {each_ms} ms")
            }
            Self::Rolling { order, calm_ms } => {
                f.write_str("restart")?;
                order.iter().try_for_each(|node| write!(f, " n{}", node + 1))?;
                write!(f, " in turn, {calm_ms} ms between them")
            }
        }
    }
}
