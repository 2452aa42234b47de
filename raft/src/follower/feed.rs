//! The sending side: a position in, signed frames out.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use swarmer_model::{NodeId, Revision};
use tokio::{
    sync::watch,
    time::{Instant, Interval, MissedTickBehavior},
};

use super::seal::{FeedSigner, Position, SEAL_BYTES};
use crate::{
    keyspace::{Batch, Catchup, ChainHash, Progress, Record, Shared, StateImage, Tail},
    status::Leadership,
};

/// The first byte of every frame: the version of all that follows.
pub(crate) const VERSION: u8 = 2;
/// The longest frame.
pub(crate) const MAX_FRAME_BYTES: usize = 256 * 1024;
/// Records and batches are gathered up to about this much; a single batch may be larger.
const GATHER_BYTES: usize = 128 * 1024;
/// How often a heartbeat goes out.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// What a feed consists of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Frame {
    /// A whole state follows.
    SnapshotBegin { revision: Revision, chain: ChainHash },
    /// Entries of it, in the order of keys.
    SnapshotChunk { records: Vec<Record> },
    /// The end of it: how many entries, and the SHA-256 of all their encodings.
    SnapshotEnd { records: u64, digest: [u8; 32] },
    /// Changes, in order and without a gap.
    Batches(Vec<Batch>),
    /// What the sender knows of the cluster.
    Heartbeat(Known),
}

/// What is known of the cluster besides its state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Known {
    pub(crate) revision: Revision,
    pub(crate) leader: Option<NodeId>,
    pub(crate) term: u64,
    pub(crate) voters: BTreeSet<NodeId>,
    pub(crate) learners: BTreeSet<NodeId>,
    pub(crate) quorum_ok: bool,
}

#[derive(Debug)]
enum Stage {
    Start(Option<(Revision, ChainHash)>),
    Image { image: Box<StateImage>, after: Option<Arc<str>>, records: u64, hasher: Box<Sha256> },
    Tail(Revision),
}

/// The sending side of a feed; made by [`crate::Handle::feed`].
#[derive(Debug)]
pub struct Feed {
    shared: Arc<Shared>,
    progress: watch::Receiver<Progress>,
    leadership: watch::Receiver<Leadership>,
    heartbeat: Interval,
    stage: Stage,
    signer: FeedSigner,
}

impl Feed {
    pub(crate) fn new(
        shared: Arc<Shared>,
        leadership: watch::Receiver<Leadership>,
        from: Option<(Revision, ChainHash)>,
        signer: FeedSigner,
    ) -> Self {
        let progress = shared.progress();
        let mut heartbeat = tokio::time::interval_at(Instant::now(), HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { shared, progress, leadership, heartbeat, stage: Stage::Start(from), signer }
    }

    /// The next frame, at most 256 KiB; one at least every second. None when the node is
    /// stopping. Cancel-safe.
    pub async fn next(&mut self) -> Option<Bytes> {
        loop {
            let Progress { revision, closed } = *self.progress.borrow_and_update();
            // One that lost its vote feeds nobody: what it would tell of the voters is old.
            if closed || self.leadership.has_changed().is_err() {
                return None;
            }
            let frame = match &mut self.stage {
                // A sender that is behind does not pull the receiver back: it catches up first.
                Stage::Start(Some((from, _))) if *from > revision => None,
                Stage::Start(from) => match self.shared.catch_up(*from) {
                    Catchup::Tail(seen) => {
                        self.stage = Stage::Tail(seen);
                        continue;
                    }
                    Catchup::Image(image) => {
                        let begin = Frame::SnapshotBegin {
                            revision: image.revision(),
                            chain: image.chain(),
                        };
                        self.stage = Stage::Image {
                            image: Box::new(image),
                            after: None,
                            records: 0,
                            hasher: Box::default(),
                        };
                        Some(begin)
                    }
                },
                Stage::Image { image, after, records, hasher } => {
                    let chunk = image.entries_after(after.as_deref(), GATHER_BYTES);
                    if let Some(last) = chunk.last() {
                        for record in &chunk {
                            hasher.update(record_bytes(record));
                        }
                        *records += chunk.len() as u64;
                        *after = Some(last.key().into());
                        Some(Frame::SnapshotChunk { records: chunk })
                    } else {
                        let digest = hasher.clone().finalize().into();
                        let end = Frame::SnapshotEnd { records: *records, digest };
                        self.stage = Stage::Tail(image.revision());
                        Some(end)
                    }
                }
                Stage::Tail(seen) => match self.shared.tail(*seen) {
                    Tail::Compacted => {
                        self.stage = Stage::Start(None);
                        continue;
                    }
                    Tail::Batches(batches) => {
                        let mut gathered = Vec::new();
                        let mut bytes = 0;
                        for batch in batches {
                            bytes += batch.weight();
                            if bytes > GATHER_BYTES && !gathered.is_empty() {
                                break;
                            }
                            *seen = batch.revision;
                            gathered.push(Batch::clone(&batch));
                        }
                        (!gathered.is_empty()).then_some(Frame::Batches(gathered))
                    }
                },
            };
            if let Some(frame) = frame {
                return Some(self.seal(&frame));
            }
            tokio::select! {
                changed = self.progress.changed() => {
                    if changed.is_err() {
                        return None;
                    }
                }
                _ = self.heartbeat.tick() => return Some(self.seal(&self.known())),
            }
        }
    }

    /// The frame as it is sent, signed together with where this node stands after it.
    fn seal(&self, frame: &Frame) -> Bytes {
        let stated = match frame {
            Frame::SnapshotBegin { revision, chain } => Some((*revision, *chain)),
            Frame::Batches(batches) => batches.last().map(|last| (last.revision, last.chain)),
            _ => None,
        };
        let (revision, chain) =
            stated.unwrap_or_else(|| self.shared.read(|state| (state.revision(), state.chain())));
        let position = Position { revision, chain };
        self.signer.seal(position, &encode(frame))
    }

    fn known(&self) -> Frame {
        let revision = self.shared.read(|state| state.revision());
        let leadership = self.leadership.borrow();
        Frame::Heartbeat(Known {
            revision,
            leader: leadership.leader,
            term: leadership.term,
            voters: leadership.voters.clone(),
            learners: leadership.learners.clone(),
            quorum_ok: leadership.quorum_ok,
        })
    }
}

/// What the digest of a snapshot is taken over.
pub(crate) fn record_bytes(record: &Record) -> Vec<u8> {
    postcard::to_allocvec(record).unwrap_or_default()
}

fn encode(frame: &Frame) -> Vec<u8> {
    let bytes = postcard::to_allocvec(frame).unwrap_or_default();
    debug_assert!(bytes.len() <= MAX_FRAME_BYTES - SEAL_BYTES, "a frame of {} bytes", bytes.len());
    bytes
}
