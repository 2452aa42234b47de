//! The error codes of the write-ahead log.

use swarmer_model::Code;

/// A read, write or sync of the log failed.
pub const STORAGE: Code = Code::new(
    "SW-RAFT-STORAGE",
    500,
    "The disk refused a read, a write or a sync, so the node stops rather than act on it.",
    "Check the disk and the kernel log; start the node again once the disk is sound.",
);
/// There is no space for the log.
pub const DISK_FULL: Code = Code::new(
    "SW-RAFT-DISK-FULL",
    507,
    "The disk has no space left for the log, so the node stops.",
    "Free space in the file system of the data directory, then start the node again.",
);
/// The log on disk is not what was written.
pub const DAMAGED: Code = Code::new(
    "SW-RAFT-LOG-DAMAGED",
    500,
    "The log on disk is damaged: it holds bytes that this node did not write there.",
    "Check the disk, remove this member from the cluster and join again with an empty data directory.",
);
/// The log was written by a newer version.
pub const VERSION: Code = Code::new(
    "SW-RAFT-LOG-VERSION",
    500,
    "The log was written in a format that this version does not know.",
    "Start the version that wrote it, or a newer one.",
);
/// Entries that do not join on to the log.
pub const GAP: Code = Code::new(
    "SW-RAFT-LOG-GAP",
    500,
    "Entries were refused because they would leave a hole in the log or overlap it.",
    "This is a defect of the program: report it with the node's log.",
);
/// One record is too large.
pub const RECORD_TOO_LARGE: Code = Code::new(
    "SW-RAFT-RECORD-TOO-LARGE",
    413,
    "One entry is larger than the log takes.",
    "Make the change smaller, or split it.",
);
/// The disk takes nothing any more.
pub const STALLED: Code = Code::new(
    "SW-RAFT-LOG-STALLED",
    503,
    "The disk did not take the log's queue before the deadline, so the node stops.",
    "Check the disk for hanging requests; start the node again once it answers.",
);
/// The log was closed.
pub const CLOSED: Code = Code::new(
    "SW-RAFT-LOG-CLOSED",
    503,
    "The log is closed because the node stops.",
    "Send the request to another node.",
);
/// The settings of the log cannot work.
pub const CONFIG: Code = Code::new(
    "SW-RAFT-LOG-CONFIG",
    422,
    "The settings of the log cannot work together.",
    "Correct the setting that the message names.",
);

/// All of them, for the docs.
pub const ALL: &[Code] =
    &[STORAGE, DISK_FULL, DAMAGED, VERSION, GAP, RECORD_TOO_LARGE, STALLED, CLOSED, CONFIG];
