//! On the leader: whether its disk is so much slower than those of the others that one of them
//! should lead.

use std::{collections::BTreeMap, time::Duration};

use futures::{StreamExt as _, stream::FuturesUnordered};
use swarmer_model::NodeId;
use swarmer_raft::Handle;
use swarmer_scheduler::{DiskPace, SlowDisk, SlowLeader};

use super::{
    keeper::Keeper,
    wire::{Ask, Told},
};

/// How often the others are asked.
const LOOK_MS: u64 = 2_000;
/// How long they may take: one that takes longer is not to lead now.
const ASK_DEADLINE: Duration = Duration::from_secs(1);

/// How fast the disk of this node was lately.
pub(super) fn pace(log: &Handle) -> DiskPace {
    let pace = log.pace();
    let p99_us = u64::try_from(pace.p99.as_micros()).unwrap_or(u64::MAX);
    DiskPace { groups: pace.groups, p99_us }
}

/// Whether another voter's disk is so slow that it would hand the leadership back; one that does not
/// say is not to lead now.
pub(super) async fn is_slower(keeper: &Keeper, log: &Handle, node: NodeId) -> bool {
    match tokio::time::timeout(ASK_DEADLINE, keeper.ask(node, &Ask::Disk)).await {
        Ok(Ok(Told::Disk { pace: theirs })) => theirs.is_slow_beside(pace(log)),
        _ => true,
    }
}

/// What the leader knows of the disks.
#[derive(Default)]
pub(super) struct Disks {
    slow: SlowDisk,
    looked_ms: Option<u64>,
}

impl Disks {
    /// Who should lead instead of this node, if anybody should. `voters` are the other living
    /// ones.
    pub(super) async fn look(
        &mut self,
        keeper: &Keeper,
        log: &Handle,
        voters: &[NodeId],
        now_ms: u64,
    ) -> Option<SlowLeader> {
        if self.looked_ms.is_some_and(|at| now_ms.saturating_sub(at) < LOOK_MS) {
            return None;
        }
        self.looked_ms = Some(now_ms);
        let asked = voters.iter().map(|node| async move {
            let told = tokio::time::timeout(ASK_DEADLINE, keeper.ask(*node, &Ask::Disk)).await;
            match told {
                Ok(Ok(Told::Disk { pace })) => Some((*node, pace)),
                _ => None,
            }
        });
        let asked: FuturesUnordered<_> = asked.collect();
        let others: BTreeMap<NodeId, DiskPace> =
            asked.filter_map(std::future::ready).collect().await;
        self.slow.look(pace(log), &others, now_ms)
    }
}
