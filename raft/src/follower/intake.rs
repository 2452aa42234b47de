//! The receiving side: frames in, a state that moves forward only.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use swarmer_model::Revision;

use super::{
    disk::Kept,
    feed::{Frame, Known, record_bytes},
    seal::{FeedTrust, Newest, Position},
};
use crate::{
    error::{FeedError, RaftError},
    keyspace::{BatchRefused, ChainHash, Record, Shared, State, StateBuilder},
};

#[derive(Debug)]
pub(super) struct Intake {
    kept: Kept,
    shared: Arc<Shared>,
    snapshot: Option<Snapshot>,
    trust: FeedTrust,
    newest: Newest,
    /// Another one writes the state now.
    over: bool,
}

/// A state that is coming in.
#[derive(Debug)]
struct Snapshot {
    revision: Revision,
    chain: ChainHash,
    builder: StateBuilder,
    records: u64,
    hasher: Sha256,
}

fn failed(error: impl std::fmt::Display) -> FeedError {
    FeedError::Storage(error.to_string())
}

impl Intake {
    pub(super) fn new(kept: Kept, shared: Arc<Shared>, trust: FeedTrust) -> Self {
        Self { kept, shared, snapshot: None, trust, newest: Newest::default(), over: false }
    }

    /// Takes a frame that a voter signed; a heartbeat is handed back.
    pub(super) async fn take(&mut self, frame: &[u8]) -> Result<Option<Known>, FeedError> {
        if self.over {
            return Err(FeedError::Over);
        }
        let vouched = self.trust.open(frame)?;
        let frame = decode(vouched.frame)?;
        self.newest.note(&vouched, matches!(frame, Frame::Heartbeat(_)))?;
        match frame {
            Frame::Heartbeat(known) => {
                self.same_history(vouched.position)?;
                return Ok(Some(known));
            }
            Frame::SnapshotBegin { revision, chain } => self.begin(revision, chain)?,
            Frame::SnapshotChunk { records } => self.chunk(records)?,
            Frame::SnapshotEnd { records, digest } => self.end(records, digest).await?,
            Frame::Batches(batches) => {
                self.snapshot = None;
                for batch in batches {
                    self.batch(batch)?;
                }
                if self.kept.snapshot_is_due() {
                    let image = self.shared.read(State::image);
                    self.kept.snapshot(image).await.map_err(failed)?;
                }
            }
        }
        Ok(None)
    }

    /// At one revision there is one history: another one here or there is damage.
    fn same_history(&self, told: Position) -> Result<(), FeedError> {
        let (revision, chain) = self.shared.read(|state| (state.revision(), state.chain()));
        if revision == told.revision && chain != told.chain {
            return Err(FeedError::Chain { revision });
        }
        Ok(())
    }

    fn begin(&mut self, revision: Revision, chain: ChainHash) -> Result<(), FeedError> {
        let known = self.shared.read(State::revision);
        if revision < known {
            return Err(FeedError::Gap { expected: known, offered: revision });
        }
        self.snapshot = Some(Snapshot {
            revision,
            chain,
            builder: StateBuilder::default(),
            records: 0,
            hasher: Sha256::new(),
        });
        Ok(())
    }

    fn chunk(&mut self, records: Vec<Record>) -> Result<(), FeedError> {
        let mut snapshot = self.snapshot.take().ok_or_else(|| broken("it has no beginning"))?;
        for record in records {
            if matches!(record, Record::Request { .. }) {
                return Err(broken("it has something that is no entry"));
            }
            snapshot.hasher.update(record_bytes(&record));
            snapshot.records += 1;
            snapshot.builder.add(record).map_err(broken)?;
        }
        self.snapshot = Some(snapshot);
        Ok(())
    }

    async fn end(&mut self, records: u64, digest: [u8; 32]) -> Result<(), FeedError> {
        let snapshot = self.snapshot.take().ok_or_else(|| broken("it has no beginning"))?;
        let found: [u8; 32] = snapshot.hasher.finalize().into();
        if snapshot.records != records || found != digest {
            return Err(broken("its digest does not fit"));
        }
        let state = snapshot.builder.finish(snapshot.revision, snapshot.chain);
        // On the disk first: what is shown is never taken back by a restart.
        self.kept.snapshot(state.image()).await.map_err(failed)?;
        self.shared.replace(state);
        Ok(())
    }

    fn batch(&mut self, batch: crate::keyspace::Batch) -> Result<(), FeedError> {
        let revision = batch.revision;
        let batch = Arc::new(batch);
        self.shared.apply_batch(batch.clone()).map_err(|refused| match refused {
            BatchRefused::Gap { expected } => FeedError::Gap { expected, offered: revision },
            BatchRefused::Chain => FeedError::Chain { revision },
        })?;
        self.kept.append(&batch).map_err(failed)
    }

    pub(super) fn remember(&self, known: &Known) -> Result<(), FeedError> {
        self.kept.remember(known).map_err(failed)
    }

    /// Takes nothing more: the state has another writer.
    pub(super) async fn finish(&mut self) -> Result<(), RaftError> {
        self.over = true;
        self.snapshot = None;
        self.kept.close().await
    }

    pub(super) async fn close(&self) -> Result<(), RaftError> {
        self.kept.close().await
    }
}

fn broken(why: &str) -> FeedError {
    FeedError::Snapshot(why.to_owned())
}

fn decode(frame: &[u8]) -> Result<Frame, FeedError> {
    match postcard::take_from_bytes(frame) {
        Ok((frame, [])) => Ok(frame),
        Ok(_) => Err(FeedError::Malformed("bytes follow its end".to_owned())),
        Err(error) => Err(FeedError::Malformed(error.to_string())),
    }
}
