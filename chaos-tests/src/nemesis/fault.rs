//! One fault: what it is, whom it strikes, and how long it lasts.

use serde::{Deserialize, Serialize};

use super::{change::Change, mark::Mark, topology::Shape};
use crate::cluster::{Ill, Need, Quality};

/// How a node loses its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// Its power is cut: of what was on the medium it loses nothing.
    Power,
    /// Its log is removed: it must never take part again under its id.
    Log,
    /// It is killed while it waits for its disk, comes back at once, and then its power is cut.
    Reopen,
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
    /// Of three nodes the leader is cut off, and one of the others is elected by the vote of the last
    /// one. That one loses power before anything that comes after its vote is on the medium, and then the
    /// one that was elected is cut off instead: the first leader and the one that lost power go on.
    Revote {
        /// Whether the power of the follower of the lower number is cut; else that of the other one.
        first: bool,
        /// Milliseconds for which they are alone.
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
    /// The same, and each is started as of the other binary: the cluster is mixed meanwhile.
    Upgrade {
        /// In this order.
        order: Vec<usize>,
        /// Milliseconds between two of them.
        calm_ms: u64,
    },
    /// The members change, one change after another.
    Membership {
        /// In this order.
        changes: Vec<Change>,
        /// Milliseconds between two of them.
        calm_ms: u64,
    },
    /// All nodes of a region killed at once, and started after this time.
    Blackout {
        /// Those nodes.
        nodes: Vec<usize>,
        /// Milliseconds until the start.
        down_ms: u64,
    },
    /// All nodes of a region are away at once, and come back after this time with what they knew.
    Return {
        /// Those nodes.
        nodes: Vec<usize>,
        /// Whether they are cut off from all others; else they are killed.
        cut: bool,
        /// Milliseconds until they come back.
        for_ms: u64,
    },
    /// One cut after another.
    Pairs {
        /// In this order.
        shapes: Vec<Shape>,
        /// Milliseconds for which each stands.
        for_ms: u64,
        /// Milliseconds between two of them.
        calm_ms: u64,
    },
    /// Cut and mended again and again, and nothing else all the while.
    Flaps {
        /// How.
        shape: Shape,
        /// Milliseconds for which it is cut, and is not, in turn.
        beats: Vec<(u64, u64)>,
    },
    /// Wall clocks are wrong for this time, each in its own way.
    Apart {
        /// By so many milliseconds, of each node.
        by_ms: Vec<i64>,
        /// Milliseconds.
        for_ms: u64,
    },
    /// Each node is an ocean apart from each other one.
    Stretch {
        /// Milliseconds from any of them to any other one.
        delay_ms: u32,
        /// Milliseconds.
        for_ms: u64,
    },
    /// One region after another is lost, after a node was removed.
    Turns {
        /// Removed before, for good.
        leaves: Option<usize>,
        /// The nodes of each region that stay, in this order.
        regions: Vec<Vec<usize>>,
        /// Milliseconds until a region is started again.
        down_ms: u64,
        /// Milliseconds between two of them.
        calm_ms: u64,
    },
}

/// What a drained restart of one node takes as a rule, in milliseconds; only to plan with.
const RESTART_MS: u64 = 2_500;
/// The same of a change of the members. On a busy machine it takes twice that.
const CHANGE_MS: u64 = 3_000;
/// The same of a kill, a start, and an election.
const REOPEN_MS: u64 = 3_000;
const ELECTION_MS: u64 = 2_000;

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
            | Self::Stretch { for_ms: ms, .. }
            | Self::Clock { for_ms: ms, .. }
            | Self::Blackout { down_ms: ms, .. }
            | Self::Return { for_ms: ms, .. }
            | Self::Apart { for_ms: ms, .. } => *ms,
            Self::Storm { times, each_ms, .. }
            | Self::Flapping { times, each_ms, .. }
            | Self::Brownout { times, each_ms, .. }
            | Self::Strobe { times, each_ms, .. } => times * each_ms,
            Self::Relapse { up_ms, down_ms, .. } => up_ms + down_ms,
            Self::Amnesia { loss: Loss::Reopen, missing_ms, alone_ms, .. } => {
                missing_ms + REOPEN_MS + alone_ms
            }
            Self::Amnesia { missing_ms, alone_ms, .. } => missing_ms + alone_ms,
            Self::Revote { alone_ms, .. } => ELECTION_MS + alone_ms,
            Self::Rolling { order, calm_ms } | Self::Upgrade { order, calm_ms } => {
                order.len() as u64 * (RESTART_MS + calm_ms)
            }
            Self::Membership { changes, calm_ms } => changes.len() as u64 * (CHANGE_MS + calm_ms),
            Self::Pairs { shapes, for_ms, calm_ms } => shapes.len() as u64 * (for_ms + calm_ms),
            Self::Flaps { beats, .. } => beats.iter().map(|(cut, calm)| cut + calm).sum(),
            Self::Turns { leaves, regions, down_ms, calm_ms } => {
                let before = leaves.map_or(0, |_| CHANGE_MS + calm_ms);
                before + regions.len() as u64 * (down_ms + calm_ms)
            }
        }
    }

    /// How it counts and how it is drawn in the report.
    pub const fn mark(&self) -> Mark {
        match self {
            Self::Kill { .. }
            | Self::Storm { .. }
            | Self::Blackout { .. }
            | Self::Return { cut: false, .. }
            | Self::Turns { .. }
            | Self::Amnesia { loss: Loss::Log, .. } => Mark::Kill,
            Self::Pause { .. } => Mark::Pause,
            Self::Partition { .. }
            | Self::Flapping { .. }
            | Self::Flaps { .. }
            | Self::Return { cut: true, .. }
            | Self::Pairs { .. } => Mark::Cut,
            Self::Loss { .. } => Mark::Loss,
            Self::Power { .. }
            | Self::Brownout { .. }
            | Self::Relapse { .. }
            | Self::Revote { .. }
            | Self::Amnesia { loss: Loss::Power | Loss::Reopen, .. } => Mark::Power,
            Self::Full { .. } => Mark::Full,
            Self::Ill { ill, .. } if !ill.fails => Mark::Slow,
            Self::Pull { .. } | Self::Ill { .. } => Mark::Eio,
            Self::Degrade { .. } | Self::Stretch { .. } => Mark::Wire,
            Self::Clock { .. } | Self::Strobe { .. } | Self::Apart { .. } => Mark::Clock,
            Self::Rolling { .. } => Mark::Restart,
            Self::Upgrade { .. } => Mark::Upgrade,
            // Each change counts for itself; this is the first of all.
            Self::Membership { .. } => Mark::Grow,
        }
    }

    /// What the machine must have for it, beyond what every run needs.
    pub const fn needs(&self) -> &'static [Need] {
        match self {
            Self::Power { .. }
            | Self::Brownout { .. }
            | Self::Relapse { .. }
            | Self::Full { .. }
            | Self::Pull { .. }
            | Self::Amnesia { loss: Loss::Power, .. } => &[Need::Disk],
            Self::Amnesia { loss: Loss::Reopen, .. } | Self::Revote { .. } => {
                &[Need::Disk, Need::Shim]
            }
            Self::Ill { .. } => &[Need::Shim],
            Self::Degrade { .. } | Self::Stretch { .. } => &[Need::Switch],
            Self::Clock { .. } | Self::Strobe { .. } | Self::Apart { .. } => &[Need::Clock],
            Self::Kill { .. }
            | Self::Storm { .. }
            | Self::Pause { .. }
            | Self::Partition { .. }
            | Self::Flapping { .. }
            | Self::Flaps { .. }
            | Self::Loss { .. }
            | Self::Amnesia { loss: Loss::Log, .. }
            | Self::Rolling { .. }
            | Self::Upgrade { .. }
            | Self::Membership { .. }
            | Self::Blackout { .. }
            | Self::Return { .. }
            | Self::Turns { .. }
            | Self::Pairs { .. } => &[],
        }
    }
}
