//! What can go wrong with the log.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use swarmer_model::{Code, Coded};

use super::codes;

/// An error of the log. Cheap to clone: one failure answers everything that waits.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum WalError {
    /// The disk failed. Fatal: the log takes nothing afterwards.
    #[error(
        "cannot {action} {}: {source}; the log stops, because after a failed write or sync nobody \
         knows what is on the disk: check the disk, then start the node again",
        path.display()
    )]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        source: Arc<io::Error>,
    },
    /// No space for the next segment. Fatal; met before the current segment is full.
    #[error(
        "no space left for the log at {}: {source}; free space there, then start the node again",
        path.display()
    )]
    DiskFull {
        /// The file that found no space.
        path: PathBuf,
        /// The system's error.
        source: Arc<io::Error>,
    },
    /// The bytes on disk are not those that were written. Fatal; nothing damaged is served.
    #[error(
        "the log is damaged in {} at byte {offset}: {reason}; check the disk, remove this member \
         from the cluster and join again with an empty data directory",
        path.display()
    )]
    Damaged {
        /// The segment file.
        path: PathBuf,
        /// Where in it, in bytes.
        offset: u64,
        /// What is wrong there.
        reason: String,
    },
    /// A newer version wrote the log.
    #[error(
        "{} has log format {found}, this version knows up to {supported}; start the version that \
         wrote it, or a newer one",
        path.display()
    )]
    Version {
        /// The segment file.
        path: PathBuf,
        /// The format in the file.
        found: u32,
        /// The newest format known here.
        supported: u32,
    },
    /// Entries that do not continue the log. Nothing was written; the log goes on.
    #[error("entries from index {got} do not continue the log, whose next index is {expected}")]
    Gap {
        /// The next index of the log.
        expected: u64,
        /// The first index that was handed in.
        got: u64,
    },
    /// A record over the limit. Nothing was written; the log goes on.
    #[error("a record of {bytes} bytes is over the log's limit of {max} bytes")]
    RecordTooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// The queue stayed full until the deadline. Fatal.
    #[error(
        "the disk took nothing of the log's queue for {waited_ms} ms; check it for hanging requests"
    )]
    Stalled {
        /// How long was waited.
        waited_ms: u64,
    },
    /// The log was closed, or its thread is gone.
    #[error("the log is closed")]
    Closed,
    /// Settings that cannot work.
    #[error("log setting {field}: {reason}")]
    Config {
        /// The field of the configuration.
        field: &'static str,
        /// Why it cannot work.
        reason: String,
    },
}

impl WalError {
    /// Wraps a failure of the disk; a full disk has a meaning of its own.
    pub(super) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        let full =
            matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        let (path, source) = (path.to_path_buf(), Arc::new(source));
        if full { Self::DiskFull { path, source } } else { Self::Io { action, path, source } }
    }

    pub(super) fn damaged(path: &Path, offset: u64, reason: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_path_buf(), offset, reason: reason.into() }
    }
}

impl Coded for WalError {
    fn code(&self) -> Code {
        match self {
            Self::Io { .. } => codes::STORAGE,
            Self::DiskFull { .. } => codes::DISK_FULL,
            Self::Damaged { .. } => codes::DAMAGED,
            Self::Version { .. } => codes::VERSION,
            Self::Gap { .. } => codes::GAP,
            Self::RecordTooLarge { .. } => codes::RECORD_TOO_LARGE,
            Self::Stalled { .. } => codes::STALLED,
            Self::Closed => codes::CLOSED,
            Self::Config { .. } => codes::CONFIG,
        }
    }
}
