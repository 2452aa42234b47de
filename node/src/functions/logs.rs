//! What functions wrote on this node: the last lines, in memory.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use swarmer_runtime::{LogLine, LogSink};

/// The most lines that are kept of one function.
const MAX_LINES: usize = 2_000;
/// The most bytes that are kept of one function.
const MAX_BYTES: usize = 512 << 10;
/// The most functions whose lines are kept; beyond it the one silent for longest is forgotten.
const MAX_FUNCTIONS: usize = 256;

/// One line, as it is shown.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LogEntry {
    /// Counts the lines of all functions of this node since its start.
    pub(crate) sequence: u64,
    /// Milliseconds since 1970.
    pub(crate) time_ms: u64,
    pub(crate) version: u32,
    pub(crate) stream: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) trace_id: Option<String>,
    pub(crate) text: String,
}

#[derive(Default)]
struct Lines {
    lines: VecDeque<LogEntry>,
    bytes: usize,
}

#[derive(Default)]
struct Inner {
    functions: HashMap<String, Lines>,
    next: u64,
}

/// A place in a node's log: lines are numbered anew at every start of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogPosition {
    /// Which start of the node.
    pub(crate) boot: u64,
    /// The number of the next line.
    pub(crate) sequence: u64,
}

/// Lines of one function on one node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LogPage {
    /// Oldest first.
    pub(crate) lines: Vec<LogEntry>,
    /// From where on to read the next time.
    pub(crate) next: LogPosition,
}

/// The lines of all functions. Cheap to clone.
#[derive(Clone)]
pub(crate) struct LogBook {
    boot: u64,
    inner: Arc<Mutex<Inner>>,
}

impl LogBook {
    /// An empty one, of this start of the node.
    pub(crate) fn new(boot: u64) -> Self {
        Self { boot, inner: Arc::default() }
    }

    /// The last `tail` lines of a function from `from` on. A position of another start than this
    /// one says nothing about these lines: then, and without one, it is all of them.
    pub(crate) fn read(&self, function: &str, from: Option<LogPosition>, tail: usize) -> LogPage {
        let from = from.filter(|from| from.boot == self.boot).map_or(0, |from| from.sequence);
        let inner = self.inner.lock();
        let kept = inner.functions.get(function).into_iter().flat_map(|lines| &lines.lines);
        let newer = kept.filter(|line| line.sequence >= from);
        let skip = newer.clone().count().saturating_sub(tail);
        LogPage {
            lines: newer.skip(skip).cloned().collect(),
            next: LogPosition { boot: self.boot, sequence: inner.next },
        }
    }

    fn add(&self, function: String, entry: impl FnOnce(u64) -> LogEntry) {
        let mut inner = self.inner.lock();
        let entry = entry(inner.next);
        inner.next += 1;
        if inner.functions.len() >= MAX_FUNCTIONS && !inner.functions.contains_key(&function) {
            let last = |lines: &Lines| lines.lines.back().map_or(0, |line| line.sequence);
            let oldest = inner.functions.iter().min_by_key(|(_, lines)| last(lines));
            if let Some(oldest) = oldest.map(|(name, _)| name.clone()) {
                inner.functions.remove(&oldest);
            }
        }
        let lines = inner.functions.entry(function).or_default();
        lines.bytes += entry.text.len();
        lines.lines.push_back(entry);
        while lines.lines.len() > MAX_LINES || lines.bytes > MAX_BYTES {
            let Some(gone) = lines.lines.pop_front() else { break };
            lines.bytes -= gone.text.len();
        }
    }
}

impl LogSink for LogBook {
    fn line(&self, line: LogLine) {
        tracing::debug!(target: "swarmer::function", function = %line.function,
            stream = line.stream.as_str(), trace_id = line.trace_id.as_deref(), "{}", line.text);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let function = format!("{}/{}", line.function.namespace, line.function.name);
        self.add(function, |sequence| LogEntry {
            sequence,
            time_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
            version: line.function.version,
            stream: line.stream.as_str().to_owned(),
            trace_id: line.trace_id.map(|id| id.to_string()),
            text: line.text,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(text: &str) -> impl FnOnce(u64) -> LogEntry + '_ {
        move |sequence| LogEntry {
            sequence,
            time_ms: 0,
            version: 1,
            stream: "stdout".into(),
            trace_id: None,
            text: text.into(),
        }
    }

    #[test]
    fn the_last_lines_are_kept_within_bounds() {
        let book = LogBook::new(1);
        let from = |sequence| Some(LogPosition { boot: 1, sequence });
        for i in 0..MAX_LINES + 10 {
            book.add("a".into(), entry(&i.to_string()));
        }
        let lines = book.read("a", None, usize::MAX).lines;
        assert_eq!(lines.len(), MAX_LINES);
        assert_eq!(lines[0].text, "10");
        let tail = book.read("a", from(0), 2).lines;
        assert_eq!(tail.iter().map(|l| l.text.as_str()).collect::<Vec<_>>(), ["2008", "2009"]);
        assert_eq!(book.read("a", from(tail[1].sequence), 10).lines.len(), 1);
        assert!(book.read("a", from(tail[1].sequence + 1), 10).lines.is_empty());
        for i in 0..MAX_FUNCTIONS {
            book.add(format!("f{i}"), entry("x"));
        }
        let forgotten = book.read("a", None, 1).lines.is_empty();
        assert!(forgotten, "the longest silent one is forgotten");
    }

    #[test]
    fn whoever_follows_misses_nothing_and_sees_nothing_twice_across_a_restart() {
        let (first, again) = (LogBook::new(1), LogBook::new(2));
        for i in 0..50 {
            first.add("f".into(), entry(&i.to_string()));
        }
        let page = first.read("f", None, 0);
        assert!(page.lines.is_empty(), "only what comes from now on");
        first.add("f".into(), entry("new"));
        first.add("other".into(), entry("x"));
        let page = first.read("f", Some(page.next), 100);
        assert_eq!(page.lines.iter().map(|line| line.text.as_str()).collect::<Vec<_>>(), ["new"]);
        assert!(first.read("f", Some(page.next), 100).lines.is_empty());
        // Restarted: numbered from 0 on, and all of it is new.
        again.add("f".into(), entry("after the restart"));
        let page = again.read("f", Some(page.next), 100);
        assert_eq!(page.lines.len(), 1);
        assert!(again.read("f", Some(page.next), 100).lines.is_empty());
    }
}
