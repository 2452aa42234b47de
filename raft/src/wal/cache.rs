//! Recent entries in memory.

use std::collections::VecDeque;

use bytes::Bytes;

/// The newest entries of the log, from `start` without a hole up to its end.
///
/// Each carries the number of the call that appended it. An entry may only go once that call is
/// written: until then this is the only place it can be read from.
#[derive(Debug, Default)]
pub(super) struct Cache {
    start: u64,
    entries: VecDeque<(u64, Bytes)>,
    bytes: usize,
}

impl Cache {
    pub(super) fn starting_at(next: u64) -> Self {
        Self { start: next, ..Self::default() }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn get(&self, index: u64) -> Option<&Bytes> {
        let slot = usize::try_from(index.checked_sub(self.start)?).ok()?;
        self.entries.get(slot).map(|(_, data)| data)
    }

    pub(super) fn push(&mut self, call: u64, index: u64, data: Bytes) {
        if self.entries.is_empty() {
            self.start = index;
        }
        debug_assert_eq!(self.start + self.entries.len() as u64, index);
        self.bytes += data.len();
        self.entries.push_back((call, data));
    }

    /// Keeps what is below `next`, which is the end of the log from now on.
    pub(super) fn truncate(&mut self, next: u64) {
        while self.start + self.entries.len() as u64 > next {
            match self.entries.pop_back() {
                Some((_, data)) => self.bytes -= data.len(),
                None => break,
            }
        }
        if self.entries.is_empty() {
            self.start = next;
        }
    }

    /// Drops what is below `first`; `next` is the end of the log.
    pub(super) fn drop_below(&mut self, first: u64, next: u64) {
        while self.start < first && self.pop_front() {}
        if self.entries.is_empty() {
            self.start = next;
        }
    }

    /// Gets below `limit` bytes again, as far as calls up to `written` allow.
    pub(super) fn shrink(&mut self, limit: usize, written: u64) {
        while self.bytes > limit && self.entries.front().is_some_and(|(call, _)| *call <= written) {
            self.pop_front();
        }
    }

    fn pop_front(&mut self) -> bool {
        let Some((_, data)) = self.entries.pop_front() else { return false };
        self.bytes -= data.len();
        self.start += 1;
        true
    }
}
