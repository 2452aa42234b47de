//! Where the members are, and how long the ways between them take.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use swarmer_model::NodeId;

/// Round trips in microseconds between regions that are so many steps apart; the last for all that
/// are farther.
const ROUND_TRIPS: [u64; 4] = [1_000, 80_000, 150_000, 250_000];
/// The port of all; nothing listens on it.
const PORT: u16 = 7400;

/// Members in regions by turns.
#[derive(Debug, Clone, Copy)]
pub(super) struct Map {
    pub(super) regions: usize,
}

impl Map {
    pub(super) fn region(&self, index: usize) -> usize {
        index % self.regions
    }

    /// One way, without what jitters.
    pub(super) fn way(&self, from: usize, to: usize) -> Duration {
        let steps = self.region(from).abs_diff(self.region(to)).min(ROUND_TRIPS.len() - 1);
        Duration::from_micros(ROUND_TRIPS[steps] / 2)
    }
}

/// Ids as they are drawn: all over the numbers, but the same in each run.
pub(super) fn id(index: usize) -> NodeId {
    NodeId((index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

pub(super) fn addr(index: usize) -> SocketAddr {
    let [a, b, c, d] = (0x0a00_0000 | u32::try_from(index).unwrap_or_default()).to_be_bytes();
    SocketAddr::from(([a, b, c, d], PORT))
}

/// Whose address it is.
pub(super) fn index(addr: SocketAddr) -> usize {
    match addr.ip() {
        IpAddr::V4(ip) => (ip.to_bits() & 0x00ff_ffff) as usize,
        IpAddr::V6(_) => usize::MAX,
    }
}
