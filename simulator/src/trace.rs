//! What happened, in order: a hash of all of it, and lines for people.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// The hash of a run, and its lines if they are wanted.
pub(crate) struct Trace {
    start: Instant,
    print: bool,
    inner: Mutex<Inner>,
}

struct Inner {
    hash: u64,
    events: u64,
}

/// FNV-1a.
const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0100_0000_01b3;

impl Trace {
    /// Begins now, on the paused clock of the current runtime.
    pub(crate) fn new(print: bool) -> Self {
        Self { start: Instant::now(), print, inner: Mutex::new(Inner { hash: BASIS, events: 0 }) }
    }

    /// Simulated time since the start.
    pub(crate) fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Takes note of something that is too frequent for a line.
    pub(crate) fn mix(&self, words: &[u64]) {
        let now = self.now().as_micros() as u64;
        let mut inner = self.inner.lock();
        inner.events += 1;
        for word in std::iter::once(&now).chain(words) {
            inner.add(&word.to_le_bytes());
        }
    }

    /// Takes note of something that is worth a line.
    pub(crate) fn note(&self, line: &str) {
        let now = self.now();
        {
            let mut inner = self.inner.lock();
            inner.events += 1;
            inner.add(&(now.as_micros() as u64).to_le_bytes());
            inner.add(line.as_bytes());
        }
        if self.print {
            crate::report::line(&format!("{:>9.3} s  {line}", now.as_secs_f64()));
        }
    }

    /// The hash of all events so far, and how many there were.
    pub(crate) fn hash(&self) -> (u64, u64) {
        let inner = self.inner.lock();
        (inner.hash, inner.events)
    }
}

impl Inner {
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(PRIME);
        }
    }
}
