//! How many writes may be under way at once; what comes on top is sent away at the door.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;

use crate::txn::{Check, Op, Txn};

/// Writes under way on one node: some seconds of what a disk takes, so that none of those that
/// were let in waits for longer than its deadline.
pub(crate) const MAX_WRITES: usize = 4096;
/// Bytes of them: with fewer, larger writes memory is the bound.
pub(crate) const MAX_WRITE_BYTES: usize = 32 << 20;

#[derive(Debug, Default)]
struct Inside {
    writes: usize,
    bytes: usize,
}

/// Counts the writes under way.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    inside: Mutex<Inside>,
    refused: AtomicU64,
}

impl Gate {
    /// Lets a write in, until the permit goes; none if there are too many.
    pub(crate) fn enter(self: &Arc<Self>, txn: &Txn) -> Option<Permit> {
        let bytes = weight(txn);
        let mut inside = self.inside.lock();
        // A single write always has room: its own bounds are below these.
        if inside.writes >= MAX_WRITES || inside.bytes + bytes > MAX_WRITE_BYTES {
            drop(inside);
            self.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        inside.writes += 1;
        inside.bytes += bytes;
        drop(inside);
        Some(Permit { gate: self.clone(), bytes })
    }

    /// How many were sent away since the start.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

/// The place of a write.
#[derive(Debug)]
pub(crate) struct Permit {
    gate: Arc<Gate>,
    bytes: usize,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut inside = self.gate.inside.lock();
        inside.writes -= 1;
        inside.bytes -= self.bytes;
    }
}

/// About the memory that a transaction takes.
pub(crate) fn weight(txn: &Txn) -> usize {
    const FIXED: usize = 128;
    let checks = txn.checks.iter().map(|Check { key, .. }| FIXED + key.len());
    let ops = txn.ops.iter().map(|op| {
        FIXED
            + match op {
                Op::Put { key, value } => key.len() + value.len(),
                Op::Delete { key } => key.len(),
            }
    });
    FIXED + checks.chain(ops).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_and_bytes_are_bounded_and_a_place_is_free_again() {
        let gate = Arc::new(Gate::default());
        let small = Txn::new().put("k", "v");
        let mut inside: Vec<_> = (0..MAX_WRITES).map(|_| gate.enter(&small)).collect();
        assert!(inside.iter().all(Option::is_some));
        assert!(gate.enter(&small).is_none());
        assert_eq!(gate.refused(), 1);
        inside.pop();
        assert!(gate.enter(&small).is_some());
        drop(inside);

        let large = Txn::new().put("k", vec![0; crate::MAX_VALUE_BYTES]);
        let mut inside = Vec::new();
        while let Some(permit) = gate.enter(&large) {
            inside.push(permit);
        }
        assert!(inside.len() < MAX_WRITES);
        assert!(gate.inside.lock().bytes > MAX_WRITE_BYTES - 2 * crate::MAX_VALUE_BYTES);
        drop(inside);
        assert_eq!(gate.inside.lock().bytes, 0);
    }
}
