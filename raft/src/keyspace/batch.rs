//! A batch: all changes of one transaction; and the hash chain over batches.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use swarmer_model::Revision;

use crate::view::Event;

/// SHA-256 over the chain before and the batch: two nodes with the same revision and the same
/// chain hash had the same history and so have the same state.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct ChainHash(pub [u8; 32]);

impl fmt::Display for ChainHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for ChainHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0[..4]))
    }
}

impl ChainHash {
    /// The chain after a batch. What is hashed, all integers little-endian: the chain before
    /// (32 bytes), the revision (u64), the number of events (u32), and for each event the key's
    /// length (u32), the key, one byte (1 put, 0 deleted), and for a put the value's length (u32)
    /// and the value.
    pub(crate) fn after(&self, revision: Revision, events: &[Event]) -> Self {
        let length = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes();
        let mut hasher = Sha256::new();
        hasher.update(self.0);
        hasher.update(revision.to_le_bytes());
        hasher.update(length(events.len()));
        for event in events {
            hasher.update(length(event.key.len()));
            hasher.update(event.key.as_bytes());
            match &event.value {
                None => hasher.update([0]),
                Some(value) => {
                    hasher.update([1]);
                    hasher.update(length(value.len()));
                    hasher.update(value);
                }
            }
        }
        Self(hasher.finalize().into())
    }
}

/// All changes of one revision, with the chain after them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Batch {
    pub(crate) revision: Revision,
    pub(crate) chain: ChainHash,
    pub(crate) events: Vec<Event>,
}

impl Batch {
    /// About how much memory it takes, in bytes.
    pub(crate) fn weight(&self) -> usize {
        const PER_BATCH: usize = 96;
        const PER_EVENT: usize = 64;
        let events: usize = self
            .events
            .iter()
            .map(|e| PER_EVENT + e.key.len() + e.value.as_ref().map_or(0, bytes::Bytes::len))
            .sum();
        PER_BATCH + events
    }
}
