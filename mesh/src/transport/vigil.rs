//! Whether the peer of a silent data connection lives.
//!
//! The packets of a data connection are handled by the threads that run guests, on both sides. On a
//! machine with too much to do they are late, and a peer that is late is not gone: to cut it off would
//! break what is under way and add handshakes to the load. So silence on a data connection only raises
//! the question. The control connection, whose threads run no guest, answers it: while it stands the
//! peer lives; when it is lost, so is the data connection, even if there is another one by now: that may
//! be with another run of the peer. Where there is none, one is dialled. To the dialler only one that it
//! dialled itself says so: the same way must be open.

use std::{io, sync::Arc, time::Duration};

use parking_lot::Mutex;
use swarmer_model::NodeId;
use tokio::time::Instant;

use super::{registry::Live, shared::Shared, silence::Silence};
use crate::stream::Class;

/// Looks in each `idle_timeout`. One costs a few short locks for each connection; often enough for
/// [`Silence`].
const LOOKS: u32 = 8;

/// Silence after which a peer counts as gone if nothing else says that it lives, from the silence that
/// ends a control connection.
pub(crate) fn late(idle: Duration) -> Duration {
    idle * 5 / 4
}

/// When something was received on a connection last, as far as was looked.
#[derive(Debug)]
pub(crate) struct Heard(Mutex<State>);

#[derive(Debug)]
struct State {
    /// Datagrams received until then.
    received: u64,
    at: Instant,
    /// Whether a control connection stood that is older than the silence.
    witness: bool,
}

/// What silence means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Lives,
    /// Nothing says whether it lives.
    Ask,
    Gone,
}

impl Heard {
    pub(crate) fn new(now: Instant) -> Self {
        Self(Mutex::new(State { received: 0, at: now, witness: false }))
    }

    pub(crate) fn silent_for(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.0.lock().at)
    }

    /// Takes one look: `received` datagrams so far, and since when a control connection stands.
    fn look(
        &self,
        received: u64,
        controlled: Option<Instant>,
        idle: Duration,
        now: Instant,
    ) -> Verdict {
        let mut state = self.0.lock();
        if received != state.received {
            (state.received, state.at, state.witness) = (received, now, controlled.is_some());
            return Verdict::Lives;
        }
        // A look may come half a pause late, and would then let a whole one pass.
        let silent = now.saturating_duration_since(state.at) + idle / LOOKS / 2;
        match controlled {
            Some(opened) if opened <= state.at => {
                state.witness = true;
                return Verdict::Lives;
            }
            // Where there was none before, whoever answers is the same: a peer that was started again
            // resets what it does not know.
            Some(_) if !state.witness => return Verdict::Lives,
            _ => {}
        }
        // The control connection was lost in the same silence; that there is another by now may mean
        // that the peer was started again. Or nobody answered on a new one.
        if (state.witness && silent >= idle) || silent >= late(idle) {
            return Verdict::Gone;
        }
        match controlled.is_none() && silent >= idle / 2 {
            true => Verdict::Ask,
            false => Verdict::Lives,
        }
    }

    /// Nobody looked for long: what was not seen meanwhile says nothing.
    fn excuse(&self, now: Instant) {
        self.0.lock().at = now;
    }
}

/// Looks after all data connections until the transport stops, on a thread of its own: it may wait
/// for whoever drives a data connection, which neither Raft nor gossip should, and must not wait
/// behind guests.
pub(crate) fn keep(shared: &Arc<Shared>) -> io::Result<()> {
    let idle = shared.config.idle_timeout;
    let pause = (idle / LOOKS).max(Duration::from_millis(1));
    let shared = Arc::downgrade(shared);
    let vigil = move || {
        let mut last = Instant::now();
        let mut silence = Silence::default();
        loop {
            std::thread::sleep(pause);
            let Some(shared) = shared.upgrade() else { return };
            if shared.stopping.is_cancelled() {
                return;
            }
            let now = Instant::now();
            let was_away = now.saturating_duration_since(last) > pause * 2;
            last = now;
            if was_away {
                silence.excuse(now);
            }
            let received = shared.registry.received();
            for peer in silence.look(&received, shared.config.keep_alive, now) {
                // Nobody may want to know.
                let _ = shared.silent.send(peer);
            }
            for live in shared.registry.data() {
                if was_away {
                    live.heard.excuse(now);
                }
                look(&shared, &live, idle, now);
            }
        }
    };
    std::thread::Builder::new().name("swarmer-vigil".to_owned()).spawn(vigil).map(drop)
}

fn look(shared: &Arc<Shared>, live: &Live, idle: Duration, now: Instant) {
    let peer: NodeId = live.peer.node;
    let received = live.connection.stats().udp_rx.datagrams;
    let controlled = shared.registry.controlled(peer, live.direction);
    match live.heard.look(received, controlled, idle, now) {
        Verdict::Lives => {}
        Verdict::Ask => shared.pool.prepare(shared, peer, Class::Control),
        Verdict::Gone => live.give_up(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_millis(800);

    /// Looks every 200 ms at one that says nothing more. `controlled` says, by milliseconds, since when
    /// (in milliseconds too) a control connection stands.
    fn silence(controlled: impl Fn(u64) -> Option<u64>) -> Vec<Verdict> {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let heard = Heard::new(start);
        assert_eq!(heard.look(7, controlled(0).map(at), IDLE, start), Verdict::Lives);
        let look = |ms| heard.look(7, controlled(ms).map(at), IDLE, at(ms));
        (200..=1_400).step_by(200).map(look).collect()
    }

    #[test]
    fn who_has_a_control_connection_lives_however_late_its_calls_are() {
        assert_eq!(silence(|_| Some(0)), [Verdict::Lives; 7]);
    }

    #[test]
    fn who_loses_its_control_connection_in_the_same_silence_is_gone_at_once() {
        use Verdict::{Ask, Gone, Lives};
        let verdicts = silence(|ms| (ms < 800).then_some(0));
        assert_eq!(verdicts[..4], [Lives, Lives, Lives, Gone]);
        // One that lost it for another reason is asked first.
        assert_eq!(silence(|ms| (ms < 400).then_some(0))[..4], [Lives, Ask, Ask, Gone]);
        // One that was killed and started again has another one: the data connection was with the
        // process before.
        let restarted = |ms| if ms < 400 { Some(0) } else { Some(390) };
        assert_eq!(silence(restarted)[..4], [Lives, Lives, Lives, Gone]);
    }

    #[test]
    fn who_has_none_is_asked_and_gone_when_nobody_answers() {
        use Verdict::{Ask, Gone, Lives};
        assert_eq!(silence(|_| None)[..5], [Lives, Ask, Ask, Ask, Gone]);
        assert_eq!(silence(|ms| (ms > 700).then_some(700))[..5], [Lives, Ask, Ask, Lives, Lives]);
    }

    #[test]
    fn a_sound_begins_anew_and_so_does_a_look_after_long() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let heard = Heard::new(start);
        assert_eq!(heard.look(1, None, IDLE, at(900)), Verdict::Lives);
        assert_eq!(heard.look(1, None, IDLE, at(1_400)), Verdict::Ask);
        heard.excuse(at(9_000));
        assert_eq!(heard.look(1, None, IDLE, at(9_000)), Verdict::Lives);
        assert_eq!(heard.look(1, None, IDLE, at(9_200)), Verdict::Lives);
        assert_eq!(heard.look(1, None, IDLE, at(9_950)), Verdict::Gone);
    }
}
