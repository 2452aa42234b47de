//! The write-ahead log: Raft entries, vote, committed index and purge position in one order.
//!
//! # On disk
//! A directory of segment files `<id>.wal` (16 hex digits, rising by one). A segment is made
//! ahead of need at its full size, filled with zeros, synced together with its name, and only
//! then used. Its first sector is a header (format, id, a random generation, where the segment
//! before it ends); then come records at offsets that are multiples of eight. The first record is
//! a *state* record: vote, committed index, purge position and the range of entries as of that
//! point, so that older segments can go as soon as none of their entries is wanted.
//!
//! A record carries a checksum of its header and one of its payload, the segment's generation, a
//! sequence number that never repeats, and the offset up to which its segment had been synced
//! when it was written. So bytes of an earlier use never pass for a record, and a damaged record
//! before that offset is known to be damage and not the torn end of an unfinished write.
//!
//! # Promises
//! - `done(Ok)` only after the fsync that covers the call; calls take effect in one order.
//! - A failed write or fsync is final: the log tells it, and then answers every call with it.
//!   Whoever was answered with it finds it told ([`Wal::fatal`]).
//! - Opening syncs what it read before it returns. Otherwise a process that died and came back
//!   would act on entries that the next power cut takes away.
//! - Only the end of the last segment is ever cut, and only where it is no more than an
//!   unfinished write. Anything else that does not check is an error; it is never served.
//!
//! One limit: damage inside the very last group that was written before a crash, which turns
//! whole sectors into zeros, looks the same as a write that power loss interrupted, and is cut.

mod cache;
pub mod codes;
mod config;
mod error;
mod handle;
mod image;
mod pace;
mod read;
mod record;
mod recover;
mod segment;
mod shared;
mod turns;
mod writer;

pub use config::{
    DEFAULT_CACHE_BYTES, DEFAULT_MAX_RECORD_BYTES, DEFAULT_QUEUE_BYTES, DEFAULT_SEGMENT_BYTES,
    DEFAULT_STALL_TIMEOUT, MAX_SEGMENT_BYTES, MIN_SEGMENT_BYTES, WalConfig,
};
pub use error::WalError;
pub use handle::{Hold, Recovered, Wal};
pub use image::MAX_STATE_FIELD_BYTES;
pub use pace::Pace;
pub use shared::WalStats;
