//! What the handles and the one who writes share: the queue, the image, the cache, the failure.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::sync::{Notify, watch};

use super::cache::Cache;
use super::config::WalConfig;
use super::error::WalError;
use super::image::{Image, Index, MAX_STATE_FIELD_BYTES};
use super::pace::{Pace, PaceWindow};
use super::record::{self, ENTRY_PREFIX_BYTES};
use super::recover::Recovery;
use super::writer::{Writer, Written};
use crate::disk::DiskFile;

pub(super) type Done = Box<dyn FnOnce(Result<(), WalError>) + Send>;

/// A call that has its place in the order.
#[derive(Debug)]
pub(super) enum Op {
    Append {
        first: u64,
        entries: Vec<Bytes>,
    },
    Vote(Bytes),
    Truncate {
        next: u64,
    },
    Purge {
        upto: u64,
        log_id: Bytes,
    },
    /// Changes nothing; in the queue so that its answer keeps the order.
    Refused(WalError),
}

pub(super) struct Job {
    pub(super) call: u64,
    pub(super) op: Op,
    pub(super) bytes: usize,
    pub(super) done: Done,
}

/// Counters since the log was opened, and sizes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WalStats {
    /// Bytes of records and headers written, without the zeros of new segments.
    pub bytes_written: u64,
    /// Records written.
    pub records: u64,
    /// Syncs of segment files.
    pub fsyncs: u64,
    /// Groups written; calls divided by this is how well they were batched.
    pub batches: u64,
    /// Segment files that hold the log.
    pub segments: usize,
    /// Bytes that wait for the disk.
    pub queued_bytes: usize,
    /// Bytes of entries kept in memory.
    pub cached_bytes: usize,
    /// Entries that can be read.
    pub entries: u64,
}

pub(super) struct State {
    pub(super) queue: VecDeque<Job>,
    /// With the group that is being written.
    pub(super) queued_bytes: usize,
    /// Number of the last call.
    calls: u64,
    pub(super) holds: usize,
    pub(super) closing: bool,
    /// Nobody writes any more: nobody would answer a call.
    pub(super) ended: bool,
    pub(super) failure: Option<WalError>,
    /// A committed position that is not yet written.
    pub(super) committed: Option<Bytes>,
    /// As of the last call.
    pub(super) image: Image,
    pub(super) cache: Cache,
    /// As of the last group that was written.
    pub(super) index: Index,
    pub(super) files: BTreeMap<u64, Arc<dyn DiskFile>>,
    pub(super) written: Written,
    pub(super) batches: u64,
    pub(super) segments: usize,
}

pub(super) struct Shared {
    pub(super) config: WalConfig,
    pub(super) state: Mutex<State>,
    /// For the one who writes: something to do.
    work: Condvar,
    work_async: Notify,
    /// For those that block: room in the queue.
    room: Condvar,
    room_async: Notify,
    fatal: watch::Sender<Option<WalError>>,
    pub(super) pace: Mutex<PaceWindow>,
}

impl Shared {
    pub(super) fn new(config: WalConfig, recovery: Recovery) -> (Arc<Self>, Writer) {
        let Recovery { writer, image, index, files } = recovery;
        let state = State {
            queue: VecDeque::new(),
            queued_bytes: 0,
            calls: 0,
            holds: 0,
            closing: false,
            ended: false,
            failure: None,
            committed: None,
            cache: Cache::starting_at(image.next),
            image,
            index,
            files,
            written: Written::default(),
            batches: 0,
            segments: writer.segments(),
        };
        let shared = Self {
            config,
            state: Mutex::new(state),
            work: Condvar::new(),
            work_async: Notify::new(),
            room: Condvar::new(),
            room_async: Notify::new(),
            fatal: watch::Sender::new(None),
            pace: Mutex::default(),
        };
        (Arc::new(shared), writer)
    }

    // --- What the handles call.

    pub(super) fn submit(&self, op: Op, done: Done) {
        let bytes = cost(&op);
        let mut state = self.state.lock();
        self.wait_for_room(&mut state, bytes);
        if state.ended || state.closing {
            let error = state.failure.clone().unwrap_or(WalError::Closed);
            drop(state);
            return done(Err(error));
        }
        let op = match self.check(&state, &op) {
            Ok(()) => op,
            Err(error) => Op::Refused(error),
        };
        state.calls += 1;
        let call = state.calls;
        match &op {
            Op::Append { first, entries } => {
                if !entries.is_empty() {
                    state.image.append(*first, entries.len() as u64);
                }
                for (index, data) in (*first..).zip(entries) {
                    state.cache.push(call, index, data.clone());
                }
            }
            Op::Vote(vote) => state.image.vote = Some(vote.clone()),
            Op::Truncate { next } => {
                state.image.truncate(*next);
                let next = state.image.next;
                state.cache.truncate(next);
            }
            Op::Purge { upto, log_id } => {
                state.image.purge(*upto, log_id.clone());
                let (first, next) = (state.image.first, state.image.next);
                state.cache.drop_below(first, next);
            }
            Op::Refused(_) => {}
        }
        state.queued_bytes += bytes;
        state.queue.push_back(Job { call, op, bytes, done });
        self.wake();
    }

    /// Blocks while the queue is full; gives the disk up at the deadline.
    fn wait_for_room(&self, state: &mut MutexGuard<'_, State>, bytes: usize) {
        let limit = self.config.queue_bytes;
        // Taken only when there is a wait; a single call larger than the queue may enter alone.
        let mut deadline = None;
        while state.queued_bytes > 0
            && state.queued_bytes + bytes > limit
            && state.failure.is_none()
            && !state.ended
        {
            let until = *deadline.get_or_insert_with(|| Instant::now() + self.config.stall_timeout);
            if self.room.wait_until(state, until).timed_out() {
                let waited_ms = self.config.stall_timeout.as_millis() as u64;
                self.fail(state, WalError::Stalled { waited_ms });
            }
        }
    }

    fn check(&self, state: &State, op: &Op) -> Result<(), WalError> {
        if let Some(failure) = &state.failure {
            return Err(failure.clone());
        }
        let small = |field: &Bytes| check_size(field.len(), MAX_STATE_FIELD_BYTES);
        match op {
            Op::Append { first, entries } => {
                for entry in entries {
                    check_size(entry.len(), self.config.max_record_bytes)?;
                }
                let expected = state.image.expected().unwrap_or(*first);
                let fits = first.checked_add(entries.len() as u64).is_some();
                if *first != expected || !fits {
                    return Err(WalError::Gap { expected, got: *first });
                }
                Ok(())
            }
            Op::Vote(vote) => small(vote),
            Op::Purge { log_id, .. } => small(log_id),
            Op::Truncate { .. } | Op::Refused(_) => Ok(()),
        }
    }

    pub(super) fn save_committed(&self, committed: Bytes) {
        let mut state = self.state.lock();
        if let Err(error) = check_size(committed.len(), MAX_STATE_FIELD_BYTES) {
            return self.fail(&mut state, error);
        }
        if state.failure.is_none() && !state.closing {
            state.image.committed = Some(committed.clone());
            state.committed = Some(committed);
            self.wake();
        }
    }

    pub(super) fn hold(&self) {
        self.state.lock().holds += 1;
    }

    pub(super) fn release(&self) {
        self.state.lock().holds -= 1;
        self.wake();
    }

    pub(super) async fn ready(&self) {
        loop {
            let mut room = std::pin::pin!(self.room_async.notified());
            // Registered before the look, so that no news falls between them.
            room.as_mut().enable();
            {
                let state = self.state.lock();
                if state.queued_bytes < self.config.queue_bytes
                    || state.failure.is_some()
                    || state.closing
                {
                    return;
                }
            }
            room.await;
        }
    }

    pub(super) fn with_image<T>(&self, look: impl FnOnce(&Image) -> T) -> T {
        look(&self.state.lock().image)
    }

    pub(super) fn fatal(&self) -> watch::Receiver<Option<WalError>> {
        self.fatal.subscribe()
    }

    pub(super) fn failure(&self) -> Option<WalError> {
        self.state.lock().failure.clone()
    }

    pub(super) fn begin_close(&self) {
        self.state.lock().closing = true;
        self.wake();
        self.room_async.notify_waiters();
    }

    pub(super) fn stats(&self) -> WalStats {
        let state = self.state.lock();
        WalStats {
            bytes_written: state.written.bytes,
            records: state.written.records,
            fsyncs: state.written.fsyncs,
            batches: state.batches,
            segments: state.segments,
            queued_bytes: state.queued_bytes,
            cached_bytes: state.cache.bytes(),
            entries: state.image.next - state.image.first,
        }
    }

    /// How fast the disk was lately.
    pub(super) fn pace(&self) -> Pace {
        self.pace.lock().pace(Instant::now())
    }

    // --- What the one who writes calls.

    fn wake(&self) {
        self.work.notify_one();
        self.work_async.notify_one();
    }

    /// Blocks until the condition holds; looked at when something was queued or ended.
    pub(super) fn wait_for_work(&self, due: impl Fn(&State) -> bool) {
        let mut state = self.state.lock();
        while !due(&state) {
            self.work.wait(&mut state);
        }
    }

    /// As [`Self::wait_for_work`], without blocking.
    pub(super) async fn work(&self, due: impl Fn(&State) -> bool) {
        // A notification that came before the look is kept for the wait after it.
        while !due(&self.state.lock()) {
            self.work_async.notified().await;
        }
    }

    /// There is room in the queue, or nobody need wait for it.
    pub(super) fn room_freed(&self) {
        self.room.notify_all();
        self.room_async.notify_waiters();
    }

    /// Sets the first failure; the log takes nothing from then on.
    pub(super) fn fail(&self, state: &mut State, error: WalError) {
        if state.failure.is_none() {
            tracing::error!(target: "swarmer::raft::wal", %error, "the log stops");
            state.failure = Some(error.clone());
            self.fatal.send_replace(Some(error));
        }
        self.wake();
        self.room_freed();
    }
}

/// What a call takes of the queue's bound.
fn cost(op: &Op) -> usize {
    match op {
        Op::Append { entries, .. } => {
            entries.iter().map(|e| record::footprint(ENTRY_PREFIX_BYTES + e.len())).sum()
        }
        Op::Vote(field) | Op::Purge { log_id: field, .. } => record::footprint(8 + field.len()),
        Op::Truncate { .. } | Op::Refused(_) => record::footprint(8),
    }
}

fn check_size(bytes: usize, max: usize) -> Result<(), WalError> {
    if bytes > max { Err(WalError::RecordTooLarge { bytes, max }) } else { Ok(()) }
}
