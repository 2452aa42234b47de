//! Every bound of this crate, each with its reason.

use std::time::Duration;

/// Largest datagram in bytes: what any path that carries QUIC (RFC 9000 §14) also carries.
pub const MAX_DATAGRAM_BYTES: usize = 1200;
/// Members tracked at once, down ones included. Gossip among ten thousand was simulated; as many entries
/// with the small records of nodes that serve little are some 15 megabytes.
pub const MAX_MEMBERS: usize = 16_384;
/// Endpoints in one record: more functions than one node can hold instances of.
pub const MAX_ENDPOINTS: usize = 1024;
/// Addresses in one record: two families on a few interfaces.
pub const MAX_ADDRESSES: usize = 8;
/// Bytes of a name or function in a record: the model's names are at most this long.
pub const MAX_TEXT_BYTES: usize = 140;
/// Bytes of one record: the largest that the other bounds allow fits.
pub const MAX_RECORD_BYTES: usize = 192 * 1024;
/// Bytes of a signature: P-256 in DER and Ed25519 fit with room to spare.
pub const MAX_SIGNATURE_BYTES: usize = 256;
/// Bytes of one push/pull message; what does not fit follows with the next exchange.
pub const MAX_PUSH_PULL_BYTES: usize = 4 * 1024 * 1024;
/// Keys held at once: the old and the new one of a rotation, and those of a rotation that
/// overlapped it.
pub const MAX_KEYS: usize = 8;
/// Seeds in the configuration.
pub const MAX_SEEDS: usize = 64;
/// Addresses that one seed name may resolve to; round-robin names list more than we need.
pub const MAX_SEED_ADDRESSES: usize = 8;
/// Members kept in the file for the next start: enough to find the cluster again.
pub const MAX_PERSISTED_MEMBERS: usize = 256;
/// Bytes of the member file that are read.
pub const MAX_MEMBERS_FILE_BYTES: u64 = 256 * 1024;
/// Datagrams between the socket and the core; some 100 ms of the heaviest burst measured.
pub const DATAGRAM_QUEUE: usize = 4096;
/// Commands between the handles and the core.
pub const COMMAND_QUEUE: usize = 256;
/// Push/pull exchanges and liveness probes in flight at once.
pub const MAX_BACKGROUND_TASKS: usize = 16;
/// Changed records waiting to be passed on; beyond it the digests repair what was dropped.
pub const MAX_RUMOURS: usize = 1024;
/// Longest round trip that counts; an answer that takes longer comes too late.
pub const MAX_ROUND_TRIP: Duration = Duration::from_secs(10);
/// For how long a measured round trip says how far a member is; after that it is estimated.
pub const ROUND_TRIP_FRESH: Duration = Duration::from_secs(5 * 60);
/// Members whose last round trips are kept: more than are measured while one of them is fresh.
pub const MAX_ROUND_TRIPS: usize = 512;
/// Members that a changed record is sent to at once; the rest hear of it from those.
pub const DIRECT_FANOUT: usize = 32;
/// Records sent in answer to one digest datagram: one digest must not set off a flood.
pub const MAX_DIGEST_ANSWER_DATAGRAMS: usize = 4;
/// How long a command waits for the core before it fails.
pub const COMMAND_DEADLINE: Duration = Duration::from_secs(5);
/// How long a leaving node keeps its socket so that the news spreads.
pub const LEAVE_LINGER: Duration = Duration::from_millis(1500);
