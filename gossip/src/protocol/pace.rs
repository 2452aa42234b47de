//! Probes wait as long as the members are far away.

use std::time::Duration;

use foca::Timer;
use rand::RngExt;
use swarmer_model::NodeId;

use super::{Core, peer::Peer};
use crate::Timing;

/// The slowest: a probe has two and a half seconds, for round trips of 0.8 s.
const MAX_FACTOR: u32 = 5;

/// So many times longer than on a LAN probes have to wait over the longest way, if all that is on it
/// may be late by an eighth: a direct answer, of one round trip, is to be here before others are
/// asked to probe too, and theirs, of two, before the member is suspect.
fn factor(farthest: Duration, lan: &Timing) -> u32 {
    let way = farthest.as_secs_f64() * 1.125;
    let direct = way / lan.probe_timeout.as_secs_f64();
    let indirect = 2.0 * way / lan.indirect_timeout.as_secs_f64();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1 to 5")]
    let factor = direct.max(indirect).ceil().clamp(1.0, f64::from(MAX_FACTOR)) as u32;
    factor
}

impl Core {
    /// Fits the probes to the ways that were measured lately.
    pub(super) fn keep_pace(&mut self, now: Duration) {
        let distances = self.distances();
        let mut ways: Vec<Duration> = distances.fresh(now).collect();
        ways.sort_unstable();
        // One member of many that is far off makes not all of them wait: it can object.
        let farthest = ways.get((ways.len() * 19 / 20).min(ways.len().saturating_sub(1)));
        self.farthest = farthest.copied().unwrap_or_default();
        let factor = factor(self.farthest, &self.lan);
        if factor == self.pace {
            return;
        }
        self.pace = factor;
        let period = self.lan.probe_period.max(self.verdict_time());
        self.timing.probe_period = period;
        tracing::info!(target: "swarmer::gossip", farthest = ?farthest, ?period,
            "probes keep to the ways between the members");
    }

    /// When a timer of foca is due, which cannot be told another pace: later, if it is of a probe.
    pub(super) fn paced(&mut self, after: Duration, timer: &Timer<Peer>) -> Duration {
        match timer {
            // Members that started together would else probe in step: each that is dead waits for the next
            // one, and then many come at once.
            Timer::ProbeRandomMember(_) => {
                let period = self.timing.probe_period.mul_f64(self.rng.random_range(0.75..1.25));
                period.max(self.verdict_time())
            }
            Timer::SendIndirectProbe { .. } => after * self.pace,
            _ => after,
        }
    }

    /// How long the answers to a probe may take at most, the direct one and those by way of others.
    pub(super) fn verdict_time(&self) -> Duration {
        (self.lan.probe_timeout + self.lan.indirect_timeout) * self.pace
    }

    /// How long those by way of others may, of this member: as long as the ways are, where they are short and
    /// known. One that is farther than most has what is left of the period.
    pub(super) fn indirect_patience(&mut self, time: Duration, node: NodeId) -> Duration {
        /// For them to be passed on.
        const ON_THE_WAY: Duration = Duration::from_millis(100);
        let told = self.catalog.get(node).and_then(|record| record.facts.coordinate);
        let own = self.distances().to(time + self.stalled, node, told.as_ref()).unwrap_or_default();
        let long = |way: Duration| ON_THE_WAY + way * 9 / 4;
        let most = self.lan.indirect_timeout * self.pace;
        if self.farthest.is_zero() {
            most
        } else if own <= self.farthest {
            most.min(long(self.farthest))
        } else {
            long(own).min(self.timing.probe_period - self.lan.probe_timeout * self.pace)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_waits_for_answers_over_the_longest_way() {
        let lan = Timing::default();
        for (way, expected) in
            [(0, 1), (1, 1), (80, 1), (133, 1), (134, 2), (250, 2), (300, 3), (9000, 5)]
        {
            assert_eq!(factor(Duration::from_millis(way), &lan), expected, "{way} ms");
        }
    }
}
