//! The writing side of an open log: whoever has it writes what was queued, in turns.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use futures::future::BoxFuture;

use super::{
    error::WalError,
    shared::{Job, Op, Shared, State},
    writer::{Change, Writer},
};
use crate::disk::Turns;

/// The most that is written with one fsync. More would not make the disk faster, and would make
/// the first call of the group wait longer.
const MAX_GROUP_BYTES: usize = 4 * 1024 * 1024;

/// Writes a log. When it goes, whatever is still queued is answered with why.
pub(super) struct Writing {
    shared: Arc<Shared>,
    writer: Writer,
    /// Whether the writer may have work that nobody waits for.
    background: bool,
    over: bool,
}

impl Writing {
    pub(super) fn new(shared: Arc<Shared>, writer: Writer) -> Self {
        Self { shared, writer, background: true, over: false }
    }

    /// When there is something to do.
    fn is_due(&self) -> impl Fn(&State) -> bool + Send + Sync + 'static {
        let (background, queue_bytes) = (self.background, self.shared.config.queue_bytes);
        move |state| {
            has_group(state, queue_bytes)
                || state.closing
                || (background && state.failure.is_none())
        }
    }

    /// Writes a group, or does a step of the rest. False: the log is closed.
    fn serve(&mut self) -> bool {
        let mut state = self.shared.state.lock();
        let (jobs, committed) = if has_group(&state, self.shared.config.queue_bytes) {
            take_group(&mut state)
        } else {
            (Vec::new(), None)
        };
        let failure = state.failure.clone();
        let closing = state.closing;
        drop(state);

        if let Some(failure) = failure {
            self.answer(jobs, Err(failure));
            return !closing || !self.shared.state.lock().queue.is_empty();
        }
        if jobs.is_empty() && committed.is_none() && closing {
            match self.writer.close() {
                Ok(removed) => self.publish(Vec::new(), &removed),
                Err(error) => self.fail(error),
            }
            return false;
        }
        if !jobs.is_empty() || committed.is_some() {
            let start = Instant::now();
            match self.writer.commit(jobs.iter().map(|job| &job.op), committed) {
                Ok(changes) => {
                    if !jobs.is_empty() {
                        self.shared.pace.lock().note(start.elapsed(), Instant::now());
                    }
                    let written = jobs.last().map(|job| job.call);
                    self.finish(changes, written);
                    self.answer(jobs, Ok(()));
                }
                Err(error) => {
                    self.fail(error.clone());
                    self.answer(jobs, Err(error));
                    return true;
                }
            }
        }
        let mut removed = Vec::new();
        match self.writer.background(&mut removed) {
            Ok(more) => {
                self.background = more;
                self.publish(Vec::new(), &removed);
            }
            Err(error) => self.fail(error),
        }
        true
    }

    fn fail(&self, error: WalError) {
        self.shared.fail(&mut self.shared.state.lock(), error);
    }

    /// Makes a written group known to readers, and frees what it no longer needs in memory.
    fn finish(&mut self, changes: Vec<Change>, written: Option<u64>) {
        self.publish(changes, &[]);
        let mut state = self.shared.state.lock();
        state.batches += 1;
        self.writer.retire(&state.index);
        if let Some(written) = written {
            state.cache.shrink(self.shared.config.cache_bytes, written);
        }
    }

    fn publish(&self, changes: Vec<Change>, removed: &[u64]) {
        let mut state = self.shared.state.lock();
        for change in changes {
            match change {
                Change::Append { first, at } => {
                    for (index, location) in (first..).zip(at) {
                        state.index.push(index, location);
                    }
                }
                Change::Truncate { next } => state.index.truncate(next),
                Change::Purge { first } => state.index.drop_below(first),
                Change::Opened { segment, file } => {
                    state.files.insert(segment, file);
                }
            }
        }
        for id in removed {
            state.files.remove(id);
        }
        state.written = self.writer.written;
        state.segments = self.writer.segments();
    }

    fn answer(&self, jobs: Vec<Job>, result: Result<(), WalError>) {
        let bytes: usize = jobs.iter().map(|job| job.bytes).sum();
        self.shared.state.lock().queued_bytes -= bytes;
        self.shared.room_freed();
        for job in jobs {
            (job.done)(match job.op {
                Op::Refused(error) => Err(error),
                _ => result.clone(),
            });
        }
    }

    /// Nobody writes from here on.
    fn end(&mut self) {
        self.over = true;
        let queue = {
            let mut state = self.shared.state.lock();
            state.ended = true;
            state.queued_bytes = 0;
            std::mem::take(&mut state.queue)
        };
        self.shared.room_freed();
        let error = self.shared.failure().unwrap_or(WalError::Closed);
        for job in queue {
            (job.done)(Err(error.clone()));
        }
    }
}

impl Turns for Writing {
    fn wait(&self) {
        self.shared.wait_for_work(self.is_due());
    }

    fn due(&self) -> BoxFuture<'static, ()> {
        let (shared, due) = (Arc::clone(&self.shared), self.is_due());
        Box::pin(async move { shared.work(due).await })
    }

    fn turn(&mut self) -> bool {
        let more = catch_unwind(AssertUnwindSafe(|| self.serve())).unwrap_or_else(|_| {
            self.fail(WalError::Closed);
            false
        });
        if !more {
            self.end();
        }
        more
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        if !self.over {
            self.end();
        }
    }
}

/// Whether there is something to write, and nobody wants to add to it first.
fn has_group(state: &State, queue_bytes: usize) -> bool {
    let full = state.queued_bytes >= queue_bytes / 2;
    let held = state.holds > 0 && !full && !state.closing && state.failure.is_none();
    let idle = state.queue.is_empty() && state.committed.is_none();
    !held && !idle
}

/// The next group: at least one call, then as many as fit.
fn take_group(state: &mut State) -> (Vec<Job>, Option<Bytes>) {
    let mut jobs = Vec::new();
    let mut bytes = 0;
    while let Some(job) = state.queue.front()
        && (jobs.is_empty() || bytes + job.bytes <= MAX_GROUP_BYTES)
    {
        bytes += job.bytes;
        jobs.extend(state.queue.pop_front());
    }
    // It may speak of any entry that was handed in, so it must not overtake one.
    let committed = if state.queue.is_empty() { state.committed.take() } else { None };
    (jobs, committed)
}
