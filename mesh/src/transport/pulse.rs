//! Who says nothing on a control connection is asked whether it lives, and is given up if it does not say so.
//!
//! QUIC keeps a connection alive at one pace from its beginning to its end, and the pace at which a lost
//! peer is to be noticed while something is under way with it is five packets and answers a second: between
//! peers at rest nearly all that is sent. Here the pace is that of what the connection is needed for, and
//! silence counts from the question on, which nobody has to guess. The question is an empty word, a DATAGRAM
//! frame (RFC 9221). QUIC acknowledges it, and where it is lost pings until something is acknowledged.
//!
//! Older peers take no such frame ([`swarmer_model::wire::RESTING`]); connections with them are kept alive
//! by QUIC, all the time.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    registry::{Direction, Live},
    shared::Shared,
};

/// What the receiver of questions keeps of them: it reads none, and each holds the packets that it came
/// with. There is room for the last one.
pub(crate) const KEPT_BYTES: usize = 64;
/// The question; QUIC carries none without a byte.
const QUESTION: Bytes = Bytes::from_static(&[0]);
/// A connection on which a stream was opened so lately, by what silence there may be, is needed: 5 s.
const LATELY: u32 = 25;
/// How often the dialler asks all the same: by the answer the way is measured.
const MEASURED_EVERY: Duration = Duration::from_secs(10);
/// A peer has this many round trips to answer, if that is more than the time that is configured: for the
/// question and, where it is lost, two of the pings by which QUIC asks again (RFC 9002, section 6.2).
const ROUND_TRIPS: u32 = 6;

/// What was heard on one control connection, as far as was looked.
#[derive(Debug)]
pub(crate) struct Pulse(Mutex<State>);

#[derive(Debug)]
struct State {
    /// Datagrams received until then.
    received: u64,
    at: Instant,
    /// Since when a question has no answer.
    asked: Option<Instant>,
    measured: Instant,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Lives,
    Ask,
    Gone,
}

/// How long what takes.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// Silence before a question.
    silence: Duration,
    /// From the question to giving up.
    patience: Duration,
    /// The dialler measures the way.
    measures: bool,
}

impl Pulse {
    pub(crate) fn new(now: Instant) -> Self {
        Self(Mutex::new(State { received: 0, at: now, asked: None, measured: now }))
    }

    /// Whether a question has no answer for so long.
    pub(crate) fn is_late(&self, patience: Duration, now: Instant) -> bool {
        self.asked().is_some_and(|asked| now.saturating_duration_since(asked) >= patience)
    }

    /// Since when a question has no answer.
    pub(crate) fn asked(&self) -> Option<Instant> {
        self.0.lock().asked
    }

    /// Takes one look, at `received` datagrams so far.
    fn look(&self, received: u64, pace: Pace, now: Instant) -> Verdict {
        let mut state = self.0.lock();
        if received != state.received {
            (state.received, state.at, state.asked) = (received, now, None);
        }
        let since = |at: Instant| now.saturating_duration_since(at);
        match state.asked {
            Some(asked) if since(asked) >= pace.patience => return Verdict::Gone,
            Some(_) => return Verdict::Lives,
            None => {}
        }
        let measures = pace.measures && since(state.measured) >= MEASURED_EVERY;
        if !measures && since(state.at) < pace.silence {
            return Verdict::Lives;
        }
        (state.asked, state.measured) = (Some(now), now);
        Verdict::Ask
    }

    /// Nobody looked for long: what was not seen meanwhile says nothing.
    fn excuse(&self, now: Instant) {
        let mut state = self.0.lock();
        (state.at, state.asked) = (now, None);
    }
}

/// Looks after all control connections until the transport stops. On the threads that drive them: when
/// those are late, so is this, and whom they have not heard is not blamed for it.
pub(crate) async fn keep(shared: Weak<Shared>) {
    let Some((keep_alive, stopping)) =
        shared.upgrade().map(|shared| (shared.config.keep_alive, shared.stopping.clone()))
    else {
        return;
    };
    let (needed, lately) = (keep_alive.max(Duration::from_millis(2)) / 2, keep_alive * LATELY);
    let mut pause = needed;
    let mut last = Instant::now();
    loop {
        tokio::select! {
            () = stopping.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        let Some(shared) = shared.upgrade() else { return };
        let now = Instant::now();
        let was_away = now.saturating_duration_since(last) > pause * 2;
        last = now;
        let mut hurry = false;
        for (live, is_needed) in shared.registry.controls(lately) {
            let Some(pulse) = &live.pulse else { continue };
            if was_away {
                pulse.excuse(now);
            }
            look(&shared, &live, pulse, is_needed, (now, pause));
            hurry |= is_needed || pulse.asked().is_some();
        }
        pause = if hurry { needed } else { needed * 2 };
    }
}

fn look(
    shared: &Arc<Shared>,
    live: &Live,
    pulse: &Pulse,
    is_needed: bool,
    (now, pause): (Instant, Duration),
) {
    let config = &shared.config;
    let stats = live.connection.stats();
    // A look may come half a pause late, and would then let a whole one pass.
    let early = |time: Duration| time.saturating_sub(pause / 2);
    let pace = Pace {
        silence: early(if is_needed { config.keep_alive } else { config.keep_alive_at_rest }),
        patience: early(config.idle_timeout.max(stats.path.rtt * ROUND_TRIPS)),
        measures: live.direction == Direction::Outbound,
    };
    match pulse.look(stats.udp_rx.datagrams, pace, now) {
        Verdict::Lives => {}
        Verdict::Ask => {
            // One that is over by now is asked nothing.
            let _ = live.connection.send_datagram(QUESTION);
        }
        Verdict::Gone => live.give_up(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace {
        silence: Duration::from_millis(200),
        patience: Duration::from_millis(800),
        measures: false,
    };

    #[test]
    fn who_is_silent_is_asked_once_and_given_up_without_an_answer() {
        use Verdict::{Ask, Gone, Lives};
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let pulse = Pulse::new(start);
        let look = |received, ms| pulse.look(received, PACE, at(ms));
        assert_eq!([look(1, 50), look(1, 249), look(1, 250)], [Lives, Lives, Ask]);
        assert_eq!(pulse.asked(), Some(at(250)));
        // It answered.
        assert_eq!([look(2, 260), look(2, 400), look(2, 460)], [Lives, Lives, Ask]);
        let quarter = Duration::from_millis(200);
        assert_eq!(
            [pulse.is_late(quarter, at(659)), pulse.is_late(quarter, at(660))],
            [false, true]
        );
        assert_eq!([look(2, 1_259), look(2, 1_260)], [Lives, Gone]);
    }

    #[test]
    fn silence_counts_from_the_question_on_whatever_the_pace() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let pulse = Pulse::new(start);
        let rest = Pace { silence: Duration::from_millis(1_200), ..PACE };
        assert_eq!(pulse.look(0, rest, at(1_100)), Verdict::Lives);
        // It is needed from here on.
        assert_eq!(pulse.look(0, PACE, at(1_110)), Verdict::Ask);
        assert_eq!(pulse.look(0, PACE, at(1_909)), Verdict::Lives);
        assert_eq!(pulse.look(0, PACE, at(1_910)), Verdict::Gone);
    }

    #[test]
    fn after_a_long_pause_all_begin_anew() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let pulse = Pulse::new(start);
        assert_eq!(pulse.look(0, PACE, at(200)), Verdict::Ask);
        pulse.excuse(at(9_000));
        assert_eq!(pulse.look(0, PACE, at(9_000)), Verdict::Lives);
        assert_eq!(pulse.look(0, PACE, at(9_200)), Verdict::Ask);
    }

    #[test]
    fn the_dialler_asks_now_and_then_whom_it_hears_all_the_time() {
        let start = Instant::now();
        let dialler = Pace { measures: true, ..PACE };
        let asked = |pace| {
            let pulse = Pulse::new(start);
            let looks = (1..300_u64).map(|n| (n, start + Duration::from_millis(n * 100)));
            looks.filter(|(n, now)| pulse.look(*n, pace, *now) == Verdict::Ask).count()
        };
        assert_eq!((asked(dialler), asked(PACE)), (2, 0));
    }
}
