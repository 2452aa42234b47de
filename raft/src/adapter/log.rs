//! The engine's log on the write-ahead log.

use std::{
    fmt::Debug,
    io,
    ops::{Bound, Range, RangeBounds},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use openraft::{
    OptionalSend,
    entry::RaftEntry,
    storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage},
};
use parking_lot::Mutex;
use swarmer_model::planted::{self, Bug};
use tokio::sync::{Notify, oneshot};

use super::types::{Entry, LogId, Types, Vote, decode, encode};
use crate::wal::{Wal, WalError};

/// The most bytes of entries in one AppendEntries: leaves room for headers in a message.
const MAX_READ_BYTES: usize = 3 << 20;

/// Tells when the log has grown by so much that a snapshot is due.
#[derive(Debug)]
pub(crate) struct Growth {
    bytes: AtomicU64,
    threshold: u64,
    due: Notify,
}

impl Growth {
    pub(crate) fn new(bytes: u64, threshold: u64) -> Self {
        Self { bytes: AtomicU64::new(bytes), threshold, due: Notify::new() }
    }

    fn add(&self, bytes: u64) {
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes >= self.threshold {
            self.due.notify_one();
        }
    }

    /// Waits until a snapshot is due, and starts to count anew.
    pub(crate) async fn due(&self) {
        while self.bytes.load(Ordering::Relaxed) < self.threshold {
            self.due.notified().await;
        }
        self.bytes.store(0, Ordering::Relaxed);
    }
}

/// The log: clones share it.
#[derive(Debug, Clone)]
pub(crate) struct LogStore {
    wal: Wal,
    last: Arc<Mutex<Option<LogId>>>,
    growth: Arc<Growth>,
}

impl LogStore {
    /// A store over an opened log. Blocks.
    pub(crate) fn new(wal: Wal, growth: Arc<Growth>) -> io::Result<Self> {
        let last = match wal.last_index() {
            None => purged(&wal)?,
            Some(index) => {
                let entries = read(&wal, index..index + 1, usize::MAX)?;
                entries.last().map(RaftEntry::log_id)
            }
        };
        Ok(Self { wal, last: Arc::new(Mutex::new(last)), growth })
    }
}

fn purged(wal: &Wal) -> io::Result<Option<LogId>> {
    wal.purged().map(|(_, log_id)| decode("the purged log id", &log_id)).transpose()
}

pub(super) fn read(wal: &Wal, range: Range<u64>, max_bytes: usize) -> io::Result<Vec<Entry>> {
    let entries = wal.read(range, max_bytes).map_err(other)?;
    entries.iter().map(|(_, bytes)| decode("a log entry", bytes)).collect()
}

fn other(error: WalError) -> io::Error {
    io::Error::other(error)
}

/// Runs a write of the log and waits until it is durable.
async fn durable(
    write: impl FnOnce(Box<dyn FnOnce(Result<(), WalError>) + Send>),
) -> io::Result<()> {
    let (sender, receiver) = oneshot::channel();
    write(Box::new(move |result| {
        // Nobody waits any more if the engine was stopped meanwhile.
        let _ = sender.send(result);
    }));
    match receiver.await {
        Ok(result) => result.map_err(other),
        Err(_) => Err(io::Error::other("the log was closed")),
    }
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        if start >= end {
            return Ok(Vec::new());
        }
        read(&self.wal, start..end, usize::MAX)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        self.wal.vote().map(|vote| decode("the vote", &vote)).transpose()
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, io::Error> {
        read(&self.wal, start..end, MAX_READ_BYTES)
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        Ok(LogState { last_purged_log_id: purged(&self.wal)?, last_log_id: *self.last.lock() })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let bytes = encode(vote)?;
        durable(|done| self.wal.save_vote(bytes, done)).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.wal.save_committed(encode(&committed)?);
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        let Some(bytes) = self.wal.committed() else { return Ok(None) };
        let committed: Option<LogId> = decode("the committed log id", &bytes)?;
        // It is a hint, and not believed beyond what the log holds: without it the engine learns
        // from the next leader what is committed.
        let last = *self.last.lock();
        Ok(committed.filter(|committed| Some(*committed) <= last))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut first = None;
        let mut last = None;
        let mut bodies: Vec<Bytes> = Vec::new();
        for entry in entries {
            let log_id = entry.log_id();
            first.get_or_insert(log_id.index);
            last = Some(log_id);
            bodies.push(encode(&entry)?);
        }
        let Some(first) = first else {
            callback.io_completed(Ok(()));
            return Ok(());
        };
        let bytes: usize = bodies.iter().map(Bytes::len).sum();
        // Waiting here, not on the executor's thread, when the disk is behind.
        self.wal.ready().await;
        self.wal.append(first, bodies, move |result| callback.io_completed(result.map_err(other)));
        *self.last.lock() = last;
        self.growth.add(bytes as u64);
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let index = last_log_id.map(|log_id| log_id.index);
        durable(|done| self.wal.truncate_after(index, done)).await?;
        let purged = purged(&self.wal)?;
        let mut last = self.last.lock();
        *last = (*last).min(last_log_id.max(purged));
        Ok(())
    }

    async fn purge(&mut self, mut log_id: LogId) -> Result<(), io::Error> {
        if planted::is_on(Bug::PurgePastSnapshot) {
            log_id = self.last.lock().unwrap_or(log_id);
        }
        let bytes = encode(&log_id)?;
        durable(|done| self.wal.purge(log_id.index, bytes, done)).await?;
        let mut last = self.last.lock();
        *last = (*last).max(Some(log_id));
        Ok(())
    }
}
