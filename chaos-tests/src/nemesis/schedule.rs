//! Which fault strikes when: a pure function of the seed.

use std::{collections::BTreeSet, fmt, time::Duration};

use serde::{Deserialize, Serialize};

use super::{draw::draw, fault::Fault, field::Field, kind::Kind};
use crate::{cluster::Need, seed::Seeded};

/// No fault begins so early: clients need something to lose.
const FIRST_MS: u64 = 3_000;
/// Between the end of one fault and the beginning of the next, as a rule.
pub const CALM_MS: (u64, u64) = (500, 5_000);
/// In percent: how often the next fault begins while the one before goes on.
const OVERLAP: u64 = 25;
/// So many faults in a row that do not fit into what is left: none will. Kinds that last long may be
/// the only ones.
const MISFITS: u32 = 1_000;

/// A fault and when it strikes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timed {
    /// Milliseconds after the clients began.
    pub at_ms: u64,
    /// What.
    pub fault: Fault,
}

/// All faults of a run, by time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule(pub Vec<Timed>);

impl Schedule {
    /// The schedule of a seed for these nodes: the same for the same arguments. `calm_ms` is the
    /// least and the most between two faults.
    pub fn of(
        seed: u64,
        kinds: &[Kind],
        field: &Field,
        lasts: Duration,
        calm_ms: (u64, u64),
    ) -> Self {
        let mut random = Seeded::new(seed, "nemesis");
        let end = u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX);
        let mut at_ms = FIRST_MS + random.below(1_000);
        let (mut faults, mut misfits) = (Vec::new(), 0);
        while !kinds.is_empty() && at_ms < end {
            let fault = draw(&mut random, kinds, field, end - at_ms);
            let lasts = fault.lasts_ms();
            // What does not fit is left out, not cut short: a fault means the same in every run.
            if at_ms + lasts <= end {
                faults.push(Timed { at_ms, fault });
                misfits = 0;
            } else if end - at_ms < calm_ms.1 || misfits >= MISFITS {
                break;
            } else {
                misfits += 1;
                continue;
            }
            at_ms += if random.chance(OVERLAP) { random.below(lasts + 1) } else { lasts };
            at_ms += random.between(calm_ms.0, calm_ms.1);
        }
        let mut schedule = Self(faults);
        schedule.strike_the_leader();
        schedule
    }

    /// A run in which nobody else comes to lead shows little: if chance struck no leader, the first
    /// fault that can strikes it.
    fn strike_the_leader(&mut self) {
        if self.0.iter().any(|timed| timed.fault.unsettles_leader()) {
            return;
        }
        for timed in &mut self.0 {
            if let Some(fault) = timed.fault.of_leader() {
                timed.fault = fault;
                return;
            }
        }
    }

    /// What the machine must have for it.
    pub fn needs(&self) -> BTreeSet<Need> {
        self.0.iter().flat_map(|timed| timed.fault.needs()).copied().collect()
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|Timed { at_ms, fault }| {
            writeln!(f, "  {:>6}.{:03} s  {fault}", at_ms / 1_000, at_ms % 1_000)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nemesis::Mark;

    const ALL: [Kind; 32] = [
        Kind::Kill,
        Kind::Pause,
        Kind::Storm,
        Kind::Partition,
        Kind::Flapping,
        Kind::Loss,
        Kind::Outage,
        Kind::Power,
        Kind::Brownout,
        Kind::Relapse,
        Kind::Full,
        Kind::Pull,
        Kind::Eio,
        Kind::SlowDisk,
        Kind::Delay,
        Kind::Jumble,
        Kind::Throttle,
        Kind::Clock,
        Kind::Strobe,
        Kind::Rolling,
        Kind::Upgrade,
        Kind::Membership,
        Kind::Amnesia,
        Kind::Wipe,
        Kind::Reopen,
        Kind::Revote,
        Kind::Blackout,
        Kind::Pairs,
        Kind::Flap,
        Kind::Apart,
        Kind::Turns,
        Kind::Stretch,
    ];

    fn alone(nodes: usize) -> Field {
        Field::new(nodes, None)
    }

    #[test]
    fn a_seed_gives_the_same_faults_and_another_seed_others() {
        let minute = Duration::from_secs(60);
        let of = |seed| Schedule::of(seed, &ALL, &alone(3), minute, CALM_MS);
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
        assert_eq!(Schedule::of(1, &[], &alone(3), minute, CALM_MS), Schedule(vec![]));
    }

    #[test]
    fn where_kills_are_allowed_the_leader_is_struck() {
        let lasts = Duration::from_secs(20);
        for seed in 0..300 {
            let schedule =
                Schedule::of(seed, &[Kind::Kill, Kind::Clock], &alone(3), lasts, CALM_MS);
            let strikes = |timed: &Timed| timed.fault.unsettles_leader();
            let kills = schedule.0.iter().any(|timed| timed.fault.mark() == Mark::Kill);
            assert_eq!(schedule.0.iter().any(strikes), kills, "seed {seed}:\n{schedule}");
        }
    }

    #[test]
    fn a_kind_and_its_faults_need_the_same_of_the_machine() {
        for kind in ALL {
            let schedule = Schedule::of(3, &[kind], &alone(3), Duration::from_secs(120), CALM_MS);
            assert!(!schedule.0.is_empty(), "{kind:?}");
            for timed in &schedule.0 {
                assert_eq!(timed.fault.needs(), kind.needs(), "{kind:?}: {}", timed.fault);
            }
        }
    }

    #[test]
    fn faults_end_before_the_run_does_and_every_kind_comes() {
        let end = 60_000;
        let mut seen = BTreeSet::new();
        for seed in 0..200 {
            let schedule = Schedule::of(seed, &ALL, &alone(5), Duration::from_millis(end), CALM_MS);
            assert!(schedule.0.len() >= 2, "seed {seed}:\n{schedule}");
            for timed in &schedule.0 {
                assert!(timed.at_ms >= FIRST_MS && timed.at_ms + timed.fault.lasts_ms() <= end);
                seen.insert(timed.fault.mark());
                if let Fault::Partition { shape, .. } = &timed.fault {
                    assert!(!shape.cuts(5, 0).is_empty(), "{shape}");
                }
            }
        }
        // The changes of the members count one by one, when they happened.
        seen.extend(Mark::ALL.iter().skip_while(|mark| **mark != Mark::Grow));
        assert_eq!(seen, BTreeSet::from(Mark::ALL), "one or another never comes");
    }
}
