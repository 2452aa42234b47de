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

/// The lines of all functions. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct LogBook {
    inner: Arc<Mutex<Inner>>,
}

impl LogBook {
    /// The last `tail` lines of a function from sequence `after` on, oldest first.
    pub(crate) fn read(&self, function: &str, after: u64, tail: usize) -> Vec<LogEntry> {
        let inner = self.inner.lock();
        let Some(lines) = inner.functions.get(function) else { return Vec::new() };
        let newer = lines.lines.iter().filter(|line| line.sequence >= after);
        let skip = newer.clone().count().saturating_sub(tail);
        newer.skip(skip).cloned().collect()
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
        let book = LogBook::default();
        for i in 0..MAX_LINES + 10 {
            book.add("a".into(), entry(&i.to_string()));
        }
        let lines = book.read("a", 0, usize::MAX);
        assert_eq!(lines.len(), MAX_LINES);
        assert_eq!(lines[0].text, "10");
        let tail = book.read("a", 0, 2);
        assert_eq!(tail.iter().map(|l| l.text.as_str()).collect::<Vec<_>>(), ["2008", "2009"]);
        assert_eq!(book.read("a", tail[1].sequence, 10).len(), 1);
        assert!(book.read("a", tail[1].sequence + 1, 10).is_empty());
        for i in 0..MAX_FUNCTIONS {
            book.add(format!("f{i}"), entry("x"));
        }
        assert!(book.read("a", 0, 1).is_empty(), "the longest silent one is forgotten");
    }
}
