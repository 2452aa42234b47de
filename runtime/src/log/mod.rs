//! What guests print, as log lines.

mod rate;
mod stream;

use std::sync::Arc;

use crate::key::FunctionKey;

pub(crate) use rate::{RateBound, Verdict};
pub(crate) use stream::{CallLog, GuestOutput};

/// Longest text of one line in bytes; the rest is cut off. Longer lines are data, not a log.
pub const LINE_BYTES: usize = 8 << 10;

/// Where a line comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LogStream {
    /// The guest's standard output.
    Stdout,
    /// The guest's standard error.
    Stderr,
    /// The runtime itself, about the guest: traps, limits, refused requests, dropped lines.
    Runtime,
}

impl LogStream {
    /// The name in log records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Runtime => "runtime",
        }
    }
}

/// One line of a function's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// The function, with its version.
    pub function: FunctionKey,
    /// Where it comes from.
    pub stream: LogStream,
    /// The trace id of the call (32 hexadecimal digits), if it is traced.
    pub trace_id: Option<Arc<str>>,
    /// The text without the line break, at most [`LINE_BYTES`] long; invalid UTF-8 is replaced.
    pub text: String,
    /// Whether the line was longer.
    pub truncated: bool,
}

/// Takes log lines. Called on the guests' threads: it must not block and must bound what it keeps.
pub trait LogSink: Send + Sync + 'static {
    /// Takes one line. The rate of each function is bounded before.
    fn line(&self, line: LogLine);
}

/// A sink that writes each line as a `tracing` event of target `swarmer::function`.
#[derive(Debug, Clone, Copy, Default)]
pub struct TracingSink;

impl LogSink for TracingSink {
    fn line(&self, line: LogLine) {
        tracing::info!(
            target: "swarmer::function",
            function = %line.function,
            stream = line.stream.as_str(),
            trace_id = line.trace_id.as_deref(),
            truncated = line.truncated,
            text = line.text,
        );
    }
}
