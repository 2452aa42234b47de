//! What faults count as, and what they look like in a report.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a fault was, in short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mark {
    /// Processes killed.
    Kill,
    /// Processes that stood still.
    Pause,
    /// The network was cut.
    Cut,
    /// Packets were lost at random.
    Loss,
    /// Nodes lost power.
    Power,
    /// Disks had no room.
    Full,
    /// Disks failed.
    Eio,
    /// Disks were slow.
    Slow,
    /// Packets came late, out of order, twice or slowly.
    Wire,
    /// Wall clocks jumped.
    Clock,
    /// Nodes were stopped by SIGTERM and started again.
    Restart,
    /// Nodes that were stopped by SIGTERM and started as of another binary.
    Upgrade,
    /// Nodes that were let in.
    Grow,
    /// Nodes that were removed while they lived.
    Shrink,
    /// Nodes whose disk was lost, removed and let in anew.
    Replace,
    /// Nodes that came back with a part of what they were, and were refused.
    Refuse,
    /// Leaders that were removed.
    Unseat,
    /// Removed nodes that went on.
    Trespass,
}

impl Mark {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::Kill,
        Self::Pause,
        Self::Cut,
        Self::Loss,
        Self::Power,
        Self::Full,
        Self::Eio,
        Self::Slow,
        Self::Wire,
        Self::Clock,
        Self::Restart,
        Self::Upgrade,
        Self::Grow,
        Self::Shrink,
        Self::Replace,
        Self::Refuse,
        Self::Unseat,
        Self::Trespass,
    ];

    /// Its class in the page's style sheet.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Pause => "pause",
            Self::Cut => "cut",
            Self::Loss => "loss",
            Self::Power => "power",
            Self::Full => "full",
            Self::Eio => "eio",
            Self::Slow => "slow",
            Self::Wire => "wire",
            Self::Clock => "clock",
            Self::Restart => "restart",
            Self::Upgrade => "upgrade",
            Self::Grow => "grow",
            Self::Shrink => "shrink",
            Self::Replace => "replace",
            Self::Refuse => "refuse",
            Self::Unseat => "unseat",
            Self::Trespass => "trespass",
        }
    }

    /// What it is called when it is counted.
    pub const fn counted(self) -> &'static str {
        match self {
            Self::Kill => "kills",
            Self::Pause => "pauses",
            Self::Cut => "cuts of the network",
            Self::Loss => "times of loss",
            Self::Power => "power cuts of a node",
            Self::Full => "full disks",
            Self::Eio => "failing disks",
            Self::Slow => "slow disks",
            Self::Wire => "times of bad wires",
            Self::Clock => "jumps of a clock",
            Self::Restart => "drained restarts",
            Self::Upgrade => "upgrades and downgrades of a node",
            Self::Grow => "nodes let in",
            Self::Shrink => "nodes removed",
            Self::Replace => "nodes replaced",
            Self::Refuse => "nodes refused",
            Self::Unseat => "leaders removed",
            Self::Trespass => "removed nodes that went on",
        }
    }

    /// Whether it is a drained restart, as which it promises something of its own.
    pub const fn is_drained(self) -> bool {
        matches!(self, Self::Restart | Self::Upgrade)
    }

    /// Whether it strikes what is between the nodes: then it counts once, not for each node.
    pub const fn is_network(self) -> bool {
        matches!(self, Self::Cut | Self::Loss | Self::Wire)
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
