//! Bugs that are planted in the simulator's own seams, to show that each invariant can fail.

use clap::ValueEnum;

/// One of them at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Bug {
    /// Disks acknowledge syncs and do none.
    DiskLosesSynced,
    /// A machine comes back under its old id with an empty disk.
    DiskWiped,
    /// A client takes a write whose outcome nobody knows for made.
    UnknownIsOk,
    /// A client reads without the barrier and calls it linearizable.
    ReadsWithoutBarrier,
    /// A client sends a request again under another id.
    FreshRequestId,
    /// A watcher goes on one revision too late after a reconnect.
    WatchSkips,
    /// The caller of the planner tells it nothing of regions.
    PlannerBlind,
    /// A machine starts again without counting its start.
    BootNotCounted,
    /// Healing leaves one node cut off.
    StaysCut,
}

impl Bug {
    /// The invariants that must find it.
    pub(crate) fn found_by(self) -> &'static [&'static str] {
        match self {
            Self::DiskLosesSynced | Self::DiskWiped => {
                &["acknowledged", "one history", "linearizable", "snapshot", "watch", "liveness"]
            }
            Self::UnknownIsOk => &["acknowledged"],
            Self::ReadsWithoutBarrier => &["linearizable"],
            Self::FreshRequestId => &["once"],
            Self::WatchSkips => &["watch"],
            Self::PlannerBlind => &["placement"],
            Self::BootNotCounted => &["membership"],
            Self::StaysCut => &["liveness", "membership"],
        }
    }
}
