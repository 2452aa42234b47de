//! The sending side: a position in, signed frames out.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use swarmer_model::{NodeId, Revision, wire};
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
/// How long nothing but changes is said: what is known of the cluster is told again then. Whether the
/// sender lives shows by its connection.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// The same to older nodes, which wait for it: before [`wire::RESTING`].
const OLDER_HEARTBEAT: Duration = Duration::from_secs(1);

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

/// How a feed goes on when all is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// It waits for news, for as long as this node votes.
    Goes,
    /// It ends: this node has no vote.
    Ends,
}

/// The sending side of a feed; made by [`crate::Handle::feed`] and [`crate::Follower::feed`].
#[derive(Debug)]
pub struct Feed {
    shared: Arc<Shared>,
    progress: watch::Receiver<Progress>,
    leadership: watch::Receiver<Leadership>,
    /// What was said last of the cluster.
    told: Option<Leadership>,
    heartbeat: Interval,
    stage: Stage,
    then: Then,
    signer: FeedSigner,
}

impl Feed {
    pub(crate) fn new(
        shared: Arc<Shared>,
        leadership: watch::Receiver<Leadership>,
        from: Option<(Revision, ChainHash)>,
        signer: FeedSigner,
        version: u8,
        then: Then,
    ) -> Self {
        let progress = shared.progress();
        let pause = if version >= wire::RESTING { HEARTBEAT } else { OLDER_HEARTBEAT };
        let mut heartbeat = tokio::time::interval_at(Instant::now() + pause, pause);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let stage = Stage::Start(from);
        Self { shared, progress, leadership, told: None, heartbeat, stage, then, signer }
    }

    /// The next frame, at most 256 KiB; one at least every five seconds (to nodes before wire
    /// version 6 every second). None when the node is stopping, or has no vote and all is told.
    /// Cancel-safe.
    pub async fn next(&mut self) -> Option<Bytes> {
        loop {
            let Progress { revision, closed } = *self.progress.borrow_and_update();
            if closed {
                return None;
            }
            // Before what is read below, so that it is read after the last change.
            let over = self.leadership.has_changed().is_err() || self.then == Then::Ends;
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
            // After the changes: the keys of those who vote are among them. And before the end: who
            // follows a node that lost its vote may know of no other voter.
            if let Some(known) = self.news() {
                return Some(self.seal(&known));
            }
            if over {
                return None;
            }
            tokio::select! {
                changed = self.progress.changed() => {
                    if changed.is_err() {
                        return None;
                    }
                }
                // Its end is seen above.
                _ = self.leadership.changed() => {}
                _ = self.heartbeat.tick() => self.told = None,
            }
        }
    }

    /// What is known of the cluster, if something else was told of it.
    fn news(&mut self) -> Option<Frame> {
        let leadership = self.leadership.borrow_and_update();
        if self.told.as_ref() == Some(&*leadership) {
            return None;
        }
        let leadership = leadership.clone();
        let known = Frame::Heartbeat(Known {
            revision: self.shared.read(|state| state.revision()),
            leader: leadership.leader,
            term: leadership.term,
            voters: leadership.voters.clone(),
            learners: leadership.learners.clone(),
            quorum_ok: leadership.quorum_ok,
        });
        self.told = Some(leadership);
        Some(known)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FeedKey, Txn, keyspace::State, status::Role};
    use swarmer_model::ClusterId;

    struct Key;

    impl FeedKey for Key {
        fn sign(&self, _: &[u8]) -> Vec<u8> {
            vec![1]
        }
    }

    /// Node 1, the only voter, and what it knows.
    struct Sender {
        shared: Arc<Shared>,
        leadership: watch::Sender<Leadership>,
    }

    impl Sender {
        fn new() -> Self {
            let shared = Shared::new(State::default(), 1 << 20);
            let mut known = Leadership::initial(NodeId(1), Role::Leader);
            known.voters = [NodeId(1)].into();
            Self { shared, leadership: watch::channel(known).0 }
        }

        fn put(&self, key: &str) {
            self.shared.apply(&Txn::new().put(key, "v"));
            self.shared.announce();
        }

        fn votes(&self, voters: &[u64]) {
            let voters = voters.iter().copied().map(NodeId).collect();
            self.leadership.send_modify(|known| known.voters = voters);
        }

        fn feed(&self, version: u8, then: Then) -> Feed {
            let node = NodeId(1);
            let signer = FeedSigner { cluster: ClusterId(1), node, boot: 1, key: Arc::new(Key) };
            let from = Some((0, State::default().chain()));
            let leadership = self.leadership.subscribe();
            Feed::new(self.shared.clone(), leadership, from, signer, version, then)
        }
    }

    /// What a frame says: the revision of its last change, or who votes.
    #[derive(Debug, PartialEq, Eq)]
    enum Said {
        Revision(u64),
        Voters(Vec<u64>),
    }

    async fn said(feed: &mut Feed) -> Option<Said> {
        let bytes = feed.next().await?;
        let sealed = FeedSigner::unsealed(&bytes);
        Some(match postcard::from_bytes(sealed).unwrap() {
            Frame::Batches(batches) => Said::Revision(batches.last().unwrap().revision),
            Frame::Heartbeat(known) => Said::Voters(known.voters.iter().map(|v| v.0).collect()),
            frame => panic!("{frame:?}"),
        })
    }

    #[tokio::test(start_paused = true)]
    async fn who_votes_is_told_when_it_changes_and_now_and_then() {
        for (version, pause) in [(wire::NEWEST, 5), (wire::RESTING - 1, 1)] {
            let sender = Sender::new();
            let mut feed = sender.feed(version, Then::Goes);
            let start = Instant::now();
            assert_eq!(said(&mut feed).await, Some(Said::Voters(vec![1])));
            sender.votes(&[1, 2]);
            assert_eq!(said(&mut feed).await, Some(Said::Voters(vec![1, 2])));
            assert_eq!(start.elapsed(), Duration::ZERO);
            // A change of it after one of the state, whose keys it may need.
            sender.votes(&[2, 3]);
            sender.put("a");
            assert_eq!(said(&mut feed).await, Some(Said::Revision(1)));
            assert_eq!(said(&mut feed).await, Some(Said::Voters(vec![2, 3])));
            assert_eq!(start.elapsed(), Duration::ZERO);
            for beat in 1..=3 {
                assert_eq!(said(&mut feed).await, Some(Said::Voters(vec![2, 3])));
                assert_eq!(start.elapsed(), Duration::from_secs(beat * pause));
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_lost_its_vote_tells_all_that_it_knows_and_who_votes_last() {
        let sender = Sender::new();
        let mut feed = sender.feed(wire::NEWEST, Then::Goes);
        assert_eq!(said(&mut feed).await, Some(Said::Voters(vec![1])));
        sender.put("a");
        sender.votes(&[2, 3]);
        let shared = sender.shared.clone();
        drop(sender);
        assert_eq!(said(&mut feed).await, Some(Said::Revision(1)));
        assert_eq!(said(&mut feed).await, Some(Said::Voters(vec![2, 3])));
        assert_eq!(said(&mut feed).await, None);
        drop(shared);
    }

    #[tokio::test(start_paused = true)]
    async fn one_without_a_vote_ends_when_all_is_told() {
        let sender = Sender::new();
        sender.put("a");
        sender.votes(&[2]);
        let mut feed = sender.feed(wire::NEWEST, Then::Ends);
        assert_eq!(said(&mut feed).await, Some(Said::Revision(1)));
        assert_eq!(said(&mut feed).await, Some(Said::Voters(vec![2])));
        assert_eq!(said(&mut feed).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_stops_says_nothing_more() {
        let sender = Sender::new();
        let mut feed = sender.feed(wire::NEWEST, Then::Goes);
        sender.shared.close();
        assert_eq!(said(&mut feed).await, None);
    }
}
