//! The handle of the log.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::config::WalConfig;
use super::error::WalError;
use super::pace::Pace;
use super::recover::recover;
use super::shared::{Op, Shared, WalStats};
use super::turns::Writing;
use crate::disk::{Disk, Served};

/// What a log held when it was opened. All of it is durable by then.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The last vote.
    pub vote: Option<Bytes>,
    /// The last committed position that reached the log; it may lag behind the last one saved.
    pub committed: Option<Bytes>,
    /// Index and log id up to which entries were dropped.
    pub purged: Option<(u64, Bytes)>,
    /// The lowest index that can be read. Where there is no entry: where the next may start.
    pub first: u64,
    /// The highest index that can be read.
    pub last: Option<u64>,
}

/// A handle of an open log. Clones share it; the last one that goes closes it.
///
/// One thread writes (of the disk's [`Workers`](crate::disk::Workers)). Calls are queued in the order in which they are made and written in
/// groups with one fsync each. A `done` runs on that thread: it must be quick and must not submit
/// to the log. Every `done` is called exactly once, in the order of the calls.
///
/// The queue is bounded by bytes: a call that finds it full blocks until the disk has taken some
/// of it. [`Wal::ready`] waits for that without blocking.
#[derive(Clone)]
pub struct Wal {
    owner: Arc<Owner>,
}

struct Owner {
    shared: Arc<Shared>,
    writing: Mutex<Option<Box<dyn Served>>>,
}

impl Owner {
    fn close(&self) {
        self.shared.begin_close();
        let writing = self.writing.lock().take();
        // A `done` may hold the last handle: this is then a turn of the writing itself.
        if let Some(writing) = writing {
            writing.join();
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.close();
    }
}

/// While it lives, calls are collected into one group instead of being written at once.
///
/// For a caller that makes several calls and wants one fsync. A queue that is half full is
/// written regardless.
#[must_use = "calls are held only as long as this lives"]
pub struct Hold {
    shared: Arc<Shared>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.shared.release();
    }
}

impl Wal {
    /// Opens the log in `config.dir`, or makes one; blocks while it reads all segments.
    ///
    /// # Errors
    /// [`WalError::Damaged`] where the files hold anything that was not written there,
    /// [`WalError::Version`] for a newer format, [`WalError::Config`], and the disk's errors.
    pub fn open(disk: Arc<dyn Disk>, config: WalConfig) -> Result<(Self, Recovered), WalError> {
        config.check()?;
        let recovery = recover(&disk, &config)?;
        let image = &recovery.image;
        let recovered = Recovered {
            vote: image.vote.clone(),
            committed: image.committed.clone(),
            purged: image.purged.clone(),
            first: image.first,
            last: (image.first < image.next).then(|| image.next - 1),
        };
        let dir = config.dir.clone();
        let (shared, writer) = Shared::new(config, recovery);
        let writing = Box::new(Writing::new(Arc::clone(&shared), writer));
        let writing = disk
            .workers()
            .serve("raft-wal", writing)
            .map_err(|e| WalError::io("start the thread that writes", &dir, e))?;
        let owner = Owner { shared, writing: Mutex::new(Some(writing)) };
        Ok((Self { owner: Arc::new(owner) }, recovered))
    }

    fn shared(&self) -> &Shared {
        &self.owner.shared
    }

    /// Appends entries from `first_index` on. They can be read when this returns; `done` comes
    /// after the fsync.
    ///
    /// `first_index` must be the index after the last one (in an empty log that was never purged:
    /// any), or `done` gets [`WalError::Gap`] and nothing is appended. An entry over
    /// `max_record_bytes` gets [`WalError::RecordTooLarge`] in the same way.
    pub fn append(
        &self,
        first_index: u64,
        entries: Vec<Bytes>,
        done: impl FnOnce(Result<(), WalError>) + Send + 'static,
    ) {
        self.shared().submit(Op::Append { first: first_index, entries }, Box::new(done));
    }

    /// Saves the vote, at most [`super::MAX_STATE_FIELD_BYTES`] long.
    pub fn save_vote(&self, vote: Bytes, done: impl FnOnce(Result<(), WalError>) + Send + 'static) {
        self.shared().submit(Op::Vote(vote), Box::new(done));
    }

    /// Saves the committed position. It is written soon and synced with the next group: a crash
    /// may bring back an earlier one. Longer than [`super::MAX_STATE_FIELD_BYTES`] is fatal.
    pub fn save_committed(&self, committed: Bytes) {
        self.shared().save_committed(committed);
    }

    /// Drops the entries after `index`, all of them for `None`.
    pub fn truncate_after(
        &self,
        index: Option<u64>,
        done: impl FnOnce(Result<(), WalError>) + Send + 'static,
    ) {
        let next = index.map_or(0, |i| i.saturating_add(1));
        self.shared().submit(Op::Truncate { next }, Box::new(done));
    }

    /// Drops the entries up to and with `upto`, whose log id is `log_id`; beyond the last entry
    /// it leaves an empty log that continues at `upto + 1`. At or below the last purge it does
    /// nothing. Segments that hold no entry any more are removed after `done`.
    pub fn purge(
        &self,
        upto: u64,
        log_id: Bytes,
        done: impl FnOnce(Result<(), WalError>) + Send + 'static,
    ) {
        self.shared().submit(Op::Purge { upto, log_id }, Box::new(done));
    }

    /// The entries of `range` that the log holds, in order and without a hole; at least one if
    /// there is any, then as many as `max_bytes` of data allow. Blocks on the disk for those no
    /// longer in memory; every one read there is checked.
    ///
    /// # Errors
    /// [`WalError::Damaged`] (which stops the log), the disk's errors, and whatever stopped the
    /// log before.
    pub fn read(&self, range: Range<u64>, max_bytes: usize) -> Result<Vec<(u64, Bytes)>, WalError> {
        self.shared().read(range, max_bytes)
    }

    /// The lowest index that can be read, or where an empty log continues.
    pub fn first_index(&self) -> u64 {
        self.shared().with_image(|i| i.first)
    }

    /// The lowest index from which on the entries on the disk are at most so many bytes.
    pub fn first_within(&self, bytes: u64) -> u64 {
        self.shared().state.lock().index.first_within(bytes)
    }

    /// The highest index that can be read.
    pub fn last_index(&self) -> Option<u64> {
        self.shared().with_image(|i| (i.first < i.next).then(|| i.next - 1))
    }

    /// The last vote handed in, durable or not.
    pub fn vote(&self) -> Option<Bytes> {
        self.shared().with_image(|i| i.vote.clone())
    }

    /// The last committed position handed in.
    pub fn committed(&self) -> Option<Bytes> {
        self.shared().with_image(|i| i.committed.clone())
    }

    /// Index and log id of the last purge handed in.
    pub fn purged(&self) -> Option<(u64, Bytes)> {
        self.shared().with_image(|i| i.purged.clone())
    }

    /// Collects the calls made until the guard goes into one group.
    pub fn hold(&self) -> Hold {
        self.shared().hold();
        Hold { shared: Arc::clone(&self.owner.shared) }
    }

    /// Waits until a call would not block. The caller sets the deadline.
    pub async fn ready(&self) {
        self.shared().ready().await;
    }

    /// How fast the disk was lately.
    pub fn pace(&self) -> Pace {
        self.shared().pace()
    }

    /// Counters and sizes.
    pub fn stats(&self) -> WalStats {
        self.shared().stats()
    }

    /// The first fatal error. Whoever owns the log must stop the node when it is set.
    pub fn fatal(&self) -> watch::Receiver<Option<WalError>> {
        self.shared().fatal()
    }

    /// Writes and syncs what is queued, and ends the thread. Other handles get
    /// [`WalError::Closed`] from then on. Blocks.
    ///
    /// # Errors
    /// What stopped the log, if it was stopped before or by this.
    pub fn close(self) -> Result<(), WalError> {
        self.owner.close();
        self.shared().failure().map_or(Ok(()), Err)
    }
}

impl fmt::Debug for Wal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wal").field("stats", &self.stats()).finish_non_exhaustive()
    }
}
