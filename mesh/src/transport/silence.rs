//! From whom nothing was heard for a moment, long before it counts as gone: whoever can ask does so then.
//!
//! Each connection says something about every [`super::Config::keep_alive`], as whoever dialled it keeps
//! it alive. A silence says little by itself: packets wait behind guests, on either side.

use std::{collections::HashMap, time::Duration};

use swarmer_model::NodeId;
use tokio::time::Instant;

/// What was received of a peer by now, on all connections that stand.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Received {
    pub(crate) peer: NodeId,
    pub(crate) datagrams: u64,
    /// The round trip to it.
    pub(crate) way: Duration,
}

#[derive(Debug)]
struct Peer {
    datagrams: u64,
    at: Instant,
    told: bool,
}

/// Who is silent. Holds those with whom a connection stands.
#[derive(Debug, Default)]
pub(crate) struct Silence {
    peers: HashMap<NodeId, Peer>,
}

impl Silence {
    /// Takes one look, at one entry for each peer. Gives those that are silent for longer than they
    /// should be, each once until it is heard again.
    pub(crate) fn look(
        &mut self,
        all: &[Received],
        keep_alive: Duration,
        now: Instant,
    ) -> Vec<NodeId> {
        let mut silent = Vec::new();
        for received in all {
            let fresh = Peer { datagrams: received.datagrams, at: now, told: false };
            let peer = self.peers.entry(received.peer).or_insert(fresh);
            if peer.datagrams != received.datagrams {
                *peer = Peer { datagrams: received.datagrams, at: now, told: false };
                continue;
            }
            // The word of the dialler and the answer to it, and half as much for one that was lost.
            let expected = keep_alive * 3 / 2 + received.way * 2;
            if !peer.told && now.saturating_duration_since(peer.at) >= expected {
                peer.told = true;
                silent.push(received.peer);
            }
        }
        let there = |peer: &NodeId| all.iter().any(|received| received.peer == *peer);
        if self.peers.len() > all.len() {
            self.peers.retain(|peer, _| there(peer));
        }
        silent
    }

    /// Nobody looked for long: what was not seen meanwhile says nothing.
    pub(crate) fn excuse(&mut self, now: Instant) {
        self.peers.values_mut().for_each(|peer| peer.at = now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP_ALIVE: Duration = Duration::from_millis(200);

    fn received(datagrams: u64, way_ms: u64) -> [Received; 1] {
        [Received { peer: NodeId(1), datagrams, way: Duration::from_millis(way_ms) }]
    }

    #[test]
    fn who_says_nothing_is_told_of_once() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut silence = Silence::default();
        let mut look = |datagrams, ms| silence.look(&received(datagrams, 0), KEEP_ALIVE, at(ms));
        assert!(look(1, 0).is_empty() && look(2, 299).is_empty());
        assert!(look(2, 598).is_empty());
        assert_eq!(look(2, 599), [NodeId(1)]);
        assert!(look(2, 9_000).is_empty(), "that is known");
        assert!(look(3, 9_001).is_empty());
        assert_eq!(look(3, 9_301), [NodeId(1)]);
        // Connections that are over take with them what was received on them.
        assert!(look(1, 9_401).is_empty() && look(1, 9_700).is_empty());
        assert_eq!(look(1, 9_701), [NodeId(1)]);
    }

    #[test]
    fn who_is_far_away_may_be_silent_for_longer() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut silence = Silence::default();
        let mut look = |ms| silence.look(&received(1, 150), KEEP_ALIVE, at(ms));
        assert!(look(0).is_empty() && look(599).is_empty());
        assert_eq!(look(600), [NodeId(1)]);
    }

    #[test]
    fn after_a_long_pause_all_begin_anew_and_who_is_gone_is_forgotten() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut silence = Silence::default();
        silence.look(&received(1, 0), KEEP_ALIVE, at(0));
        silence.excuse(at(5_000));
        assert!(silence.look(&received(1, 0), KEEP_ALIVE, at(5_000)).is_empty());
        assert_eq!(silence.look(&received(1, 0), KEEP_ALIVE, at(5_300)), [NodeId(1)]);
        silence.look(&[], KEEP_ALIVE, at(5_400));
        assert!(silence.peers.is_empty());
    }
}
