//! The log of this process, and the ways into it.

use std::{
    collections::VecDeque,
    io,
    path::Path,
    sync::OnceLock,
    time::{Duration, Instant, SystemTime},
};

use parking_lot::Mutex;
use swarmer_mesh::transport::{self, RefusedBy};
use swarmer_model::{Code, Revision};
use swarmer_raft::Txn;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use super::{
    event::{Event, MAX_TEXT_CHARS, Touched, Who},
    files::{self, Files, Verdict},
    limit::Limit,
};
use crate::{
    codes,
    problem::{Outcome, Problem},
};

/// Records that are kept in memory while the disk takes none: the changes that were under way, and
/// refusals, which their own limit keeps rare.
const MAX_KEPT: usize = 4_096;
/// How often what was written is fsynced, and what could not be written is tried again.
const SYNC: Duration = Duration::from_secs(1);
/// Name of the folder in the data directory.
const DIR: &str = "audit";

/// One node runs in a process, and everything it does is told in one place, as with its log.
static TRAIL: OnceLock<Trail> = OnceLock::new();

tokio::task_local! {
    /// Who asked for what the task does; where nobody did, the node does it by itself.
    pub(crate) static WHO: Who;
}

struct Trail {
    node: String,
    started: Instant,
    log: Mutex<Log>,
}

struct Log {
    files: Files,
    /// What is not written yet.
    kept: VecDeque<(String, Event)>,
    lost: u64,
    limit: Limit,
    /// Why the log could not be written the last time.
    broken: Option<String>,
    unsynced: bool,
}

/// Opens the log in the data directory. To be called once, before anything is served.
///
/// # Errors
/// The files cannot be read or made.
pub(crate) fn init(data_dir: &Path, node: &str, boot: u64) -> Outcome<()> {
    let dir = data_dir.join(DIR);
    let (files, found) = Files::open(dir.clone()).map_err(|error| {
        Problem::new(codes::STORAGE, format!("the audit log {}: {error}", dir.display()))
    })?;
    if let Some(place) = &found.damage {
        tracing::error!(target: "swarmer::audit", code = codes::AUDIT_DAMAGED.name,
            file = place.file, line = place.line, reason = place.reason,
            "the audit log is not as it was written; a new chain begins");
    }
    let log = Log::new(files);
    let trail = Trail { node: node.to_owned(), started: Instant::now(), log: Mutex::new(log) };
    let start = Event::Start { boot, cut_bytes: found.cut_bytes, damage: found.damage };
    trail.log.lock().record(&trail.node, start);
    if TRAIL.set(trail).is_err() {
        return Err(Problem::new(codes::INTERNAL, "the audit log is open already"));
    }
    Ok(())
}

impl Log {
    fn new(files: Files) -> Self {
        let (kept, limit) = (VecDeque::new(), Limit::default());
        Self { files, kept, lost: 0, limit, broken: None, unsynced: false }
    }

    fn record(&mut self, node: &str, event: Event) {
        if self.kept.len() >= MAX_KEPT {
            self.lost += 1;
        } else {
            self.kept.push_back((now(), event));
        }
        // While it is broken, `keep` and the next change try again.
        if self.broken.is_none() {
            self.flush(node);
        }
    }

    /// Writes what is kept, all of it or nothing.
    fn flush(&mut self, node: &str) {
        let mut chain = self.files.chain().clone();
        let mut lines = String::new();
        let lost = (self.lost > 0).then(|| (now(), Event::Lost { records: self.lost }));
        for (time, event) in self.kept.iter().chain(&lost) {
            match chain.seal(time, node, event) {
                Ok(line) => {
                    lines.push_str(&line);
                    lines.push('\n');
                }
                Err(error) => self.broken = Some(error.to_string()),
            }
        }
        if lines.is_empty() {
            return;
        }
        match self.files.append(&lines, chain) {
            Ok(()) => {
                self.kept.clear();
                self.lost = 0;
                self.unsynced = true;
                if self.broken.take().is_some() {
                    tracing::info!(target: "swarmer::audit", "the audit log is written again");
                }
            }
            Err(error) => {
                if self.broken.is_none() {
                    tracing::error!(target: "swarmer::audit", code = codes::AUDIT_UNWRITABLE.name,
                        dir = %self.files.dir().display(), %error,
                        "the audit log cannot be written: changes are refused until it can");
                }
                self.broken = Some(error.to_string());
            }
        }
    }
}

fn now() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}

fn short(text: &str) -> String {
    text.chars().take(MAX_TEXT_CHARS).collect()
}

fn who() -> Who {
    WHO.try_with(Clone::clone).unwrap_or(Who::Node)
}

/// Whether a change may be made now: not if nobody could tell of it afterwards.
pub(crate) fn ready() -> Outcome<()> {
    let Some(trail) = TRAIL.get() else { return Ok(()) };
    let mut log = trail.log.lock();
    if log.broken.is_none() || !who().outside() {
        return Ok(());
    }
    log.flush(&trail.node);
    match &log.broken {
        None => Ok(()),
        Some(why) => {
            let why =
                format!("the audit log {} cannot be written: {why}", log.files.dir().display());
            Err(Problem::new(codes::AUDIT_UNWRITABLE, why).retry_after(1))
        }
    }
}

/// A change that is under way. One that is dropped without an outcome is recorded too: its caller
/// went away or ran out of time, and whether it was committed is not known here.
pub(crate) struct Noted {
    changes: Option<(Who, Vec<Touched>, usize)>,
}

impl Noted {
    /// What the transaction is about to change; nothing if it only asks.
    pub(crate) fn of(txn: &Txn) -> Self {
        if TRAIL.get().is_none() || txn.ops.is_empty() {
            return Self { changes: None };
        }
        let (changes, more) = Touched::of(txn);
        Self { changes: Some((who(), changes, more)) }
    }

    pub(crate) fn committed(mut self, revision: Revision) {
        self.end(Some(revision), None);
    }

    /// Nothing was changed.
    pub(crate) fn nothing(mut self) {
        self.changes = None;
    }

    pub(crate) fn unknown(mut self, code: Code) {
        self.end(None, Some(code.name));
    }

    fn end(&mut self, revision: Option<Revision>, code: Option<&'static str>) {
        let (Some(trail), Some((who, changes, more))) = (TRAIL.get(), self.changes.take()) else {
            return;
        };
        let event = Event::Change { who, changes, more, revision, code };
        trail.log.lock().record(&trail.node, event);
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        self.end(None, Some(codes::DEADLINE.name));
    }
}

/// Somebody whom this node refused.
pub(crate) struct Refusal<'a> {
    pub(crate) who: Who,
    pub(crate) what: &'a str,
    pub(crate) from: Option<String>,
    pub(crate) code: Code,
    pub(crate) reason: &'a str,
}

/// Records a refusal; a flood of them in part, with the count of the rest.
pub(crate) fn refused(refusal: Refusal<'_>) {
    let Some(trail) = TRAIL.get() else { return };
    let mut log = trail.log.lock();
    let Refusal { who, what, from, code, reason } = refusal;
    let Some(suppressed) = log.limit.admit(&who, code.name, trail.started.elapsed()) else {
        return;
    };
    let (what, reason) = (short(what), short(reason));
    let event = Event::Refuse { who, what, from, code: code.name, reason, suppressed };
    log.record(&trail.node, event);
}

/// Records what the transport refuses, until `shutdown`.
pub(crate) async fn follow_refusals(transport: transport::Handle, shutdown: CancellationToken) {
    let mut refusals = transport.refusals();
    loop {
        let told = tokio::select! {
            () = shutdown.cancelled() => return,
            told = refusals.recv() => told,
        };
        match told {
            Ok(told) if told.by == RefusedBy::Peer => {}
            Ok(told) => refused(Refusal {
                who: Who::Nobody,
                what: &told.protocol,
                from: Some(told.peer.to_string()),
                code: told.code,
                reason: &told.reason,
            }),
            // What was missed is in the log, and the next ones are told here.
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}

/// Makes durable what is written, and tries again what could not be, until `shutdown`.
pub(crate) async fn keep(shutdown: CancellationToken) {
    let Some(trail) = TRAIL.get() else { return };
    loop {
        let over = tokio::select! {
            () = shutdown.cancelled() => true,
            () = tokio::time::sleep(SYNC) => false,
        };
        let idle = {
            let log = trail.log.lock();
            log.kept.is_empty() && !log.unsynced
        };
        if !idle {
            let _ = tokio::task::spawn_blocking(|| sync(trail)).await;
        }
        if over {
            return;
        }
    }
}

fn sync(trail: &Trail) {
    let file = {
        let mut log = trail.log.lock();
        log.flush(&trail.node);
        if !std::mem::take(&mut log.unsynced) {
            return;
        }
        log.files.to_sync()
    };
    // Outside of the lock: nobody waits for the disk.
    if let Err(error) = file.and_then(|file| file.map_or(Ok(()), |file| file.sync_data())) {
        tracing::error!(target: "swarmer::audit", %error, "the audit log is not durable");
    }
}

/// Does something with the files, off the threads that serve.
async fn read<T: Send + 'static>(
    what: impl FnOnce(&Path, &super::chain::Chain) -> io::Result<T> + Send + 'static,
) -> Outcome<T> {
    let trail =
        TRAIL.get().ok_or_else(|| Problem::new(codes::INTERNAL, "the audit log is not open"))?;
    let (dir, chain) = {
        let log = trail.log.lock();
        (log.files.dir().to_owned(), log.files.chain().clone())
    };
    let done = tokio::task::spawn_blocking(move || what(&dir, &chain)).await;
    let done = done.map_err(|error| Problem::new(codes::INTERNAL, error.to_string()))?;
    done.map_err(|error| Problem::new(codes::STORAGE, format!("the audit log: {error}")))
}

/// The last records, the oldest first.
pub(crate) async fn tail(count: usize) -> Outcome<Vec<String>> {
    read(move |dir, _| files::tail(dir, count)).await
}

/// Checks all that is on disk.
pub(crate) async fn verify() -> Outcome<Verdict> {
    read(files::verify).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(i: u64) -> Event {
        Event::Lost { records: i }
    }

    #[test]
    fn what_cannot_be_written_is_kept_in_order_and_its_loss_is_told() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join(DIR);
        let (files, _) = Files::open(dir.clone()).unwrap();
        let mut log = Log::new(files);
        // Where the first file would be there is a folder: as good as a disk that takes nothing.
        let first = dir.join(format!("{:020}.jsonl", 1));
        std::fs::create_dir(&first).unwrap();
        for i in 0..MAX_KEPT as u64 + 10 {
            log.record("n1", refusal(i));
        }
        assert!(log.broken.is_some());
        std::fs::remove_dir(&first).unwrap();
        log.flush("n1");
        assert_eq!((log.broken.as_deref(), log.kept.len(), log.lost), (None, 0, 0));
        let verdict = files::verify(&dir, log.files.chain()).unwrap();
        assert_eq!((verdict.damage, verdict.records), (None, MAX_KEPT as u64 + 1));
        let last = files::tail(&dir, 1).unwrap();
        assert!(last[0].contains("\"action\":\"lost\",\"records\":10"), "{last:?}");
    }
}
