//! How much slower than on a quiet LAN the engine has to take everything.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use swarmer_model::{
    NodeId,
    planted::{self, Bug},
};
use tokio::time::Instant;

use crate::{
    adapter::{self, Engine, Wish},
    raft::Timing,
    succession::Succession,
    transport::Transport,
};

/// The slowest: round trips of 400 ms.
pub const MAX_MULTIPLIER: u32 = 10;
/// The slowest on account of silence alone. A leader that is twice as slow as its followers still
/// shows itself twice before they lose patience; and where a machine is overloaded, or a node was
/// stopped for a while, a lost leader must be replaced soon all the same.
const MAX_BY_SILENCE: u32 = 2;
/// How often it is looked.
const LOOK: Duration = Duration::from_millis(100);
/// So many round trips have to fit into a heartbeat's interval: an answer that takes longer than
/// that interval counts as none.
const ROUND_TRIPS: f64 = 2.5;
/// After so long without need for it the engine goes faster again, as fast as it had to be slow in
/// that time.
const CALM: Duration = Duration::from_secs(60);

/// What was seen at one look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Seen {
    /// The round trip to the farthest voter that is connected; none if none is.
    pub(crate) farthest: Option<Duration>,
    /// The longest silence since the last look: of the leader, or, on it, of its quorum.
    pub(crate) silence: Duration,
    /// Whether this node leads: its quorum may be silent for less long than a leader.
    pub(crate) leads: bool,
}

/// Follows what is seen: at once to slower, after a while of calm to faster.
///
/// Nobody has to agree on it. Voters see different round trips, but by no more than a factor of two
/// (the way between two of them is no longer than the one by a third), and a follower's patience
/// is four heartbeats.
#[derive(Debug)]
pub(crate) struct Multiplier {
    timing: Timing,
    value: u32,
    /// The most that was needed since when.
    lately: (u32, Instant),
}

impl Multiplier {
    pub(crate) fn new(timing: Timing, now: Instant) -> Self {
        Self { timing, value: 1, lately: (1, now) }
    }

    /// Takes what was seen; gives the multiplier from now on.
    pub(crate) fn look(&mut self, now: Instant, seen: Seen) -> u32 {
        let need = self.need(seen);
        self.lately.0 = self.lately.0.max(need);
        if need >= self.value {
            self.value = need;
            self.lately = (1, now);
        } else if now.saturating_duration_since(self.lately.1) >= CALM {
            self.value = self.lately.0;
            self.lately = (1, now);
        }
        self.value
    }

    fn need(&self, Seen { farthest, silence, leads }: Seen) -> u32 {
        let heartbeat = self.timing.heartbeat.as_secs_f64();
        let by_way = farthest.map_or(1.0, |rtt| rtt.as_secs_f64() * ROUND_TRIPS / heartbeat);
        let by_way = if planted::is_on(Bug::LanClock) { 1.0 } else { by_way };
        // Silence is a heartbeat's interval and what came on top. Twice as much on top may come
        // without a consequence: an election, or a leader that no longer trusts its quorum.
        let timing = self.timing;
        let patience = match leads {
            true => timing.election_max,
            false => timing.election_min + timing.election_max,
        };
        let spare = patience.saturating_sub(timing.heartbeat).as_secs_f64();
        let usual = timing.heartbeat * self.value + farthest.unwrap_or_default();
        let on_top = silence.saturating_sub(usual).as_secs_f64();
        let by_silence = (on_top * 2.0 / spare).min(f64::from(MAX_BY_SILENCE));
        let need = by_way.max(by_silence).ceil().clamp(1.0, f64::from(MAX_MULTIPLIER));
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1 to 10")]
        let need = need as u32;
        need
    }
}

/// Keeps the engine's clock as slow as it has to be, and has this node stand for election where it
/// is the first in line, until the engine stops.
pub(crate) async fn follow(engine: Arc<Engine>, transport: Arc<dyn Transport>, timing: Timing) {
    let mut core = Multiplier::new(timing, Instant::now());
    let wish = Wish::new();
    let mut succession = Succession::new(timing);
    let mut next_look = LOOK;
    while !engine.has_stopped() {
        tokio::time::sleep(next_look).await;
        let leadership = engine.leadership();
        let others = leadership.voters.iter().filter(|voter| **voter != leadership.node);
        let ways = others.filter_map(|voter| Some((*voter, transport.round_trip(*voter)?)));
        let ways: BTreeMap<NodeId, Duration> = ways.collect();
        let farthest = ways.values().max().copied();
        let leads = leadership.leader == Some(leadership.node);
        let seen = Seen { farthest, silence: engine.take_silence(), leads };
        let (now, before) = (Instant::now(), adapter::multiplier());
        wish.set(core.look(now, seen));
        let after = adapter::multiplier();
        if before != after {
            tracing::info!(target: "swarmer::raft", before, after, farthest = ?seen.farthest,
                silence = ?seen.silence, "heartbeats and elections take another multiple of the time");
        }
        next_look = LOOK;
        let votes = leadership.voters.contains(&leadership.node);
        if let Some(heard) = engine.heard().filter(|_| votes && !leads)
            && let Some(wait) =
                succession.wait(now, after, leadership.node, leadership.leader, heard, &ways)
        {
            if wait.is_zero() {
                engine.stand().await;
            } else {
                next_look = LOOK.min(wait);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn far(rtt: u64) -> Seen {
        Seen { farthest: Some(ms(rtt)), silence: ms(100), leads: false }
    }

    fn silent(silence: u64, leads: bool) -> Seen {
        Seen { farthest: Some(ms(1)), silence: ms(silence), leads }
    }

    #[test]
    fn the_way_to_the_farthest_voter_fits_into_a_heartbeat() {
        let now = Instant::now();
        for (rtt, multiplier) in
            [(0, 1), (1, 1), (40, 1), (80, 2), (150, 4), (250, 7), (400, 10), (3000, 10)]
        {
            let mut core = Multiplier::new(Timing::LAN, now);
            assert_eq!(core.look(now, far(rtt)), multiplier, "{rtt} ms");
        }
        let mut core = Multiplier::new(Timing::LAN, now);
        assert_eq!(core.look(now, Seen::default()), 1);
    }

    #[test]
    fn silence_that_came_near_to_an_election_makes_patient() {
        let now = Instant::now();
        for (silence, leads, multiplier) in [
            (100, false, 1),
            (240, false, 1),
            (300, false, 2),
            (390, false, 2),
            (60_000, false, 2),
            (170, true, 1),
            (200, true, 2),
            (60_000, true, 2),
        ] {
            let mut core = Multiplier::new(Timing::LAN, now);
            assert_eq!(core.look(now, silent(silence, leads)), multiplier, "{silence} ms");
        }
    }

    #[test]
    fn it_is_slow_at_once_and_faster_only_after_calm() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut core = Multiplier::new(Timing::LAN, start);
        assert_eq!(core.look(at(1), far(250)), 7);
        assert_eq!(core.look(at(2), far(1)), 7);
        // What was needed meanwhile decides how far it goes down.
        assert_eq!(core.look(at(30), far(80)), 7);
        assert_eq!(core.look(at(60), far(1)), 7);
        assert_eq!(core.look(at(61), far(1)), 2);
        assert_eq!(core.look(at(120), far(1)), 2);
        assert_eq!(core.look(at(121), far(1)), 1);
    }

    #[test]
    fn heartbeats_that_are_slow_by_itself_keep_nothing_slow() {
        let start = Instant::now();
        let mut core = Multiplier::new(Timing::LAN, start);
        assert_eq!(core.look(start, silent(500, false)), 2);
        // At twice the interval a heartbeat comes every 200 ms, as it should.
        for second in 1..=60 {
            let multiplier = core.look(start + Duration::from_secs(second), silent(210, false));
            assert_eq!(multiplier, if second < 60 { 2 } else { 1 });
        }
    }
}
