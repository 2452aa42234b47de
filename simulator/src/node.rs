//! One process of a node: replication, membership, placement; from a start to a death.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use swarmer_gossip::KnownMember;
use swarmer_model::{NodeId, Revision};
use swarmer_raft::{
    Client, Config, Follower, Handle, Outcome, Raft, RaftError, Status, Txn, View, disk::Disk,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    gossip::Membership,
    net::{Net, Port, trust},
    world::World,
};

/// Where the state is on a node's disk.
const DIR: &str = "/state";
/// Small, so that a run goes through many snapshots, purges and installs.
const SNAPSHOT_LOG_BYTES: u64 = 48 << 10;
const LOG_KEEP_ENTRIES: u64 = 60;
const HISTORY_BYTES: usize = 64 << 10;
/// Small, so that the log goes through many segments.
const LOG_SEGMENT_BYTES: u64 = 64 << 10;
const LOG_MAX_RECORD_BYTES: usize = 16 << 10;
/// A feed that is silent for so long is given up: three of its heartbeats.
const FEED_PATIENCE: Duration = Duration::from_secs(3);
/// Before another feed is asked for.
const FEED_PAUSE: Duration = Duration::from_millis(100);

/// What a node is in the replication.
enum Part {
    Voter(Raft),
    Follower { follower: Follower, client: Client },
}

/// A process. Everything outside holds it only until it is dead.
pub(crate) struct Node {
    pub(crate) id: NodeId,
    /// Counts the starts of its machine.
    pub(crate) boot: u64,
    part: Part,
    pub(crate) gossip: Arc<Membership>,
    /// The last revision that the oracle has taken from it.
    pub(crate) tapped: AtomicU64,
    /// Cancelled when the process dies.
    pub(crate) dead: CancellationToken,
}

/// What a process starts from.
pub(crate) struct Start {
    pub(crate) id: NodeId,
    pub(crate) boot: u64,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) known: Vec<KnownMember>,
    pub(crate) seed: [u8; 32],
    pub(crate) dead: CancellationToken,
}

impl Node {
    /// Opens what is on the disk.
    pub(crate) async fn open(net: &Net, voters: u64, start: Start) -> Result<Self, RaftError> {
        let Start { id, boot, disk, known, seed, dead } = start;
        let port = Arc::new(Port { net: net.clone(), node: id, dead: dead.clone() });
        let part = if id.0 <= voters {
            let config = Config {
                applied_dir: None,
                snapshot_log_bytes: SNAPSHOT_LOG_BYTES,
                log_keep_entries: LOG_KEEP_ENTRIES,
                history_bytes: HISTORY_BYTES,
                log_segment_bytes: LOG_SEGMENT_BYTES,
                log_max_record_bytes: LOG_MAX_RECORD_BYTES,
                ..Config::new(id, DIR)
            };
            Part::Voter(Raft::open(config, disk, port).await?)
        } else {
            let follower = Follower::open(id, Path::new(DIR), disk, trust(voters)).await?;
            let seeds: BTreeSet<NodeId> = (1..=voters).map(NodeId).collect();
            let (leadership, view) = (follower.subscribe_leadership(), follower.view());
            Part::Follower { client: Client::new(id, port, leadership, view, seeds), follower }
        };
        let gossip = Membership::new(net.clone(), id, boot, known, seed, dead.clone());
        Ok(Self { id, boot, part, gossip, tapped: AtomicU64::new(0), dead })
    }

    /// Its replication, if it votes.
    pub(crate) fn raft(&self) -> Option<Handle> {
        match &self.part {
            Part::Voter(raft) => Some(raft.handle()),
            Part::Follower { .. } => None,
        }
    }

    pub(crate) fn view(&self) -> View {
        match &self.part {
            Part::Voter(raft) => raft.view(),
            Part::Follower { follower, .. } => follower.view(),
        }
    }

    pub(crate) fn status(&self) -> Status {
        match &self.part {
            Part::Voter(raft) => raft.handle().status(),
            Part::Follower { follower, .. } => follower.status(),
        }
    }

    fn client(&self) -> Client {
        match &self.part {
            Part::Voter(raft) => raft.handle().client(),
            Part::Follower { client, .. } => client.clone(),
        }
    }

    /// A write by this node. None: it died meanwhile.
    pub(crate) async fn write(
        &self,
        txn: Txn,
        deadline: Duration,
    ) -> Option<Result<Outcome, RaftError>> {
        let client = self.client();
        tokio::select! {
            biased;
            () = self.dead.cancelled() => None,
            result = client.write(txn, deadline) => Some(result),
        }
    }

    /// The read barrier by this node. None: it died meanwhile.
    pub(crate) async fn read_index(
        &self,
        deadline: Duration,
    ) -> Option<Result<Revision, RaftError>> {
        let client = self.client();
        tokio::select! {
            biased;
            () = self.dead.cancelled() => None,
            result = client.read_index(deadline) => Some(result),
        }
    }

    /// The first fatal error of its disk.
    pub(crate) async fn fatal(&self) -> RaftError {
        match &self.part {
            Part::Voter(raft) => {
                let handle = raft.handle();
                handle.fatal().await
            }
            Part::Follower { follower, .. } => follower.fatal().await,
        }
    }

    /// Ends what is left of a dead process: it can neither write nor send any more.
    pub(crate) fn bury(self: Arc<Self>) {
        self.dead.cancel();
        tokio::spawn(async move {
            // It fails, as it should: its disk is gone.
            let _ = match &self.part {
                Part::Voter(raft) => raft.handle().shutdown().await,
                Part::Follower { follower, .. } => follower.shutdown().await,
            };
        });
    }
}

/// Follows by the feed of one voter after another, until the process dies.
pub(crate) async fn follow(world: Arc<World>, node: Arc<Node>) {
    let Part::Follower { follower, .. } = &node.part else { return };
    let mut turn = node.id.0;
    while !node.dead.is_cancelled() {
        let voter = NodeId(1 + turn % world.settings.voters);
        turn += 1;
        let feed = world.net.feed(&node, voter, follower.position());
        if let Ok(Some(mut frames)) = tokio::time::timeout(FEED_PATIENCE, feed).await {
            let began = Instant::now();
            while let Ok(Some(frame)) = tokio::time::timeout(FEED_PATIENCE, frames.recv()).await {
                if follower.consume(frame).await.is_err() || node.dead.is_cancelled() {
                    break;
                }
            }
            world.oracle.lock().counts.feeds += 1;
            if began.elapsed() > FEED_PATIENCE {
                continue;
            }
        }
        tokio::time::sleep(FEED_PAUSE).await;
    }
}
