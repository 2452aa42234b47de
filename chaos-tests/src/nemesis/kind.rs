//! The kinds of faults.

use serde::{Deserialize, Serialize};

use crate::cluster::Need;

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
    /// The same, after it was killed before it had synced, and came back: what it read then must be on
    /// the medium before it says that it has it.
    Reopen,
    /// The power of a follower is cut right after it gave its vote; then those are a majority of whom
    /// none knows of the election.
    Revote,
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
    /// The same, and each is started as of the other binary: an older one, or this one.
    Upgrade,
    /// Nodes come, go, are replaced and come back as what they are no longer.
    Membership,
    /// A whole region is killed, and comes back later with its old state.
    Blackout,
    /// A whole region is killed or cut off while versions change, and comes back with its old state.
    Return,
    /// Each pair of regions is cut off from each other, in turn.
    Pairs,
    /// What is between two regions comes and goes.
    Flap,
    /// What is between two regions comes and goes for as long as the run lasts.
    Flaps,
    /// The wall clocks of regions are an hour apart.
    Apart,
    /// A voter is removed for good; then each region in turn is lost, for longer than writes and
    /// answers may be.
    Turns,
    /// All nodes are an ocean apart for a while.
    Stretch,
}

impl Kind {
    /// What the machine must have for it, beyond what every run needs.
    pub const fn needs(self) -> &'static [Need] {
        match self {
            Self::Power
            | Self::Brownout
            | Self::Relapse
            | Self::Full
            | Self::Pull
            | Self::Amnesia => &[Need::Disk],
            Self::Reopen | Self::Revote => &[Need::Disk, Need::Shim],
            Self::Eio | Self::SlowDisk => &[Need::Shim],
            Self::Delay | Self::Jumble | Self::Throttle | Self::Stretch => &[Need::Switch],
            Self::Clock | Self::Strobe | Self::Apart => &[Need::Clock],
            Self::Kill
            | Self::Pause
            | Self::Storm
            | Self::Partition
            | Self::Flapping
            | Self::Loss
            | Self::Outage
            | Self::Wipe
            | Self::Rolling
            | Self::Upgrade
            | Self::Membership
            | Self::Blackout
            | Self::Return
            | Self::Pairs
            | Self::Flap
            | Self::Flaps
            | Self::Turns => &[],
        }
    }
}
