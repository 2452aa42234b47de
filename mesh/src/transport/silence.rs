//! From whom nothing was heard for a moment, long before it counts as gone: whoever can ask does so then.
//!
//! Where a data connection stands something is heard about every [`super::Config::keep_alive`], as whoever
//! dialled it keeps it alive; who is at rest is heard when it is asked (`pulse.rs`). A silence says little
//! by itself: packets wait behind guests, on either side.

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
    pub(crate) spoken: Spoken,
}

/// When something is to be heard of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spoken {
    /// All the time.
    Always,
    /// When it is asked; since when it is.
    WhenAsked(Option<Instant>),
}

impl Spoken {
    /// What holds with both connections.
    pub(crate) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::WhenAsked(one), Self::WhenAsked(other)) => {
                // On one that has no question to answer it was heard.
                Self::WhenAsked(one.zip(other).map(|(one, other)| one.max(other)))
            }
            _ => Self::Always,
        }
    }
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
            // There and back, and half of a pause for what was lost.
            let spare = keep_alive / 2 + received.way * 2;
            let expected = match received.spoken {
                Spoken::Always => Some(peer.at + keep_alive + spare),
                Spoken::WhenAsked(since) => since.map(|since| since + spare),
            };
            if !peer.told && expected.is_some_and(|expected| now >= expected) {
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
        let way = Duration::from_millis(way_ms);
        [Received { peer: NodeId(1), datagrams, way, spoken: Spoken::Always }]
    }

    #[test]
    fn of_who_is_at_rest_silence_counts_from_the_question_on() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut silence = Silence::default();
        let mut look = |asked: Option<u64>, ms| {
            let spoken = Spoken::WhenAsked(asked.map(at));
            let way = Duration::from_millis(10);
            let one = Received { peer: NodeId(1), datagrams: 1, way, spoken };
            silence.look(&[one], KEEP_ALIVE, at(ms))
        };
        assert!(look(None, 0).is_empty() && look(None, 1_199).is_empty());
        assert!(look(Some(1_200), 1_200).is_empty() && look(Some(1_200), 1_319).is_empty());
        assert_eq!(look(Some(1_200), 1_320), [NodeId(1)]);
        assert!(look(Some(1_200), 1_500).is_empty());
        // On another connection it is not silent, or has to say something all the time.
        let (asked, heard) = (Spoken::WhenAsked(Some(start)), Spoken::WhenAsked(None));
        assert_eq!((asked.and(heard), heard.and(asked)), (heard, heard));
        assert_eq!(asked.and(asked), asked);
        let always = Spoken::Always;
        assert_eq!((asked.and(always), always.and(asked)), (always, always));
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
