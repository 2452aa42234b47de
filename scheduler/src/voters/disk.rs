//! Whether a leader whose disk is slow should let another one lead.
//!
//! Every write waits for the leader's disk and for those of half of the others: a slow disk under a
//! follower costs nothing, the same under the leader costs every write.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};
use swarmer_model::NodeId;

/// Below this nobody notices, in microseconds: half a heartbeat.
const SLOW_US: u64 = 50_000;
/// How many times as slow as those of most others a disk must be. Where all are slow, another leader
/// helps nobody.
const FACTOR: u64 = 4;
/// So few groups say nothing of a disk.
const MIN_GROUPS: u64 = 20;
/// How long it must be so: a stall of some seconds passes by itself, and an election costs one too.
const HOLD_MS: u64 = 10_000;

/// How fast a disk made groups of records durable lately.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskPace {
    /// How many groups.
    pub groups: u64,
    /// How long 99 of 100 of them took at most, in microseconds.
    pub p99_us: u64,
}

impl DiskPace {
    /// Whether a leader with this disk would be asked to let one with the other disk lead.
    pub fn is_slow_beside(self, other: Self) -> bool {
        self.groups >= MIN_GROUPS
            && self.p99_us >= SLOW_US
            && self.p99_us >= other.p99_us.saturating_mul(FACTOR)
    }
}

/// Who should lead instead, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlowLeader {
    /// Who.
    pub to: NodeId,
    /// The leader's disk, in microseconds.
    pub own_us: u64,
    /// That of most others, in microseconds.
    pub others_us: u64,
    /// For how long it has been so, in milliseconds.
    pub for_ms: u64,
}

impl fmt::Display for SlowLeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the leader's disk takes up to {} ms for a write, those of most other voters {} ms, for {} s",
            self.own_us / 1000,
            self.others_us / 1000,
            self.for_ms / 1000
        )
    }
}

/// What a leader remembers of its own slowness; a new leader starts with nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SlowDisk {
    since_ms: Option<u64>,
}

impl SlowDisk {
    /// Looks at the disks of the leader and of the other living voters; says who should lead
    /// instead, once that has been so for long enough.
    pub fn look(
        &mut self,
        own: DiskPace,
        others: &BTreeMap<NodeId, DiskPace>,
        now_ms: u64,
    ) -> Option<SlowLeader> {
        let mut known: Vec<(u64, NodeId)> = others
            .iter()
            .filter(|(_, pace)| pace.groups >= MIN_GROUPS)
            .map(|(node, pace)| (pace.p99_us, *node))
            .collect();
        known.sort_unstable();
        // Of an even number the slower one in the middle.
        let middle = known.get(known.len() / 2).copied();
        let slow = own.groups >= MIN_GROUPS && own.p99_us >= SLOW_US;
        let Some((others_us, _)) =
            middle.filter(|(us, _)| slow && own.p99_us >= us.saturating_mul(FACTOR))
        else {
            self.since_ms = None;
            return None;
        };
        let since = *self.since_ms.get_or_insert(now_ms);
        let for_ms = now_ms.saturating_sub(since);
        let (_, to) = *known.first()?;
        (for_ms >= HOLD_MS).then_some(SlowLeader { to, own_us: own.p99_us, others_us, for_ms })
    }
}
