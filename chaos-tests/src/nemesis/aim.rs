//! Whether a fault unsettles the leader, and how it is made to.

use super::{
    fault::{Fault, Who},
    topology::Shape,
};

/// A leader that cannot be heard for so long is not the leader any more.
const MISSED_MS: u64 = 1_500;

impl Fault {
    /// Whether another leader is to be expected of it, whoever leads then.
    pub(super) fn unsettles_leader(&self) -> bool {
        match self {
            Self::Kill { who, .. }
            | Self::Storm { who, .. }
            | Self::Power { who, .. }
            | Self::Brownout { who, .. }
            | Self::Relapse { who, .. } => matches!(who, Who::Leader | Who::All),
            Self::Pause { who, for_ms } => *who == Who::Leader && *for_ms >= MISSED_MS,
            Self::Partition { shape, for_ms } => *shape == Shape::Leader && *for_ms >= MISSED_MS,
            Self::Amnesia { .. }
            | Self::Revote { .. }
            | Self::Rolling { .. }
            | Self::Upgrade { .. } => true,
            Self::Flapping { .. }
            | Self::Flaps { .. }
            | Self::Loss { .. }
            | Self::Full { .. }
            | Self::Pull { .. }
            | Self::Ill { .. }
            | Self::Degrade { .. }
            | Self::Clock { .. }
            | Self::Strobe { .. }
            | Self::Blackout { .. }
            | Self::Return { .. }
            | Self::Pairs { .. }
            | Self::Apart { .. }
            | Self::Turns { .. }
            | Self::Stretch { .. }
            | Self::Membership { .. } => false,
        }
    }

    /// The same fault, of the leader; none if that would unsettle nobody.
    pub(super) fn of_leader(&self) -> Option<Self> {
        let mut fault = self.clone();
        match &mut fault {
            Self::Kill { who, .. }
            | Self::Storm { who, .. }
            | Self::Power { who, .. }
            | Self::Brownout { who, .. }
            | Self::Relapse { who, .. }
            | Self::Pause { who, .. } => *who = Who::Leader,
            Self::Partition { shape, .. } => *shape = Shape::Leader,
            _ => return None,
        }
        fault.unsettles_leader().then_some(fault)
    }
}
