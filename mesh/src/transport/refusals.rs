//! The log of refusals and failures, so rare per code that nobody can flood it.

use std::{collections::HashMap, fmt, net::SocketAddr, time::Duration};

use parking_lot::Mutex;
use swarmer_model::Code;
use tokio::{sync::broadcast, time::Instant};

use super::error::RefusedBy;
use crate::codes;

/// Lines per code that come at once.
const BURST: u32 = 8;
/// After that, one line per code in this time; the others are counted in its `suppressed`.
const REFILL: Duration = Duration::from_secs(1);

/// Refusals that wait for whoever listens; more in a burst than the buckets let through.
const LISTENERS_QUEUE: usize = 256;

/// A connection or stream that was refused, as rare as the log's lines.
#[derive(Debug, Clone)]
pub struct Refused {
    /// Which side refused it.
    pub by: RefusedBy,
    /// Why, as a stable code.
    pub code: Code,
    /// The address of the other side.
    pub peer: SocketAddr,
    /// What it wanted: a protocol or a kind of stream.
    pub protocol: String,
    /// Why, in words.
    pub reason: String,
}

/// One bucket per code: bounded by the number of codes.
#[derive(Debug)]
pub(crate) struct Refusals {
    buckets: Mutex<HashMap<(&'static str, bool), Bucket>>,
    told: broadcast::Sender<Refused>,
}

impl Default for Refusals {
    fn default() -> Self {
        Self { buckets: Mutex::default(), told: broadcast::Sender::new(LISTENERS_QUEUE) }
    }
}

#[derive(Debug)]
struct Bucket {
    tokens: u32,
    refilled: Instant,
    suppressed: u64,
}

impl Refusals {
    /// Whether a line may be written now, and how many were suppressed before it.
    fn admit(&self, code: Code, by: RefusedBy, now: Instant) -> Option<u64> {
        let mut buckets = self.buckets.lock();
        let bucket = buckets.entry((code.name, by == RefusedBy::Us)).or_insert(Bucket {
            tokens: BURST,
            refilled: now,
            suppressed: 0,
        });
        let steps = now.duration_since(bucket.refilled).as_millis() / REFILL.as_millis();
        if let Some(steps) = u32::try_from(steps).ok().filter(|&steps| steps > 0) {
            bucket.tokens = bucket.tokens.saturating_add(steps).min(BURST);
            bucket.refilled = now;
        }
        if bucket.tokens == 0 {
            bucket.suppressed += 1;
            return None;
        }
        bucket.tokens -= 1;
        Some(std::mem::take(&mut bucket.suppressed))
    }

    /// Those that are to come.
    pub(crate) fn listen(&self) -> broadcast::Receiver<Refused> {
        self.told.subscribe()
    }

    /// A connection or stream that one side did not want.
    pub(crate) fn refused(
        &self,
        by: RefusedBy,
        code: Code,
        peer: SocketAddr,
        protocol: &str,
        reason: &dyn fmt::Display,
    ) {
        let Some(suppressed) = self.admit(code, by, Instant::now()) else {
            return;
        };
        let told =
            Refused { by, code, peer, protocol: protocol.to_owned(), reason: reason.to_string() };
        // Whether anybody listens does not matter.
        let _ = self.told.send(told);
        let by = match by {
            RefusedBy::Us => "us",
            RefusedBy::Peer => "peer",
        };
        // What passes by itself is no alarm: of those who found a cluster one is done first.
        if code == codes::STARTING || code == codes::NOT_SERVED {
            tracing::info!(
                target: "swarmer::mesh",
                event = "peer_refused",
                code = code.name,
                by,
                peer = %peer,
                protocol,
                reason = %reason,
                suppressed,
            );
            return;
        }
        tracing::warn!(
            target: "swarmer::mesh",
            event = "peer_refused",
            code = code.name,
            by,
            peer = %peer,
            protocol,
            reason = %reason,
            suppressed,
        );
    }

    /// A peer that could not be reached.
    pub(crate) fn unreachable(
        &self,
        code: Code,
        peer: SocketAddr,
        protocol: &str,
        reason: &dyn fmt::Display,
    ) {
        let Some(suppressed) = self.admit(code, RefusedBy::Peer, Instant::now()) else {
            return;
        };
        tracing::info!(
            target: "swarmer::mesh",
            event = "peer_unreachable",
            code = code.name,
            peer = %peer,
            protocol,
            reason = %reason,
            suppressed,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_and_not_written() {
        let refusals = Refusals::default();
        let start = Instant::now();
        let lines: Vec<_> = (0..1_000)
            .filter_map(|_| refusals.admit(codes::REFUSED, RefusedBy::Us, start))
            .collect();
        assert_eq!(lines.len(), BURST as usize);
        assert_eq!(refusals.admit(codes::REVOKED, RefusedBy::Us, start), Some(0));
        let next = refusals.admit(codes::REFUSED, RefusedBy::Us, start + REFILL);
        assert_eq!(next, Some(1_000 - u64::from(BURST)));
    }
}
