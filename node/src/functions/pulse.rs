//! Whether a copy that runs here is any good, told from how its calls end.
//!
//! Only this node sees all calls of its copy. What it concludes goes out with its record, so that
//! all nodes leave a failing copy alone at once, those too that have not sent it a call yet; each
//! by itself would have to learn it by failing (as outlier detection of Envoy does).

use std::time::{Duration, Instant};

use swarmer_model::EndpointHealth;
use swarmer_runtime::Usage;

/// So many calls that failed, with no look between them at which as many went well, make a copy a
/// failing one.
const FAILURES: u64 = 5;
/// How long it is left alone the first time; doubled each time that it fails its trial.
const REST: Duration = Duration::from_secs(5);
/// Never longer than this.
const MAX_REST: Duration = Duration::from_secs(60);

/// How many calls ended, and how.
#[derive(Debug, Clone, Copy, Default)]
struct Ended {
    well: u64,
    badly: u64,
}

impl Ended {
    /// A call that the guest answers with its own error counts as failed as one that kills it: to who
    /// asked it is the same. Who went away, or was refused, says nothing.
    fn by(usage: &Usage) -> Self {
        let badly = usage.failed + usage.errors;
        let ended = usage.requests.saturating_sub(usage.running + usage.cancelled);
        Self { well: ended.saturating_sub(badly), badly }
    }
}

/// One copy.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    seen: Ended,
    /// Failed calls since a look at which as many went well.
    in_a_row: u64,
    health: EndpointHealth,
    /// How often it failed since it last did well.
    fell: u32,
    /// Until when it is left alone.
    until: Option<Instant>,
}

impl Pulse {
    /// How the copy stands, as of the last look.
    pub(super) fn health(&self) -> EndpointHealth {
        self.health
    }

    /// Takes what came of its calls since the last look. Says whether it stands otherwise now.
    pub(super) fn look(&mut self, usage: &Usage, now: Instant) -> bool {
        let ended = Ended::by(usage);
        let well = ended.well.saturating_sub(self.seen.well);
        let badly = ended.badly.saturating_sub(self.seen.badly);
        self.seen = ended;
        let (does_well, fails) = (well > 0 && well >= badly, badly > well);
        self.in_a_row = if does_well { 0 } else { self.in_a_row.saturating_add(badly) };
        let before = self.health;
        match before {
            EndpointHealth::Good if fails && self.in_a_row >= FAILURES => self.fall(now),
            EndpointHealth::Trial if fails => self.fall(now),
            EndpointHealth::Trial if does_well => {
                self.health = EndpointHealth::Good;
                self.fell = 0;
            }
            // It gets calls still where nobody is better: who does well again need not wait.
            EndpointHealth::Failing if does_well || self.until.is_none_or(|until| until <= now) => {
                self.health = EndpointHealth::Trial;
            }
            _ => {}
        }
        self.health != before
    }

    fn fall(&mut self, now: Instant) {
        let rest = REST.saturating_mul(1 << self.fell.min(16)).min(MAX_REST);
        self.fell = self.fell.saturating_add(1);
        self.health = EndpointHealth::Failing;
        self.until = Some(now + rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A copy, its counters and the time.
    struct Copy {
        pulse: Pulse,
        usage: Usage,
        now: Instant,
    }

    impl Copy {
        fn new() -> Self {
            Self { pulse: Pulse::default(), usage: Usage::default(), now: Instant::now() }
        }

        /// So many calls end well and badly; how it stands then.
        fn end(&mut self, well: u64, badly: u64) -> EndpointHealth {
            self.usage.requests += well + badly;
            self.usage.failed += badly / 2;
            self.usage.errors += badly - badly / 2;
            self.now += Duration::from_millis(200);
            self.pulse.look(&self.usage, self.now);
            self.pulse.health()
        }

        fn wait(&mut self, time: Duration) -> EndpointHealth {
            self.now += time;
            self.pulse.look(&self.usage, self.now);
            self.pulse.health()
        }
    }

    #[test]
    fn call_after_call_that_fails_makes_a_copy_a_failing_one() {
        let mut copy = Copy::new();
        assert_eq!(copy.end(100, 49), EndpointHealth::Good, "some do always");
        // Slowly, or all at once.
        for _ in 0..4 {
            assert_eq!(copy.end(0, 1), EndpointHealth::Good);
        }
        assert_eq!(copy.end(0, 0), EndpointHealth::Good);
        assert_eq!(copy.end(0, 1), EndpointHealth::Failing);
        assert_eq!(Copy::new().end(2, 5), EndpointHealth::Failing);
        // One that went well between them begins it anew.
        let mut copy = Copy::new();
        for _ in 0..100 {
            copy.end(0, 4);
            assert_eq!(copy.end(1, 0), EndpointHealth::Good);
        }
    }

    #[test]
    fn it_is_tried_again_later_and_later_until_it_does_well() {
        let mut copy = Copy::new();
        assert_eq!(copy.end(0, 5), EndpointHealth::Failing);
        let mut rest = REST;
        for _ in 0..8 {
            assert_eq!(copy.wait(rest - Duration::from_millis(1)), EndpointHealth::Failing);
            assert_eq!(copy.wait(Duration::from_millis(1)), EndpointHealth::Trial);
            assert_eq!(copy.wait(MAX_REST), EndpointHealth::Trial, "nobody asked it");
            assert_eq!(copy.end(0, 1), EndpointHealth::Failing, "one is enough on trial");
            rest = (rest * 2).min(MAX_REST);
        }
        copy.wait(MAX_REST);
        assert_eq!(copy.end(1, 0), EndpointHealth::Good);
        assert_eq!(copy.end(0, 4), EndpointHealth::Good);
        assert_eq!(copy.end(0, 1), EndpointHealth::Failing);
        assert_eq!(copy.wait(REST), EndpointHealth::Trial, "what was before is forgotten");
    }

    #[test]
    fn one_that_does_well_where_nobody_is_better_need_not_wait() {
        let mut copy = Copy::new();
        copy.end(0, 5);
        assert_eq!(copy.end(0, 5), EndpointHealth::Failing);
        assert_eq!(copy.end(3, 2), EndpointHealth::Trial);
        assert_eq!(copy.end(3, 2), EndpointHealth::Good);
    }

    #[test]
    fn who_runs_still_or_went_away_says_nothing() {
        let mut copy = Copy::new();
        copy.usage = Usage { requests: 100, running: 60, cancelled: 40, ..Usage::default() };
        copy.end(0, 4);
        assert_eq!(copy.end(0, 1), EndpointHealth::Failing, "none of those went well");
    }
}
