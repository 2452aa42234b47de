//! The guest's standard output and error: bytes in, lines out.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::AsyncWrite;
use wasmtime_wasi::{
    cli::{IsTerminal, StdoutStream},
    p2::{OutputStream, Pollable, StreamResult},
};

use super::{LINE_BYTES, LogLine, LogSink, LogStream, RateBound, Verdict};
use crate::{
    key::{FunctionKey, trace_id},
    usage::{Meter, add},
};

/// Largest piece that a guest may write at a time.
const WRITE_BYTES: usize = 64 << 10;

/// Cuts bytes into lines of bounded length.
#[derive(Debug, Default)]
struct Splitter {
    line: Vec<u8>,
    truncated: bool,
}

impl Splitter {
    fn push(&mut self, mut bytes: &[u8], mut out: impl FnMut(&[u8], bool)) {
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            self.keep(&bytes[..end]);
            self.flush(&mut out, true);
            bytes = &bytes[end + 1..];
        }
        self.keep(bytes);
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = LINE_BYTES - self.line.len();
        self.truncated |= bytes.len() > room;
        self.line.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn flush(&mut self, out: &mut impl FnMut(&[u8], bool), even_empty: bool) {
        if even_empty || !self.line.is_empty() {
            let line = self.line.strip_suffix(b"\r").unwrap_or(&self.line);
            out(line, self.truncated);
        }
        self.line.clear();
        self.truncated = false;
    }
}

/// The log of one instance: which call it serves now, and the unfinished lines.
pub(crate) struct CallLog {
    function: FunctionKey,
    sink: Arc<dyn LogSink>,
    rate: Arc<Mutex<RateBound>>,
    meter: Arc<Meter>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    traceparent: Option<Arc<str>>,
    stdout: Splitter,
    stderr: Splitter,
}

impl CallLog {
    pub(crate) fn new(
        function: FunctionKey,
        sink: Arc<dyn LogSink>,
        rate: Arc<Mutex<RateBound>>,
        meter: Arc<Meter>,
    ) -> Self {
        Self { function, sink, rate, meter, state: Mutex::default() }
    }

    /// From here on, lines belong to the trace of this `traceparent`.
    pub(crate) fn begin(&self, traceparent: Option<Arc<str>>) {
        self.state.lock().traceparent = traceparent;
    }

    /// The call is over: what stands without a line break is a line too.
    pub(crate) fn end(&self) {
        let mut state = self.state.lock();
        let State { traceparent, stdout, stderr } = &mut *state;
        stdout.flush(&mut |line, cut| self.emit(LogStream::Stdout, traceparent, line, cut), false);
        stderr.flush(&mut |line, cut| self.emit(LogStream::Stderr, traceparent, line, cut), false);
        let missed = self.rate.lock().take_missed();
        self.note_missed(missed, traceparent);
    }

    /// A line of the runtime itself. Not bounded by the guest's rate: each call has few.
    pub(crate) fn note(&self, text: &str) {
        let traceparent = self.state.lock().traceparent.clone();
        for line in text.lines() {
            let cut = floor_char(line, LINE_BYTES);
            self.send(LogStream::Runtime, &traceparent, cut.to_owned(), cut.len() < line.len());
        }
    }

    fn write(&self, stream: LogStream, bytes: &[u8]) {
        let mut state = self.state.lock();
        let State { traceparent, stdout, stderr } = &mut *state;
        let splitter = if stream == LogStream::Stdout { stdout } else { stderr };
        splitter.push(bytes, |line, cut| self.emit(stream, traceparent, line, cut));
    }

    fn emit(
        &self,
        stream: LogStream,
        traceparent: &Option<Arc<str>>,
        line: &[u8],
        truncated: bool,
    ) {
        let verdict = self.rate.lock().take(line.len(), Instant::now());
        match verdict {
            Verdict::Drop => add(&self.meter.log_dropped, 1),
            Verdict::Pass { missed } => {
                self.note_missed(missed, traceparent);
                add(&self.meter.log_lines, 1);
                let text = String::from_utf8_lossy(line).into_owned();
                self.send(stream, traceparent, text, truncated);
            }
        }
    }

    fn note_missed(&self, missed: u64, traceparent: &Option<Arc<str>>) {
        if missed > 0 {
            let text = format!(
                "dropped {missed} lines: a function may log {} lines and {} bytes a second",
                super::rate::LINES_PER_SECOND,
                super::rate::BYTES_PER_SECOND,
            );
            self.send(LogStream::Runtime, traceparent, text, false);
        }
    }

    fn send(
        &self,
        stream: LogStream,
        traceparent: &Option<Arc<str>>,
        text: String,
        truncated: bool,
    ) {
        self.sink.line(LogLine {
            function: self.function.clone(),
            stream,
            trace_id: traceparent.as_deref().and_then(trace_id).map(Arc::from),
            text,
            truncated,
        });
    }
}

/// The longest start of the text within so many bytes.
fn floor_char(text: &str, bytes: usize) -> &str {
    let mut end = text.len().min(bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// One of the two streams, as wasmtime wants it.
#[derive(Clone)]
pub(crate) struct GuestOutput {
    log: Arc<CallLog>,
    stream: LogStream,
}

impl GuestOutput {
    pub(crate) fn new(log: Arc<CallLog>, stream: LogStream) -> Self {
        Self { log, stream }
    }
}

impl IsTerminal for GuestOutput {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for GuestOutput {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for GuestOutput {
    async fn ready(&mut self) {}
}

impl OutputStream for GuestOutput {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.log.write(self.stream, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES)
    }
}

impl AsyncWrite for GuestOutput {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.log.write(self.stream, bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Kept(Mutex<Vec<LogLine>>);

    impl LogSink for Kept {
        fn line(&self, line: LogLine) {
            self.0.lock().push(line);
        }
    }

    fn log() -> (CallLog, Arc<Kept>) {
        let kept = Arc::new(Kept::default());
        let rate = Arc::new(Mutex::new(RateBound::new(Instant::now())));
        let key = FunctionKey::new("default", "hello", 3);
        (CallLog::new(key, kept.clone(), rate, Arc::default()), kept)
    }

    #[test]
    fn bytes_become_lines_with_the_trace_of_their_call() {
        let (log, kept) = log();
        log.begin(Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()));
        log.write(LogStream::Stdout, b"one\r\ntw");
        log.write(LogStream::Stderr, b"oops");
        log.write(LogStream::Stdout, b"o\n\nthree \xff");
        log.end();
        let lines = std::mem::take(&mut *kept.0.lock());
        let texts: Vec<_> = lines.iter().map(|l| (l.stream.as_str(), l.text.as_str())).collect();
        assert_eq!(
            texts,
            [
                ("stdout", "one"),
                ("stdout", "two"),
                ("stdout", ""),
                ("stdout", "three \u{fffd}"),
                ("stderr", "oops"),
            ]
        );
        let trace = "0af7651916cd43dd8448eb211c80319c";
        assert!(lines.iter().all(|l| l.trace_id.as_deref() == Some(trace) && !l.truncated));
        assert_eq!(lines[0].function.version, 3);
    }

    #[test]
    fn a_line_without_end_is_cut_and_costs_no_more_memory() {
        let (log, kept) = log();
        for _ in 0..100 {
            log.write(LogStream::Stdout, &[b'x'; 10_000]);
        }
        assert!(log.state.lock().stdout.line.len() <= LINE_BYTES);
        log.write(LogStream::Stdout, b"\nnext\n");
        let lines = kept.0.lock();
        assert_eq!((lines[0].text.len(), lines[0].truncated), (LINE_BYTES, true));
        assert_eq!((lines[1].text.as_str(), lines[1].truncated), ("next", false));
    }

    #[test]
    fn a_flood_ends_in_a_note_of_what_was_dropped() {
        let (log, kept) = log();
        for _ in 0..5000 {
            log.write(LogStream::Stdout, b"flood\n");
        }
        log.end();
        let lines = kept.0.lock();
        assert!(lines.len() < 2500, "{}", lines.len());
        let last = lines.last().unwrap();
        assert_eq!(last.stream, LogStream::Runtime);
        assert!(last.text.starts_with("dropped "), "{}", last.text);
    }

    #[test]
    fn a_long_note_is_cut_between_characters() {
        let (log, kept) = log();
        log.note(&"ü".repeat(LINE_BYTES));
        assert_eq!(kept.0.lock()[0].text.len(), LINE_BYTES);
        assert_eq!(floor_char("aü", 2), "a");
    }
}
