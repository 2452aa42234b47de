//! The settings of the log and the bounds on them.

use std::path::PathBuf;
use std::time::Duration;

use super::error::WalError;
use super::record::{MAX_PAYLOAD_BYTES, RECORD_HEADER_BYTES};
use super::segment::{MAX_STATE_BYTES, SEGMENT_HEADER_BYTES};

/// Large enough that a roll is rare, small enough that preparing one costs milliseconds.
pub const DEFAULT_SEGMENT_BYTES: u64 = 4 * 1024 * 1024;
/// Smallest segment: its header, its state and a few records.
pub const MIN_SEGMENT_BYTES: u64 = 8 * 1024;
/// Largest segment: a segment is read whole when the log opens.
pub const MAX_SEGMENT_BYTES: u64 = 256 * 1024 * 1024;
/// One entry. Values over a few KiB belong into artifacts, so this leaves room for batches.
pub const DEFAULT_MAX_RECORD_BYTES: usize = 1024 * 1024;
/// What followers that lag a little read; beyond it the log reads from disk.
pub const DEFAULT_CACHE_BYTES: usize = 16 * 1024 * 1024;
/// What may wait for the disk before `append` blocks: two full groups.
pub const DEFAULT_QUEUE_BYTES: usize = 8 * 1024 * 1024;
/// No sound disk takes this long for a few megabytes.
pub const DEFAULT_STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// How a log is kept.
#[derive(Debug, Clone)]
pub struct WalConfig {
    /// The directory of the segments; made if it is missing. Nothing else belongs there, and
    /// only one process may have it open (the owner of the data directory sees to that).
    pub dir: PathBuf,
    /// Size of a segment file in bytes, a multiple of 512.
    pub segment_bytes: u64,
    /// The largest entry in bytes.
    pub max_record_bytes: usize,
    /// Bytes of recent entries kept in memory. Entries not yet written stay beyond this bound;
    /// `queue_bytes` bounds those.
    pub cache_bytes: usize,
    /// Bytes that may wait for the disk before submitting blocks.
    pub queue_bytes: usize,
    /// How long a submission waits for room in the queue before the log gives the disk up.
    pub stall_timeout: Duration,
}

impl WalConfig {
    /// The defaults for a directory.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            segment_bytes: DEFAULT_SEGMENT_BYTES,
            max_record_bytes: DEFAULT_MAX_RECORD_BYTES,
            cache_bytes: DEFAULT_CACHE_BYTES,
            queue_bytes: DEFAULT_QUEUE_BYTES,
            stall_timeout: DEFAULT_STALL_TIMEOUT,
        }
    }

    pub(super) fn check(&self) -> Result<(), WalError> {
        let refuse = |field, reason: String| Err(WalError::Config { field, reason });
        if !(MIN_SEGMENT_BYTES..=MAX_SEGMENT_BYTES).contains(&self.segment_bytes)
            || !self.segment_bytes.is_multiple_of(SEGMENT_HEADER_BYTES as u64)
        {
            return refuse(
                "segment_bytes",
                format!(
                    "{} is not a multiple of {SEGMENT_HEADER_BYTES} between {MIN_SEGMENT_BYTES} \
                     and {MAX_SEGMENT_BYTES}",
                    self.segment_bytes
                ),
            );
        }
        // A fresh segment must hold its own header, the state and the largest record.
        let overhead = SEGMENT_HEADER_BYTES + MAX_STATE_BYTES + 3 * RECORD_HEADER_BYTES;
        let room = usize::try_from(self.segment_bytes).unwrap_or(usize::MAX) - overhead;
        if self.max_record_bytes > room.min(MAX_PAYLOAD_BYTES - 64) {
            return refuse(
                "max_record_bytes",
                format!("{} does not fit into a segment: at most {room}", self.max_record_bytes),
            );
        }
        Ok(())
    }
}
