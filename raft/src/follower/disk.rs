//! What a follower keeps: a snapshot, the batches after it, and whom it knows.

use std::{io, path::Path, sync::Arc};

use bytes::Bytes;
use tokio::sync::watch;

use super::feed::Known;
use crate::{
    disk::{Disk, blocking},
    error::RaftError,
    keyspace::{Batch, State, StateImage},
    snapshot::SnapshotStore,
    wal::{Wal, WalConfig, WalError},
};

/// A snapshot is made when the batches after the last one have so many bytes.
const SNAPSHOT_BYTES: u64 = 8 << 20;
/// Batches read at a time when it opens.
const READ_BYTES: usize = 4 << 20;

#[derive(Debug)]
pub(super) struct Kept {
    wal: Wal,
    store: Arc<SnapshotStore>,
    bytes: u64,
}

fn failed(error: impl std::fmt::Display) -> RaftError {
    RaftError::Storage(error.to_string())
}

/// The log stops for good by itself after a failure; every later call then tells.
fn noted(result: Result<(), WalError>) {
    if let Err(error) = result {
        tracing::error!(target: "swarmer::raft", %error, "the follower's log failed");
    }
}

impl Kept {
    /// Opens, checks and reads everything. Blocks.
    pub(super) fn open(disk: Arc<dyn Disk>, dir: &Path) -> Result<(Self, State, Known), RaftError> {
        disk.create_dir(dir).map_err(failed)?;
        let store = SnapshotStore::open(disk.clone(), dir.join("snapshots")).map_err(failed)?;
        let (wal, recovered) = Wal::open(disk, WalConfig::new(dir.join("log")))?;
        let mut state = match store.current() {
            Some(snapshot) => snapshot.load().map_err(failed)?,
            None => State::default(),
        };
        let known = recovered.vote.and_then(|bytes| postcard::from_bytes(&bytes).ok());
        let mut kept = Self { wal, store, bytes: 0 };
        kept.replay(&mut state, recovered.last)?;
        Ok((kept, state, known.unwrap_or_default()))
    }

    fn replay(&mut self, state: &mut State, last: Option<u64>) -> Result<(), RaftError> {
        let mut next = state.revision() + 1;
        while last.is_some_and(|last| next <= last) {
            let entries = self.wal.read(next..u64::MAX, READ_BYTES)?;
            if entries.is_empty() {
                break;
            }
            for (index, bytes) in entries {
                let batch: Batch = postcard::from_bytes(&bytes).map_err(failed)?;
                if state.apply_batch(&batch).is_err() {
                    // A crash fell between a new snapshot and the purge of what it replaced: the
                    // rest belongs to another history and is fetched again.
                    tracing::warn!(target: "swarmer::raft", index, "batches after it are dropped");
                    return self.restart_after(state);
                }
                self.bytes += bytes.len() as u64;
            }
            next = state.revision() + 1;
        }
        if last.is_some_and(|last| last < state.revision()) {
            return self.restart_after(state);
        }
        Ok(())
    }

    /// Keeps another state than the one that was read.
    pub(super) async fn start_from(&mut self, state: &State) -> Result<(), RaftError> {
        let (store, image) = (self.store.clone(), state.image());
        let write = move || store.write(image.revision(), Bytes::new(), &image).map(|_| ());
        blocking(self.store.disk(), write).await.map_err(failed)?;
        self.bytes = 0;
        self.restart_after(state)
    }

    /// Makes the log continue right after the state.
    fn restart_after(&mut self, state: &State) -> Result<(), RaftError> {
        let revision = state.revision();
        if self.wal.last_index().is_some_and(|last| last > revision) {
            self.wal.truncate_after(
                Some(revision.max(self.wal.first_index().saturating_sub(1))),
                noted,
            );
        }
        self.wal.purge(revision, Bytes::new(), noted);
        self.check()
    }

    fn check(&self) -> Result<(), RaftError> {
        self.wal.fatal().borrow().clone().map_or(Ok(()), |error| Err(error.into()))
    }

    /// The first failure of the log, after which nothing is kept any more.
    pub(super) fn fatal(&self) -> watch::Receiver<Option<WalError>> {
        self.wal.fatal()
    }

    /// Keeps a batch; synced soon, as what is lost is fetched again.
    pub(super) fn append(&mut self, batch: &Batch) -> io::Result<()> {
        let bytes = postcard::to_allocvec(batch).map_err(io::Error::other)?;
        self.bytes += bytes.len() as u64;
        self.wal.append(batch.revision, vec![bytes.into()], noted);
        self.check().map_err(io::Error::other)
    }

    pub(super) fn remember(&self, known: &Known) -> io::Result<()> {
        let bytes = postcard::to_allocvec(known).map_err(io::Error::other)?;
        self.wal.save_vote(bytes.into(), noted);
        self.check().map_err(io::Error::other)
    }

    pub(super) fn snapshot_is_due(&self) -> bool {
        self.bytes >= SNAPSHOT_BYTES
    }

    /// Writes a snapshot, then drops the batches that it covers.
    pub(super) async fn snapshot(&mut self, image: StateImage) -> io::Result<()> {
        let store = self.store.clone();
        let revision = image.revision();
        let write = move || store.write(revision, Bytes::new(), &image).map(|_| ());
        blocking(self.store.disk(), write).await?;
        self.bytes = 0;
        self.wal.purge(revision, Bytes::new(), noted);
        self.check().map_err(io::Error::other)
    }

    /// Writes out what is queued.
    pub(super) async fn close(&self) -> Result<(), RaftError> {
        let wal = self.wal.clone();
        let closed = blocking(self.store.disk(), move || Ok(wal.close())).await;
        Ok(closed.map_err(failed)??)
    }
}
